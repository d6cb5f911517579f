"""Raw images: parts of several arrays, files that are not decoded yet, and held-out images."""

from pathlib import Path

import numpy as np
import pytest

from flowvae.datasets.decoder import DecodeOptions
from flowvae.datasets.raw import RawArrays, RawDataset, RawFiles, as_labels, held_out
from flowvae.datasets.writing import Preparation, write_arrays
from flowvae.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), dtype=np.uint8)


def test_parts_of_several_arrays_are_read_in_order():
    images = RawArrays(RawArrays.of(GREY, np.array([9, 3, 3, 40])).parts + RawArrays.of(GREY[::-1]).parts)
    assert len(images) == 54 and images.image_shape == (3, 2, 2)
    for size in (1, 3, 100):
        assert np.array_equal(
            np.concatenate(list(images.chunks(size))), np.concatenate((GREY[[9, 3, 3, 40]], GREY[::-1]))
        )


def test_images_are_picked_from_a_selection():
    picked = RawArrays.of(GREY, np.array([9, 3, 40])).pick(np.array([2, 0]))
    assert np.array_equal(np.concatenate(list(picked.chunks(5))), GREY[[40, 9]])


def test_files_are_not_written_before_they_are_decoded(tmp_path):
    files = RawFiles(Path("images"), ["1.png"], DecodeOptions(size=(2, 3), color=True, crop=None, invert=False))
    assert files.image_shape == (3, 2, 3)
    arrays = RawArrays.of(GREY)
    dataset = RawDataset({"train": arrays, "valid": files, "test": arrays}, np.zeros(50), "d", "o", "s")
    assert dataset.files == {"valid": files}
    preparation = Preparation({"source": "a test"}, "none", 0, {"train": 0, "valid": 0, "test": 0}, None)
    with pytest.raises(TypeError, match="expected decoded images, got files"):
        write_arrays(tmp_path / "data", dataset, lambda chunks, split: chunks, preparation)
    assert not (tmp_path / "data").exists()


def test_too_few_images_to_hold_any_out():
    with pytest.raises(InputError, match="1 images are too few"):
        held_out(1, 0.1, 0)


@pytest.mark.parametrize(("labels", "dtype"), [([0, 255], np.uint8), ([0, 256], np.int64), ([], np.uint8)])
def test_labels_have_the_smallest_type_that_fits(labels, dtype):
    assert as_labels(labels).dtype == dtype and as_labels(labels).tolist() == labels
