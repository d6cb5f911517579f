"""One training run: what names its checkpoints, and what it writes beside its results."""

import json
import shutil
from dataclasses import replace

import pytest

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from pipeline.fitting import Task, check_precision
from pipeline.params.reading import load_params

TRAIN = ("train", "--variant", "vae", "--seed", "0")


@pytest.fixture
def task(files):
    params = load_params(files / "params.yaml")
    return Task(
        key="vae-0",
        vae=params.vae_config("vae", (1, 28, 28)),
        training=params.training,
        seed=0,
        data=read_metadata(files / "data/prepared").sha256,
        prepared=files / "data/prepared",
        logs=files / "logs",
        profile=False,
    )


def test_a_run_is_named_after_all_that_it_depends_on(task, files):
    params = load_params(files / "params.yaml")
    others = [
        replace(task, key="vae-1"),
        replace(task, seed=1),
        replace(task, vae=params.vae_config("planar-4", (1, 28, 28))),
        replace(task, training=task.training.model_copy(update={"weight_decay": 0.5})),
        replace(task, data=task.data | {"train": "0" * 64}),
    ]
    names = {other.run_id for other in (task, *others)}
    assert len(names) == 6
    assert all(name.startswith("vae-") for name in names)


def test_and_after_nothing_else(task, tmp_path):
    assert replace(task, logs=tmp_path, profile=True).run_id == task.run_id


def test_a_change_of_the_code_names_another_run(task, monkeypatch):
    before = task.run_id
    monkeypatch.setattr("pipeline.fitting.code_hash", lambda: "another")
    assert task.run_id != before


def test_profile_of_a_step(files, run_stage):
    params = (files / "params.yaml").read_text()
    (files / "params.yaml").write_text(params.replace("batch_size: 500", "batch_size: 200"))
    before = (files / "models/vae-0/model.safetensors").read_bytes()
    assert run_stage(files, *TRAIN, "--profile").code == 0
    after = (files / "models/vae-0/model.safetensors").read_bytes()
    assert "aten::" in (files / "logs/train/vae-0.profile.txt").read_text()
    events = json.loads((files / "logs/train/vae-0.profile.json").read_text())["traceEvents"]
    assert any("Convolution" in event.get("name", "") for event in events)
    assert before != after  # of another batch size
    assert run_stage(files, *TRAIN).code == 0
    assert (files / "models/vae-0/model.safetensors").read_bytes() == after


def test_events_for_tensorboard(files, run_stage):
    shutil.rmtree(files / "logs")
    assert run_stage(files, *TRAIN).code == 0
    (events,) = (files / "logs/train/tensorboard/vae-0").iterdir()
    content = events.read_bytes()
    assert b"valid_negative_elbo" in content
    assert b"images_per_second" in content


def test_bfloat16_where_the_hardware_has_none(monkeypatch):
    import torch

    class Without:
        @staticmethod
        def _is_mkldnn_bf16_supported():
            return False

    monkeypatch.setattr(torch.ops, "mkldnn", Without)
    with pytest.raises(
        InputError, match=r"training\.precision: bfloat16 is not in the hardware of this device \(cpu\)"
    ):
        check_precision("bfloat16", torch.device("cpu"))
    check_precision("float32", torch.device("cpu"))
