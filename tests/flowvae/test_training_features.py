"""What fit can do beyond the plain run: parts, shares, bounds, averages, precision, going back."""

import copy

import pytest
import torch
from examples import FLOW_SETTINGS, outputs_of, random_bits, tiny_vae, training_config
from test_training import grey, watch

from flowvae import training
from flowvae.objectives import elbo, importance_weighted_bound, kl
from flowvae.training import NonFiniteLossError, fit
from flowvae.validation import validate
from flowvae.workers import Alone

VALID = random_bits(6, seed=1)


def trained(family="planar", train=None, workers=None, **changes):
    vae = tiny_vae(family, std=0)
    given = {} if workers is None else {"workers": workers}
    records = fit(vae, random_bits(20) if train is None else train, VALID, training_config(**changes), seed=0, **given)
    return vae, records


def close(one, other):
    for (name, value), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, found, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("parts", [2, 3, 8, 100])
def test_parts_of_a_batch_add_up(parts):
    whole, records = trained()
    in_parts, others = trained(accumulation_steps=parts)
    close(whole, in_parts)
    assert others[-1].train_negative_elbo == pytest.approx(records[-1].train_negative_elbo, rel=1e-9)


def test_norms_of_gradients_are_in_the_curve_as_they_were_before_clipping():
    vae, norms = tiny_vae(std=0), []
    config = training_config(epochs=2, max_grad_norm=1e-3)
    before = training.clip_gradients

    def note(vae, max_norm):
        norms.append(torch.cat([weight.grad.flatten() for weight in vae.parameters()]).norm().item())
        return before(vae, max_norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "clip_gradients", note)
        records = fit(vae, random_bits(20), VALID, config, seed=0)
    assert len(norms) == 6 and min(norms) > 1e-3
    for record, epoch in zip(records, (norms[:3], norms[3:]), strict=True):
        assert record.mean_grad_norm == pytest.approx(sum(epoch) / 3, rel=1e-9)
        assert record.max_grad_norm == pytest.approx(max(epoch), rel=1e-9)


