#!/bin/sh
# Run a stage with the active environment's Python, else with the project's .venv.
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x .venv/bin/python ]; then
    exec .venv/bin/python -m pipeline "$@"
fi
exec python3 -m pipeline "$@"
