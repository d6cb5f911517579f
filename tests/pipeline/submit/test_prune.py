"""What is old is deleted from storage, and nothing else."""

import os
import sys
import time
from pathlib import Path

import pytest
from project import command

from pipeline.distributed.arrays import share_arrays
from pipeline.submit.prune import parts

DAY = 24 * 60 * 60
RUN = "vae-0-" + 16 * "a"
TRIAL = f"planar-4-0-{16 * 'b'}-{8 * 'c'}"
OLD = [
    "jobs/old/request.json",
    "jobs/old/0123/manifest.json",
    "reports/2026-01-31-some-name/index.html",
    f"stages/train@vae-0-{32 * 'f'}/result.json",
    "study-depth/tuner.pkl",
    f"{RUN}/000000001-{64 * 'd'}.safetensors",
    f"{RUN}/start-000/result.json",
    f"trials/{TRIAL}.json",
    f"trials/{TRIAL}.json.0123abcd.partial",
    f"{TRIAL}/000000001-{64 * 'e'}.safetensors",
]
FOREIGN = ["mine.txt", "mine/mine.txt", "data/mine.npy", "reports/index.html", "trials/mine.csv", "models/vae-0/x.bin"]


def prune(project: Path, storage: Path, *arguments: str):
    storage_of = {"FLOWVAE_STORAGE": str(storage)}
    return command(project, sys.executable, "-m", "pipeline.submit.prune", *arguments, check=False, **storage_of)


@pytest.fixture
def storage(tmp_path, reproduced):
    """Files that are ten days old, and prepared data."""
    folder = tmp_path / "storage"
    for name in (*OLD, *FOREIGN):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    share_arrays(reproduced.folder / "data/prepared", str(folder))
    make_old(folder)
    return folder


def make_old(folder):
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 10 * DAY,) * 2)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_old_is_deleted_and_nothing_else(storage, reproduced):
    before = files(storage)
    listed = prune(reproduced.folder, storage, "9.5", "--dry-run")
    assert listed.returncode == 0 and files(storage) == before
    assert prune(reproduced.folder, storage, "11").stdout == "" and files(storage) == before
    ran = prune(reproduced.folder, storage, "9.5")
    assert ran.returncode == 0, ran.stderr
    assert files(storage) == set(FOREIGN)
    assert ran.stdout == listed.stdout.replace("would delete", "deleted")
    num_parts = 9  # a job, the data, the page, a stage, the study, two runs, two files of trials
    assert len(ran.stdout.splitlines()) == num_parts


def test_what_is_in_use_is_kept_as_a_whole(storage, reproduced):
    """A job that began long ago and stores a result, a run that wrote a checkpoint, and data that a run sent again."""
    for name in ("jobs/old/0123/new.json", f"{RUN}/000000002-{64 * 'd'}.safetensors"):
        (storage / name).write_text("new")
    share_arrays(reproduced.folder / "data/prepared", str(storage))
    before = files(storage)
    assert prune(reproduced.folder, storage, "1").returncode == 0
    gone = {name.partition("/")[0] for name in before - files(storage)}
    assert gone == {"reports", "stages", "study-depth", "trials", TRIAL}
    assert {name for name in before if name.startswith(("jobs/", "data/", RUN))} <= files(storage)


@pytest.mark.parametrize("days", ["0", "-1", "many", "nan", "inf", ""])
def test_an_invalid_number_of_days(storage, reproduced, days):
    before = files(storage)
    ran = prune(reproduced.folder, storage, f"{days}")
    assert ran.returncode == 2 and files(storage) == before
    assert "DAYS" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("storage_of", ["", "relative/folder"])
def test_an_invalid_storage_is_one_line(reproduced, storage_of):
    ran = prune(reproduced.folder, storage_of, "1")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("prune: FLOWVAE_STORAGE: expected an absolute folder")


def test_the_age_of_a_part_is_that_of_its_newest_file():
    assert parts({"jobs/a/1": 1, "jobs/a/b/2": 2, "jobs/a/3": 0, "jobs/ab/4": 0}) == {"jobs/a": 2, "jobs/ab": 0}
