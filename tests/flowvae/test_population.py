"""Population statistics: exact, the same however batches fall, and all that evaluation depends on."""

import copy

import pytest
import torch
from examples import FLOW_SETTINGS, random, random_bits, tiny_config, tiny_vae, training_config

from flowvae import population
from flowvae.data.images import ImageSet
from flowvae.objectives import elbo
from flowvae.population import pool, recompute_statistics
from flowvae.statistics import BatchStatistics, PopulationStatistics
from flowvae.training import fit
from flowvae.validation import validate
from flowvae.weights import load, save

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
        torch.testing.assert_close(bound_of_the_first(batch), bound_of_the_first([0]), rtol=1e-11, atol=1e-11)
    if layers_of(vae):  # while in training it does
        vae.train()
        assert (bound_of_the_first(batches[1]) - bound_of_the_first(batches[2])).abs().max() > 1e-3


def test_pooled_moments_are_those_of_all_rows():
    x = random(0, 40, 3) * torch.linspace(0.1, 5, 40)[:, None] + torch.linspace(-3, 9, 40)[:, None]
    mean, variance = pool([BatchStatistics()(part) for part in x.split((7, 20, 1, 12))])
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(variance, x.var(0, correction=0))


@every_normalisation
def test_one_batch_of_everything_leaves_evaluation_as_training_was(family, settings):
    """With all images in one batch the population's moments are the batch's, layer by layer."""
    vae = tiny_vae(family, settings=settings, std=0.2)
    vae.train()
    recompute_statistics(vae, TRAIN, seed=0)
    before = buffers_of(vae)
    draws = population.generator("cpu", 0, "population")
    x, noise = TRAIN.pixels.double(), torch.randn(20, 2, dtype=torch.float64, generator=draws)
    with torch.no_grad():
        trained, evaluated = vae.train()(x, noise), vae.eval()(x, noise)
    for found, expected in zip(evaluated, trained, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(*pair) for pair in zip(before, buffers_of(vae), strict=True))


def test_moments_are_measured_at_the_weights_as_they_are(monkeypatch):
    monkeypatch.setattr(population, "POPULATION_BATCH", 7)
    monkeypatch.setattr(population, "FEWEST", 1)
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1])
    recompute_statistics(vae, TRAIN, seed=0)
    first = buffers_of(vae)
    for buffer in vae.buffers():
        buffer += 1  # what was there before does not matter
    recompute_statistics(vae, TRAIN, seed=0)
    assert all(torch.equal(*pair) for pair in zip(first, buffers_of(vae), strict=True))
    vae.encoder.head.layers[-1].bias.data += 1
    recompute_statistics(vae, TRAIN, seed=0)
    assert not any(torch.equal(*pair) for pair in zip(first, buffers_of(vae), strict=True))


def test_no_decoder_no_gradients_and_nothing_at_all_without_statistics():
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
def test_what_is_kept_has_the_statistics_of_its_own_weights(average_decay):
    """So scoring it anew gives the score that it was kept for; with averaged weights too."""
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1], std=0)
    config = training_config(epochs=6, average_decay=average_decay, learning_rate=0.05)
    records = fit(vae, TRAIN, VALID, config, seed=0)
    best = min(record.valid_negative_elbo for record in records)
    assert validate(vae, VALID, seed=0)[0] == pytest.approx(best, rel=1e-12)
    kept = buffers_of(vae)
    recompute_statistics(vae, TRAIN, seed=0)
    for found, expected in zip(kept, buffers_of(vae), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert any(mean.abs().max() > 1e-3 for mean in kept[::2])


@pytest.mark.parametrize("average_decay", [0.0, 0.8])
def test_a_batch_of_one_image_in_training_meets_statistics_that_were_measured(average_decay):
    """Of the averaged weights, where weights are averaged: nobody measures those of the others."""
    vae = tiny_vae("real_nvp", settings=NORMALISED[0][1], std=0)
    seen = []
    config = training_config(epochs=2, average_decay=average_decay)
    fit(vae, TRAIN, VALID, config, seed=0, on_step=lambda step, num_steps: seen.append(buffers_of(vae)))
    first, last = seen[0], seen[-1]
    assert not any(mean.any() for mean in first[::2]) and all(mean.any() for mean in last[::2])


def test_dynamic_images_are_drawn_alike_at_each_call():
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
    save(tmp_path, vae, tiny_config(family, settings))
    loaded = load(tmp_path)
    x, noise = VALID.pixels.float(), random(0, 6, 2).float()
    for found, expected in zip(loaded(x, noise), vae.eval()(x, noise), strict=True):
        assert torch.equal(found, expected)
