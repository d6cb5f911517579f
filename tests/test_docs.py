"""The documentation is true: its table, links, files, commands, settings and examples exist or run."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from documents import anchors, code_block, code_spans, commands, python_of, read, section, table
from dvc.cli import parse_args
from ruamel.yaml import YAML
from typer.main import get_command

from benchmarks.__main__ import BENCHMARKS
from flowvae.commands.app import app
from flowvae.data.arrays import SPLITS
from flowvae.datasets.raw import RawArrays, RawDataset
from flowvae.datasets.writing import Preparation, write_arrays
from pipeline.__main__ import parse_options
from pipeline.params.reading import check_params
from pipeline.params.trees import value_at
from pipeline.rows.__main__ import parse_options as parse_rows_options
from pipeline.study.points import study_problems
from pipeline.submit.__main__ import parse_options as parse_submit_options
from pipeline.workflow.__main__ import parse_options as parse_workflow_options

ROOT = Path(__file__).parents[1]
MAX_README_LINES, MAX_WIDTH = 95, 120
PAGES = sorted(path for folder in (".", "docs", "infra", "benchmarks") for path in (ROOT / folder).glob("*.md"))
PRESETS = {path.stem: path for path in sorted((ROOT / "presets").glob("*.yaml"))}
TO_WRITE = {"my_flow.py", "my_set.py", "my_stage.py", "my_preset.yaml"}  # files that readers are asked to write
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def load_yaml(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


README, CONTRIBUTING = read(ROOT / "README.md"), read(ROOT / "CONTRIBUTING.md")
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PARAMS, STAGES = load_yaml(ROOT / "params.yaml"), load_yaml(ROOT / "dvc.yaml")["stages"]
STUDIES = {*PARAMS["studies"], *(study for path in PRESETS.values() for study in load_yaml(path)["studies"])}
RUNS = {f"{variant}-{seed}" for variant in PARAMS["variants"] for seed in PARAMS["seeds"]}
KEYS = {"train": RUNS, "evaluate": RUNS, "study": STUDIES}  # of the instances of a stage
TARGETS = {*STAGES, *(f"{stage}@{key}" for stage, keys in KEYS.items() for key in keys)}


COMMANDS = get_command(app).commands  # of `flowvae`
MODULES = {
    **{"run": "pipeline.workflow", "preset": "pipeline.preset", "submit": "pipeline.submit"},
    "study": "pipeline.rows",
}


def outputs() -> set[str]:
    """The outputs of all stages, the timings of studies, and what `flowvae study` writes."""
    names = {f"timings/study/{study}.csv" for study in STUDIES} | {"reports/study/rows", "reports/study/models"}
    for stage, declared in STAGES.items():
        for entry in (entry for kind in ("outs", "metrics", "plots") for entry in declared.get(kind, ())):
            (name,) = entry if isinstance(entry, dict) else (entry,)
            names |= {name.replace("${key}", key) for key in KEYS.get(stage, ("",))}
    return names


def test_table_is_that_of_the_report():
    assert table(README) == table(read(ROOT / "reports/results.md"))


def test_readme_is_short():
    assert len(README.splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "infra"], ids=lambda path: path.name)
def test_prose_is_narrow(page):
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith(("|", "    "))]
    assert [line for line in lines if len(line) > MAX_WIDTH] == []


@each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", read(page)):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(read(target)), link


@each_page
def test_named_code_exists(page):
    for span in code_spans(read(page)):
        if re.fullmatch(r"(flowvae|pipeline|tests|infra|presets|benchmarks|docs)/[\w./-]*", span):
            assert Path(span).name in TO_WRITE or (ROOT / span).exists(), span
        if re.fullmatch(r"(flowvae|pipeline)(\.\w+)+", span):
            module, _, name = span.rpartition(".")
            assert hasattr(importlib.import_module(module), name) or find_spec(span), span


@each_page
def test_named_results_are_outputs_of_a_stage(page):
    for span in code_spans(read(page)):
        if re.fullmatch(r"(data/prepared|models|metrics|curves|reports|timings)/[\w./-]+", span):
            name = span.replace("NAME", "depth")
            assert any(f"{output}/".startswith(name) or name.startswith(f"{output}/") for output in outputs()), span


def check_targets(targets: list[str]) -> None:
    assert set(targets) <= TARGETS


def check_assignments(assignments: list[str]) -> None:
    for assignment in assignments:
        assert value_at(PARAMS, tuple(assignment.partition("=")[0].split("."))) is not None, assignment


def check_make(words: list[str]) -> None:
    for target in words:
        extra = target.removeprefix(".venv/installed-")
        declared = re.escape(target) + ":" if extra == target else re.escape(extra) + r" = \["
        text = (ROOT / "Makefile").read_text() if extra == target else PYPROJECT
        assert re.search(f"^{declared}", text, re.MULTILINE), target


def check_dvc(words: list[str]) -> None:
    options = parse_args(words)
    if words[0] in ("repro", "commit", "status") or words[:2] == ["exp", "run"]:
        check_targets(options.targets)
        check_assignments(getattr(options, "set_param", None) or [])


def check_prefect(words: list[str]) -> None:
    if words[:2] == ["deployment", "run"]:
        deployments = load_yaml(ROOT / "infra/prefect/local.yaml")["deployments"]
        assert words[2].partition("/")[2] in {deployment["name"] for deployment in deployments}
    for word in words:
        name, _, value = word.partition("=")
        if check := {"targets": check_targets, "set_params": check_assignments}.get(name):
            check(json.loads(value))
        assert not word.endswith(".yaml") or (ROOT / word).is_file()


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
        return
    _, module, *arguments = words
    assert find_spec(module), module
    monkeypatch.setattr("sys.argv", [module, *(word for word in arguments if word != "--help")])
    if module == "pipeline":
        options = vars(parse_options())
        assert "variant" not in options or f"{options['variant']}-{options['seed']}" in RUNS
        assert options.get("name", "depth") in STUDIES
    elif module == "pipeline.workflow":
        workflow_options = parse_workflow_options()
        check_targets(workflow_options.targets)
        check_assignments(workflow_options.set_params or [])
    elif module == "pipeline.submit":
        check_targets([target for target in parse_submit_options().targets if target not in PARAMS["variants"]])
    elif module == "pipeline.preset":
        (name,) = arguments
        assert name in PRESETS or name in outputs()
    elif module == "pipeline.rows":
        assert not arguments or parse_rows_options().preset in PRESETS
    elif module == "benchmarks":
        assert set(arguments) <= set(BENCHMARKS)
    elif module == "pytest":
        assert all((ROOT / name).exists() for name in arguments)


def check_flowvae(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the pipeline's modules that work in a project get all of the arguments."""
    name, *arguments = words
    if name in MODULES:
        return check_python(["-m", MODULES[name], *arguments], monkeypatch)
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts} if name in COMMANDS else set()
    options = {word for word in words if word.startswith("-")}
    assert options <= known | {"--help", "--install-completion"}, words


