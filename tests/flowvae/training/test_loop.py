"""fit(): its golden losses, what its random numbers depend on, and the weights at the end of a run."""

import copy
import json
from pathlib import Path

import examples
import pytest
import torch
from examples import (
    FLOW_SETTINGS,
    GOLDEN_CASES,
    cosine,
    outputs_of,
    random_bits,
    record_inputs,
    tiny_config,
    tiny_vae,
    training_config,
    twenty_losses,
    uniform_grey,
)
from tolerances import assert_agrees, assert_close, assert_sum

from flowvae.data.images import ImageSet
from flowvae.model.loading import build_vae
from flowvae.training.loop import NonFiniteLossError, epochs_for, fit
from flowvae.training.schedules import learning_rate
from flowvae.training.validation import validate

# Written by tests/flowvae/training/golden/make.py. If they change, explain why in the commit message.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_losses(name, monkeypatch):
    """The initial weights are drawn in float32, by a few operations each; everything after that is in float64."""
    family, settings = GOLDEN_CASES[name]
    start = tiny_vae(family, std=0, settings=settings)
    monkeypatch.setattr(examples, "tiny_vae", lambda *_, **__: copy.deepcopy(start))
    golden, weights = GOLDEN[name], list(start.parameters())
    assert len(golden) == 20
    assert_agrees(golden, lambda: twenty_losses(family, settings), weights, num_operations=4, dtype=torch.float32)


def run(vae, *, train=None, valid=None, seed=0, **changes):
    train = random_bits(20) if train is None else train
    valid = random_bits(6, seed=1) if valid is None else valid
    return fit(vae, train, valid, training_config(**changes), seed=seed)


def images_of(batches):
    return torch.cat([x.flatten(1) for x, _ in batches])


def test_each_epoch_sees_every_image_once_in_another_order():
    vae, train = tiny_vae(), random_bits(20)
    assert len(train.pixels.unique(dim=0)) == 20
    seen = record_inputs(vae)
    run(vae, train=train, epochs=4)
    epochs = [images_of(seen[start : start + 3]) for start in range(0, 12, 3)]
    expected = train.pixels.flatten(1).double()
    for epoch in epochs:
        assert torch.equal(epoch.unique(dim=0), expected.unique(dim=0)) and len(epoch) == 20
    assert len({tuple(epoch.flatten().tolist()) for epoch in epochs}) == 4


def test_the_last_batch_is_smaller_and_counts():
    vae = tiny_vae()
    seen = record_inputs(vae)
    steps = []
    fit(
        vae,
        random_bits(20),
        random_bits(6, seed=1),
        training_config(epochs=2),
        seed=0,
        on_step=lambda *step: steps.append(step),
    )
    assert [len(x) for x, _ in seen] == [8, 8, 4, 8, 8, 4]
    assert steps == [(step, 6) for step in range(1, 7)]


