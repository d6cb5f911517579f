"""One training run: the name of its checkpoints, and the files that it writes beside its results."""

import json
import shutil
from dataclasses import replace

import pytest
from project import ROOT

from flowvae.data.arrays import read_info
from flowvae.errors import InputError
from pipeline.fitting import TRAINING_CODE, RunSpec, check_precision, code_hash
from pipeline.params.reading import load_params

TRAIN = ("train", "--variant", "vae", "--seed", "0")


@pytest.fixture
def spec(files):
    params = load_params(files / "params.yaml")
    return RunSpec(
        name="vae-0",
        vae=params.vae_config("vae", (1, 28, 28)),
        training=params.training,
        seed=0,
        data={s: read_info(files / "data/prepared", s).sha256 for s in ("train", "valid")},
        prepared=files / "data/prepared",
        logs=files / "logs",
        profile=False,
    )


def test_a_run_is_named_after_everything_that_it_depends_on(spec, files):
    params = load_params(files / "params.yaml")
    others = [
        replace(spec, name="vae-1"),
        replace(spec, seed=1),
        replace(spec, vae=params.vae_config("planar-4", (1, 28, 28))),
        replace(spec, training=spec.training.model_copy(update={"weight_decay": 0.5})),
        replace(spec, data=spec.data | {"train": "0" * 64}),
    ]
    names = {other.run_id for other in (spec, *others)}
    assert len(names) == 6
    assert all(name.startswith("vae-") for name in names)


def test_a_run_is_named_after_nothing_else(spec, tmp_path):
    assert replace(spec, logs=tmp_path, profile=True).run_id == spec.run_id


def test_a_change_of_the_code_names_another_run(spec, monkeypatch):
    before = spec.run_id
    monkeypatch.setattr("pipeline.fitting.code_hash", lambda code: "another")
    assert spec.run_id != before


@pytest.mark.parametrize(
    ("file", "is_covered"),
    [
        ("flowvae/model/flows/planar.py", True),
        ("flowvae/training/loop.py", True),
        ("pipeline/fitting.py", True),
        ("flowvae/interpolation.py", False),
        ("flowvae/evaluation.py", False),
        ("pipeline/stages/train.py", False),
    ],
)
def test_the_hash_covers_the_code_of_training_only(tmp_path, file, is_covered):
    """A comment in the interpolation keeps checkpoints and finished trials."""
    for part in ("flowvae", "pipeline"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_hash(TRAINING_CODE, root=tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write("# a comment\n")
    assert (code_hash(TRAINING_CODE, root=tmp_path) != before) == is_covered


def test_profile_of_a_step(files, run_stage):
    params = (files / "params.yaml").read_text()
    (files / "params.yaml").write_text(params.replace("batch_size: 500", "batch_size: 200"))
    before = (files / "models/vae-0/model.safetensors").read_bytes()
    assert run_stage(files, *TRAIN, "--profile").code == 0
    after = (files / "models/vae-0/model.safetensors").read_bytes()
    assert "aten::" in (files / "logs/train/vae-0.profile.txt").read_text()
    events = json.loads((files / "logs/train/vae-0.profile.json").read_text())["traceEvents"]
    assert any("Convolution" in event.get("name", "") for event in events)
    assert before != after  # because the batch size differs
    assert run_stage(files, *TRAIN).code == 0
    assert (files / "models/vae-0/model.safetensors").read_bytes() == after


def test_events_for_tensorboard(files, run_stage):
    shutil.rmtree(files / "logs")
    assert run_stage(files, *TRAIN).code == 0
    (events,) = (files / "logs/train/tensorboard/vae-0").iterdir()
    content = events.read_bytes()
    assert b"valid_negative_elbo" in content
    assert b"images_per_second" in content


def test_bfloat16_without_support_by_the_hardware(monkeypatch):
    import torch

    class Without:
        @staticmethod
        def _is_mkldnn_bf16_supported():
            return False

    monkeypatch.setattr(torch.ops, "mkldnn", Without)
    with pytest.raises(
        InputError, match=r"training\.precision: the hardware of this device \(cpu\) does not support bfloat16"
    ):
        check_precision("bfloat16", torch.device("cpu"))
    check_precision("float32", torch.device("cpu"))
