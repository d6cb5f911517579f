"""Features of fit: accumulation, shares of workers, bounds, averages, precision, restarting an epoch."""

import copy
from functools import cache

import pytest
import torch
from examples import (
    FLOW_SETTINGS,
    outputs_of,
    random,
    random_bits,
    record_inputs,
    tiny_vae,
    training_config,
    uniform_grey,
)
from tolerances import assert_close, assert_sum, size_of, tolerance
from torch._dynamo.utils import counters

from flowvae.model.objectives import elbo, importance_weighted_bound, kl, objective
from flowvae.training import loop
from flowvae.training.gradients import masked_mean
from flowvae.training.loop import NonFiniteLossError, fit
from flowvae.training.validation import validate
from flowvae.training.workers import SingleWorker

VALID = random_bits(6, seed=1)
NUM_OPERATIONS = 1200  # in a row, of a run: 12 steps of about 100


def trained(family="planar", train=None, workers=SingleWorker(), **changes):  # noqa: B008
    vae = tiny_vae(family, std=0)
    train = random_bits(20) if train is None else train
    records = fit(vae, train, VALID, training_config(**changes), seed=0, workers=workers)
    return vae, records


@cache
def size_of_trained_weights():
    """Condition of the weights after `trained()` with respect to the initial ones: errors grow from step to step."""
    start = tiny_vae("planar", std=0)

    def train():
        vae = copy.deepcopy(start)
        fit(vae, random_bits(20), VALID, training_config(), seed=0)
        return list(vae.state_dict().values())

    return size_of(train, list(start.parameters()))


def assert_same_weights(one, other):
    weights = [list(vae.state_dict().values()) for vae in (one, other)]
    assert_close(*weights, size=size_of_trained_weights(), num_operations=NUM_OPERATIONS)


@pytest.mark.parametrize("parts", [2, 3, 8, 100])
def test_parts_of_a_batch_add_up(parts):
    whole, records = trained()
    in_parts, others = trained(accumulation_steps=parts)
    assert_same_weights(whole, in_parts)
    last, expected = others[-1].train_negative_elbo, records[-1].train_negative_elbo
    assert_close(last, expected, num_operations=NUM_OPERATIONS)


def test_curves_contain_the_norms_of_gradients_before_clipping():
    vae, norms = tiny_vae(std=0), []
    config = training_config(epochs=2, max_grad_norm=1e-3)
    original = loop.clip_gradients

    def record(vae, max_norm):
        norms.append(torch.cat([weight.grad.flatten() for weight in vae.parameters()]).norm().item())
        return original(vae, max_norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "clip_gradients", record)
        records = fit(vae, random_bits(20), VALID, config, seed=0)
    assert len(norms) == 6 and min(norms) > 1e-3
    for record, epoch in zip(records, (norms[:3], norms[3:]), strict=True):
        assert_close((record.mean_grad_norm, record.max_grad_norm), (sum(epoch) / 3, max(epoch)))


