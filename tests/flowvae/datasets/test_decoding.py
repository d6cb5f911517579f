"""Decoding of image files: by many processes, with damaged images, and resumed after any number of kills."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from datafiles import decode_in_this_process, pixels_of, random_pixels
from PIL import Image

from flowvae.datasets import decoding
from flowvae.datasets.decoder import DecodeOptions
from flowvae.datasets.decoding import CHUNK, JOURNAL, decode_dataset, decode_files, decoding_id
from flowvae.datasets.raw import RawArrays, RawDataset, RawFiles
from flowvae.errors import InputError

OPTIONS = DecodeOptions(size=(6, 5), color=True, crop=None, invert=False)
COUNTS = {"train": 2 * CHUNK + 30, "valid": 7, "test": CHUNK}


def no_progress(done, total):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEGs, all different."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(sum(COUNTS.values())):
        Image.fromarray(random_pixels(12, 10, 3, seed=i)).save(folder / f"{i:04d}.jpg")
    return folder


def files_in(folder):
    names = iter(sorted(path.name for path in folder.iterdir()))
    return {split: RawFiles(folder, [next(names) for _ in range(count)], OPTIONS) for split, count in COUNTS.items()}


def assert_decoded(arrays, images):
    assert all(np.array_equal(pixels_of(arrays[split]), decode_in_this_process(images[split])) for split in COUNTS)


@pytest.mark.parametrize("num_processes", [1, 3])
def test_processes_decode_what_one_process_decodes(folder, tmp_path, num_processes):
    images, seen = files_in(folder), []
    arrays, corrupt = decode_files(images, tmp_path, num_processes, lambda *progress: seen.append(progress))
    assert_decoded(arrays, images)
    assert corrupt == {"train": {}, "valid": {}, "test": {}}
    total = sum(COUNTS.values())
    assert seen[0] == (0, total) and seen[-1] == (total, total) and seen == sorted(seen) and len(seen) == 6


@pytest.fixture
def damaged(folder, tmp_path):
    """A folder of links to the images, except some that cannot be read."""
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path)
    damages = {
        "0003.jpg": lambda content: content[: len(content) // 2],
        "0300.jpg": lambda content: b"",
        "0301.jpg": lambda content: b"not an image",
        "0545.jpg": lambda content: bytes(len(content)),
        "0560.jpg": lambda content: content[:200],
    }
    for name, damage in damages.items():
        content = (folder / name).read_bytes()
        (copy / name).unlink()
        (copy / name).write_bytes(damage(content))
    (copy / "0700.jpg").unlink()
    (copy / "0700.jpg").symlink_to(folder / "missing.jpg")
    return copy


UNREADABLE = {"train": ["0003.jpg", "0300.jpg", "0301.jpg"], "valid": ["0545.jpg"], "test": ["0560.jpg", "0700.jpg"]}


def test_corrupt_images_are_reported_and_skipped(folder, damaged, tmp_path):
    names = {split: files.names for split, files in files_in(folder).items()}
    images = {split: RawFiles(damaged, names[split], OPTIONS) for split in COUNTS}
    labels = np.arange(COUNTS["test"])
    decoded = decode_dataset(RawDataset(images, labels, "d", "o", "s"), tmp_path / "work", 2, no_progress)
    positions = {split: [images[split].names.index(name) for name in names] for split, names in UNREADABLE.items()}
    assert {split: list(corrupt) for split, corrupt in decoded.corrupt.items()} == positions
    assert all(reason and "\n" not in reason for corrupt in decoded.corrupt.values() for reason in corrupt.values())
    for split, files in files_in(folder).items():
        expected = np.delete(decode_in_this_process(files), positions[split], axis=0)
        assert np.array_equal(pixels_of(decoded.dataset.images[split]), expected)
    assert decoded.dataset.test_labels.tolist() == np.delete(labels, positions["test"]).tolist()
    assert not decoded.dataset.files


def test_a_data_set_of_arrays_is_not_changed(tmp_path):
    images = dict.fromkeys(COUNTS, RawArrays.of(random_pixels(3, 1, 2, 2)))
    dataset = RawDataset(images, np.arange(3), "d", "o", "s")
    decoded = decode_dataset(dataset, tmp_path / "work", 2, no_progress)
    assert decoded.dataset is dataset and not decoded.corrupt and not (tmp_path / "work").exists()


def test_large_images_are_decoded_in_small_chunks(folder, tmp_path, monkeypatch):
    """The memory of a process does not grow with the size of the images."""
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 100 * 90)
    images, seen = files_in(folder), []
    arrays, _ = decode_files(images, tmp_path, 2, lambda done, total: seen.append(done))
    assert_decoded(arrays, images)
    assert max(np.diff(seen)) == 100 and len(seen) == 1 + 6 + 1 + 3
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 1)
    assert len(list(decoding.all_chunks(images))) == sum(COUNTS.values())


def test_resumes_after_a_kill_before_the_array_had_its_size(folder, tmp_path):
    images = files_in(folder)
    (tmp_path / "train.raw").touch()
    arrays, _ = decode_files(images, tmp_path, 2, no_progress)
    assert np.array_equal(pixels_of(arrays["train"]), decode_in_this_process(images["train"]))


def test_finished_chunks_are_not_decoded_again(folder, tmp_path):
    """Chunks in the journal are reused without being read; all others are decoded, whatever the file contains."""
    images = files_in(folder)
    decode_files(images, tmp_path, 1, no_progress)
    lines = (tmp_path / JOURNAL).read_text().split("\n")[1:-1]
    (tmp_path / JOURNAL).write_text("\n".join((*lines[:2], lines[3], lines[2][:-4])))  # the last line is truncated
    lost = json.loads(lines[2])
    for split, files in images.items():
        with (tmp_path / f"{split}.raw").open("r+b") as file:
            file.write(bytes(len(files) * int(np.prod(files.image_shape))))
    arrays, _ = decode_files(images, tmp_path, 1, no_progress)
    written = {split: pixels_of(arrays[split]).any((1, 2, 3)) for split in COUNTS}
    assert written[lost[0]][lost[1] : lost[1] + CHUNK].all()
    assert sum(map(np.sum, written.values())) == sum(COUNTS.values()) - sum(
        min(CHUNK, COUNTS[split] - start) for split, start, _ in map(json.loads, (*lines[:2], lines[3]))
    )


def test_corrupt_images_are_decoded_again(folder, damaged, tmp_path):
    """Names, sizes and times may be unchanged: the disk was unavailable, or permissions were missing."""
    names = {split: files.names for split, files in files_in(folder).items()}
    images = {split: RawFiles(damaged, names[split], OPTIONS) for split in COUNTS}
    _, corrupt = decode_files(images, tmp_path / "work", 2, no_progress)
    assert sum(map(len, corrupt.values())) == 6
    for path in damaged.iterdir():
        path.unlink()
        path.symlink_to(folder / path.name)
    arrays, corrupt = decode_files(images, tmp_path / "work", 2, no_progress)
    assert not any(corrupt.values())
    assert_decoded(arrays, files_in(folder))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 100)])
def test_a_journal_without_its_array_is_ignored(folder, tmp_path, damage):
    images = files_in(folder)
    decode_files(images, tmp_path, 2, no_progress)
    damage(tmp_path / "train.raw")
    arrays, _ = decode_files(images, tmp_path, 2, no_progress)
    assert_decoded(arrays, images)


SLOW = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
import test_decoding as test
from flowvae.datasets.decoding import decode_files

def on_progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)

decode_files(test.files_in(Path({folder!r})), Path({work!r}), 2, on_progress)
print("finished", flush=True)
"""


