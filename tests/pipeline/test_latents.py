"""Paths between all pairs of images, and maps of latents."""

from itertools import combinations

import numpy as np
import pytest
import torch
from examples import tiny_vae
from PIL import Image

from flowvae.interpolation import interpolate
from flowvae.pictures import sheet, write_webp
from pipeline.latents import STEPS, all_paths, different_images, latent_map, num_ends, thumbnails


@pytest.fixture
def vae():
    return tiny_vae("real_nvp").float().eval()


def images_for(vae, count):
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (count, *vae.config.image_shape), generator=drawn).float()


def test_paths_join_all_pairs_in_order(vae):
    ends = images_for(vae, 4)
    paths = all_paths(vae, ends, "spherical", "latent")
    assert paths.shape == (6, STEPS, *vae.config.image_shape)
    for row, (low, high) in zip(paths, combinations(range(4), 2), strict=True):
        expected = interpolate(vae, ends[low : low + 1], ends[high : high + 1], STEPS, "spherical")[:, 0]
        assert torch.allclose(row, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "variants", "count"),
    [((1, 28, 28), 12, 10), ((1, 28, 28), 20, 10), ((1, 28, 28), 60, 6), ((3, 32, 32), 12, 6), ((3, 256, 256), 3, 2)],
)
def test_larger_images_and_more_variants_have_fewer_ends(shape, variants, count):
    assert num_ends(shape, variants) == count


def test_images_to_join_have_different_labels():
    labels = torch.tensor([5, 5, 5, 3, 3, 9, 0, 0] * 4)
    chosen = different_images(labels, 4, torch.Generator().manual_seed(0))
    assert labels[chosen].tolist() == [0, 3, 5, 9]
    more = different_images(labels, 6, torch.Generator().manual_seed(0))
    assert len(set(more.tolist())) == 6 and set(labels[more].tolist()) == {0, 3, 5, 9}
    assert len(different_images(torch.zeros(3), 10, torch.Generator().manual_seed(0))) == 3


def test_a_map_shows_the_first_principal_axes(vae):
    images = images_for(vae, 40)
    shown = latent_map(vae, images)
    with torch.inference_mode():
        z = vae.posterior(images).push_loc().double().numpy()
    centred = z - z.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    expected = centred @ axes[:, ::-1][:, :2]
    assert shown.positions.shape == (40, 2)
    assert np.allclose(np.abs(shown.positions), np.abs(expected), atol=1e-6)
    assert shown.share == pytest.approx(values[::-1][:2].sum() / values.sum())
    assert np.array_equal(shown.positions, latent_map(vae, images).positions)


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 28, 28), (28, 28)), ((3, 64, 64), (32, 32)), ((3, 128, 40), (32, 10))]
)
def test_large_images_of_a_map_are_shrunk(shape, size):
    images = torch.full((2, *shape), 0.25)
    assert thumbnails(images).shape == (2, shape[0], *size)
    assert torch.allclose(thumbnails(images), torch.tensor(0.25))


def test_a_map_of_equal_images_is_a_point(vae):
    shown = latent_map(vae, images_for(vae, 1).expand(5, -1, -1, -1))
    assert np.allclose(shown.positions, 0, atol=1e-5) and 0 <= shown.share <= 1 + 1e-9


@pytest.mark.parametrize("channels", [1, 3])
def test_sheets_are_files_of_their_size(tmp_path, channels):
    images = torch.rand(2, 3, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    ink = sheet(images)
    assert np.array_equal(ink[4:8, 5:10], images[1, 1].movedim(0, -1).squeeze(-1).numpy())
    write_webp(tmp_path / "a.webp", ink)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.size == (15, 8)
        if channels == 1:
            assert np.abs(np.asarray(image)[..., 0] / 255 - (1 - ink)).max() <= 1 / 30 + 1e-6