class Part(SingleWorker):
    """One of `count` workers, without the others."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count

    def share(self, num_images):
        return slice(num_images * self.rank // self.count, num_images * (self.rank + 1) // self.count)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_workers_see_their_shares_of_the_same_images_and_noise(count):
    """In the last batch of 4 images, some of 8 workers have no image."""
    seen = []
    for workers in (SingleWorker(), *(Part(rank, count) for rank in range(count))):
        vae = tiny_vae()
        seen.append(record_inputs(vae))
        fit(vae, uniform_grey(20), VALID, training_config(epochs=2), seed=0, workers=workers)
    whole, *shares = seen
    assert [len(x) for x, _ in whole] == [8, 8, 4, 8, 8, 4]
    for step, batch in enumerate(whole):
        nonempty = [
            rank for rank in range(count) if len(batch[0]) * rank // count < len(batch[0]) * (rank + 1) // count
        ]
        for i, expected in enumerate(batch):
            assert torch.equal(torch.cat([shares[rank][step][i] for rank in nonempty]), expected)


def test_a_worker_without_an_image_adds_nothing():
    vae = tiny_vae()
    before = copy.deepcopy(vae.state_dict())
    config = training_config(epochs=1, batch_size=1, weight_decay=0.0)
    records = fit(vae, random_bits(2), VALID, config, seed=0, workers=Part(0, 2))
    assert records[0].train_negative_elbo == 0
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_shares_of_validation_are_a_partition():
    seen = []
    for workers in (SingleWorker(), Part(0, 2), Part(1, 2)):
        vae = tiny_vae()
        seen.append(record_inputs(vae, training=False))
        fit(vae, random_bits(8), VALID, training_config(epochs=1), seed=0, workers=workers)
    whole, first, second = (batches[0] for batches in seen)
    assert all(torch.equal(torch.cat(halves), both) for *halves, both in zip(first, second, whole, strict=True))


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_validation_of_fewer_images_than_workers(family):
    vae, images = tiny_vae(family), random_bits(3)
    parts = [validate(vae, images, seed=0, workers=Part(rank, 5)) for rank in range(5)]
    assert_close([sum(column) for column in zip(*parts)], validate(vae, images, seed=0))


def test_importance_weighted_objective_of_one_draw_is_the_elbo():
    assert_same_weights(trained()[0], trained(objective="importance_weighted")[0])


def test_importance_weighted_objective_differs_with_more_draws():
    bound, records = trained(objective="importance_weighted", num_samples=4)
    mean, _ = trained(num_samples=4)
    assert any(not torch.equal(*pair) for pair in zip(bound.parameters(), mean.parameters(), strict=True))
    assert_close(records[-1].train_negative_elbo, records[-1].train_reconstruction + records[-1].train_kl)


def test_more_draws_are_averaged_in_the_curve():
    vae = tiny_vae()
    steps = outputs_of(vae, training=True)
    record = fit(vae, random_bits(8), VALID, training_config(epochs=1, num_samples=5), seed=0)[0]
    assert steps[0].log_likelihood.shape == (5, 8)
    assert_sum(record.train_negative_elbo, -elbo(steps[0]).mean().item(), elbo(steps[0]), mean=True)


def test_weighted_importance_bound():
    vae = tiny_vae()
    densities = vae(VALID.pixels.double(), random(0, 7, 6, 2))
    expected = (densities.log_likelihood - 0.3 * kl(densities)).exp().mean(0).log()
    assert_close(importance_weighted_bound(densities, 0.3), expected)


@pytest.mark.parametrize("num_samples", [1, 4])
def test_free_nats_are_a_floor_of_the_mean_over_the_batch(num_samples):
    """Above it the KL term is as without; below it there is none of its gradient, whatever the single draws are."""
    vae = tiny_vae()
    densities = vae(VALID.pixels.double(), random(0, num_samples, 6, 2))
    divergence, likelihood = kl(densities).mean(0), densities.log_likelihood.mean(0)
    mean = divergence.mean().item()
    assert divergence.min() < 0.9 * mean and divergence.max() > 1.1 * mean
    above, below = (objective(densities, "elbo", 0.5, floor) for floor in (0.9 * mean, 1.1 * mean))
    assert_close(above, likelihood - 0.5 * divergence)
    assert_close(below, likelihood - 0.5 * 1.1 * mean)
    weights = list(vae.encoder.parameters())
    gradient = torch.autograd.grad(below.sum(), weights, retain_graph=True)
    assert_close(gradient, torch.autograd.grad(likelihood.sum(), weights))


def test_the_floor_is_that_of_the_whole_batch_on_every_worker():
    """Two workers, one of which has no image left: the mean is over the images of the other."""
    values = random(0, 5)

    class Both(SingleWorker):
        def sum(self, tensor):
            return tensor + torch.stack((7 * values.new_ones(()), values.new_tensor(2.0)))

    assert_close(masked_mean(values, 1, Both()), (values.sum() + 7) / 7)
    assert_close(masked_mean(values, 0, Both()), values.new_tensor(3.5))
    assert_close(masked_mean(values, 1, SingleWorker()), values.mean())


def test_with_free_nats_the_posterior_does_not_collapse_to_the_prior():
    """The KL term stays larger than without them."""
    with_floor, without = (trained("none", epochs=60, free_nats=nats)[1][-1].train_kl for nats in (3.0, 0.0))
    assert with_floor > without + 0.5


@pytest.mark.parametrize("changes", [{}, {"average_decay": 0.9}])
def test_a_trained_model_is_in_evaluation_mode(changes):
    """With batch norm, an image would otherwise have other scores in another batch."""
    vae, _ = trained("real_nvp", **changes)
    assert not any(module.training for module in vae.modules())


def test_average_of_the_weights():
    decay, snapshots, vae = 0.7, [], tiny_vae(std=0)
    train, config = random_bits(8), training_config(epochs=4, average_decay=decay)
    expected = copy.deepcopy(vae).state_dict()
    fit(
        vae,
        train,
        VALID,
        config,
        seed=0,
        on_step=lambda step, _: snapshots.append({name: value.clone() for name, value in vae.state_dict().items()}),
    )
    averages = []
    for i, weights in enumerate(snapshots):  # the first update copies the weights
        keep = min(decay, (i + 2) / (i + 11)) if i else 0.0
        expected = {name: keep * expected[name] + (1 - keep) * value for name, value in weights.items()}
        averages.append(expected)

    def distance(weights):
        return max((weights[name] - value).abs().max() for name, value in vae.state_dict().items())

    assert min(map(distance, averages)) <= tolerance(1)
    assert min(map(distance, snapshots[1:])) > 1e-6


def test_patience_ends_a_run():
    settings = {"epochs": 40, "learning_rate": 0.1, "final_learning_rate": 0.1}
    _, records = trained(train=random_bits(12), **settings)
    values = [record.valid_negative_elbo for record in records]
    stop = next(i for i in range(3, 40) if min(values[i - 2 : i + 1]) >= min(values[: i - 2]))
    _, stopped = trained(train=random_bits(12), patience=3, **settings)
    assert stopped == records[: stop + 1]
    assert len(stopped) < 40


def poison(vae, at):
    """Set a weight to NaN after some steps, once for each."""
    remaining = list(at)

    def on_step(step, num_steps):
        if remaining and step == remaining[0]:
            remaining.pop(0)
            with torch.no_grad():
                vae.decoder.head[0].bias[0] = float("nan")

    return on_step


def test_restart_of_an_epoch_with_half_the_learning_rate():
    vae, errors = tiny_vae(std=0), []
    config = training_config(max_halvings=2, epochs=4)
    records = fit(vae, random_bits(20), VALID, config, seed=0, on_step=poison(vae, [4, 7]), on_halving=errors.append)
    assert [record.halvings for record in records] == [0, 1, 2, 2]
    assert [error.dump["step"] for error in errors] == [5, 8]
    plain = trained("none")[1]
    assert records[0] == plain[0]
    factors = [record.learning_rate / other.learning_rate for record, other in zip(records, plain, strict=True)]
    assert_close(factors, [1.0, 0.5, 0.25, 0.25])
    assert all(weight.isfinite().all() for weight in vae.parameters())


def test_the_number_of_restarts_is_limited():
    vae = tiny_vae(std=0)
    config = training_config(max_halvings=1)
    with pytest.raises(NonFiniteLossError, match=r"epoch 2, step 6$"):
        fit(vae, random_bits(20), VALID, config, seed=0, on_step=poison(vae, [4, 5]))


def test_bfloat16_keeps_the_flow_and_the_densities_in_full_precision():
    vae = tiny_vae("real_nvp", std=0.1).float()
    exact, seen = copy.deepcopy(vae), outputs_of(vae, training=True)
    inside = []
    vae.posterior_flow.nets[0].register_forward_hook(lambda module, inputs, out: inside.append(out.dtype))
    vae.decoder.register_forward_hook(lambda module, inputs, out: inside.append(out.dtype))
    config = training_config(precision="bfloat16", epochs=1)
    records = fit(vae, random_bits(20), VALID, config, seed=0)
    assert set(inside) == {torch.float32, torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in seen[0][:4])
    assert all(weight.dtype == torch.float32 for weight in vae.parameters())
    expected = fit(exact, random_bits(20), VALID, training_config(epochs=1), seed=0)
    assert records[0].train_negative_elbo == pytest.approx(expected[0].train_negative_elbo, rel=0.01)
    assert records != expected


@pytest.mark.filterwarnings("ignore")  # raised in the compiler
@pytest.mark.parametrize("halted", [False, True])
def test_a_compiled_model_is_one_graph(monkeypatch, halted):
    """Also with act norm, which the first batch initialises, and after a resume, when that batch is over."""
    settings, train = FLOW_SETTINGS["real_nvp"][3], random_bits(20)
    assert settings["normalization"] == "act_norm"
    plain, vae = (tiny_vae("real_nvp", std=0, settings=settings) for _ in range(2))
    monkeypatch.setattr(loop, "compiled", lambda model: torch.compile(model, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    if halted:  # initialised, and loaded from a file
        fit(vae, train, VALID, training_config(epochs=1), seed=0)
        fit(plain, train, VALID, training_config(epochs=1), seed=0)
        vae.load_state_dict(copy.deepcopy(vae.state_dict()))
    fit(vae, train, VALID, training_config(epochs=2, compile=True, batch_size=10), seed=0)
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1
    fit(plain, train, VALID, training_config(epochs=2, batch_size=10), seed=0)
    assert vae.posterior_flow.norms[0].initialized
    for name, value in plain.named_parameters():
        assert_close(vae.get_parameter(name), value, num_operations=NUM_OPERATIONS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # raised in the compiler
def test_compiled_runs_agree():
    plain, compiled = (trained(epochs=2, compile=on)[0] for on in (False, True))
    assert_same_weights(plain, compiled)
