"""dvc.yaml says what the code does: every stage lists the code it imports and the params it reads."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.__main__ import PER_VARIANT, STAGES
from pipeline.params import unread_keys
from pipeline.points import SCHEMAS

ROOT = Path(__file__).parents[2]
# They start, place, check or narrate a run and change none of its results, so that editing them retrains nothing.
NARRATORS = {
    "pipeline/distributed/__init__.py",
    "pipeline/distributed/arrays.py",
    "pipeline/distributed/cluster.py",
    "pipeline/distributed/memory.py",
    "pipeline/distributed/searching.py",
    "pipeline/distributed/storage.py",
    "pipeline/distributed/tasks.py",
    "pipeline/distributed/training.py",
    "pipeline/distributed/tuning.py",
    "pipeline/params.py",
    "pipeline/paths.py",
    "pipeline/placement.py",
    "pipeline/progress.py",
    "pipeline/timings.py",
    "flowvae/errors.py",
}
FOLDERS = ("flowvae/flows", "flowvae/likelihoods", "flowvae/networks")


def load_yaml(name: str) -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text())


def module_file(module: str) -> Path | None:
    base = ROOT / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imported(path: Path) -> set[Path]:
    """Files of the project that a file imports by name."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if module_file(name) else node.module for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        files |= {file for name in names if name.startswith(("flowvae", "pipeline")) and (file := module_file(name))}
    return files


def code_of(stage: str) -> set[str]:
    """What a stage's results depend on: the transitive imports of its module; FOLDERS as one."""
    seen, todo = set(), [ROOT / "pipeline" / "stages" / f"{stage}.py"]
    while todo:
        path = todo.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in NARRATORS or name in seen:
            continue
        seen.add(name)
        todo += imported(path)
    return {next((folder for folder in FOLDERS if name.startswith(f"{folder}/")), name) for name in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_exactly_the_code_it_imports(stage):
    listed = {
        dep for dep in load_yaml("dvc.yaml")["stages"][stage]["deps"] if dep.startswith(("flowvae/", "pipeline/"))
    }
    listed -= {"pipeline/report/page.html.j2", "pipeline/report/published.csv"}
    assert listed == code_of(stage)


def attributes_of_params(stage: str) -> set[str]:
    """Sections that a stage's module reads: `params.x`."""
    tree = ast.parse((ROOT / "pipeline" / "stages" / f"{stage}.py").read_text())
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    methods = {"vae_config": {"model", "variants"}, "check_run": set(), "with_stability_as_sweep": {"stability"}}
    return set().union(*(methods.get(name, {name}) for name in found))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_stage_lists_exactly_the_params_it_reads(stage):
    listed = {entry.split(".")[0] for entry in load_yaml("dvc.yaml")["stages"][stage].get("params", ())}
    of_trials = set(SCHEMAS) - {"flow"} if stage in ("sweep", "stability") else set()
    assert listed == attributes_of_params(stage) | of_trials


def test_every_stage_is_declared_once():
    stages = load_yaml("dvc.yaml")["stages"]
    assert set(stages) == set(STAGES)
    assert {name for name, stage in stages.items() if "matrix" in stage} == set(PER_VARIANT)


def test_every_key_is_read_by_a_stage():
    assert unread_keys(load_yaml("params.yaml"), load_yaml("dvc.yaml")["stages"]) == []


def test_a_key_that_no_stage_lists_is_found():
    stages = load_yaml("dvc.yaml")["stages"]
    stages["train"]["params"].remove("training")
    stages["evaluate"]["params"] = ["evaluation.seed"]
    stages["sweep"]["params"] = ["sweep"]
    stages["stability"]["params"] = ["stability"]
    unread = unread_keys(load_yaml("params.yaml"), stages)
    assert "training.epochs" in unread and "evaluation.chunk_size" in unread
    assert "evaluation.seed" not in unread and "variants.vae.flow" not in unread
