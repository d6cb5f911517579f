"""Images that commands are called with: how files and arrays become images of a model, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from flowvae.commands.images import read_images
from flowvae.commands.masks import HALVES, read_mask
from flowvae.datasets.config import FolderConfig
from flowvae.datasets.decoder import decode
from flowvae.errors import InputError

GREY, RGB = (1, 4, 4), (3, 4, 4)


def read(*paths, shape=GREY, of_bits=False, binarization="threshold", seed=0):
    return read_images(paths, shape, of_bits=of_bits, binarization=binarization, seed=seed)


def saved(path, array):
    np.save(path, array)
    return path


def random_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_files_are_read_as_those_of_the_data_set_folder(pictures):
    assert set(FolderConfig.model_fields) >= {"size", "color"}
    for shape in (GREY, RGB):
        images = read(pictures, shape=shape)
        options = {"size": shape[1:], "color": shape == RGB, "crop": None, "invert": False}
        assert images.pixels.numpy()[3].tobytes() == decode(str(pictures / "more/d.png"), options)
        assert len(images.names) == 4


def test_order_is_that_of_the_command_line(pictures):
    images = read(pictures / "c.png", pictures, pictures / "c.png")
    assert [name.removeprefix(f"{pictures}/") for name in images.names] == [
        *("c.png", "a.png", "b.jpg", "c.png", "more/d.png", "c.png")
    ]
    assert np.array_equal(images.pixels[0], images.pixels[3])


@pytest.mark.parametrize(
    ("shape", "array", "expected"),
    [
        (GREY, "(3, 4, 4)", lambda some: some[:, None]),
        (GREY, "(3, 1, 4, 4)", lambda some: some),
        (GREY, "(3, 4, 4, 1)", lambda some: some.transpose(0, 3, 1, 2)),
        (GREY, "(4, 4)", lambda some: some[None, None]),
        (GREY, "(1, 4, 4)", lambda some: some[None]),
        (RGB, "(5, 3, 4, 4)", lambda some: some),
        (RGB, "(5, 4, 4, 3)", lambda some: some.transpose(0, 3, 1, 2)),
        (RGB, "(4, 4, 3)", lambda some: some.transpose(2, 0, 1)[None]),
        (RGB, "(3, 4, 4)", lambda some: some[None]),
    ],
)
def test_arrays_of_the_shape_of_the_model_are_as_they_are(tmp_path, shape, array, expected):
    some = random_bytes(*map(int, array.strip("()").split(", ")))
    images = read(path := saved(tmp_path / "some.npy", some), shape=shape)
    assert np.array_equal(images.pixels, expected(some))
    count = len(images.pixels)
    assert images.names == ([str(path)] if count == 1 else [f"{path}[{i}]" for i in range(count)])


@pytest.mark.parametrize("array", [(2, 9, 12, 3), (2, 3, 9, 12), (2, 9, 12)])
@pytest.mark.parametrize("shape", [GREY, RGB])
def test_arrays_of_another_shape_become_what_files_of_them_would(tmp_path, array, shape):
    some = random_bytes(*array)
    pictures = some.transpose(0, 2, 3, 1) if array[1] == 3 else some
    for i, picture in enumerate(pictures):
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / f"{i}.png")
    from_files = read(tmp_path, shape=shape).pixels
    from_arrays = read(saved(tmp_path / "some.npy", some), shape=shape).pixels
    assert np.array_equal(from_arrays, from_files)


def test_values_of_arrays(tmp_path):
    grey = random_bytes(5, 4, 4)
    bits = grey > 127
    for name, array, expected in (
        ("floats", grey / 255, grey),
        ("half", (grey / 255).astype(np.float16), grey),
        ("integers", grey.astype(np.int64), grey),
        ("bools", bits, 255 * bits),
        ("bits of 8-bit values", bits.astype(np.uint8), bits),
    ):
        images = read(saved(tmp_path / f"{name}.npy", array))
        assert np.array_equal(images.pixels[:, 0], expected), name
    for name, array in (("bools", bits), ("bytes", bits.astype(np.uint8)), ("floats", bits.astype(float))):
        for binarization in ("threshold", "draw"):
            images = read(saved(tmp_path / f"{name}.npy", array), of_bits=True, binarization=binarization)
            assert np.array_equal(images.pixels[:, 0], bits) and images.note is None


def test_npz_files(tmp_path):
    grey, other = random_bytes(5, 4, 4), np.zeros(3)
    np.savez(tmp_path / "one.npz", anything=grey)
    np.savez(tmp_path / "named.npz", other=other, images=grey)
    np.savez(tmp_path / "several.npz", other=other, more=grey)
    for name in ("one", "named"):
        assert np.array_equal(read(tmp_path / f"{name}.npz").pixels[:, 0], grey)
    with pytest.raises(InputError, match="an array named images, or a single one, got other, more"):
        read(tmp_path / "several.npz")


def test_grey_values_become_bits(tmp_path):
    path = saved(tmp_path / "grey.npy", np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (400, 1, 1)))
    by_threshold = read(path, shape=(1, 16, 16), of_bits=True)
    assert np.array_equal(by_threshold.pixels[7].flatten(), np.arange(256) > 127)
    assert by_threshold.note == "grey values became bits by threshold: values above half become 1"
    drawn = [read(path, shape=(1, 16, 16), of_bits=True, binarization="draw", seed=seed) for seed in (0, 0, 1)]
    assert np.abs(drawn[0].pixels.numpy().mean(0).flatten() - np.arange(256) / 255).max() < 0.12
    assert np.array_equal(drawn[0].pixels, drawn[1].pixels) and not np.array_equal(drawn[0].pixels, drawn[2].pixels)
    assert drawn[0].note.startswith("grey values became bits by draw")


def test_images_that_cannot_be_read(tmp_path, pictures):
    def complaint(path, shape=GREY):
        with pytest.raises(InputError) as caught:
            read(path, shape=shape)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert complaint(tmp_path / "empty") == f"{tmp_path / 'empty'}: contains no images"
    assert "notes.txt: cannot be read as an image" in complaint(pictures / "notes.txt")
    (pictures / "c.png").write_bytes((pictures / "c.png").read_bytes()[:100])
    assert "c.png: cannot be read as an image" in complaint(pictures)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    assert "cut.npy: cannot be read as arrays" in complaint(tmp_path / "cut.npy")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    assert "cut.npz: cannot be read as arrays" in complaint(tmp_path / "cut.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    assert "objects.npy: cannot be read as arrays" in complaint(tmp_path / "objects.npy")
    for name, array, expected in (
        ("none", np.zeros((0, 4, 4)), "has no images"),
        ("words", np.array(["a"]), "expected integers from 0 to 255, or numbers from 0 to 1, got <U1"),
        ("negative", np.full((4, 4), -1), "expected integers from 0 to 255"),
        ("large", np.full((4, 4), 256), "expected integers from 0 to 255"),
        ("not a number", np.full((4, 4), np.nan), "expected integers from 0 to 255"),
        ("floats", np.full((4, 4), 200.0), "expected numbers from 0 to 1, got 200; convert 8-bit values to uint8"),
        ("flat", np.zeros(16), "expected images of shape (1, 4, 4) or (4, 4, 1), got an array of shape (16,)"),
    ):
        assert expected in complaint(saved(tmp_path / f"{name}.npy", array))
    assert "have 2 channels" in complaint(pictures / "a.png", shape=(2, 4, 4))


def test_masks(tmp_path):
    lower, upper, left, right = (read_mask(name, (3, 5, 4), 2) for name in HALVES)
    assert lower[:, 2:].all() and not lower[:, :2].any() and np.array_equal(upper, ~lower)
    assert right[..., 2:].all() and not right[..., :2].any() and np.array_equal(left, ~right)
    spot = np.zeros((5, 4), np.uint8)
    spot[1, 2] = 1
    Image.fromarray(255 * spot).save(tmp_path / "spot.png")
    for path in (tmp_path / "spot.png", saved(tmp_path / "spot.npy", spot)):
        mask = read_mask(str(path), (3, 5, 4), 2)
        assert mask.shape == (3, 5, 4) and np.array_equal(mask[2], spot) and mask.sum() == 3
    each = np.stack((spot, 1 - spot))
    mask = read_mask(str(saved(tmp_path / "each.npy", each)), (3, 5, 4), 2)
    assert mask.shape == (2, 3, 5, 4) and np.array_equal(mask[1, 0], 1 - spot)
    for text, expected in (
        ("middle", "expected lower-half, upper-half, left-half, right-half, or a file, got middle"),
        (str(saved(tmp_path / "small.npy", spot[:3])), "expected shape (5, 4), (3, 5, 4) or (2, 3, 5, 4), got (3, 4)"),
        (str(saved(tmp_path / "nothing.npy", 0 * spot)), "marks no pixel"),
    ):
        with pytest.raises(InputError) as caught:
            read_mask(text, (3, 5, 4), 2)
        assert expected in str(caught.value)
