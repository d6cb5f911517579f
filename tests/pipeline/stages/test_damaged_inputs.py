"""Damaged, missing and contradictory inputs: exit code 1 and one line that names the file or key."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from project import edit_params

VAE = ("--variant", "vae", "--seed", "0")
TRAIN, EVALUATE = ("train", *VAE), ("evaluate", *VAE)
PREPARE, INTERPOLATE, REPORT = ("prepare",), ("interpolate",), ("report",)
PREPARED, MODEL = "data/prepared", "models/vae-0"
Damage = Callable[[Path], object]


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


def write(text: str) -> Damage:
    return lambda path: path.write_text(text)


def edit_json(*keys: str, value: object) -> Damage:
    """Set a value, or delete it if it is None."""

    def edit(path: Path) -> None:
        content = part = json.loads(path.read_text())
        for key in keys[:-1]:
            part = part[key]
        if value is None:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value
        path.write_text(json.dumps(content))

    return edit


def with_checksum(content: bytes) -> Damage:
    """Replace the contents, and their checksum beside them."""

    def replace(path: Path) -> None:
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        edit_json("sha256", value=digest)(path.with_suffix(".json"))

    return replace


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# name: (stage, file, damage, part of the message, which also names the file)
FILES = {
    "source missing": (PREPARE, "data/source.json", remove, "cannot be read"),
    "source not JSON": (PREPARE, "data/source.json", truncate, "damaged"),
    "source without its key": (PREPARE, "data/source.json", write("{}"), "damaged"),
    "source that the settings do not allow": (PREPARE, "data/source.json", write('{"source": "svhn"}'), "damaged"),
    "array truncated": (TRAIN, f"{PREPARED}/train.npy", truncate, "checksum"),
    "byte flipped in array": (TRAIN, f"{PREPARED}/valid.npy", flip, "checksum"),
    "array missing": (TRAIN, f"{PREPARED}/train.npy", remove, "cannot be read"),
    "array empty": (EVALUATE, f"{PREPARED}/test.npy", write(""), "checksum"),
    "array of another shape": (
        TRAIN,
        f"{PREPARED}/train.npy",
        with_checksum(npy(np.zeros((4000, 1, 14, 14), np.uint8))),
        "expected shape (4000, 1, 28, 28), got (4000, 1, 14, 14)",
    ),
    "array of another type": (
        TRAIN,
        f"{PREPARED}/train.npy",
        with_checksum(npy(np.zeros((4000, 1, 28, 28), np.float64))),
        "uint8",
    ),
    "no array": (TRAIN, f"{PREPARED}/train.npy", with_checksum(b"0 1 0 1"), "prepare"),
    "description missing": (TRAIN, f"{PREPARED}/train.json", remove, "cannot be read"),
    "description not JSON": (TRAIN, f"{PREPARED}/valid.json", truncate, "damaged"),
    "description lacks the shape": (TRAIN, f"{PREPARED}/train.json", edit_json("shape", value=None), "damaged"),
    "description lacks the sum": (EVALUATE, f"{PREPARED}/test.json", edit_json("sha256", value=None), "damaged"),
    "description of labels missing": (INTERPOLATE, f"{PREPARED}/test_labels.json", remove, "cannot be read"),
    "provenance missing": (REPORT, f"{PREPARED}/provenance.json", remove, "cannot be read"),
    "provenance lacks a key": (REPORT, f"{PREPARED}/provenance.json", edit_json("split", value=None), "damaged"),
    "labels missing": (INTERPOLATE, f"{PREPARED}/test_labels.npy", remove, "cannot be read"),
    "labels damaged": (INTERPOLATE, f"{PREPARED}/test_labels.npy", flip, "checksum"),
    "model half written": (EVALUATE, f"{MODEL}/model.safetensors", truncate, "checksum"),
    "byte flipped in model": (EVALUATE, f"{MODEL}/model.safetensors", flip, "checksum"),
    "model missing": (EVALUATE, f"{MODEL}/model.safetensors", remove, "train the variant first"),
    "model missing, interpolate": (INTERPOLATE, f"{MODEL}/model.safetensors", remove, "train the variant first"),
    "config missing": (EVALUATE, f"{MODEL}/config.json", remove, "train the variant first"),
    "config not JSON": (EVALUATE, f"{MODEL}/config.json", truncate, "train the variant again"),
    "config of another version": (EVALUATE, f"{MODEL}/config.json", edit_json("vae", "posterior", value=3), "version"),
    "protocol of training missing": (EVALUATE, f"{MODEL}/training.json", remove, "cannot be read"),
    "protocol of training damaged": (EVALUATE, f"{MODEL}/training.json", truncate, "damaged"),
    "metrics missing": (REPORT, "metrics/vae-0.json", remove, "cannot be read"),
    "metrics damaged": (REPORT, "metrics/vae-0.json", truncate, "damaged"),
    "protocol missing": (REPORT, "metrics/protocol/vae-0.json", remove, "cannot be read"),
    "protocol damaged": (REPORT, "metrics/protocol/vae-0.json", write("[]"), "damaged"),
    "scores missing": (REPORT, "scores/vae-0.safetensors", remove, "cannot be read"),
    "scores damaged": (REPORT, "scores/vae-0.safetensors", truncate, "damaged"),
    "curve missing": (REPORT, "curves/vae-0.csv", remove, "cannot be read"),
    "curve not UTF-8": (REPORT, "curves/vae-0.csv", lambda path: path.write_bytes(b"epoch\xff\n"), "damaged"),
    "curve lacks a column": (REPORT, "curves/vae-0.csv", write("epoch\n1\n"), "damaged"),
    "curve without epochs": (REPORT, "curves/vae-0.csv", write("epoch,train_negative_elbo\n"), "damaged"),
    "curve with a word": (REPORT, "curves/vae-0.csv", write("epoch,train_negative_elbo\na,b\n"), "damaged"),
    "samples missing": (REPORT, "reports/figures/samples/vae-0.png", remove, "cannot be read"),
    "samples damaged": (REPORT, "reports/figures/samples/vae-0.png", write("no picture"), "not a picture"),
    "paths missing": (REPORT, "reports/latents/paths/vae.webp", remove, "cannot be read"),
    "maps damaged": (REPORT, "reports/latents/maps.json", truncate, "damaged"),
    "maps lack a key": (REPORT, "reports/latents/maps.json", edit_json("steps", value=None), "lacks steps"),
    "maps of other variants": (
        REPORT,
        "reports/latents/maps.json",
        edit_json("maps", value={}),
        "expected the variants",
    ),
    "study missing": (REPORT, "reports/studies/depth.csv", remove, "run dvc repro"),
    "study damaged": (REPORT, "reports/studies/stability.csv", write("family\nnone\n"), "dvc repro -f study@stability"),
}
# Files that can be read, but do not contain what they should; the message names the run.
RUNS = {
    "metrics lack a key": ("metrics/vae-0.json", edit_json("nll_nats", value=None), "nll_nats"),
    "metrics with a string": ("metrics/vae-0.json", edit_json("nll_nats", value="low"), "nll_nats"),
    "metrics lack active units": ("metrics/vae-0.json", edit_json("active_units", value=None), "active_units"),
    "protocol lacks a key": ("metrics/protocol/vae-0.json", edit_json("evaluation", value=None), "evaluation"),
    "protocol lacks its epochs": ("metrics/protocol/vae-0.json", edit_json("epochs", value=None), "epochs"),
}


@pytest.mark.parametrize(("arguments", "file", "damage", "says"), FILES.values(), ids=FILES)
def test_damaged_file(files, complaint, arguments, file, damage, says):
    damage(files / file)
    line = complaint(files, *arguments)
    assert file in line
    assert says in line


def test_config_that_does_not_match_the_weights(files, complaint):
    edit_json("vae", "latent_shape", value=[6])(files / MODEL / "config.json")
    line = complaint(files, *EVALUATE)
    assert f"{MODEL}/model.safetensors" in line
    assert "does not fit" in line


@pytest.mark.parametrize(("file", "damage", "says"), RUNS.values(), ids=RUNS)
def test_damaged_run(files, complaint, file, damage, says):
    damage(files / file)
    line = complaint(files, *REPORT)
    assert "vae-0" in line
    assert "dvc repro" in line
    assert says in line


def test_two_protocols_in_one_table(files, complaint):
    edit_json("evaluation", "num_elbo_samples", value=3)(files / "metrics/protocol/planar-4-0.json")
    before = (files / "reports/results.csv").read_bytes()
    line = complaint(files, *REPORT)
    assert "metrics/protocol/planar-4-0.json: evaluation.num_elbo_samples differs from" in line
    assert (files / "reports/results.csv").read_bytes() == before


def test_undamaged_files_give_no_message_and_the_same_bytes(files, run_stage):
    """So the messages above are about the damage."""
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    for arguments in (PREPARE, TRAIN, EVALUATE, INTERPOLATE, REPORT):
        assert run_stage(files, *arguments).code == 0
    timed = {"timings", "logs", "timings.csv", "against_time.png"}
    outputs = [path for path in before if not timed & set(path.relative_to(files).parts)]
    assert [path.name for path in outputs if path.read_bytes() != before[path]] == []


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_run_that_params_do_not_declare(files, complaint, name):
    assert complaint(files, name, "--variant", "vea", "--seed", "0").startswith("params.yaml: variants: ")
    assert complaint(files, name, "--variant", "vae", "--seed", "7").startswith("params.yaml: seeds: ")


def test_more_pairs_than_digits(files, run_stage):
    edit_params(files, lambda params: params["interpolation"].update(num_pairs=3000))
    assert run_stage(files, *INTERPOLATE).code == 0
