"""A tiny study as rows: a project with a preset and a data set of its own, in which a row takes seconds."""

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

import numpy as np
from project import NO_FLOW, REAL_NVP, ROOT, command, copy_project, edit_params, environment, planar, unshared
from ruamel.yaml import YAML

PRESET = "study-tiny"
STUDY = {
    "families": {
        "none": {"posterior": NO_FLOW, "prior": NO_FLOW},
        "planar": planar(num_transforms=[3, 1]),
    },
    "seeds": [0, 1],
    "settings": {},
    "over": {},
    "search": {"name": "grid"},
    "early_stopping": {"name": "none"},
}
PRIOR = STUDY | {
    "families": {
        "none": STUDY["families"]["none"],  # the same rows as in the other study
        "prior_real_nvp": {"posterior": NO_FLOW, "prior": REAL_NVP | {"context": False}},
    },
    "seeds": [0],
}
NAMES = [
    *("posterior/none-0-0", "posterior/planar-3-0", "prior/prior_real_nvp-1-0", "posterior/planar-1-0"),
    *("posterior/none-0-1", "posterior/planar-3-1", "posterior/planar-1-1"),
]  # in the order of training
IMAGES = {"train": 400, "valid": 60, "test": 80}


def study_project(folder: Path) -> Path:
    """A project with the preset, and with images of blobs."""
    copy_project(folder, git=False)
    edit_params(folder, lambda params: params["training"].update(batch_size=50, epochs=2))
    content = {
        "data": {"name": "arrays", "binarization": "threshold", "arrays": {"path": "images", "shape": [1, 28, 28]}},
        "studies": unshared({"posterior": STUDY, "prior": PRIOR}),
    }
    write_preset(folder, content)
    rows, columns = np.mgrid[:28, :28]
    (folder / "images").mkdir()
    draws = np.random.default_rng(0)
    for split, count in IMAGES.items():
        centres, radii = draws.uniform(8, 20, (count, 2, 1, 1)), draws.uniform(3, 8, (count, 1, 1))
        inside = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < radii**2
        np.save(folder / f"images/{split}.npy", 255 * inside[:, None].astype(np.uint8))
    return folder


def write_preset(folder: Path, content: Any) -> None:
    """Write the preset."""
    (folder / "presets").mkdir(exist_ok=True)
    with (folder / f"presets/{PRESET}.yaml").open("w") as file:
        YAML().dump(content, file)


def edit_preset(folder: Path, edit: Any) -> None:
    """Change the preset."""
    path = folder / f"presets/{PRESET}.yaml"
    content = YAML(typ="safe").load(path.read_text())
    edit(content)
    write_preset(folder, content)


def study(folder: Path, *options: str, check: bool = True, **changes: str) -> CompletedProcess[str]:
    """Run `flowvae study` in the project."""
    return command(folder, sys.executable, "-m", "flowvae", "study", PRESET, *options, check=check, **changes)


def start_study(folder: Path, *options: str, **changes: str) -> "Popen[bytes]":
    """Start `flowvae study` in a session of its own, with its output in a file."""
    with (folder / "output.txt").open("ab") as output:
        return Popen(
            [sys.executable, "-m", "flowvae", "study", PRESET, *options],
            cwd=folder,
            env=environment(folder, **{"FLOWVAE_CHECKPOINT_EVERY": "5 steps"} | changes),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def record(folder: Path, name: str) -> dict[str, Any]:
    """The record of a row."""
    return json.loads((folder / f"reports/study/rows/{PRESET}/{name}.json").read_text())


def record_names(folder: Path) -> set[str]:
    """The rows that have records."""
    rows = folder / "reports/study/rows" / PRESET
    return {path.relative_to(rows).with_suffix("").as_posix() for path in rows.rglob("*.json")}


__all__ = ["IMAGES", "NAMES", "PRESET", "ROOT", "record", "record_names", "start_study", "study", "study_project"]
