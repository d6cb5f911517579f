"""Placement of a run: the command line overrides the environment, and invalid values are reported in one line."""

import pytest

from flowvae.errors import InputError
from flowvae.training.checkpoint import Interval
from pipeline.running.placement import find_placement, find_trial_placement


def place(workers=None, cpus=8, gpus=0, **environment):
    return find_placement(workers, cpus, gpus, environment)


def test_a_laptop_trains_in_one_process():
    placement = place()
    assert placement.workers is None
    assert placement.text() == "this process"
    assert placement.interval == Interval(60, "seconds")
    assert placement.storage.endswith("/checkpoints")


@pytest.mark.parametrize(
    ("settings", "workers", "text"),
    [
        ({"workers": "2"}, (2, 2), "Ray, 2 4-CPU workers, started here"),
        ({"workers": "1"}, (1, 1), "Ray, 1 8-CPU worker, started here"),
        ({"FLOWVAE_WORKERS": "1-4"}, (1, 4), "Ray, 1 to 4 2-CPU workers, started here"),
        ({"workers": "3", "FLOWVAE_WORKERS": "1-4"}, (3, 3), "Ray, 3 2-CPU workers, started here"),
        ({"workers": "16"}, (16, 16), "Ray, 16 1-CPU workers, started here"),
        ({"RAY_ADDRESS": "head:6379"}, (1, 1), "Ray, 1 1-CPU worker, head:6379"),
        ({"RAY_ADDRESS": "head:6379", "FLOWVAE_CPUS_PER_WORKER": "3"}, (1, 1), "Ray, 1 3-CPU worker, head:6379"),
        ({"gpus": 4}, (4, 4), "Ray, 4 GPU workers, started here"),
        ({"gpus": 4, "workers": "2"}, (2, 2), "Ray, 2 GPU workers, started here"),
        ({"gpus": 1}, None, "this process"),
        ({"gpus": 4, "FLOWVAE_DEVICE": "cpu"}, None, "this process"),
        ({"gpus": 4, "FLOWVAE_DEVICE": "cuda:1"}, None, "this process"),
        ({"workers": "2", "FLOWVAE_DEVICE": "cuda"}, (2, 2), "Ray, 2 GPU workers, started here"),
    ],
)
def test_ray_is_used_with_workers_gpus_or_an_address(settings, workers, text):
    placement = place(**settings)
    assert placement.workers == workers
    assert placement.text() == text


@pytest.mark.parametrize(
    ("settings", "workers"),
    [({}, None), ({"FLOWVAE_WORKERS": "2"}, None), ({"RAY_ADDRESS": "head:6379"}, None),
     ({"FLOWVAE_WORKERS_PER_TRIAL": "1"}, None), ({"FLOWVAE_WORKERS_PER_TRIAL": "2-4"}, (2, 4))],
)  # fmt: skip
def test_a_trial_is_one_process_unless_more_workers_are_requested(settings, workers):
    assert find_trial_placement(8, 4, settings).workers == workers


def test_invalid_workers_of_trials():
    with pytest.raises(InputError, match=r"^FLOWVAE_WORKERS_PER_TRIAL: expected a number of workers"):
        find_trial_placement(8, 0, {"FLOWVAE_WORKERS_PER_TRIAL": "some"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": "many"}, "--workers: expected a number of workers like 2"),
        ({"workers": "0"}, "--workers: expected"),
        ({"workers": "4-2"}, "--workers: expected"),
        ({"FLOWVAE_WORKERS": "-1"}, "FLOWVAE_WORKERS: expected a number of workers"),
        ({"FLOWVAE_CPUS_PER_WORKER": "0"}, "FLOWVAE_CPUS_PER_WORKER: expected a whole number above 0, got '0'"),
        ({"FLOWVAE_MAX_FAILURES": "-1"}, "FLOWVAE_MAX_FAILURES: expected"),
        ({"FLOWVAE_CHECKPOINT_EVERY": "often"}, "FLOWVAE_CHECKPOINT_EVERY: expected an interval like"),
    ],
)
def test_invalid_values(settings, message):
    with pytest.raises(InputError) as caught:
        place(**settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
