"""Folders of images: which files, which split, and how unusual formats are decoded."""

import math
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from datafiles import extract, random_pixels
from examples import data_config
from PIL import Image, ImageCms

from flowvae.datasets.decoder import DecodeOptions, decode
from flowvae.datasets.decoding import decode_dataset
from flowvae.datasets.folder import folder_fingerprint, read_folder
from flowvae.errors import InputError

DATA_ROOT = os.environ.get("FLOWVAE_DATA_ROOT")
SPLITS = ("train", "valid", "test")


def fill(folder, *names):
    """Write PNGs of 8 x 8 random pixels."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_pixels(8, 8, 3, seed=seed)).save(path)


def config_of(folder, **changes):
    return data_config("folder", folder={"path": str(folder)} | changes)


def read(folder, **changes):
    return read_folder(Path("unused"), config_of(folder, **changes))


def names_of(dataset):
    return {split: list(files.names) for split, files in dataset.images.items()}


def test_any_depth_any_name_any_case(tmp_path):
    extensions = ("png", "JPG", "tiff", "webp", "GIF")
    fill(
        tmp_path,
        *(
            f"{folder}{i}.{extension}"
            for folder in ("", "a/", "a/b c/", "ü/")
            for i, extension in enumerate(extensions)
        ),
    )
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / ".thumbnails").mkdir()
    fill(tmp_path / ".thumbnails", "small.png")
    dataset = read(tmp_path)
    names = names_of(dataset)
    assert dataset.note == "1 file passed over: 1 .txt"
    everything = sorted(name for files in names.values() for name in files)
    assert len(set(everything)) == 20 and "a/b c/1.JPG" in everything and "ü/4.GIF" in everything


def test_drawn_splits_follow_the_seed_and_the_fractions(tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    for i in range(1, 1000):
        os.link(tmp_path / "0.png", tmp_path / f"{i}.png")
    first, again = names_of(read(tmp_path)), names_of(read(tmp_path))
    assert first == again and sorted(name for names in first.values() for name in names) == sorted(
        f"{i}.png" for i in range(1000)
    )
    other = names_of(read_folder(tmp_path, config_of(tmp_path).model_copy(update={"seed": 1})))
    assert all(first[split] != other[split] for split in SPLITS)
    shares = [len(names_of(read(tmp_path, test_fraction=fraction))["test"]) for fraction in (0.1, 0.5)]
    assert abs(shares[0] - 100) < 4 * math.sqrt(1000 * 0.1 * 0.9) and abs(shares[1] - 500) < 4 * math.sqrt(250)


def test_an_image_stays_in_its_split(tmp_path):
    """Whatever else is added or removed, and wherever the folder is."""
    fill(tmp_path / "images", *(f"{i}.png" for i in range(100)))
    before = names_of(read(tmp_path / "images"))
    fill(tmp_path / "images", *(f"{i}.png" for i in range(100, 140)))
    for i in range(0, 100, 3):
        (tmp_path / f"images/{i}.png").unlink()
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere/photos/2026")
    for folder in ("images", "elsewhere"):
        after = {
            split: [Path(name).name for name in names] for split, names in names_of(read(tmp_path / folder)).items()
        }
        for split in SPLITS:
            kept = [name for name in before[split] if int(Path(name).stem) % 3]
            assert kept == [name for name in after[split] if int(Path(name).stem) < 100] and kept


def test_split_by_folders(tmp_path):
    fill(tmp_path, *(f"train/{i}.png" for i in range(20)), "valid/x/9.png", "test/7.png", "test/deep/er/8.png")
    dataset = read(tmp_path)
    assert names_of(dataset)["valid"] == ["valid/x/9.png"] and len(names_of(dataset)["train"]) == 20
    assert names_of(dataset)["test"] == ["test/7.png", "test/deep/er/8.png"]
    assert dataset.split == "by the folders test, train, valid"
    shutil.rmtree(tmp_path / "valid")
    dataset = read(tmp_path)
    found = names_of(dataset)
    assert found["test"] == ["test/7.png", "test/deep/er/8.png"] and len(found["train"]) + len(found["valid"]) == 20
    assert found["valid"] and found["train"] and "by their names (seed 0)" in dataset.split


NAMES = (
    *(("train", "valid", "test"), ("Train", "val", "TEST"), ("training", "validation", "testing")),
    *(("train_images", "val_images", "test_images"), ("images-train", "images-val", "images-test")),
    *(
        ("trainset", "valset", "testset"),
        ("training data", "validation data", "test data"),
        ("imgs.train", "VAL", "Test"),
    ),
)


@pytest.mark.parametrize("names", NAMES, ids=", ".join)
@pytest.mark.parametrize("enclosing", ["", "cifar10/", "a/b c/"])
def test_common_names_of_splits_also_inside_enclosing_folders(tmp_path, names, enclosing):
    fill(tmp_path, *(f"{enclosing}{name}/{kind}/{i}.png" for name in names for kind in "ab" for i in range(2)))
    dataset = read(tmp_path)
    assert dataset.split == f"by the folders {', '.join(sorted(names))}"
    for split, name in zip(SPLITS, names, strict=True):
        assert names_of(dataset)[split] == [f"{enclosing}{name}/{kind}/{i}.png" for kind in "ab" for i in range(2)]
    assert dataset.test_labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "names",
    [
        *(("train2017", "val2017", "test2017"), ("trainA", "trainB", "testA", "testB"), ("trian", "test1")),
        *(("train_new", "eval"), ("train 1", "holdout"), ("TRAINING-2", "dev", "other")),
    ],
    ids=", ".join,
)
def test_names_that_only_look_like_splits_are_refused(tmp_path, names):
    fill(tmp_path, *(f"images/{name}/{i}.png" for name in names for i in range(3)))
    similar = [name for name in sorted(names) if name != "other"]
    assert_refused(tmp_path, f"look like splits ({', '.join(similar)})", "rename them to train, valid and test")


@pytest.mark.parametrize(
    "names", [("train_station", "train_interior", "airport"), ("cats", "dogs"), ("rain", "snow"), ("trains", "planes")]
)
def test_names_of_classes_are_not_taken_for_splits(tmp_path, names):
    fill(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(9)))
    assert "all images drawn for test" in read(tmp_path).split


def test_splits_below_classes_are_refused(tmp_path):
    fill(
        tmp_path, *(f"{kind}/{split}/{i}.png" for kind in ("cats", "dogs") for split in ("train", "test") for i in "12")
    )
    assert_refused(tmp_path, "cats/test/1.png", "make train and test (and optionally valid) the uppermost folders")


def test_labels_are_folders(tmp_path):
    fill(tmp_path, *(f"train/cats/{i}.png" for i in range(9)))
    fill(tmp_path, *(f"test/{kind}/{i}.png" for kind in "ba" for i in range(2)))
    assert read(tmp_path).test_labels.tolist() == [0, 0, 1, 1]
    shutil.rmtree(tmp_path / "test/b")
    assert read(tmp_path).test_labels.tolist() == [0, 1]  # one folder is no information: each image is its own class


def assert_refused(folder, *words):
    with pytest.raises(InputError) as caught:
        read(folder)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in ("data.folder.path", str(folder), *words)), line


def test_folders_that_cannot_be_used(tmp_path):
    assert_refused(tmp_path / "missing", "No such file")
    assert_refused(tmp_path, "contains no images")
    (tmp_path / "notes.txt").write_text("no image")
    assert_refused(tmp_path, "contains no images")
    assert_refused(tmp_path / "notes.txt", "Not a directory")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_half_a_split(tmp_path, missing):
    fill(tmp_path, *(f"{split}/{i}.png" for split in {*SPLITS} - {missing} for i in range(5)))
    assert_refused(tmp_path, f"none in {missing}")


def test_images_outside_the_split_folders(tmp_path):
    fill(tmp_path, "train/1.png", "train/2.png", "test/1.png", "other/3.png")
    assert_refused(tmp_path, "other/3.png", "outside train, valid, test")


def test_every_format_that_pillow_reads(tmp_path):
    """Also formats that the plugin of another format reads, and colours that Pillow cannot convert to grey."""
    picture = Image.new("RGB", (8, 8), (200, 100, 50))
    for i in range(8):
        picture.save(tmp_path / f"{i}.mpo", save_all=True, append_images=[picture])
        ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        ).save(tmp_path / f"{i}.tif")
    for color in (True, False):
        dataset = read(tmp_path, color=color)
        names = [name for split in names_of(dataset).values() for name in split]
        assert {os.path.splitext(name)[1] for name in names} == {".mpo", ".tif"} and len(names) == 16
        decoded = decode_dataset(dataset, tmp_path / f"work-{color}", 1, lambda done, total: None)
        assert not any(decoded.corrupt.values())


def test_files_that_are_passed_over_are_counted_by_their_endings(tmp_path):
    fill(tmp_path, "1.png", "2.png")
    for name in ("a.heik", "b.HEIK", "c.jpg.1", "d.jpg.2", "e/f.txt", "README", "x.heik", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert read(tmp_path).note == "7 files passed over: 3 .heik, 1 .jpg.1, 1 .jpg.2, 1 .txt, 1 without an ending"
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    assert_refused(tmp_path, "contains no images (7 files passed over: 3 .heik, ")


def test_heif_is_read_where_its_plugin_is_installed(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    image = Image.fromarray(random_pixels(64, 48, 3)).resize((96, 128), Image.Resampling.BICUBIC)
    for i in range(30):
        image.save(tmp_path / f"IMG_{i:04d}.HEIC", quality=90)
    dataset = read(tmp_path, size=[16, 12])
    decoded = decode_dataset(dataset, tmp_path / "work", 1, lambda done, total: None)
    assert not any(decoded.corrupt.values())
    (found,) = decoded.dataset.images["train"].pick(np.array([0])).chunks(1)
    expected = np.asarray(image.resize((12, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert abs(found[0].astype(int) - expected).mean() < 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to switch to a user without permission")
def test_a_folder_without_permission(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(5)))
    os.chmod(tmp_path, 0)
    os.seteuid(65534)
    try:
        assert_refused(tmp_path, "cannot be read (Permission denied)")
    finally:
        os.seteuid(0)


def test_circular_links_are_followed_once(tmp_path):
    fill(tmp_path / "images", *(f"a/{i}.png" for i in range(9)))
    (tmp_path / "images/a/back").symlink_to(tmp_path / "images")
    (tmp_path / "other").mkdir()
    fill(tmp_path / "other", "10.png")
    (tmp_path / "images/more").symlink_to(tmp_path / "other")
    (tmp_path / "images/same").symlink_to(tmp_path / "images/a")  # otherwise an image would be in training and in test
    assert sum(map(len, names_of(read(tmp_path / "images")).values())) == 10


def test_links_to_what_is_there_anyway_are_passed_over(tmp_path):
    """Whatever their names: `latest` comes before `train`."""
    fill(tmp_path / "images", *(f"{split}/{i}.png" for split in SPLITS for i in range(4)))
    (tmp_path / "images/latest").symlink_to("train")
    (tmp_path / "images/test/best.png").symlink_to("../train/1.png")
    dataset = read(tmp_path / "images")
    assert {split: len(names) for split, names in names_of(dataset).items()} == dict.fromkeys(SPLITS, 4)
    assert dataset.note == "1 file passed over: 1 links to images that are listed anyway"


def test_links_into_hidden_folders_and_out_of_the_folder_are_images(tmp_path):
    """As git-annex and DVC's cache have them."""
    fill(tmp_path / "images/.annex", *(f"{i}.png" for i in range(5)))
    fill(tmp_path / "cache", *(f"{i}.png" for i in range(5, 10)))
    for i in range(5):
        (tmp_path / f"images/{i}.png").symlink_to(f".annex/{i}.png")
        (tmp_path / f"images/{i + 5}.png").symlink_to(tmp_path / f"cache/{i + 5}.png")
    assert sum(map(len, names_of(read(tmp_path / "images")).values())) == 10