@pytest.mark.parametrize("page", [*PAGES, *PRESETS.values()], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_understood(page, monkeypatch):
    for program, *words in commands(read(page)):
        if program in ("python", "flowvae"):
            {"python": check_python, "flowvae": check_flowvae}[program](words, monkeypatch)
        else:
            {"make": check_make, "dvc": check_dvc, "prefect": check_prefect}[program](words)


def test_commands_are_found():
    """Otherwise the test above would pass because there is nothing to check."""
    text = (
        "Run `make repro`, or:\n\n    X=1 .venv/bin/dvc repro a && .venv/bin/python -m pipeline.preset NAME    # why\n"
    )
    assert sorted(commands(text)) == [
        ["dvc", "repro", "a"],
        ["make", "repro"],
        ["python", "-m", "pipeline.preset", "depth"],
    ]
    for name, path in PRESETS.items():
        assert ["flowvae", "preset", name] in list(commands(read(path)))


def test_every_preset_is_documented():
    pages = "".join(read(ROOT / f"docs/{name}.md") for name in ("images", "studies"))
    assert set(code_spans(pages)) >= set(PRESETS)


# Variables that only the project itself sets: `up.py` for its runs, a driver on Ray for its workers, and a run of the
# workflow and a stage that is tracked for their processes.
SET_BY_US = {"FLOWVAE_FOLDER", "FLOWVAE_DRIVER", "FLOWVAE_WATCHED", "FLOWVAE_TRACKED_RUN"}


def test_variables_of_the_environment_are_read_and_documented():
    sources = [path for folder in ("pipeline", "infra") for path in (ROOT / folder).rglob("*.py")]
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_text())))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    used = {text for text in texts if re.fullmatch(r"FLOWVAE_[A-Z_]+", text)} - SET_BY_US
    documented = {name for page in PAGES for name in re.findall(r"FLOWVAE_[A-Z_]+", read(page))}
    assert documented - {"FLOWVAE_REPOSITORY"} == used  # which only Prefect's files read


