"""The data of a study: prepared by the stages `fetch` and `prepare`, in a folder of their own."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock
from ruamel.yaml import YAML

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.errors import InputError
from pipeline import paths
from pipeline.downloads import VARIABLE, given_root
from pipeline.files import read_json, write_json, write_text
from pipeline.params.schema import Params

ROOT = Path(__file__).parents[2]
STAGES = ("fetch", "prepare")
SETTINGS = "settings.json"  # `data` of the params with which both stages succeeded
WITH_PATHS = ("folder", "arrays")  # of data, whose `path` may be relative to the project


def folder_of(preset: str) -> Path:
    """The folder in which the stages run, and which looks to them like a project."""
    return paths.STUDY_DATA / preset


def prepared_folder(preset: str) -> Path:
    """The folder of the arrays."""
    return folder_of(preset) / paths.PREPARED


def known_data(preset: str, params: Params) -> dict[str, str] | None:
    """SHA-256 of the images of each split; None if they were not prepared with these settings."""
    if not is_prepared(preset, params):
        return None
    return checksums(read_metadata(prepared_folder(preset)))


def checksums(metadata: Metadata) -> dict[str, str]:
    """SHA-256 of the images of each split."""
    return {split: metadata.arrays[split].sha256 for split in metadata.counts}


def is_prepared(preset: str, params: Params) -> bool:
    """Whether there are arrays, and they were prepared with these settings."""
    settings = folder_of(preset) / SETTINGS
    return settings.is_file() and read_json(settings) == params.data.model_dump(mode="json")


def prepare_data(preset: str, params: Params) -> Metadata:
    """Prepare the data of a preset, unless they are prepared.

    Raises:
        InputError: they are unavailable, or only a smaller replacement is available.
    """
    folder = folder_of(preset)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not is_prepared(preset, params):
            print(f"study: preparing the data in {folder}", flush=True)
            make(folder, params)
    metadata = read_metadata(prepared_folder(preset))
    if metadata.provenance.banner:
        raise InputError(
            f"{metadata.provenance.banner} A study needs the full data; remove {folder} once you have them"
        )
    return metadata


def make(folder: Path, params: Params) -> None:
    """Run the stages in a folder.

    Raises:
        InputError: one failed; the message is the stage's.
    """
    (folder / SETTINGS).unlink(missing_ok=True)
    text = io.StringIO()
    YAML().dump(content_of(params), text)
    shutil.copy("dvc.yaml", folder)
    link_downloads(folder)
    write_text(folder / paths.PARAMS, text.getvalue())
    root = given_root()
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({VARIABLE: str(root.absolute())} if root else {})
    for stage in STAGES:
        command = [sys.executable, "-m", "pipeline", stage]
        ran = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        if ran.returncode:
            raise InputError(ran.stderr.strip() or f"{stage}: failed with exit code {ran.returncode}")
    write_json(folder / SETTINGS, params.data.model_dump(mode="json"))


def link_downloads(folder: Path) -> None:
    """Let the folder share the files that the project downloads."""
    link = folder / paths.DOWNLOADS
    paths.DOWNLOADS.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(paths.DOWNLOADS.absolute(), target_is_directory=True)


def content_of(params: Params) -> dict[str, Any]:
    """All params as plain values, in which paths do not depend on the working folder."""
    content = params.model_dump(mode="json")
    for name in WITH_PATHS:
        content["data"][name]["path"] = str(Path(content["data"][name]["path"]).expanduser().absolute())
    content["studies"] = {}  # whose families are in another form after they were read
    return content
