"""Entries of dvc.lock that a job brings home: DVC compares them with what is here, and writes them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import voluptuous
from ruamel.yaml import YAML

from flowvae.errors import InputError
from pipeline.dvc_internals import (
    COMPILED_LOCK_FILE_STAGE_SCHEMA,
    LocalFileSystem,
    PipelineStage,
    Repo,
    StageLoader,
    build,
    to_single_stage_lockfile,
)

LOCK = "dvc.lock"


def load(repo: Repo, name: str) -> PipelineStage:
    """A stage of dvc.yaml with the hashes of dvc.lock."""
    stage = repo.stage.load_one(name=name)
    assert isinstance(stage, PipelineStage)
    return stage


def inputs_key(repo: Repo, name: str) -> str:
    """A hash of the command of a stage, its params and its dependencies as they are here.

    Raises:
        DvcException: a dependency is missing.
    """
    stage = load(repo, name)
    stage.save_deps()
    entry = to_single_stage_lockfile(stage)
    hashes = {dep["path"]: dep["md5"] for dep in entry.get("deps", ())}
    inputs = {"cmd": entry["cmd"], "params": entry.get("params", {}), "deps": hashes}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def read_entry(project: Path, name: str) -> dict[str, Any]:
    """The entry of a stage in dvc.lock, as DVC wrote it."""
    content = YAML(typ="safe", pure=True).load((project / LOCK).read_text())
    entry: dict[str, Any] = content["stages"][name]
    return entry


def load_with(repo: Repo, name: str, entry: dict[str, Any]) -> PipelineStage:
    """A stage of dvc.yaml with the hashes and params of another entry than that of dvc.lock.

    Raises:
        InputError: it is not an entry of a stage.
    """
    try:
        COMPILED_LOCK_FILE_STAGE_SCHEMA(entry)
    except voluptuous.Invalid as error:
        raise InputError(f"{name}: the job's entry for {LOCK} is damaged ({error}); nothing was written") from error
    stage = load(repo, name)
    StageLoader.fill_from_lock(stage, entry)
    stage.cmd_changed = entry.get("cmd") != stage.cmd
    return stage


def check_inputs(stage: PipelineStage) -> None:
    """Check that the stage ran with the command, the params and the dependencies that are here, by DVC's comparison.

    Raises:
        InputError: it ran with others, which the message names.
    """
    different = ["command"] if stage.changed_stage() else []
    for dep in stage.deps:
        for name, status in dep.workspace_status().items():
            different += [f"{name}: {key}" for key in status] if isinstance(status, dict) else [name]
    if different:
        raise InputError(
            f"{stage.addressing}: the job ran it with another {', '.join(different)} than this folder has, so its "
            "results were not taken; check that out, and run the command with --attach or --collect again"
        )


def check_outputs(stage: PipelineStage, folder: Path) -> None:
    """Check that outputs in a folder have the hashes of the entry.

    Args:
        stage: with the entry.
        folder: in which the outputs are, by their paths.

    Raises:
        InputError: an output is missing, or is another one.
    """
    for out in stage.outs:
        path = folder / str(out.def_path)
        expected = out.hash_info.value if out.hash_info else None
        if not path.exists() or not expected or expected != hash_of(stage.repo, path):
            raise InputError(
                f"{stage.addressing}: {out.def_path} is not the output that its entry in the job's {LOCK} names; "
                "nothing was written; run the job again"
            )


def hash_of(repo: Repo, path: Path) -> str:
    """DVC's hash of a file or a folder."""
    _, _, content = build(repo.cache.local, str(path), LocalFileSystem(), "md5", dry_run=True)
    return str(content.hash_info.value)


def write_entry(stage: PipelineStage) -> None:
    """Commit the outputs of a stage, which are in their places, to DVC's cache, and its entry to dvc.lock."""
    stage.ignore_outs()
    stage.commit()
    stage.dump(update_pipeline=False)
