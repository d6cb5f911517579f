"""Missing or damaged data folders, unavailable devices and full disks: exit code 1 and one line."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from project import DISK, ROOT, edit_params, fill, stage

from flowvae.datasets.mnist import LAROCHELLE_BITS, MNIST_FILES

TRAIN = ("train", "--variant", "vae", "--seed", "0")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ask_for(project: Path, **data: object) -> None:
    edit_params(project, lambda params: params["data"].update(data))


def set_source(project: Path, source: str) -> None:
    (project / "data/source.json").write_text(json.dumps({"source": source}))


@pytest.fixture
def junk(tmp_path) -> Path:
    """A data folder in which all files have the right names and the wrong contents."""
    root = tmp_path / "junk"
    for name in MNIST_FILES:
        write(root / "MNIST/raw" / name, b"junk")
    for split in LAROCHELLE_BITS:
        write(root / "binarized_mnist" / f"binarized_mnist_{split}.amat.gz", gzip.compress(b"0 1\n1 0\n"))
    return root


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_no_data_and_no_fallback(files, complaint):
    ask_for(files, fallback=False)
    (files / "some").mkdir()
    line = complaint(files, "fetch", FLOWVAE_DATA_ROOT="some")
    assert line.startswith("data.fallback: ")
    assert "FLOWVAE_DATA_ROOT (some) has no MNIST/raw/train-images-idx3-ubyte; data/raw has no MNIST" in line
    assert "put train-images-idx3-ubyte, " in line


def test_larochelle_absent(files, complaint):
    ask_for(files, binarization="larochelle")
    (files / "some").mkdir()
    line = complaint(files, "fetch", FLOWVAE_DATA_ROOT="some")
    assert line.startswith("data.binarization: ")
    assert "FLOWVAE_DATA_ROOT (some) has no binarized_mnist/binarized_mnist_train.amat.gz; data/raw has no " in line


@pytest.mark.parametrize("binarization", ["static", "larochelle"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere", "nowhere: does not exist; set it to the folder that holds "),
        ("file", "file: not a folder"),
        ("junk/MNIST", "junk; set FLOWVAE_DATA_ROOT to that folder"),
        ("junk/MNIST/raw", "junk; set FLOWVAE_DATA_ROOT to that folder"),
        (".", "junk; set FLOWVAE_DATA_ROOT to that folder"),
        ("~/nowhere", "home/nowhere: does not exist"),
    ],
)
def test_a_wrong_data_root(files, complaint, tmp_path, junk, monkeypatch, binarization, given, says):
    """The line names the variable, and what it should be; nothing falls back."""
    ask_for(files, binarization=binarization)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("")
    root = given if given.startswith("~") else str(tmp_path / given)
    line = complaint(files, "fetch", FLOWVAE_DATA_ROOT=root)
    assert line.startswith("FLOWVAE_DATA_ROOT: ") and says in line


def test_the_home_folder_in_the_data_root(files, run_stage, tmp_path, junk, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_stage(files, "fetch", FLOWVAE_DATA_ROOT="~/junk") == (0, [])
    assert json.loads((files / "data/source.json").read_text())["source"] == "mnist"


def test_compressed_files(files, complaint, junk):
    for name in MNIST_FILES:
        (junk / "MNIST/raw" / name).rename(junk / "MNIST/raw" / f"{name}.gz")
    line = complaint(files, "fetch", FLOWVAE_DATA_ROOT=str(junk))
    assert (
        line == f"FLOWVAE_DATA_ROOT: {junk}: MNIST/raw/train-images-idx3-ubyte.gz is compressed; unpack it with gunzip"
    )


def test_larochelle_without_one_of_its_files(files, complaint, junk):
    ask_for(files, binarization="larochelle")
    (junk / "binarized_mnist/binarized_mnist_valid.amat.gz").unlink()
    says = f"FLOWVAE_DATA_ROOT: {junk}: lacks binarized_mnist/binarized_mnist_valid.amat.gz, "
    assert complaint(files, "fetch", FLOWVAE_DATA_ROOT=str(junk)).startswith(says)
    set_source(files, "larochelle")
    assert complaint(files, "prepare", FLOWVAE_DATA_ROOT=str(junk)).startswith(says)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", gzip.compress(b"0 1\n")], ids=["empty", "truncated", "short"])
def test_larochelle_damaged(files, complaint, junk, content):
    ask_for(files, binarization="larochelle")
    path = junk / "binarized_mnist/binarized_mnist_train.amat.gz"
    path.write_bytes(content)
    set_source(files, "larochelle")
    before = contents(files / "data/prepared")
    assert f"{path}: damaged" in complaint(files, "prepare", FLOWVAE_DATA_ROOT=str(junk))
    assert contents(files / "data/prepared") == before


@pytest.mark.parametrize("name", MNIST_FILES)
def test_mnist_file_missing(files, complaint, junk, name):
    """The message names the file, also if it was removed after `fetch`; nothing falls back."""
    (junk / "MNIST/raw" / name).unlink()
    says = f"FLOWVAE_DATA_ROOT: {junk}: lacks MNIST/raw/{name}, and holds the other files of MNIST; add these"
    assert complaint(files, "fetch", FLOWVAE_DATA_ROOT=str(junk)) == says
    set_source(files, "mnist")
    assert complaint(files, "prepare", FLOWVAE_DATA_ROOT=str(junk)) == says


def flip(content: bytearray) -> None:
    content[5000] ^= 1


def cut(content: bytearray) -> None:
    del content[-1:]


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_mnist_file_damaged(files, complaint, data_root, tmp_path, name, damage):
    raw = tmp_path / "root/MNIST/raw"
    raw.mkdir(parents=True)
    for other in MNIST_FILES:
        (raw / other).symlink_to(data_root / "MNIST/raw" / other)
    content = bytearray((raw / name).read_bytes())
    damage(content)
    (raw / name).unlink()
    (raw / name).write_bytes(content)
    set_source(files, "mnist")
    before = contents(files / "data/prepared")
    line = complaint(files, "prepare", FLOWVAE_DATA_ROOT=str(tmp_path / "root"))
    assert f"{raw / name}: damaged" in line
    assert contents(files / "data/prepared") == before


@pytest.mark.parametrize("device", ["nonsense", "cuda:97", "cpu:x"])
def test_unavailable_device(files, complaint, device):
    assert complaint(files, *TRAIN, FLOWVAE_DEVICE=device).startswith(f"FLOWVAE_DEVICE: {device!r} cannot be used")


def diverge(params):
    params["training"].update(learning_rate=1e12, max_grad_norm=1e30)
    params["training"]["schedule"].update(warmup_steps=0)


def test_loss_that_is_not_finite(files, complaint):
    edit_params(files, diverge)
    before = contents(files / "models")
    line = complaint(files, *TRAIN)
    assert "loss is not finite at epoch 1, step " in line
    assert "training.learning_rate" in line and "logs/train/vae-0.non_finite.json" in line
    dump = json.loads((files / "logs/train/vae-0.non_finite.json").read_text())
    assert dump["epoch"] == 1 and dump["batch_indices"]
    assert dump["weight_norms"].keys() == dump["gradient_norms"].keys() > set()
    assert contents(files / "models") == before


def move(folder: Path, disk: Path) -> None:
    """Move a folder to the disk and leave a link; files that are too big for the disk are removed."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > DISK // 2:
            path.unlink()
    shutil.copytree(folder, disk / folder.name)
    shutil.rmtree(folder)
    folder.symlink_to(disk / folder.name)