def test_readme_names_the_stages_that_depend_on_a_flow():
    stale = re.search(r"stages that list `flowvae/model` stale: (.*?)\.", README, re.DOTALL)[1]
    assert set(code_spans(stale)) == {stage for stage in STAGES if "flowvae/model" in STAGES[stage].get("deps", ())}


def test_readme_names_what_the_library_requires():
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)[1]
    named = (
        re.search(r"library, which needs ([^.]*)\.", README)[1].replace("\n", " ").replace(" and ", ", ").split(", ")
    )
    assert set(named) == set(re.findall(r'"([\w-]+)', declared))


def test_readme_example_runs(tmp_path, monkeypatch):
    bits = np.random.default_rng(0).integers(0, 2, (90, 1, 28, 28), np.uint8)
    images = {split: RawArrays.of(part) for split, part in zip(SPLITS, np.split(bits, 3), strict=True)}
    dataset = RawDataset(images, np.zeros(30, np.uint8), dataset="bits", origin="here", split="thirds", processing=None)
    preparation = Preparation({"source": "a test"}, "static", 0, dict.fromkeys(SPLITS, 0), None)
    write_arrays(tmp_path / "data/prepared", dataset, lambda chunks, split: chunks, preparation)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code_block(section(README, "Use it from Python")), "README.md", "exec"), names)
    assert names["log_likelihood"].shape == (64,) and names["log_likelihood"].isfinite().all()
    assert names["images"].shape == (64, 1, 28, 28)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if python_of(read(page))], ids=lambda path: path.name)
def test_python_of_the_page_runs(page, tmp_path):
    """In a process of its own, because a page may register a family, and in a folder that it may write to."""
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", python_of(read(page))]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_python_of_pages_is_found():
    """Otherwise the test above would pass because there is nothing to run."""
    assert {page.name for page in PAGES if python_of(read(page))} == {"formulas.md", "hand-on.md", "own-flow.md"}


def test_example_of_a_study_is_valid():
    example = code_block(section(read(ROOT / "docs/studies.md"), "What a study declares"))
    text = re.sub(r"^studies:\n(?:  .*\n)+", lambda match: example, (ROOT / "params.yaml").read_text(), flags=re.M)
    params = check_params(YAML(typ="safe", pure=True).load(text), Path("params.yaml"))
    assert params.studies["depth"].over and not list(study_problems(params))


def test_things_are_where_contributing_says():
    rows = [code_spans(line)[-2:] for line in table(section(CONTRIBUTING, "Where things live"))[2:]]
    assert len(rows) == 19
    for file, name in rows:
        assert re.search(rf"^(def |class )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}: {name}"


def test_precommit_runs_a_target_of_make():
    (repository,) = load_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    assert list(commands(f"`{hook['entry']}`")) == [["make", "lint"]]
    check_make(["lint"])
