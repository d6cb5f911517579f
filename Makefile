# make repro: from a fresh clone to the report. make test: from a fresh clone to passing tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export DVC_NO_ANALYTICS = 1
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: repro check test test-all lint bench docs prefect clean

repro: $(VENV)/installed-pipeline
	@$(BIN)/flowvae run

# In under a minute: lint, types, and the quick tests of the library.
check: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not long" tests/flowvae tests/test_layers.py

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(VENV)/installed-test-all lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"
	$(BIN)/python -m pytest -m slow  # one at a time: they start clusters and servers, which time out on a busy machine

lint: $(VENV)/installed-test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

bench: $(VENV)/installed-bench
	$(BIN)/dvc repro --quiet prepare
	$(BIN)/python -m benchmarks

# The pages and the reference of the library as a site, which requests nothing from the network. A warning is an error.
docs: $(VENV)/installed-docs
	@$(BIN)/python -m sphinx --quiet --fail-on-warning -c docs -d build/doctrees . build/docs
	@echo "The documentation: build/docs/index.html"

# Server, worker, deployments and schedules on loopback, until Ctrl-C.
prefect: $(VENV)/installed-pipeline
	@PYTHONPATH=. $(BIN)/python infra/prefect/up.py

# One environment; each extra adds to it when pyproject.toml or the constraints change.
$(VENV)/installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing flowvae[$*] into $(VENV): minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# Everything that dvc repro creates, except the environment and DVC's cache. Other files in data/ are a user's own.
clean:
	rm -rf data/raw data/prepared data/source.json models scores unused timings logs checkpoints .dvc/tmp/overrides