def test_a_broken_link_is_an_unreadable_image(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(30)))
    (tmp_path / "31.png").symlink_to("nowhere")
    assert folder_fingerprint(config_of(tmp_path))
    decoded = decode_dataset(read(tmp_path), tmp_path / "work", 1, lambda done, total: None)
    assert [reason for corrupt in decoded.corrupt.values() for reason in corrupt.values()] == [
        "No such file or directory"
    ]


def test_the_fingerprint_changes_with_every_change(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(5)))
    seen = [folder_fingerprint(config_of(tmp_path))]
    assert folder_fingerprint(config_of(tmp_path)) == seen[0]

    def add():
        fill(tmp_path, "new/6.png")

    def rename():
        (tmp_path / "1.png").rename(tmp_path / "1b.png")

    def remove():
        (tmp_path / "2.png").unlink()

    def write():  # the same number of bytes
        content = bytearray((tmp_path / "3.png").read_bytes())
        content[-20] ^= 1
        (tmp_path / "3.png").write_bytes(content)

    for change in (add, rename, remove, write):
        change()
        seen.append(folder_fingerprint(config_of(tmp_path)))
    assert len(set(seen)) == 5
    (tmp_path / "notes.txt").write_text("no image")
    assert folder_fingerprint(config_of(tmp_path)) == seen[-1]


