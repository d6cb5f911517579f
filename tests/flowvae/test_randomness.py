"""Random numbers are a function of (seed, purpose, position) and of nothing else."""

from itertools import product

import pytest
import torch

from flowvae.randomness import PURPOSES, NormalDraws, generator

POSITIONS = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (1, 1), (2,), (0, 0, 0)]


def draw(*position, seed=0, purpose="latent"):
    return torch.randn(32, generator=generator("cpu", seed, purpose, *position))


def test_same_arguments_same_numbers():
    assert torch.equal(draw(1, 2), draw(1, 2))


def test_history_does_not_matter():
    torch.manual_seed(1)
    first = draw(3)
    torch.manual_seed(2)
    torch.randn(100)
    draw(2), draw(4)
    assert torch.equal(draw(3), first)


def test_the_global_generator_is_not_used():
    torch.manual_seed(1)
    expected = torch.randn(4)
    torch.manual_seed(1)
    draw(3)
    assert torch.equal(torch.randn(4), expected)


def test_every_purpose_position_and_seed_has_its_own_numbers():
    """Also positions that differ by trailing zeros: validation's () is not the first step's (0, 0)."""
    seeds = {
        (seed, purpose, position): generator("cpu", seed, purpose, *position).initial_seed()
        for seed, purpose, position in product((0, 1, 2, 2**31, 2**32, 2**32 + 1), PURPOSES, POSITIONS)
    }
    first_with = {}
    clashes = [(key, first_with[value]) for key, value in seeds.items() if first_with.setdefault(value, key) != key]
    assert clashes == []


def test_neighbours_are_uncorrelated():
    """Each of the 2,016 correlations of 32 draws is within 4.8 of its standard errors, 1 / sqrt(32)."""
    rows = torch.stack([draw(epoch, step) for epoch, step in product(range(8), range(8))])
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.85


def test_unknown_purpose():
    with pytest.raises(ValueError, match=r"coffee|tuple"):
        generator("cpu", 0, "coffee")


def test_a_draw_is_a_function_of_seed_purpose_image_and_number():
    """Whichever images and draws are asked for together; D = 3, so that draws begin inside a step of the counter."""
    draws, images = NormalDraws(5, "latent", 3), torch.tensor([7, 0, 123_456])
    together = draws(images, range(11), torch.float64)
    assert together.shape == (11, 3, 3) and together.unique().numel() == together.numel()
    for i, image in enumerate(images):
        for number in (0, 1, 5, 10):
            single = draws(image[None], range(number, number + 1), torch.float64)
            assert torch.equal(single[0, 0], together[number, i])
    for other in (NormalDraws(6, "latent", 3), NormalDraws(5, "importance", 3)):
        assert not (other(images, range(11), torch.float64) == together).any()
    assert draws(images[:0], range(2), torch.float32).shape == (2, 0, 3)


def test_draws_are_standard_normal():
    """Moments of 200,000 numbers within 5 standard errors, and no correlation of images, draws or dimensions."""
    z = NormalDraws(0, "latent", 4)(torch.arange(5000), range(10), torch.float64)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        values = z**power
        assert abs(values.mean() - moment) < 5 * values.std() / values.numel() ** 0.5
    for one, other in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1])):
        products = one * other
        assert abs(products.mean()) < 5 * products.std() / products.numel() ** 0.5
    assert z.isfinite().all() and z.abs().max() < 7
