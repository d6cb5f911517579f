"""Checkpoints: a run that is killed and resumed ends with the very bits of one that was not."""

import json

import pytest
import torch
from examples import FLOW_SETTINGS, GOLDEN_CASES, random_bits, tiny_vae, training_config

from flowvae import training
from flowvae.checkpoint import NAME, Checkpoint, CheckpointFolder, Interval
from flowvae.data.images import ImageSet
from flowvae.errors import InputError
from flowvae.training import fit

GREY = ImageSet(torch.arange(20 * 16, dtype=torch.uint8).view(20, 1, 4, 4), "dynamic")
VALID = random_bits(6, seed=1)
STEPS = 12  # 4 epochs of 3


class KilledError(Exception):
    """In place of the signal, which the tests of the pipeline send."""


def train(checkpoints=None, kill_after=None, family="planar", settings=None, **changes):
    """The final weights and records of a run in float32, or KilledError."""
    vae = tiny_vae(family, std=0, settings=settings).float()

    def on_step(step, num_steps):
        if step == kill_after:
            raise KilledError

    given = {} if checkpoints is None else {"checkpoints": checkpoints}
    records = fit(vae, GREY, random_bits(6, seed=1), training_config(**changes), seed=0, on_step=on_step, **given)
    return vae.state_dict(), records


def folder(path, every="1 steps", told=None):
    return CheckpointFolder(path / "run", Interval.parse(every), (told if told is not None else []).append)


def same(left, right):
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
    same(train(folder(tmp_path)), train())


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_killed_every_few_steps(tmp_path, family):
    for kill_after in (2, 5, 6, 9, 11):
        kill(tmp_path, kill_after, family=family)
    same(train(folder(tmp_path), family=family), train(family=family))


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
    same(train(folder(tmp_path), **changes), train(**changes))


@pytest.mark.parametrize(("family", "settings"), GOLDEN_CASES.values(), ids=GOLDEN_CASES)
@pytest.mark.parametrize("changes", [{}, {"average_decay": 0.9}, {"max_halvings": 1, "accumulation_steps": 2}], ids=str)
def test_every_normalisation_resumes(tmp_path, family, settings, changes):
    """Also in the middle of an epoch, and before and after act norm's first batch."""
    for kill_after in (1, 2, 5, 9):
        kill(tmp_path, kill_after, family=family, settings=settings, **changes)
    same(
        train(folder(tmp_path), family=family, settings=settings, **changes),
        train(None, None, family, settings, **changes),
    )


class Poisoned:
    """Breaks a weight after step 5, the first time; dies at a call of its own."""

    def __init__(self, vae, whole=True, kill_at=None):
        self.vae, self.whole, self.kill_at, self.calls = vae, whole, kill_at, 0

    def __call__(self, step, num_steps):
        self.calls += 1
        if self.calls == self.kill_at:
            raise KilledError
        if step == 5 and self.whole:
            self.whole = False
            next(self.vae.parameters()).data.fill_(torch.nan)


@pytest.mark.parametrize("kill_at", range(1, 15))
def test_a_run_that_goes_back_resumes_where_it_was_killed(tmp_path, kill_at):
    """Before, at and after going back to step 3 from step 5; checkpoints come in the middle of an epoch too."""

    def run(checkpoints, **how):
        vae = tiny_vae("planar", std=0).float()
        on_step = Poisoned(vae, **how)
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
    before = latest is None or not latest.progress["halvings"]  # then it breaks again, as it would by itself
    same(run(folder(tmp_path), whole=before), expected)


def test_checkpoints_change_nothing(tmp_path):
    same(train(folder(tmp_path)), train())


def test_a_rarer_interval_repeats_steps_and_ends_alike(tmp_path):
    with pytest.raises(KilledError):
        train(folder(tmp_path, "5 steps"), kill_after=9)
    assert [int(NAME.fullmatch(path.name)["step"]) for path in files(tmp_path)] == [5]
    same(train(folder(tmp_path, "5 steps")), train())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_damage_is_reported_and_the_one_before_is_used(tmp_path, damage):
    kill(tmp_path, 8)
    damaged = files(tmp_path)[-1]
    damage(damaged)
    told = []
    checkpoints = folder(tmp_path, told=told)
    assert checkpoints.latest().step == 6
    (line,) = told
    assert str(damaged) in line and "damaged" in line and "\n" not in line
    assert not damaged.exists()
    same(train(folder(tmp_path)), train())


def test_all_damaged_means_from_the_start(tmp_path):
    kill(tmp_path, 8)
    for path in files(tmp_path):
        truncate(path)
    told = []
    same(train(folder(tmp_path, told=told)), train())
    assert len(told) == 2


def test_weights_that_are_not_finite_are_not_kept(tmp_path, monkeypatch):
    """Where the loss is looked at now and then only, as on a GPU, the next checkpoint finds them out."""
    monkeypatch.setattr(training, "steps_between_checks", lambda device: 100)
    vae = tiny_vae("planar", std=0).float()

    def poison(step, num_steps):
        if step == 5:
            next(vae.parameters()).data.fill_(torch.nan)

    checkpoints = folder(tmp_path)
    with pytest.raises(training.NonFiniteLossError, match="epoch 2, step 5"):
        fit(vae, GREY, random_bits(6, seed=1), training_config(), seed=0, checkpoints=checkpoints, on_step=poison)
    assert checkpoints.latest().step == 4


def test_removed_on_success(tmp_path):
    checkpoints = folder(tmp_path)
    checkpoints.remove()  # nothing there yet
    train(checkpoints)
    assert files(tmp_path)
    checkpoints.remove()
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_its_bytes():
    tensors = {"a": torch.randn(3, 2, 4, 4).to(memory_format=torch.channels_last), "b": torch.tensor(1.5)}
    progress = {"best": float("inf"), "records": [{"x": 0.1 + 0.2}]}
    found = Checkpoint.from_bytes(Checkpoint(7, tensors, progress).to_bytes())
    assert (found.step, found.progress) == (7, progress)
    assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in tensors.items())
    assert Checkpoint(7, tensors, progress).to_bytes() == Checkpoint(7, tensors, progress).to_bytes()
    assert b"pickle" not in Checkpoint(7, tensors, progress).to_bytes()
    json.dumps(found.progress)


@pytest.mark.parametrize(("text", "amount", "unit"), [("60 s", 60, "seconds"), ("0.5s", 0.5, "seconds")])
def test_intervals_of_time(text, amount, unit):
    assert Interval.parse(text) == Interval(amount, unit)


@pytest.mark.parametrize("text", ["", "60", "s", "-1 s", "0 steps", "often", "1 s 2"])
def test_intervals_that_make_no_sense(text):
    with pytest.raises(InputError, match="expected an interval like"):
        Interval.parse(text)
