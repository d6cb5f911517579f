"""Training on real Ray workers."""

import json
import sys
import time
from pathlib import Path

import pytest
from killing import NO_PROXY, VARIANT, finish, results, slow_down, start, undisturbed
from project import ROOT, command, edit_params, stage


def losses(project: Path, prepared: Path, dtype: str, steps: int, *sizes: int | str) -> dict[str, dict]:
    """Run world_sizes.py. Returns: its results by number of workers."""
    script = str(ROOT / "tests" / "helpers" / "world_sizes.py")
    arguments = (str(prepared), dtype, str(steps), *map(str, sizes))
    return json.loads(command(project, sys.executable, script, *arguments, **NO_PROXY).stdout)


def largest_difference(one: list[float], other: list[float]) -> float:
    """The largest relative difference between two curves."""
    return max(abs(x - y) / abs(x) for x, y in zip(one, other, strict=True))


def test_two_workers_give_the_losses_of_one(files):
    edit_params(files, lambda params: params["training"].update(batch_size=33))
    by_size = losses(files, files / "data/prepared", "float64", 20, 1, 2)
    assert len(by_size["1"]["losses"]) == 20
    assert largest_difference(by_size["1"]["losses"], by_size["2"]["losses"]) < 1e-12
    assert by_size["2"]["valid"] == pytest.approx(by_size["1"]["valid"], rel=1e-12)


@pytest.mark.parametrize(
    ("normalization", "sizes"), [("batch_norm", "4"), pytest.param("act_norm", "24", marks=pytest.mark.slow)]
)
def test_batch_statistics_are_those_of_the_global_batch(files, normalization, sizes):
    """Workers get different numbers of images, one of four gets none in the last batch; averaged weights are scored."""

    def normalise(params):
        params["variants"]["real-nvp-2"]["posterior"].update(
            num_transforms=2, normalization=normalization, weight_norm=True, net_batch_norm=True
        )
        params["training"].update(batch_size=7, average_decay=0.5)

    edit_params(files, normalise)
    by_size = losses(files, files / "data/prepared", "float64", 20, 1, *sizes)
    assert len(by_size["1"]["losses"]) == 20
    for size in sizes:
        assert largest_difference(by_size["1"]["losses"], by_size[size]["losses"]) < 1e-9
        assert by_size[size]["valid"] == pytest.approx(by_size["1"]["valid"], rel=1e-9)


def test_one_worker_gives_the_bytes_of_a_single_process(files):
    slow_down(files, 2)
    expected = undisturbed(files)
    process = start(files, "--workers", "1")
    finish(process, files)
    assert results(files) == expected
    timing = json.loads((files / "timings/train/real-nvp-2-0.json").read_text())
    assert timing["placement"] == "Ray, 1 1-CPU worker, started here"


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float32", 2e-3)])
def test_one_two_and_four_workers_on_real_mnist(tmp_path, data_root, dtype, tolerance):
    """With the default model and batch size, for 200 steps."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name in ("fetch", "prepare"):
        assert stage(tmp_path, name, FLOWVAE_DATA_ROOT=str(data_root), PYTHONPATH=str(ROOT)).returncode == 0
    by_size = losses(tmp_path, tmp_path / "data/prepared", dtype, 200, 1, 2, 4)
    for size in ("2", "4"):
        assert largest_difference(by_size["1"]["losses"], by_size[size]["losses"]) < tolerance


def complaint(project: Path, *arguments: str, **changes: str) -> str:
    """Train, which must fail. Returns: the last line on standard error."""
    ran = stage(project, "train", *VARIANT, *arguments, **NO_PROXY, **changes)
    assert ran.returncode == 1
    return ran.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_divergence_on_ray_is_one_line_and_is_not_retried(files):
    def diverge(params):
        params["training"].update(learning_rate=1e12, max_grad_norm=1e30)
        params["training"]["schedule"].update(warmup_steps=0)

    edit_params(files, diverge)
    started = time.monotonic()
    line = complaint(files, "--workers", "2")
    assert "loss is not finite at epoch 1, step " in line
    assert "training.learning_rate" in line
    assert time.monotonic() - started < 90
    assert json.loads((files / "logs/train/real-nvp-2-0.non_finite.json").read_text())["batch_indices"]


def test_an_invalid_storage(files):
    assert "FLOWVAE_STORAGE: expected" in complaint(files, "--workers", "1", FLOWVAE_STORAGE="nonsense://x")


def test_an_unavailable_cluster(files):
    started = time.monotonic()
    line = complaint(files, RAY_ADDRESS="127.0.0.1:9")
    assert "RAY_ADDRESS: 127.0.0.1:9 cannot be reached" in line
    assert time.monotonic() - started < 30
