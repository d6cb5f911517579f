"""Image sets: batches under the three readings."""

import pytest
import torch
from examples import ramp

from flowvae.data import images
from flowvae.data.images import ImageSet


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bits_like(pixels):
    return torch.bernoulli(pixels.float() / 255, generator=noise()).to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_bits_are_gathered_without_noise(dtype):
    images, before = ImageSet(random_bits_like(ramp(6)), "bits"), noise().get_state()
    generator = noise()
    batch = images.batch(torch.tensor([4, 0, 4]), dtype, generator)
    assert batch.dtype == dtype and torch.equal(batch, images.pixels[[4, 0, 4]].to(dtype))
    assert torch.equal(images.batch(torch.arange(1, 3), dtype, generator), images.pixels[1:3].to(dtype))
    assert torch.equal(generator.get_state(), before)
    assert len(images) == 6 and images.image_shape == (1, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dynamic_batches_are_drawn_at_each_use(dtype):
    images, generator = ImageSet(ramp(4000), "dynamic"), noise()
    first, second = (images.batch(torch.arange(4000), dtype, generator) for _ in range(2))
    assert not torch.equal(first, second) and first.dtype == dtype and set(first.unique().tolist()) == {0, 1}
    probability = ramp(1).double() / 255
    error = 5 * (probability * (1 - probability) / 4000).sqrt() + 1e-9
    assert ((first.double().mean(0) - probability[0]).abs() <= error[0]).all()
    assert torch.equal(images.batch(torch.arange(4000), dtype, noise()), first)
    assert torch.equal(images.pixels, ramp(4000))  # the grey values are not changed


def test_freezing_draws_once():
    grey = ImageSet(ramp(20), "dynamic")
    frozen = grey.freeze(noise())
    assert frozen.reading == "bits" and frozen.pixels.dtype == torch.uint8
    assert set(frozen.pixels.unique().tolist()) == {0, 1}
    draws = [frozen.batch(torch.arange(20), torch.float32, noise(seed)) for seed in (1, 2)]
    assert torch.equal(*draws)
    assert torch.equal(grey.freeze(noise()).pixels, frozen.pixels)
    assert not torch.equal(grey.freeze(noise(1)).pixels, frozen.pixels)
    assert frozen.freeze(noise(1)) is frozen


@pytest.mark.parametrize("chunk", [1, 7, 19])
def test_frozen_bits_do_not_depend_on_the_chunks(monkeypatch, chunk):
    grey = ImageSet(ramp(20), "dynamic")
    whole = grey.freeze(noise())
    monkeypatch.setattr(images, "FREEZE_CHUNK", chunk)
    assert torch.equal(grey.freeze(noise()).pixels, whole.pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_are_256_values_from_0_to_1_without_noise(dtype):
    images, generator = ImageSet(ramp(3), "levels"), noise()
    batch = images.batch(torch.tensor([2, 0]), dtype, generator)
    assert batch.dtype == dtype and batch.min() == 0 and batch.max() == 1
    assert torch.equal((batch * 255).round().to(torch.uint8), ramp(2))
    assert torch.equal(batch[0].flatten(), torch.arange(256, dtype=dtype) / 255)
    assert torch.equal(generator.get_state(), noise().get_state())
    assert images.freeze(generator) is images


@pytest.mark.parametrize("reading", ["bits", "dynamic", "levels"])
def test_a_share_is_a_part_of_the_batch(reading):
    images, indices = ImageSet(ramp(9), reading), torch.tensor([8, 3, 3, 0, 5])
    whole = images.batch(indices, torch.float32, noise())
    parts = [images.batch(indices, torch.float32, noise(), slice(*ends)) for ends in ((0, 2), (2, 5))]
    assert torch.equal(torch.cat(parts), whole)
