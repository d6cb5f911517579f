"""Checkpoints: a run that is killed and resumed produces the same bits as an uninterrupted run."""

import json

import pytest
import torch
from examples import FLOW_SETTINGS, GOLDEN_CASES, random_bits, tiny_vae, training_config

from flowvae.data.images import ImageSet
from flowvae.errors import InputError
from flowvae.training import loop
from flowvae.training.checkpoint import CHECKPOINT_NAME, Checkpoint, CheckpointFolder, Interval, NoCheckpoints
from flowvae.training.loop import NonFiniteLossError, fit

GREY = ImageSet(torch.arange(20 * 16, dtype=torch.uint8).view(20, 1, 4, 4), "dynamic")
VALID = random_bits(6, seed=1)
STEPS = 12  # 4 epochs of 3


class KilledError(Exception):
    """Raised in place of a signal, which the tests of the pipeline send."""


def train(checkpoints=None, kill_after=None, family="planar", settings=None, **changes):
    """Run in float32, until a step if kill_after is set. Returns: the final weights and records."""
    vae = tiny_vae(family, std=0, settings=settings).float()

    def on_step(step, num_steps):
        if step == kill_after:
            raise KilledError

    checkpoints = NoCheckpoints() if checkpoints is None else checkpoints
    records = fit(vae, GREY, VALID, training_config(**changes), seed=0, checkpoints=checkpoints, on_step=on_step)
    return vae.state_dict(), records


def folder(path, every="1 steps", reported=None):
    return CheckpointFolder(path / "run", Interval.parse(every), (reported if reported is not None else []).append)


def assert_same(left, right):
    assert left[1] == right[1]
    assert left[0].keys() == right[0].keys()
    assert all(torch.equal(value, right[0][name]) for name, value in left[0].items())


def files(path):
    return sorted((path / "run").glob("*.safetensors"))


def kill(path, after, **settings):
    with pytest.raises(KilledError):
        train(folder(path), kill_after=after, **settings)


@pytest.mark.parametrize("kill_after", range(1, STEPS + 1))
def test_killed_after_any_step(tmp_path, kill_after):
    kill(tmp_path, kill_after)
    assert len(files(tmp_path)) == min(2, kill_after - 1)
    assert_same(train(folder(tmp_path)), train())


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_killed_every_few_steps(tmp_path, family):
    for kill_after in (2, 5, 6, 9, 11):
        kill(tmp_path, kill_after, family=family)
    assert_same(train(folder(tmp_path), family=family), train(family=family))


@pytest.mark.parametrize(
    "changes",
    [
        {"average_decay": 0.9},
        {"patience": 1, "learning_rate": 0.5},
        {"accumulation_steps": 3},
        {"objective": "importance_weighted", "num_samples": 3},
        {"max_halvings": 1},
        {"schedule": {"name": "one_cycle", "start": 0.1, "peak": 0.4}},
    ],
)
def test_every_feature_resumes(tmp_path, changes):
    for kill_after in (4, 5):
        kill(tmp_path, kill_after, **changes)
    assert_same(train(folder(tmp_path), **changes), train(**changes))


@pytest.mark.long
@pytest.mark.parametrize(("family", "settings"), GOLDEN_CASES.values(), ids=GOLDEN_CASES)
@pytest.mark.parametrize("changes", [{}, {"average_decay": 0.9}, {"max_halvings": 1, "accumulation_steps": 2}], ids=str)
def test_every_normalisation_resumes(tmp_path, family, settings, changes):
    """Also in the middle of an epoch, and before and after the first batch of act norm."""
    for kill_after in (1, 2, 5, 9):
        kill(tmp_path, kill_after, family=family, settings=settings, **changes)
    assert_same(
        train(folder(tmp_path), family=family, settings=settings, **changes),
        train(None, None, family, settings, **changes),
    )


class Poisoned:
    """Sets a weight to NaN after step 5, once; raises KilledError at a given call."""

    def __init__(self, vae, will_poison=True, kill_at=None):
        self.vae, self.will_poison, self.kill_at, self.calls = vae, will_poison, kill_at, 0

    def __call__(self, step, num_steps):
        self.calls += 1
        if self.calls == self.kill_at:
            raise KilledError
        if step == 5 and self.will_poison:
            self.will_poison = False
            next(self.vae.parameters()).data.fill_(torch.nan)