@pytest.mark.long
def test_killed_many_times(folder, tmp_path):
    """By SIGKILL at any moment: no process survives, finished chunks remain, and the bytes are the same in the end."""
    code = SLOW.format(path=sys.path, folder=str(folder), work=str(tmp_path / "work"))
    rng, outputs = np.random.default_rng(), []
    for i in range(60):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # it has started
        time.sleep(rng.uniform(0, 0.2) * 1.1**i)  # also on a machine so busy that nothing is done in a moment
        os.kill(process.pid, signal.SIGKILL)
        outputs.append(process.communicate(timeout=60)[0])  # returns when no process, decoders included, has the pipe
        if "finished" in outputs[-1]:
            break
    assert len(outputs) > 1 and "finished" in outputs[-1]
    images = files_in(folder)
    arrays, _ = decode_files(images, tmp_path / "work", 1, no_progress)
    assert_decoded(arrays, images)


def test_the_id_changes_with_everything_that_the_bytes_depend_on(folder):
    images = files_in(folder)
    grey = DecodeOptions(size=(6, 5), color=False, crop=None, invert=False)
    seen = {decoding_id(images)}
    assert decoding_id(files_in(folder)) in seen
    seen.add(decoding_id(images | {"valid": RawFiles(folder, images["valid"].names[:-1], OPTIONS)}))
    seen.add(decoding_id({split: RawFiles(folder, files.names, grey) for split, files in images.items()}))
    seen.add(decoding_id({"train": images["test"], "valid": images["valid"], "test": images["train"]}))
    path = folder / images["train"].names[0]
    os.utime(path, (1, 1))
    seen.add(decoding_id(images))
    assert len(seen) == 5


def test_a_full_disk_is_an_error_and_finished_chunks_remain(folder, tmp_path, monkeypatch):
    """The disk is full only for the decoders, whose files have a size limit."""
    images = files_in(folder)
    decoders = decoding.decoders

    def limited(count):
        monkeypatch.setattr(decoding.sys, "executable", str(tmp_path / "python"))
        return decoders(count)

    limit = CHUNK * 90 // 512 + 10  # blocks of 512 bytes: space for one chunk with 90 bytes per image
    (tmp_path / "python").write_text(f'#!/bin/sh\ntrap "" XFSZ\nulimit -f {limit}\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decoders", limited)
        with pytest.raises(OSError, match="File too large") as caught:
            decode_files(images, tmp_path / "work", 1, no_progress)
    assert caught.value.filename == str(tmp_path / "work/train.raw")
    monkeypatch.undo()
    seen = []
    arrays, _ = decode_files(images, tmp_path / "work", 1, lambda *progress: seen.append(progress))
    assert seen[0][0] == CHUNK
    assert np.array_equal(pixels_of(arrays["train"]), decode_in_this_process(images["train"]))


def test_a_decoder_that_dies_is_an_error_of_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="a decoding process died") as caught:
        decode_files(files_in(folder), tmp_path, 2, no_progress)
    assert "\n" not in str(caught.value)


def test_decoders_import_nothing_large():
    """Neither torch nor NumPy, which would need hundreds of megabytes on a machine with many cores."""
    code = (
        "import sys, flowvae.datasets.decoder; print(*{'torch', 'numpy', 'torchvision', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
