"""Learning rate and KL weight, step by step."""

from itertools import pairwise

import pytest
from examples import cosine

from flowvae.training.schedules import CosineSchedule, KLWarmup, OneCycleSchedule, learning_rate


def rates(schedule, num_steps, final=0.01, steps=None):
    return [learning_rate(step, num_steps, schedule, 0.1, final) for step in range(steps or num_steps)]


def test_cosine():
    found = rates(CosineSchedule(**cosine(4, 0.5)), 100, steps=101)
    assert found[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert found[4:51] == pytest.approx([0.1] * 47)
    assert found[75] == pytest.approx(0.055)
    assert found[100] == pytest.approx(0.01)
    assert all(low < high for high, low in pairwise(found[50:]))


@pytest.mark.parametrize(("decay_start", "num_steps"), [(1.0, 10), (0.0, 1), (1.0, 1)])
def test_cosine_without_warm_up_or_decay(decay_start, num_steps):
    assert rates(CosineSchedule(**cosine(0, decay_start)), num_steps) == pytest.approx([0.1] * num_steps)


def test_one_cycle():
    found = rates(OneCycleSchedule(name="one_cycle", start=0.04, peak=0.25), 100, steps=101)
    assert found[0] == pytest.approx(0.004)
    assert found[25] == pytest.approx(0.1)
    assert found[100] == pytest.approx(0.01)
    assert all(low < high for low, high in pairwise(found[:26]))
    assert all(low < high for high, low in pairwise(found[25:]))


@pytest.mark.parametrize(("peak", "num_steps"), [(0.0, 1), (1.0, 1), (1.0, 7), (0.0, 7)])
def test_one_cycle_with_its_peak_at_an_end(peak, num_steps):
    found = rates(OneCycleSchedule(name="one_cycle", start=0.04, peak=peak), num_steps)
    assert all(0.004 - 1e-9 <= rate <= 0.1 + 1e-9 for rate in found)


def test_kl_weight_rises_over_a_part_of_the_run():
    warmup = KLWarmup(length=0.1, unit="run")
    weights = [warmup.weight(step, 100, 7) for step in range(100)]
    assert weights[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert weights[8] < 1
    assert weights[9:] == [1.0] * 91
    assert KLWarmup(length=1.0, unit="run").weight(99, 100, 7) == 1.0
    assert warmup.weight(0, 3, 3) == 1.0


@pytest.mark.parametrize(("length", "unit"), [(2.0, "epochs"), (14.0, "steps"), (0.14, "run")])
def test_units_of_the_kl_warm_up(length, unit):
    warmup = KLWarmup(length=length, unit=unit)
    assert [warmup.weight(step, 100, 7) for step in range(20)] == pytest.approx(
        [min(1.0, (step + 1) / 14) for step in range(20)]
    )


@pytest.mark.parametrize("unit", ["run", "epochs", "steps"])
def test_no_kl_warm_up(unit):
    assert KLWarmup(length=0.0, unit=unit).weight(0, 100, 7) == 1.0


@pytest.mark.parametrize("change", [{"decay_start": 1.1}, {"warmup_steps": -1}, {"peak": 0.5}, {"name": "one_cycle"}])
def test_schedules_are_strict(change):
    with pytest.raises(ValueError, match=r"^CosineSchedule: "):
        CosineSchedule(**cosine() | change)
