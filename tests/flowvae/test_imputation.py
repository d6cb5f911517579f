"""Imputation: observed pixels are kept, and missing ones follow from them."""

import pytest
import torch
from examples import MODEL, build_vae, random_bits, tiny_config, tiny_vae

import flowvae
from flowvae.imputation import impute
from flowvae.model.hierarchy import HierarchicalVAE
from flowvae.model.networks import LadderDecoderConfig, LadderEncoderConfig

RIGHT = torch.zeros(1, 4, 4, dtype=torch.bool)
RIGHT[..., 2:] = True


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def bits(count):
    return random_bits(count).pixels.double()


@pytest.fixture(scope="module")
def of_two_patterns():
    """A VAE of two images, each the negative of the other."""
    left = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
    pattern = torch.cat((left, 1 - left), dim=1)[None]
    patterns = torch.stack((pattern, 1 - pattern))
    wide = {"channels": [8], "hidden_features": [32]}
    vae = build_vae(tiny_config(encoder=MODEL["encoder"] | wide, decoder=MODEL["decoder"] | wide), seed=0)
    images = patterns.repeat(64, 1, 1, 1)
    flowvae.fit(vae, images, images, epochs=80, batch_size=32, learning_rate=0.01)
    return vae, patterns.float()


def test_the_right_half_follows_from_the_left(of_two_patterns):
    vae, patterns = of_two_patterns
    given = torch.where(RIGHT, torch.nan, patterns).repeat(50, 1, 1, 1)  # nothing is seen of what is missing
    imputed = impute(vae, given, RIGHT, 20, noise())
    expected = patterns.repeat(50, 1, 1, 1)
    assert (imputed.draws == expected).double().mean() > 0.97
    assert (imputed.means - expected).abs().mean() < 0.05
    start = impute(vae, given, RIGHT, 1, noise())
    assert (start.draws == expected).double().mean() < (imputed.draws == expected).double().mean()


def hierarchy():
    encoder = LadderEncoderConfig(channels=(4, 6), num_blocks=1, context_features=2)
    decoder = LadderDecoderConfig(channels=(6, 4))
    return HierarchicalVAE((1, 4, 4), [(2, 1, 1), (1, 2, 2)], encoder=encoder, decoder=decoder).double()


@pytest.mark.parametrize("make", [lambda: tiny_vae("planar"), hierarchy], ids=["one level", "levels"])
def test_observed_pixels_are_kept_and_draws_are_bits(make):
    vae, x = make(), bits(30)
    vae.train()
    missing = random_bits(30, seed=5).pixels.bool()  # others in each image
    imputed = impute(vae, x, missing, 3, noise())
    assert vae.training
    for images in imputed:
        assert torch.equal(images[~missing], x[~missing])
    assert set(imputed.draws.unique().tolist()) == {0, 1}
    assert not torch.equal(imputed.draws, x)
    assert ((imputed.means > 0) & (imputed.means < 1))[missing].all()


def test_draws_of_8_bit_values_are_levels():
    vae = tiny_vae(likelihood={"name": "discretized_logistic"})
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64).mul(255).round() / 255
    draws = impute(vae, x, RIGHT, 2, noise()).draws
    assert torch.equal(draws[..., :2], x[..., :2])
    assert torch.allclose(draws * 255, (draws * 255).round(), atol=1e-9)


def test_the_generator_alone_decides():
    vae, x = tiny_vae("planar"), bits(20)
    first, second, other = (impute(vae, x, RIGHT, 2, noise(seed)).draws for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_mistakes():
    vae, x = tiny_vae(), bits(3)
    with pytest.raises(ValueError, match="num_steps of at least 1, got 0"):
        impute(vae, x, RIGHT, 0, noise())
    with pytest.raises(ValueError, match="missing of shape"):
        impute(vae, x, RIGHT[:, :2], 1, noise())
    with pytest.raises(ValueError, match="expected images of shape"):
        impute(vae, x[..., :2], RIGHT, 1, noise())
