"""Storage that nodes share: complete files, arrays fetched once and verified, checkpoints of trials."""

import errno
import sys
import tempfile

import pytest
import torch
from killing import VARIANT
from project import command

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.training.checkpoint import Checkpoint, Interval
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.storage import Storage
from pipeline.distributed.stored_checkpoints import StoredCheckpoints
from pipeline.running.placement import find_placement


@pytest.fixture
def prepared(reproduced):
    return reproduced.folder / "data/prepared"


@pytest.fixture
def on_a_node(tmp_path, monkeypatch, prepared):
    """The arrays on a node that cannot access the driver's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    placement = find_placement(None, 1, 0, {"RAY_ADDRESS": "head:6379", "FLOWVAE_STORAGE": str(tmp_path / "storage")})
    return lambda: local_arrays(tmp_path / "driver", read_metadata(prepared), placement)


def test_a_node_fetches_once(on_a_node, prepared, tmp_path):
    share_arrays(prepared, str(tmp_path / "storage"))
    folder = on_a_node()
    sent = {path.name for path in prepared.iterdir() if path.stem != "train_labels"}  # which no node needs
    assert {path.name for path in folder.iterdir()} == sent
    assert all((folder / name).read_bytes() == (prepared / name).read_bytes() for name in sent if name.endswith(".npy"))
    (tmp_path / "storage").rename(tmp_path / "gone")
    assert on_a_node() == folder


def test_damaged_arrays_are_detected_and_leave_no_files(on_a_node, prepared, tmp_path):
    name = share_arrays(prepared, str(tmp_path / "storage"))
    path = tmp_path / f"storage/data/{name}/valid.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(InputError, match=r"valid\.npy: damaged"):
        on_a_node()
    assert [path.suffix for path in (tmp_path / "local").rglob("*") if path.is_file()] == [".lock"]


def test_arrays_larger_than_memory(on_a_node, prepared, tmp_path, monkeypatch):
    """A file is never in memory as a whole, neither when it is sent nor when it is fetched: pieces are small here."""
    monkeypatch.setattr("pipeline.distributed.arrays.PIECE", 1000)
    monkeypatch.setattr("pipeline.distributed.storage.PIECE", 1000)
    sizes = []
    write, read = Storage.write_pieces, Storage.pieces

    def recorded(pieces):
        for piece in pieces:
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(Storage, "write_pieces", lambda self, name, pieces: write(self, name, recorded(pieces)))
    monkeypatch.setattr(Storage, "pieces", lambda self, name: recorded(read(self, name)))
    share_arrays(prepared, str(tmp_path / "storage"))
    folder = on_a_node()
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert sum(sizes) == 2 * total and max(sizes) == 1000


def test_an_incomplete_array_is_uploaded_again(on_a_node, prepared, tmp_path):
    """A driver that is killed may leave one in storage."""
    name = share_arrays(prepared, str(tmp_path / "storage"))
    path = tmp_path / f"storage/data/{name}/train.npy"
    path.write_bytes(path.read_bytes()[:100])
    share_arrays(prepared, str(tmp_path / "storage"))
    assert (on_a_node() / "train.npy").read_bytes() == (prepared / "train.npy").read_bytes()


def test_an_array_that_cannot_be_read_is_not_reported_as_an_error_of_the_storage(prepared, tmp_path, monkeypatch):
    def broken(path, num_bytes):
        yield b"some"
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pipeline.distributed.arrays.pieces", broken)
    with pytest.raises(InputError, match=r"train\.npy: cannot be read \(Input/output error\); run the stage 'prepare'"):
        share_arrays(prepared, str(tmp_path / "storage"))
    assert not [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]


def test_two_processes_that_write_the_same_file(tmp_path):
    """The file is complete at any time, and in the end it is that of the process that ended last."""
    storage = Storage.of(str(tmp_path), "x")

    def slow():
        yield b"slow"
        storage.write("name", b"quick")
        assert storage.read("name") == b"quick"
        yield b"ly"

    storage.write_pieces("name", slow())
    assert storage.read("name") == b"slowly"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["name"]


def test_a_full_disk_of_a_node_is_one_line(on_a_node, prepared, tmp_path, monkeypatch):
    share_arrays(prepared, str(tmp_path / "storage"))

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("pipeline.distributed.arrays.write_atomically", full)
    with pytest.raises(InputError, match=r"train\.json: cannot be written \(No space left on device\); free space"):
        on_a_node()


def test_arrays_that_were_never_uploaded(on_a_node):
    with pytest.raises(InputError, match=r"train\.json: not in storage"):
        on_a_node()


def test_on_one_machine_nothing_is_copied(prepared, tmp_path):
    placement = find_placement(None, 1, 0, {"FLOWVAE_STORAGE": str(tmp_path / "storage")})
    assert local_arrays(prepared, read_metadata(prepared), placement) == prepared
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "expected an absolute folder or a URI"),
        ("relative/folder", "expected an absolute folder or a URI"),
        ("nonsense://x", "expected an absolute folder or a URI"),
        ("s3://key:word@bucket/x", "contains credentials"),
        ("s3://bucket/x?access_key=key&secret_key=word", "contains credentials"),
    ],
)
def test_invalid_storage(uri, message):
    with pytest.raises(InputError, match=f"FLOWVAE_STORAGE: {message}") as error:
        Storage.of(uri, "x")
    assert "word" not in str(error.value)


def test_checkpoints_of_a_trial(tmp_path, capsys):
    storage = Storage.of(str(tmp_path), "trial")
    checkpoints = StoredCheckpoints(storage, Interval.parse("1 steps"))
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.offer(step, lambda step=step: Checkpoint(step, {"weight": torch.full((2,), float(step))}, {}))
    assert len(storage.checkpoints()) == 2
    assert StoredCheckpoints(storage, Interval.parse("1 steps")).latest().step == 3
    newest = tmp_path / "trial" / storage.checkpoints()[0].rpartition("/")[2]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert checkpoints.latest().step == 2
    assert "damaged" in capsys.readouterr().err
    checkpoints.remove()
    assert not (tmp_path / "trial").exists()


def test_two_clones_that_train_the_same_run(tmp_path):
    """Both write the same files; the one that ends first removes them."""
    first, second = (StoredCheckpoints(Storage.of(str(tmp_path), "run"), Interval.parse("1 steps")) for _ in range(2))
    for step in (1, 2, 3):
        for checkpoints in (first, second):
            checkpoints.offer(step, lambda step=step: Checkpoint(step, {"weight": torch.zeros(2)}, {}))
    listed = second.storage.checkpoints()
    first.remove()
    for path in listed:
        second.storage.delete(path)
    assert second.latest() is None
    second.offer(4, lambda: Checkpoint(4, {"weight": torch.zeros(2)}, {}))
    assert first.latest().step == 4
    second.remove()
    second.storage.remove()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_another_clone_replaces_while_it_is_read(tmp_path, monkeypatch):
    storage = Storage.of(str(tmp_path), "run")
    for step in (1, 2):
        content = Checkpoint(step, {"weight": torch.zeros(2)}, {}).to_bytes()
        storage.write(Checkpoint(step, {}, {}).file_name(content), content)
    listed = storage.checkpoints()
    storage.delete(listed[0])
    monkeypatch.setattr(Storage, "checkpoints", lambda self: listed)
    assert storage.newest()[1].step == 1


IMPORTED = """
import sys
from pipeline.__main__ import main

sys.argv = ["pipeline", "train", *sys.argv[1:]]
code = main()
print("imported:", *({"pyarrow", "ray"} & sys.modules.keys()))
sys.exit(code)
"""


@pytest.mark.parametrize("is_set", [False, True])
def test_a_run_in_one_process_imports_no_more_than_it_needs(files, tmp_path, is_set):
    storage = {"FLOWVAE_STORAGE": str(tmp_path / "storage")} if is_set else {}
    ran = command(files, sys.executable, "-c", IMPORTED, *VARIANT, **storage)
    assert ran.stdout.splitlines()[-1] == ("imported: pyarrow" if is_set else "imported:")


def test_an_invalid_storage_of_a_run_in_one_process_is_one_line(files, complaint):
    line = complaint(files, "train", *VARIANT, FLOWVAE_STORAGE="relative/folder")
    assert line.startswith("FLOWVAE_STORAGE: expected an absolute folder")