def pixels(path, *size, color=True, crop=None, invert=False):
    options = DecodeOptions(size=size, color=color, crop=crop, invert=invert)
    array = np.frombuffer(decode(str(path), options), np.uint8)
    return array.reshape(3 if color else 1, *size)


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (16, 16), (6, 3)])
def test_images_are_cropped_to_the_proportions_and_resized(tmp_path, size):
    image = Image.fromarray(random_pixels(30, 20, 3)).resize((200, 300), Image.Resampling.BICUBIC)
    image.save(path := tmp_path / "x.png")
    height, width = (200, 200) if size[0] == size[1] else (300, 150)
    top, left = (300 - height) // 2, (200 - width) // 2
    expected = image.crop((left, top, left + width, top + height)).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(pixels(path, *size), np.asarray(expected).transpose(2, 0, 1))


def test_an_image_of_the_right_size_keeps_its_bytes(tmp_path):
    array = random_pixels(9, 7, 3)
    Image.fromarray(array).save(path := tmp_path / "x.png")
    assert np.array_equal(pixels(path, 9, 7), array.transpose(2, 0, 1))


def test_grey_as_colour_and_colour_as_grey(tmp_path):
    Image.fromarray(GREY).save(path := tmp_path / "grey.png")
    assert np.array_equal(pixels(path, 8, 8), np.stack([GREY] * 3))
    assert np.array_equal(pixels(path, 8, 8, color=False), GREY[None])
    assert np.array_equal(pixels(path, 8, 8, color=False, invert=True), 255 - GREY[None])
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path := tmp_path / "red.png")
    assert (pixels(path, 8, 8, color=False) == 76).all()  # ITU-R 601: 0.299