def test_curve_is_the_mean_over_images_not_over_batches():
    vae = tiny_vae()
    steps = outputs_of(vae, training=True)
    record = run(vae, epochs=1)[0]
    log_likelihood = torch.cat([densities.log_likelihood for densities in steps])
    assert_sum(record.train_reconstruction, -log_likelihood.mean().item(), log_likelihood, mean=True)
    assert_close(record.train_negative_elbo, record.train_reconstruction + record.train_kl)
    assert_close(record.valid_negative_elbo, record.valid_reconstruction + record.valid_kl)


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_same_seed_same_weights(family):
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        vae = tiny_vae(family, std=0)
        records = run(vae, train=uniform_grey(20, 100))
        results.append((records, vae.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())
    other = tiny_vae(family, std=0)
    assert run(other, train=uniform_grey(20, 100), seed=1) != results[0][0]


def test_draws_of_a_step_do_not_depend_on_earlier_draws():
    """With another flow, learning rate and validation set, images and noise of each step are the same."""
    first, second = tiny_vae(), tiny_vae("planar", seed=5)
    seen = record_inputs(first), record_inputs(second)
    run(first, train=uniform_grey(20))
    torch.randn(11)
    run(
        second,
        train=uniform_grey(20),
        valid=uniform_grey(3),
        learning_rate=0.3,
        kl_warmup={"length": 0.0, "unit": "run"},
    )
    for step, other in zip(*seen, strict=True):
        assert torch.equal(step[0], other[0]) and torch.equal(step[1], other[1])
    assert len({tuple(noise.flatten().tolist()) for _, noise in seen[0]}) == len(seen[0])


def test_dynamic_bits_are_drawn_in_each_epoch_but_fixed_in_validation():
    vae = tiny_vae()
    training, validation = record_inputs(vae), record_inputs(vae, training=False)
    run(vae, train=uniform_grey(1), valid=uniform_grey(3), epochs=6)
    assert images_of(training).unique(dim=0).shape[0] == 6
    assert len(validation) == 6 and all(torch.equal(x, validation[0][0]) for x, _ in validation)
    assert all(torch.equal(noise, validation[0][1]) for _, noise in validation)
    assert images_of(validation[:1]).unique(dim=0).shape[0] == 3


def test_validation_and_the_first_step_draw_different_noise():
    vae = tiny_vae()
    training, validation = record_inputs(vae), record_inputs(vae, training=False)
    run(vae, train=random_bits(6), valid=random_bits(6, seed=1), epochs=1)
    assert not torch.equal(training[0][1], validation[0][1])


def test_validation_builds_no_graph_and_covers_every_image(monkeypatch):
    monkeypatch.setattr("flowvae.training.validation.MAX_BATCH_SIZE", 4)
    vae = tiny_vae()
    seen = outputs_of(vae, training=False)
    found = validate(vae, random_bits(10), seed=0)
    assert [len(densities.z) for densities in seen] == [4, 4, 2]
    assert not any(tensor.requires_grad for densities in seen for tensor in densities)
    log_likelihood = torch.cat([densities.log_likelihood for densities in seen])
    assert_sum(found[1], -log_likelihood.mean().item(), log_likelihood, mean=True)


def test_the_weights_at_the_end_are_those_of_the_best_epoch():
    vae, snapshots = tiny_vae(), []
    records = fit(
        vae,
        random_bits(12),
        random_bits(12, seed=1),
        training_config(epochs=25, learning_rate=0.1, final_learning_rate=0.1),
        seed=0,
        on_epoch=lambda record: snapshots.append({name: value.clone() for name, value in vae.state_dict().items()}),
    )
    values = [record.valid_negative_elbo for record in records]
    best = values.index(min(values))
    assert 0 < best < len(records) - 1  # otherwise the test proves nothing
    assert all(torch.equal(value, snapshots[best][name]) for name, value in vae.state_dict().items())
    valid = random_bits(12, seed=1)
    assert_close(validate(vae, valid, seed=0)[0], values[best])


def test_a_non_finite_weight_stops_the_first_step():
    vae = tiny_vae()
    with torch.no_grad():
        vae.decoder.head[0].bias[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, step 1$") as caught:
        run(vae)
    dump = json.loads(json.dumps(caught.value.dump))
    assert (dump["epoch"], dump["step"], len(dump["batch_indices"])) == (1, 1, 8)
    names = {name for name, _ in vae.named_parameters()}
    assert set(dump["weight_norms"]) == set(dump["gradient_norms"]) == names
    assert dump["weight_norms"]["decoder.head.0.bias"] != dump["weight_norms"]["decoder.head.0.bias"]


def test_a_huge_learning_rate_stops_the_run_before_weights_are_lost():
    vae = tiny_vae()
    with pytest.raises(NonFiniteLossError) as caught:
        run(vae, learning_rate=1e200, schedule=cosine(0))
    assert (caught.value.dump["epoch"], caught.value.dump["step"]) == (1, 2)
    assert all(parameter.isfinite().all() for parameter in vae.parameters())


def test_divergence_only_on_validation_is_detected():
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 1"):
        run(tiny_vae(), train=random_bits(8), learning_rate=1e200, schedule=cosine(0), epochs=1)


@pytest.mark.parametrize(
    ("num_images", "min_steps", "epochs"), [(80, 0, 4), (80, 40, 4), (80, 41, 5), (20, 40, 14), (3, 7, 7)]
)
def test_small_data_get_more_epochs(num_images, min_steps, epochs):
    """With batches of 8 and 4 epochs: 10, 3 and 1 steps per epoch."""
    assert epochs_for(num_images, training_config(min_steps=min_steps)) == epochs


def test_epochs_are_added_in_the_run_and_in_its_schedules():
    records = run(tiny_vae(), epochs=1, min_steps=10)  # 3 steps per epoch
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    config = training_config()
    last = learning_rate(11, 12, config.schedule, config.learning_rate, config.final_learning_rate)
    assert_close(records[-1].learning_rate, last)


def bars(num_images, seed):
    """8 x 8 images of horizontal and vertical bars."""
    draws = torch.rand(num_images, 2, 8, generator=torch.Generator().manual_seed(seed)) < 0.25
    horizontal, vertical = draws[:, 0, :, None], draws[:, 1, None, :]
    return ImageSet((horizontal | vertical)[:, None].to(torch.uint8), "bits")


class LearnedError(Exception):
    """Ends a run that has learned enough."""


@pytest.mark.long
@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_training_learns(family):
    layers = {"name": "conv", "channels": [8], "hidden_features": [32]}
    config = tiny_config(
        family, image_shape=(1, 8, 8), latent_shape=[16], encoder=layers | {"context_features": 4}, decoder=layers
    )
    vae, valid = build_vae(config, seed=0), bars(200, seed=1)
    before = validate(vae, valid, seed=0)[0]
    independent_pixels = 64 * 0.685  # entropy of pixels that are 1 with probability 1 - 0.75^2
    assert before > independent_pixels

    def stop_when_learned(record):
        if record.valid_negative_elbo < 0.9 * independent_pixels:
            raise LearnedError

    config = training_config(epochs=25, batch_size=50)
    with pytest.raises(LearnedError):
        fit(vae, bars(800, seed=0), valid, config, seed=0, on_epoch=stop_when_learned)