class Part(Alone):
    """One of `count` workers, whose partners are not there."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count

    def share(self, num_images):
        return slice(num_images * self.rank // self.count, num_images * (self.rank + 1) // self.count)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_workers_see_their_shares_of_the_same_images_and_noise(count):
    """A ragged last batch of 4 leaves some of 8 workers without an image."""
    seen = []
    for workers in (Alone(), *(Part(rank, count) for rank in range(count))):
        vae = tiny_vae()
        seen.append(watch(vae))
        fit(vae, grey(20), VALID, training_config(epochs=2), seed=0, workers=workers)
    whole, *shares = seen
    assert [len(x) for x, _ in whole] == [8, 8, 4, 8, 8, 4]
    for step, batch in enumerate(whole):
        having = [rank for rank in range(count) if len(batch[0]) * rank // count < len(batch[0]) * (rank + 1) // count]
        for i, expected in enumerate(batch):
            assert torch.equal(torch.cat([shares[rank][step][i] for rank in having]), expected)


def test_a_worker_without_an_image_adds_nothing():
    vae = tiny_vae()
    before = copy.deepcopy(vae.state_dict())
    config = training_config(epochs=1, batch_size=1, weight_decay=0.0)
    records = fit(vae, random_bits(2), VALID, config, seed=0, workers=Part(0, 2))
    assert records[0].train_negative_elbo == 0
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_shares_of_validation_are_a_partition():
    seen = []
    for workers in (Alone(), Part(0, 2), Part(1, 2)):
        vae = tiny_vae()
        seen.append(watch(vae, training=False))
        fit(vae, random_bits(8), VALID, training_config(epochs=1), seed=0, workers=workers)
    whole, first, second = (batches[0] for batches in seen)
    assert all(torch.equal(torch.cat(halves), both) for *halves, both in zip(first, second, whole, strict=True))


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_validation_of_fewer_images_than_workers(family):
    vae, images = tiny_vae(family), random_bits(3)
    parts = [validate(vae, images, seed=0, workers=Part(rank, 5)) for rank in range(5)]
    assert [sum(column) for column in zip(*parts)] == pytest.approx(validate(vae, images, seed=0), rel=1e-9)


def test_importance_weighted_objective_of_one_draw_is_the_elbo():
    close(trained()[0], trained(objective="importance_weighted")[0])


def test_importance_weighted_objective_differs_with_more_draws():
    bound, records = trained(objective="importance_weighted", num_samples=4)
    mean, _ = trained(num_samples=4)
    assert any(not torch.equal(*pair) for pair in zip(bound.parameters(), mean.parameters(), strict=True))
    assert records[-1].train_negative_elbo == pytest.approx(records[-1].train_reconstruction + records[-1].train_kl)


def test_more_draws_are_averaged_in_the_curve():
    vae = tiny_vae()
    steps = outputs_of(vae, training=True)
    record = fit(vae, random_bits(8), VALID, training_config(epochs=1, num_samples=5), seed=0)[0]
    assert steps[0].log_likelihood.shape == (5, 8)
    assert record.train_negative_elbo == pytest.approx(-elbo(steps[0]).mean().item(), rel=1e-10)


def test_weighted_importance_bound():
    vae = tiny_vae()
    densities = vae(VALID.pixels.double(), torch.randn(7, 6, 2, dtype=torch.float64))
    expected = (densities.log_likelihood - 0.3 * kl(densities)).exp().mean(0).log()
    torch.testing.assert_close(importance_weighted_bound(densities, 0.3), expected)


def test_free_nats_are_a_floor_per_image():
    vae = tiny_vae()
    densities = vae(VALID.pixels.double(), torch.randn(6, 2, dtype=torch.float64))
    divergence = kl(densities)
    floor = divergence.median().item()
    expected = densities.log_likelihood - 0.5 * torch.tensor([max(value, floor) for value in divergence.tolist()])
    torch.testing.assert_close(elbo(densities, 0.5, floor), expected)
    torch.testing.assert_close(elbo(densities, 0.5), densities.log_likelihood - 0.5 * divergence)


def test_under_free_nats_the_posterior_is_not_pulled_to_the_prior():
    """The KL term stays larger than without them."""
    with_floor, without = (trained("none", epochs=60, free_nats=nats)[1][-1].train_kl for nats in (3.0, 0.0))
    assert with_floor > without + 0.5


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
    for i, weights in enumerate(snapshots):  # the first update takes the weights as they are
        keep = decay if i else 0.0
        expected = {name: keep * expected[name] + (1 - keep) * value for name, value in weights.items()}
        averages.append(expected)
    found = vae.state_dict()
    assert any(all(torch.allclose(found[name], average[name]) for name in found) for average in averages)
    assert not any(all(torch.allclose(found[name], weights[name]) for name in found) for weights in snapshots[1:])


def test_patience_ends_a_run():
    settings = {"epochs": 40, "learning_rate": 0.1, "final_learning_rate": 0.1}
    _, records = trained(train=random_bits(12), **settings)
    values = [record.valid_negative_elbo for record in records]
    stop = next(i for i in range(3, 40) if min(values[i - 2 : i + 1]) >= min(values[: i - 2]))
    _, stopped = trained(train=random_bits(12), patience=3, **settings)
    assert stopped == records[: stop + 1]
    assert len(stopped) < 40


def poison(vae, at):
    """NaN in the weights after some steps, once for each."""
    left = list(at)

    def on_step(step, num_steps):
        if left and step == left[0]:
            left.pop(0)
            with torch.no_grad():
                vae.decoder.head[0].bias[0] = float("nan")

    return on_step


def test_going_back_with_half_the_learning_rate():
    vae, told = tiny_vae(std=0), []
    config = training_config(max_halvings=2, epochs=4)
    records = fit(vae, random_bits(20), VALID, config, seed=0, on_step=poison(vae, [4, 7]), on_halving=told.append)
    assert [record.halvings for record in records] == [0, 1, 2, 2]
    assert [error.dump["step"] for error in told] == [5, 8]
    plain = trained("none")[1]
    assert records[0] == plain[0]
    factors = [record.learning_rate / other.learning_rate for record, other in zip(records, plain, strict=True)]
    assert factors == pytest.approx([1, 0.5, 0.25, 0.25])
    assert all(weight.isfinite().all() for weight in vae.parameters())


def test_going_back_has_an_end():
    vae = tiny_vae(std=0)
    config = training_config(max_halvings=1)
    with pytest.raises(NonFiniteLossError, match=r"epoch 2, step 6$"):
        fit(vae, random_bits(20), VALID, config, seed=0, on_step=poison(vae, [4, 5]))


def test_bfloat16_keeps_the_flow_and_the_densities_in_full_precision():
    vae = tiny_vae("real_nvp", std=0.1).float()
    exact, seen = copy.deepcopy(vae), outputs_of(vae, training=True)
    inside = []
    vae.flow.nets[0].register_forward_hook(lambda module, inputs, out: inside.append(out.dtype))
    vae.decoder.register_forward_hook(lambda module, inputs, out: inside.append(out.dtype))
    config = training_config(precision="bfloat16", epochs=1)
    records = fit(vae, random_bits(20), VALID, config, seed=0)
    assert set(inside) == {torch.float32, torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in seen[0])
    assert all(weight.dtype == torch.float32 for weight in vae.parameters())
    expected = fit(exact, random_bits(20), VALID, training_config(epochs=1), seed=0)
    assert records[0].train_negative_elbo == pytest.approx(expected[0].train_negative_elbo, rel=0.01)
    assert records != expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_runs_agree():
    plain, compiled = (trained(epochs=2, compile=on)[0] for on in (False, True))
    close(plain, compiled)
