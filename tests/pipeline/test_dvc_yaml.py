"""dvc.yaml lists what the code uses: the code that each stage imports, the params that it reads, and its options."""

import ast
import re
from pathlib import Path

import pytest
from project import ROOT
from ruamel.yaml import YAML

from pipeline.__main__ import OPTIONS, STAGES
from pipeline.fitting import TRAINING_CODE
from pipeline.params.checks import unread_keys
from pipeline.params.schema import SIDES
from pipeline.study.points import Sections
from pipeline.study.trials import SCORING_CODE

# Code that reads params, starts, places or reports runs. It changes no result, so editing it makes no stage run again.
CHANGES_NO_RESULT = (
    "pipeline/params",
    "pipeline/running",
    "pipeline/distributed",
    "pipeline/paths.py",
    "flowvae/errors.py",
)
BUT_CHANGES_RESULTS = {
    "pipeline/params/trees.py",
    "pipeline/distributed/searching.py",
    "pipeline/distributed/shards.py",
    "pipeline/distributed/training.py",
    "pipeline/distributed/tuning.py",
    "pipeline/distributed/workers.py",
}
LISTING_STAGES = [stage for stage in STAGES if stage != "fetch"]  # fetch always runs, so it lists no code
SEARCHING_CODE = {
    "pipeline/stages/study.py",
    "pipeline/study",
    "pipeline/params/trees.py",
    "pipeline/distributed/searching.py",
    "pipeline/distributed/tuning.py",
}  # which trials a study has, and how their rows are collected


def load_yaml(name: str) -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text())


STAGES_OF_DVC = load_yaml("dvc.yaml")["stages"]


def code_entries(stage: str) -> set[str]:
    """The code that a stage of dvc.yaml lists."""
    return {dep for dep in STAGES_OF_DVC[stage]["deps"] if dep.startswith(("flowvae/", "pipeline/"))}


def module_file(module: str) -> Path | None:
    base = ROOT / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imported_files(path: Path) -> set[Path]:
    """Files of the project that a file imports by name, also inside functions."""
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


def covers(entry: str, file: str) -> bool:
    """Whether an entry of dvc.yaml is a file, or the folder that contains it."""
    return file == entry or file.startswith(f"{entry}/")


def changes_results(file: str) -> bool:
    return file in BUT_CHANGES_RESULTS or not any(covers(entry, file) for entry in CHANGES_NO_RESULT)


def code_of(file: str, without: tuple[str, ...] = ()) -> set[str]:
    """The files on which the results of one depend: its transitive imports, as far as they change results."""
    seen, todo = set(), [file]
    while todo:
        name = todo.pop()
        if name not in seen and name not in without and changes_results(name):
            seen.add(name)
            todo += [path.relative_to(ROOT).as_posix() for path in imported_files(ROOT / name)]
    return seen


@pytest.mark.parametrize("stage", LISTING_STAGES)
def test_every_import_of_a_stage_is_listed(stage):
    entries, files = code_entries(stage), code_of(f"pipeline/stages/{stage}.py")
    assert [file for file in sorted(files) if not any(covers(entry, file) for entry in entries)] == []


@pytest.mark.parametrize("stage", LISTING_STAGES)
def test_every_listed_file_or_folder_is_imported(stage):
    entries, files = code_entries(stage), code_of(f"pipeline/stages/{stage}.py")
    assert [entry for entry in sorted(entries) if not any(covers(entry, file) for file in files)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_entries_exist_and_none_contains_another(stage):
    entries = {dep for dep in STAGES_OF_DVC[stage].get("deps", ()) if dep.startswith(("flowvae/", "pipeline/"))}
    assert bool(entries) == (stage in LISTING_STAGES)
    assert [entry for entry in entries if not (ROOT / entry).exists()] == []
    assert [(one, other) for one in entries for other in entries if one != other and covers(one, other)] == []


def test_checkpoints_depend_on_the_code_that_train_lists():
    """The hash in their name changes if and only if DVC trains again."""
    assert len(set(TRAINING_CODE)) == len(TRAINING_CODE)
    assert set(TRAINING_CODE) == code_entries("train") - {"pipeline/stages/train.py"}


def test_stored_rows_of_a_study_depend_on_all_code_that_scores_them():
    """The rest of the study's code decides only which trials there are."""
    listed = {*TRAINING_CODE, *SCORING_CODE}
    entries = code_entries("study")
    assert [entry for entry in entries - SEARCHING_CODE if not any(covers(each, entry) for each in listed)] == []
    assert entries >= SEARCHING_CODE
    files = code_of("pipeline/study/trials.py", without=("pipeline/study/points.py",))  # which only reads settings
    assert [file for file in sorted(files) if not any(covers(each, file) for each in listed)] == []


def sections_read(files: set[str]) -> set[str]:
    """Sections of params.yaml that files read: `params.x`."""
    nodes = (node for file in files for node in ast.walk(ast.parse((ROOT / file).read_text())))
    reads = (node for node in nodes if isinstance(node, ast.Attribute))
    names = {
        node.attr
        for node in reads
        if (isinstance(node.value, ast.Name) and node.value.id == "params")
        or (isinstance(node.value, ast.Attribute) and node.value.attr == "params")
    }
    methods = {"vae_config": {"model", "variants"}, "check_run": set(), "check_study": {"studies"}}
    return set().union(*(methods.get(name, {name}) for name in names))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_exactly_the_params_it_reads(stage):
    listed = {entry.split(".")[0] for entry in STAGES_OF_DVC[stage].get("params", ())}
    files = {f"pipeline/stages/{stage}.py"}
    if stage == "report":
        files |= {file for file in code_of(f"pipeline/stages/{stage}.py") if file.startswith("pipeline/report/")}
    read = sections_read(files)
    if stage == "study":
        read |= set(Sections.model_fields) - set(SIDES)  # of trials
    if stage == "report":
        read -= {"interpolation"}  # its figure is a dependency of the report, and changes with it
    assert listed == read


def test_every_stage_is_declared_once():
    assert set(STAGES_OF_DVC) == set(STAGES)
    assert {name for name, stage in STAGES_OF_DVC.items() if "matrix" in stage} == {"train", "evaluate", "study"}


@pytest.mark.parametrize("stage", STAGES)
def test_commands_give_every_option_that_the_matrix_has(stage):
    declared = STAGES_OF_DVC[stage]
    command = declared["cmd"].split()
    assert command[:3] == ["sh", "pipeline/run.sh", stage]
    options = re.findall(r"--(\w+) \$\{item\.(\w+)\}", declared["cmd"])
    assert len(command) == 3 + 2 * len(options)
    assert {option for option, _ in options} <= set(OPTIONS[stage])
    assert [axis for _, axis in options] == list(declared.get("matrix", ()))


def test_every_key_is_read_by_a_stage():
    assert unread_keys(load_yaml("params.yaml"), STAGES_OF_DVC) == []


def test_a_key_that_no_stage_lists_is_found():
    stages = load_yaml("dvc.yaml")["stages"]
    stages["train"]["params"].remove("training")
    stages["evaluate"]["params"] = ["evaluation.seed"]
    stages["study"]["params"] = ["studies.${item.study}"]
    unread = unread_keys(load_yaml("params.yaml"), stages)
    assert "training.epochs" in unread and "evaluation.chunk_size" in unread
    assert "evaluation.seed" not in unread and "variants.vae.posterior.flow" not in unread
    assert not any(key.startswith("studies.") for key in unread)
    stages["study"]["params"] = stages["report"]["params"] = []
    assert "studies.depth.families.none.prior.flow" in unread_keys(load_yaml("params.yaml"), stages)
