"""Images in tar archives: decoded in place, by many processes, also if some are damaged."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from datafiles import pixels_of, random_pixels, write_tar
from examples import data_config
from PIL import Image

from flowvae.datasets.decoder import DecodeOptions
from flowvae.datasets.decoding import decode_dataset, decode_files, decoding_id
from flowvae.datasets.folder import folder_fingerprint, read_folder
from flowvae.datasets.tar_files import tar_images
from flowvae.errors import InputError

OPTIONS = DecodeOptions(size=(8, 8), color=True, crop=None, invert=False)


def fill(folder, count=300):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(random_pixels(8, 8, 3, seed=i)).save(folder / f"{i:04d}.png")


def no_progress(done, total):
    pass


@pytest.fixture
def archive(tmp_path):
    """An archive of 300 images in a folder, of which one is no image; and other files."""
    fill(tmp_path / "images")
    (tmp_path / "images/0007.png").write_bytes(b"no image")
    (tmp_path / "images/notes.txt").write_text("no image either")
    (tmp_path / "images/.hidden.png").write_text("")
    write_tar(tmp_path / "images.tar", tmp_path / "images")
    return tmp_path / "images.tar"


def test_images_are_decoded_in_place_as_files_are(archive, tmp_path):
    images, passed_over = tar_images(archive, OPTIONS)
    assert len(images) == 300 and passed_over == {".txt": 1} and images.image_shape == (3, 8, 8)
    arrays, corrupt = decode_files({"train": images}, tmp_path / "work", 2, no_progress)
    expected = {name: random_pixels(8, 8, 3, seed=int(Path(name).stem)).transpose(2, 0, 1) for name in images.names}
    (damaged,) = corrupt["train"]
    assert images.names[damaged] == "images/0007.png" and corrupt["train"][damaged] == "cannot identify image file"
    readable = [name for name in images.names if name != "images/0007.png"]
    assert np.array_equal(pixels_of(arrays["train"]), [expected[name] for name in readable])


def test_images_may_be_picked(archive, tmp_path):
    images, _ = tar_images(archive, OPTIONS)
    chosen = images.pick(np.array([200, 3]))
    arrays, _ = decode_files({"train": chosen}, tmp_path / "work", 1, no_progress)
    expected = [random_pixels(8, 8, 3, seed=int(Path(images.names[i]).stem)).transpose(2, 0, 1) for i in (200, 3)]
    assert np.array_equal(pixels_of(arrays["train"]), expected)


def test_finished_chunks_are_not_read_again(archive, tmp_path, monkeypatch):
    """A run that was killed resumes, as with files of their own."""
    monkeypatch.setattr("flowvae.datasets.decoding.CHUNK", 50)
    images, seen = tar_images(archive, OPTIONS)[0], []
    first, _ = decode_files({"train": images}, tmp_path / "work", 1, no_progress)
    expected = pixels_of(first["train"])
    decode_files({"train": images}, tmp_path / "work", 1, lambda done, total: seen.append(done))
    assert seen == [250, 300]  # only the chunk with the image that cannot be read
    again, _ = decode_files({"train": images}, tmp_path / "work", 1, no_progress)
    assert np.array_equal(pixels_of(again["train"]), expected)


def test_another_archive_is_noticed(archive):
    images, _ = tar_images(archive, OPTIONS)
    before = decoding_id({"train": images})
    assert decoding_id({"train": tar_images(archive, OPTIONS)[0]}) == before
    os.utime(archive, (1, 1))
    assert decoding_id({"train": images}) != before


def test_listing_keeps_no_members(archive, monkeypatch):
    """A million members would need a gigabyte."""
    kept, next_member = [], tarfile.TarFile.next

    def counted(tar):
        kept.append(len(tar.members))
        return next_member(tar)

    monkeypatch.setattr(tarfile.TarFile, "next", counted)
    tar_images(archive, OPTIONS)
    assert len(kept) > 300 and max(kept) <= 1


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_a_compressed_archive(tmp_path, mode):
    with tarfile.open(tmp_path / "images.tar", mode) as tar:
        tar.addfile(tarfile.TarInfo("0.png"), io.BytesIO())
    with pytest.raises(InputError, match=r"images\.tar: not an uncompressed tar archive, or damaged \(") as caught:
        tar_images(tmp_path / "images.tar", OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("past", [-600, -100, 0, 100, 700])
def test_an_archive_that_is_cut_off(archive, past):
    """In a header, in a file, after a file, or in what precedes the next one."""
    offset, _ = tar_images(archive, OPTIONS)[0].spans[50].tolist()
    os.truncate(archive, offset + tarfile.BLOCKSIZE + past)
    with pytest.raises(InputError, match="not an uncompressed tar archive, or damaged"):
        tar_images(archive, OPTIONS)


def test_no_archive(tmp_path):
    with pytest.raises(InputError, match=r"images\.tar: cannot be read \(No such file or directory\)"):
        tar_images(tmp_path / "images.tar", OPTIONS)


def test_the_folder_of_a_user_may_be_an_archive(tmp_path):
    """With the split of its folders, and the same images as when it is unpacked."""
    for split, count in (("train", 30), ("test", 10)):
        fill(tmp_path / "photos" / split, count)
    write_tar(tmp_path / "photos.tar", tmp_path / "photos")
    pixels = []
    for name in ("photos", "photos.tar"):
        config = data_config("folder", folder={"path": str(tmp_path / name), "size": [8, 8]})
        assert folder_fingerprint(config) == folder_fingerprint(config)
        dataset = read_folder(Path("unused"), config)
        assert "train" in dataset.split and len(dataset.images["test"]) == 10
        pixels.append(decode_dataset(dataset, tmp_path / f"work-{name}", 1, no_progress).dataset.images)
    for split in ("train", "valid", "test"):
        one, other = (sorted(image.tobytes() for image in pixels_of(images[split])) for images in pixels)
        assert one == other
