"""The nearest images of a set, against a search by hand."""

import pytest
import torch
from examples import random

from flowvae import nearest
from flowvae.data.images import ImageSet
from flowvae.nearest import nearest_images

SHAPE = (3, 4, 5)


def pixels(count, high=255, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(0, high + 1, (count, *SHAPE), dtype=torch.uint8, generator=drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("reading", "high"), [("levels", 255), ("bits", 1), ("dynamic", 255)])
def test_against_a_search_by_hand(monkeypatch, dtype, reading, high):
    monkeypatch.setattr(nearest, "MAX_PIXELS", 7 * 60)  # several passes, the last one smaller
    images = ImageSet(pixels(40, high), reading)
    queries = random(1, 11, *SHAPE).to(dtype).sigmoid()
    found = nearest_images(queries, images)
    values = images.pixels.to(dtype) / high
    distances = (queries[:, None] - values).square().mean((2, 3, 4)).sqrt()
    expected = distances.min(dim=1)
    assert torch.equal(found.images, values[expected.indices])
    torch.testing.assert_close(found.distances, expected.values)


def test_a_copy_is_found_at_no_distance():
    images = ImageSet(pixels(40), "levels")
    chosen = torch.tensor([39, 0, 17, 17])
    copies = images.pixels[chosen].float() / 255
    found = nearest_images(copies, images)
    assert torch.equal(found.images, copies)
    assert found.distances.tolist() == [0.0] * 4