def test_full_disk_in_prepare(files, complaint, small_disk):
    move(files / "data/prepared", small_disk)
    before = contents(small_disk)
    line = complaint(files, "prepare")
    assert "data/prepared/train.npy" in line
    assert "No space left on device" in line
    assert contents(small_disk) == before


@pytest.mark.parametrize(
    ("folder", "file", "arguments"),
    [
        ("models/vae-0", "models/vae-0/model.safetensors", TRAIN),
        ("curves", "curves/vae-0.csv", TRAIN),
        ("reports/figures", "reports/figures/interpolation.png", ("interpolate",)),
        ("reports", "reports/results.csv", ("report",)),
    ],
)
def test_full_disk_in_later_stages(files, complaint, small_disk, folder, file, arguments):
    move(files / folder, small_disk)
    fill(small_disk)
    before = contents(small_disk)
    line = complaint(files, *arguments)
    assert file in line
    assert "No space left on device" in line
    assert contents(small_disk) == before


def test_user_sees_one_line_and_no_traceback(files, small_disk):
    """In a process of its own, as a user starts it."""
    move(files / "data/prepared", small_disk)
    shutil.copytree(ROOT / "pipeline", files / "pipeline")
    shutil.copytree(ROOT / "flowvae", files / "flowvae")
    ran = stage(files, "prepare")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("prepare: data/prepared/train.npy: ")


def test_file_instead_of_the_output_folder(files, complaint):
    shutil.rmtree(files / "data/prepared")
    (files / "data/prepared").write_text("in the way")
    assert "data/prepared: " in complaint(files, "prepare")
    assert (files / "data/prepared").read_text() == "in the way"


@pytest.mark.parametrize("arguments", [("train",), ("prepare", "--seed", "0"), ("study",), ("bake",), ()], ids=" ".join)
def test_wrong_command_line(run_stage, tmp_path, arguments):
    with pytest.raises(SystemExit) as stopped:
        run_stage(tmp_path, *arguments)
    assert stopped.value.code == 2