def test_transparent_pixels_become_white(tmp_path):
    array = np.zeros((8, 8, 4), np.uint8)
    array[:4, :, 3] = 255
    array[4, :, 3] = 128
    Image.fromarray(array, "RGBA").save(path := tmp_path / "rgba.png")
    found = pixels(path, 8, 8)
    assert (found[:, :4] == 0).all() and (found[:, 5:] == 255).all() and (abs(found[:, 4].astype(int) - 127) <= 1).all()
    Image.fromarray(array[..., [0, 3]], "LA").save(path := tmp_path / "la.png")
    assert np.array_equal(pixels(path, 8, 8), found)


def test_palettes(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 8, 4))
    image.save(path := tmp_path / "palette.png")
    found = pixels(path, 8, 8)
    assert found[:, 0, 0].tolist() == [10, 20, 30] and found[:, 7, 7].tolist() == [200, 100, 50]
    image.save(path := tmp_path / "transparent.png", transparency=1)
    assert pixels(path, 8, 8)[:, 7, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("extension", ["png", "tiff", "pgm"])
def test_16_bit_values_are_scaled(tmp_path, extension):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path := tmp_path / f"deep.{extension}")
    assert np.array_equal(pixels(path, 8, 8, color=False)[0], GREY)
    assert np.array_equal(pixels(path, 8, 8)[2], GREY)


def test_floating_point_values_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(path := tmp_path / "x.tiff")
    with pytest.raises(ValueError, match="unknown range"):
        pixels(path, 8, 8)


@pytest.mark.parametrize("value", [65536, -1])
def test_32_bit_values_are_refused(tmp_path, value):
    Image.fromarray(np.where(GREY > 100, value, 0).astype(np.int32)).save(path := tmp_path / "x.tiff")
    with pytest.raises(ValueError, match="unknown range"):
        pixels(path, 8, 8)


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path := tmp_path / "red.jpg", quality=100)
    red, green, blue = pixels(path, 8, 8)
    assert red.min() > 250 and green.max() < 5 and blue.max() < 5


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    frames[0].save(path := tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert pixels(path, 8, 8)[:, 3, 3].tolist() == [250, 0, 0]


def test_exif_orientation(tmp_path):
    image = Image.new("RGB", (8, 4), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be displayed rotated by 90 degrees clockwise
    image.save(path := tmp_path / "rotated.png", exif=exif)
    found = pixels(path, 8, 4)
    assert (found[:, :4] == 255).all() and (found[:, 4:] == 0).all()


def test_too_small_for_the_crop(tmp_path):
    Image.fromarray(GREY).save(path := tmp_path / "x.png")
    with pytest.raises(ValueError, match="8 x 8 pixels, too few for a crop of 9 x 9"):
        pixels(path, 4, 4, crop=9)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """11,000 real images."""
    archive = Path(DATA_ROOT or "missing") / "cifar10-png-11k.tar"
    if not archive.is_file():
        pytest.skip("set FLOWVAE_DATA_ROOT to a folder with cifar10-png-11k.tar")
    folder = tmp_path_factory.mktemp("images")
    with tarfile.open(archive) as files:
        extract(files, folder)
    return folder / "cifar10"


def test_real_images(cifar10):
    dataset = read(cifar10, size=[32, 32])
    assert {split: len(files) for split, files in dataset.images.items()} == {
        "train": 8975,
        "valid": 1025,
        "test": 1000,
    }
    assert np.bincount(dataset.test_labels).tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    files = dataset.images["test"]
    for i in (0, 500, 999):
        with Image.open(files.folder / files.names[i]) as image:
            expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(pixels(files.folder / files.names[i], 32, 32), expected)
