"""Image files become arrays: by many processes, whatever is damaged, however often the work is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from datafiles import random_pixels
from PIL import Image

from flowvae.data import streaming
from flowvae.data.decoding import decode
from flowvae.data.rows import ImageFiles, Source
from flowvae.data.streaming import CHUNK, JOURNAL, decode_files, decode_source, work_id
from flowvae.errors import InputError

HOW = {"size": (6, 5), "color": True, "crop": None, "invert": False}
COUNTS = {"train": 2 * CHUNK + 30, "valid": 7, "test": CHUNK}


def quiet(done, total):
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
    return {split: ImageFiles(folder, [next(names) for _ in range(count)], HOW) for split, count in COUNTS.items()}


def by_hand(files):
    pixels = [np.frombuffer(decode(str(files.folder / name), **files.how), np.uint8) for name in files.names]
    return np.stack(pixels).reshape(-1, *files.image_shape)


def pixels_of(rows):
    return np.concatenate(list(rows.chunks(100)))


@pytest.mark.parametrize("num_processes", [1, 3])
def test_what_is_decoded_is_what_one_process_decodes(folder, tmp_path, num_processes):
    images, seen = files_in(folder), []
    rows, corrupt = decode_files(images, tmp_path, num_processes, lambda *progress: seen.append(progress))
    assert all(np.array_equal(pixels_of(rows[split]), by_hand(images[split])) for split in COUNTS)
    assert corrupt == {"train": {}, "valid": {}, "test": {}}
    total = sum(COUNTS.values())
    assert seen[0] == (0, total) and seen[-1] == (total, total) and seen == sorted(seen) and len(seen) == 6


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy by links with some images that cannot be read."""
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
    (copy / "0700.jpg").symlink_to(folder / "nowhere.jpg")
    return copy


def test_corrupt_images_are_named_and_left_out(folder, damaged, tmp_path):
    names = {split: files.names for split, files in files_in(folder).items()}
    images = {split: ImageFiles(damaged, names[split], HOW) for split in COUNTS}
    labels = np.arange(COUNTS["test"])
    source, corrupt = decode_source(Source(images, labels, "d", "o", "s"), tmp_path / "work", 2, quiet)
    places = {split: [images[split].names.index(name) for name in names] for split, names in LOST.items()}
    assert {split: list(found) for split, found in corrupt.items()} == places
    assert all(reason and "\n" not in reason for found in corrupt.values() for reason in found.values())
    for split, files in files_in(folder).items():
        assert np.array_equal(pixels_of(source.images[split]), np.delete(by_hand(files), places[split], axis=0))
    assert source.test_labels.tolist() == np.delete(labels, places["test"]).tolist()


LOST = {"train": ["0003.jpg", "0300.jpg", "0301.jpg"], "valid": ["0545.jpg"], "test": ["0560.jpg", "0700.jpg"]}


def test_large_images_come_in_small_chunks(folder, tmp_path, monkeypatch):
    """So that what a process holds does not grow with the size of images."""
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 100 * 90)
    images, seen = files_in(folder), []
    rows, _ = decode_files(images, tmp_path, 2, lambda done, total: seen.append(done))
    assert all(np.array_equal(pixels_of(rows[split]), by_hand(images[split])) for split in COUNTS)
    assert max(np.diff(seen)) == 100 and len(seen) == 1 + 6 + 1 + 3
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 1)
    assert len(list(streaming.all_chunks(images))) == sum(COUNTS.values())


def test_a_run_that_was_killed_before_its_array_had_a_size_goes_on(folder, tmp_path):
    images = files_in(folder)
    (tmp_path / "train.raw").touch()
    rows, _ = decode_files(images, tmp_path, 2, quiet)
    assert np.array_equal(pixels_of(rows["train"]), by_hand(images["train"]))


def test_what_is_done_is_not_done_again(folder, tmp_path):
    """Chunks that the journal has are taken as they lie there; all others are decoded, whatever lies there."""
    images = files_in(folder)
    decode_files(images, tmp_path, 1, quiet)
    lines = (tmp_path / JOURNAL).read_text().split("\n")[1:-1]
    (tmp_path / JOURNAL).write_text("\n".join((*lines[:2], lines[3], lines[2][:-4])))  # the last line was cut off
    lost = json.loads(lines[2])
    for split, files in images.items():
        with (tmp_path / f"{split}.raw").open("r+b") as file:
            file.write(bytes(len(files) * int(np.prod(files.image_shape))))
    rows, _ = decode_files(images, tmp_path, 1, quiet)
    found = {split: pixels_of(rows[split]).any((1, 2, 3)) for split in COUNTS}
    assert found[lost[0]][lost[1] : lost[1] + CHUNK].all()
    assert sum(map(np.sum, found.values())) == sum(COUNTS.values()) - sum(
        min(CHUNK, COUNTS[split] - start) for split, start, _ in map(json.loads, (*lines[:2], lines[3]))
    )


