"""Figures of samples: what they show, and that the same noise is behind all of them."""

import numpy as np
import pytest
import torch
from examples import EVALUATION, tiny_vae

from flowvae.data.images import ImageSet
from flowvae.evaluation import EvaluationConfig
from flowvae.pictures import GAP, TITLE_HEIGHT
from pipeline import galleries
from pipeline.downstream import imputation_figure
from pipeline.galleries import draw_galleries, prior_noise
from pipeline.params.schema import ImputationConfig

CONFIG = EvaluationConfig(**EVALUATION | {"num_figure_images": 20, "temperatures": (1.0, 0.5, 0.0), "chunk_size": 7})

IMPUTATION = {"num_images": 0, "num_particles": 2, "num_temperatures": 2, "num_steps": 2}


def images_for(vae, count, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (count, *vae.config.image_shape), dtype=torch.uint8, generator=drawn)
    return ImageSet(bits, "bits")


@pytest.fixture
def vae():
    return tiny_vae("real_nvp").float().eval()


def test_figures(vae):
    train, test = images_for(vae, 50), images_for(vae, 30, seed=1)
    drawn = draw_galleries(vae, train, test, CONFIG)
    _, height, _ = vae.config.image_shape
    step = height + GAP
    kinds = 1 + 2 * len(CONFIG.temperatures)
    heights = {name: figure.shape[0] for name, figure in drawn.figures.items()}
    assert heights == {
        "samples": kinds * (TITLE_HEIGHT + 2 * step + GAP),
        "nearest": 4 * step + GAP,
        "reconstructions": 4 * step + GAP,
    }
    assert all(figure.max() <= 1 and figure.min() >= 0 and figure.any() for figure in drawn.figures.values())
    again = draw_galleries(vae, train, test, CONFIG)
    assert all(np.array_equal(figure, again.figures[name]) for name, figure in drawn.figures.items())


def test_fewer_test_images_than_samples_leave_blanks(vae):
    """Down to a single test image; the imputations of `few` images stand below each other."""
    samples = draw_galleries(vae, images_for(vae, 50), images_for(vae, 30, seed=1), CONFIG).figures["samples"]
    step = vae.config.image_shape[1] + GAP
    for few in (1, 5):
        test = images_for(vae, few, seed=1)
        figure = draw_galleries(vae, images_for(vae, 50), test, CONFIG).figures["samples"]
        assert figure.shape == (samples.shape[0] - step, samples.shape[1])  # one row of test images in place of two
        imputed = imputation_figure(vae, ImputationConfig(**IMPUTATION), test, seed=0)
        assert imputed.shape[1] == few * (vae.config.image_shape[2] + GAP) + GAP


def test_distances_tell_copies_from_new_images(vae, monkeypatch):
    """A model that draws training images, and test images that are other ones."""
    train, test = images_for(vae, 50), images_for(vae, 30, seed=1)
    honest = draw_galleries(vae, train, test, CONFIG).nearest
    assert honest["samples"] > 0 and honest["test_images"] > 0
    monkeypatch.setattr(galleries, "decode", lambda vae, noise, *_: train.pixels[torch.arange(len(noise)) % 50].float())
    copied = draw_galleries(vae, train, test, CONFIG).nearest
    assert copied == {"samples": 0.0, "test_images": honest["test_images"]}


def test_the_same_noise_for_every_variant(vae):
    noise = prior_noise(vae, 5, seed=3)
    assert torch.equal(prior_noise(tiny_vae("planar").float(), 5, seed=3), noise)
    assert not torch.equal(prior_noise(vae, 5, seed=4), noise)
