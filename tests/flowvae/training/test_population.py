"""Population statistics: exact, independent of the batches, and the only statistics that evaluation depends on."""

import copy

import pytest
import torch
from examples import FLOW_SETTINGS, random, random_bits, tiny_vae, training_config
from tolerances import assert_agrees, assert_close

from flowvae.data.images import ImageSet
from flowvae.model.batch_norm import BatchStatistics, PopulationStatistics
from flowvae.model.loading import load
from flowvae.model.objectives import elbo
from flowvae.training import population
from flowvae.training.loop import fit
from flowvae.training.population import pool_moments, recompute_statistics
from flowvae.training.validation import validate

TRAIN, VALID = random_bits(20), random_bits(6, seed=1)
NORMALISED = [
    (family, settings)
    for family in ("real_nvp", "conv_real_nvp")
    for settings in FLOW_SETTINGS[family]
    if settings["normalization"] != "none" or settings["net_batch_norm"]
]
every_normalisation = pytest.mark.parametrize(("family", "settings"), NORMALISED)


def layers_of(vae):
    return [child for child in vae.modules() if isinstance(child, PopulationStatistics)]


def buffers_of(vae):
    return [value.clone() for layer in layers_of(vae) for value in (layer.mean, layer.variance)]


@every_normalisation
def test_elbo_of_an_image_in_evaluation_never_depends_on_its_batch(family, settings):
    vae = tiny_vae(family, settings=settings, std=0.2)
    fit(vae, TRAIN, VALID, training_config(epochs=2), seed=0)
    images, noise = random_bits(12, seed=2).pixels.double(), random(0, 3, 12, 2)

    def bound_of_the_first(indices):
        with torch.no_grad():
            return elbo(vae(images[indices], noise[:, indices]))[:, 0]

    batches = ([0], [0, 1], [0, *range(2, 12)], [0, 0, 0])
    vae.eval()
    for batch in batches[1:]:
        assert_agrees(bound_of_the_first(batch), lambda: bound_of_the_first([0]), [noise, *vae.parameters()])
    if layers_of(vae):  # in training it does
        vae.train()
        assert (bound_of_the_first(batches[1]) - bound_of_the_first(batches[2])).abs().max() > 1e-3


def test_pooled_moments_are_those_of_all_rows():
    x = random(0, 40, 3) * torch.linspace(0.1, 5, 40)[:, None] + torch.linspace(-3, 9, 40)[:, None]
    mean, variance = pool_moments([BatchStatistics()(part) for part in x.split((7, 20, 1, 12))])
    size = x.square().mean(0) + x.abs().mean(0)
    assert_close((mean, variance), (x.mean(0), x.var(0, correction=0)), size=(size, size))


@every_normalisation
def test_with_one_batch_evaluation_is_the_same_as_training(family, settings):
    """If all images are in one batch, the moments of the population are those of the batch, layer by layer."""
    vae = tiny_vae(family, settings=settings, std=0.2)
    vae.train()
    recompute_statistics(vae, TRAIN, seed=0)
    before = buffers_of(vae)
    draws = population.generator("cpu", 0, "population")
    x, noise = TRAIN.pixels.double(), torch.randn(20, 2, dtype=torch.float64, generator=draws)
    with torch.no_grad():
        vae.train()(x, noise)  # initializes act norm
        assert_agrees(vae.eval()(x, noise), lambda: vae.train()(x, noise), [noise, *vae.parameters()])
    assert all(torch.equal(*pair) for pair in zip(before, buffers_of(vae), strict=True))


def test_moments_are_those_of_the_current_weights(monkeypatch):
    monkeypatch.setattr(population, "MAX_BATCH_SIZE", 7)
    monkeypatch.setattr(population, "MIN_BATCH_SIZE", 1)
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1])
    recompute_statistics(vae, TRAIN, seed=0)
    first = buffers_of(vae)
    for buffer in vae.buffers():
        buffer += 1  # earlier values do not matter
    recompute_statistics(vae, TRAIN, seed=0)
    assert all(torch.equal(*pair) for pair in zip(first, buffers_of(vae), strict=True))
    vae.encoder.head.layers[-1].bias.data += 1
    recompute_statistics(vae, TRAIN, seed=0)
    assert not any(torch.equal(*pair) for pair in zip(first, buffers_of(vae), strict=True))


def test_neither_decoder_nor_gradients_are_computed_and_nothing_without_statistics():
    seen = []
    for settings in (NORMALISED[0][1], FLOW_SETTINGS["real_nvp"][0]):
        vae = tiny_vae("real_nvp", settings=settings)
        vae.decoder.register_forward_hook(lambda *_: pytest.fail("the decoder ran"))
        vae.encoder.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
        before = copy.deepcopy(vae.state_dict())
        recompute_statistics(vae, TRAIN, seed=0)
        changed = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name, _ in vae.named_buffers() if name.endswith((".mean", ".variance"))}
    assert len(seen) == 1 and not seen[0].requires_grad


@pytest.mark.parametrize("average_decay", [0.0, 0.8])
def test_kept_weights_have_their_own_statistics(average_decay):
    """Therefore validating them again gives the same loss, also with averaged weights."""
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1], std=0)
    config = training_config(epochs=6, average_decay=average_decay, learning_rate=0.05)
    records = fit(vae, TRAIN, VALID, config, seed=0)
    best = min(record.valid_negative_elbo for record in records)
    assert_close(validate(vae, VALID, seed=0)[0], best)
    kept = buffers_of(vae)
    recompute_statistics(vae, TRAIN, seed=0)
    assert_close(kept, buffers_of(vae))
    assert any(mean.abs().max() > 1e-3 for mean in kept[::2])


@pytest.mark.parametrize("average_decay", [0.0, 0.8])
def test_a_training_batch_of_one_image_is_normalised_by_computed_statistics(average_decay):
    """If weights are averaged, these are the statistics of the averaged weights: no others are computed."""
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1], std=0)
    seen = []
    config = training_config(epochs=2, average_decay=average_decay)
    fit(vae, TRAIN, VALID, config, seed=0, on_step=lambda step, num_steps: seen.append(buffers_of(vae)))
    first, last = seen[0], seen[-1]
    assert not any(mean.any() for mean in first[::2]) and all(mean.any() for mean in last[::2])


def test_dynamic_images_are_the_same_at_each_call():
    grey = ImageSet(torch.arange(20 * 16, dtype=torch.uint8).view(20, 1, 4, 4), "dynamic")
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1])
    found = []
    for _ in range(2):
        recompute_statistics(vae, grey, seed=4)
        found.append(buffers_of(vae))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@every_normalisation
def test_statistics_are_saved_with_the_weights(tmp_path, family, settings):
    vae = tiny_vae(family, settings=settings).float()
    recompute_statistics(vae, TRAIN, seed=0)
    vae.save(tmp_path)
    loaded = load(tmp_path)
    x, noise = VALID.pixels.float(), random(0, 6, 2).float()
    for found, expected in zip(loaded(x, noise), vae.eval()(x, noise), strict=True):
        assert torch.equal(found, expected)