def test_what_could_not_be_read_is_tried_again(folder, damaged, tmp_path):
    """The files' names, sizes and times may be as before: the disk was away, or they might not be read."""
    names = {split: files.names for split, files in files_in(folder).items()}
    images = {split: ImageFiles(damaged, names[split], HOW) for split in COUNTS}
    _, corrupt = decode_files(images, tmp_path / "work", 2, quiet)
    assert sum(map(len, corrupt.values())) == 6
    for path in damaged.iterdir():
        path.unlink()
        path.symlink_to(folder / path.name)
    rows, corrupt = decode_files(images, tmp_path / "work", 2, quiet)
    assert not any(corrupt.values())
    assert all(np.array_equal(pixels_of(rows[split]), by_hand(files)) for split, files in files_in(folder).items())


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 100)])
def test_a_journal_without_its_images_is_not_believed(folder, tmp_path, damage):
    images = files_in(folder)
    decode_files(images, tmp_path, 2, quiet)
    damage(tmp_path / "train.raw")
    rows, _ = decode_files(images, tmp_path, 2, quiet)
    assert all(np.array_equal(pixels_of(rows[split]), by_hand(images[split])) for split in COUNTS)


SLOW = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
import test_streaming as test
from flowvae.data.streaming import decode_files

def on_progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)

decode_files(test.files_in(Path({folder!r})), Path({work!r}), 2, on_progress)
print("finished", flush=True)
"""


def test_killed_again_and_again(folder, tmp_path, monkeypatch):
    """By SIGKILL at any moment: no process stays, what was done stays, and the bytes are those of a run left alone."""
    code = SLOW.format(path=sys.path, folder=str(folder), work=str(tmp_path / "work"))
    rng, outputs = np.random.default_rng(), []
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # it has begun
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        outputs.append(process.communicate(timeout=60)[0])  # returns once nobody holds the pipe, decoders included
        if "finished" in outputs[-1]:
            break
    assert len(outputs) > 1 and "finished" in outputs[-1]
    images = files_in(folder)
    rows, _ = decode_files(images, tmp_path / "work", 1, quiet)
    assert all(np.array_equal(pixels_of(rows[split]), by_hand(images[split])) for split in COUNTS)


def test_other_inputs_are_other_work(folder, tmp_path):
    images = files_in(folder)
    seen = {work_id(images)}
    assert work_id(files_in(folder)) in seen
    seen.add(work_id(images | {"valid": ImageFiles(folder, images["valid"].names[:-1], HOW)}))
    seen.add(
        work_id({split: ImageFiles(folder, files.names, HOW | {"color": False}) for split, files in images.items()})
    )
    seen.add(work_id({"train": images["test"], "valid": images["valid"], "test": images["train"]}))
    path = folder / images["train"].names[0]
    os.utime(path, (1, 1))
    seen.add(work_id(images))
    assert len(seen) == 5


def test_a_full_disk_is_an_error_and_what_was_done_stays(folder, tmp_path, monkeypatch):
    """One that is full for the decoders alone, whose files may grow no further."""
    images = files_in(folder)
    decoders = streaming.decoders

    def limited(count):
        monkeypatch.setattr(streaming.sys, "executable", str(tmp_path / "python"))
        return decoders(count)

    limit = CHUNK * 90 // 512 + 10  # blocks of 512 bytes: room for one chunk of 90 bytes an image
    (tmp_path / "python").write_text(f'#!/bin/sh\ntrap "" XFSZ\nulimit -f {limit}\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(streaming, "decoders", limited)
        with pytest.raises(OSError, match="File too large") as caught:
            decode_files(images, tmp_path / "work", 1, quiet)
    assert caught.value.filename == str(tmp_path / "work/train.raw")
    monkeypatch.undo()
    seen = []
    rows, _ = decode_files(images, tmp_path / "work", 1, lambda *progress: seen.append(progress))
    assert seen[0][0] == CHUNK
    assert np.array_equal(pixels_of(rows["train"]), by_hand(images["train"]))


def test_a_decoder_that_dies_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="a process that decodes images died") as caught:
        decode_files(files_in(folder), tmp_path, 2, quiet)
    assert "\n" not in str(caught.value)


def test_decoders_weigh_little():
    """Neither torch nor NumPy, which would weigh hundreds of megabytes on a machine of many cores."""
    code = "import sys, flowvae.data.decoding; print(*{'torch', 'numpy', 'torchvision', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
