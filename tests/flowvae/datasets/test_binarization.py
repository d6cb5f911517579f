"""Binarization: the statistics of the bits, and what they depend on."""

import pytest
import torch
from examples import ramp

from flowvae.datasets.binarization import binarize


def binarized(grey, binarization, seed, split):
    (chunk,) = binarize([grey], binarization, seed, split)
    return chunk


def test_mean_of_static_bits_is_the_grey_value():
    bits = binarized(ramp(4000), "static", 0, 0)
    assert bits.dtype == torch.uint8 and bits.shape == (4000, 1, 16, 16) and set(bits.unique().tolist()) == {0, 1}
    probability = ramp(1).double() / 255
    error = 5 * (probability * (1 - probability) / 4000).sqrt() + 1e-9
    assert ((bits.double().mean(0) - probability[0]).abs() <= error[0]).all()
    assert not bits[..., 0, 0].any() and bits[..., 15, 15].all()


def test_static_bits_are_fixed_by_seed_and_split():
    first = binarized(ramp(50), "static", 3, 1)
    torch.randn(9)
    assert torch.equal(binarized(ramp(50), "static", 3, 1), first)
    for seed, split in [(3, 0), (3, 2), (4, 1)]:
        other = binarized(ramp(50), "static", seed, split).double()
        agreement = (other == first).double().mean()
        assert abs(agreement - 2 / 3) < 0.05  # 1 - 2 E[p (1 - p)] of independent draws, p uniform


def test_threshold():
    bits = binarized(ramp(1), "threshold", 0, 0).flatten()
    assert bits.dtype == torch.uint8
    assert not bits[:128].any() and bits[128:].all()


@pytest.mark.parametrize("size", [1, 7, 49])
def test_static_bits_do_not_depend_on_the_chunks(size):
    chunks = binarize(ramp(50).split(size), "static", 3, 1)
    assert torch.equal(torch.cat(list(chunks)), binarized(ramp(50), "static", 3, 1))


@pytest.mark.parametrize("name", ["dynamic", "none"])
def test_grey_values_are_kept(name):
    assert torch.equal(binarized(ramp(2), name, 0, 0), ramp(2))


@pytest.mark.parametrize("name", ["larochelle", "otsu", ""])
def test_unknown_binarization(name):
    with pytest.raises(ValueError, match=f"expected one of static, threshold, dynamic, none, got {name}"):
        binarized(ramp(1), name, 0, 0)