@pytest.mark.parametrize("kill_at", range(1, 15))
def test_a_run_that_restarts_an_epoch_resumes_where_it_was_killed(tmp_path, kill_at):
    """Before, at and after the return from step 5 to step 3, also with checkpoints in the middle of an epoch."""

    def run(checkpoints, will_poison=True, kill_at=None):
        vae = tiny_vae("planar", std=0).float()
        on_step = Poisoned(vae, will_poison, kill_at)
        config = training_config(max_halvings=2)
        records = fit(vae, GREY, VALID, config, seed=0, checkpoints=checkpoints, on_step=on_step)
        return vae.state_dict(), records

    expected = run(folder(tmp_path / "whole"))
    assert [record.halvings for record in expected[1]] == [0, 1, 1, 1]
    with pytest.raises(KilledError):
        run(folder(tmp_path), kill_at=kill_at)
    latest = folder(tmp_path).latest()
    if 1 < kill_at <= 5:
        assert latest.step == kill_at - 1
    before = latest is None or not latest.scalars["halvings"]  # then it is poisoned again, as in the whole run
    assert_same(run(folder(tmp_path), will_poison=before), expected)


def test_checkpoints_change_nothing(tmp_path):
    assert_same(train(folder(tmp_path)), train())


def test_a_longer_interval_repeats_steps_with_the_same_result(tmp_path):
    with pytest.raises(KilledError):
        train(folder(tmp_path, "5 steps"), kill_after=9)
    assert [int(CHECKPOINT_NAME.fullmatch(path.name)["step"]) for path in files(tmp_path)] == [5]
    assert_same(train(folder(tmp_path, "5 steps")), train())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_damage_is_reported_and_the_previous_checkpoint_is_used(tmp_path, damage):
    kill(tmp_path, 8)
    damaged = files(tmp_path)[-1]
    damage(damaged)
    reported = []
    checkpoints = folder(tmp_path, reported=reported)
    assert checkpoints.latest().step == 6
    (line,) = reported
    assert str(damaged) in line and "damaged" in line and "\n" not in line
    assert not damaged.exists()
    assert_same(train(folder(tmp_path)), train())


def test_with_only_damaged_checkpoints_the_run_starts_again(tmp_path):
    kill(tmp_path, 8)
    for path in files(tmp_path):
        truncate(path)
    reported = []
    assert_same(train(folder(tmp_path, reported=reported)), train())
    assert len(reported) == 2


def test_weights_that_are_not_finite_are_not_stored(tmp_path, monkeypatch):
    """If the loss is checked only once in a while, as on a GPU, they are detected at the next checkpoint."""
    monkeypatch.setattr(loop, "steps_between_checks", lambda device: 100)
    vae = tiny_vae("planar", std=0).float()

    def poison(step, num_steps):
        if step == 5:
            next(vae.parameters()).data.fill_(torch.nan)

    checkpoints = folder(tmp_path)
    with pytest.raises(NonFiniteLossError, match="epoch 2, step 5"):
        fit(vae, GREY, VALID, training_config(), seed=0, checkpoints=checkpoints, on_step=poison)
    assert checkpoints.latest().step == 4


def test_removed_on_success(tmp_path):
    checkpoints = folder(tmp_path)
    checkpoints.remove()  # nothing exists yet
    train(checkpoints)
    assert files(tmp_path)
    checkpoints.remove()
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_restored_from_its_bytes():
    tensors = {"a": torch.randn(3, 2, 4, 4).to(memory_format=torch.channels_last), "b": torch.tensor(1.5)}
    scalars = {"best": float("inf"), "records": [{"x": 0.1 + 0.2}]}
    found = Checkpoint.from_bytes(Checkpoint(7, tensors, scalars).to_bytes())
    assert (found.step, found.scalars) == (7, scalars)
    assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in tensors.items())
    assert Checkpoint(7, tensors, scalars).to_bytes() == Checkpoint(7, tensors, scalars).to_bytes()
    assert b"pickle" not in Checkpoint(7, tensors, scalars).to_bytes()
    json.dumps(found.scalars)


@pytest.mark.parametrize(("text", "amount", "unit"), [("60 s", 60, "seconds"), ("0.5s", 0.5, "seconds")])
def test_intervals_of_time(text, amount, unit):
    assert Interval.parse(text) == Interval(amount, unit)


@pytest.mark.parametrize("text", ["", "60", "s", "-1 s", "0 steps", "often", "1 s 2"])
def test_invalid_intervals(text):
    with pytest.raises(InputError, match="expected an interval like"):
        Interval.parse(text)
