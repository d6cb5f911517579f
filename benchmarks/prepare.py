"""`prepare` of many image files over the time that decoding them alone takes in as many processes; and its memory.

Prediction: decoding a 178 x 218 JPEG and resizing its centre to 64 x 64 takes about 1 ms, so 100,000 take some 60 s on
two cores. Beside it prepare lists and stats the files (1 s), starts a process per core (0.1 s), hands out 400 chunks
as JSON (under 1 s), copies 1.2 GB from the decoded file into the array (2 s), and hashes that (2 s): 1.1 to 1.2 times
the decoding, where 2 is allowed. In memory are this process with torch (250 MB), its decoders (15 MB each beyond what
they share) and one chunk of 500 images: under 400 MB, where 1 GiB is allowed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

NUM_IMAGES, NUM_DIFFERENT = 100_000, 2_000  # each file is there many times, by hard links
CELEBA_SHAPE = (178, 218)
HOW = {"size": (64, 64), "color": True, "crop": None, "invert": False}
SECONDS_BETWEEN_LOOKS = 0.05


def measure() -> list[dict[str, object]]:
    """In a folder of its own, through the stages fetch and prepare, as a user starts them."""
    with tempfile.TemporaryDirectory(prefix="flowvae-prepare-") as folder:
        images, project = Path(folder) / "images", Path(folder) / "project"
        write_images(images)
        write_project(project, images)
        stage(project, "fetch")
        before = decode_alone(images)
        prepared, peak = watched(project)
        alone = (before + decode_alone(images)) / 2
    cores = len(os.sched_getaffinity(0))
    conditions = (
        f"{NUM_IMAGES:,} JPEGs of {CELEBA_SHAPE[0]} x {CELEBA_SHAPE[1]} ({NUM_DIFFERENT:,} different ones) to 64 x 64, "
        f"{cores} processes: prepare {prepared:.1f} s, decoding alone {alone:.1f} s"
    )
    return [
        {
            "name": "prepare_over_decoding",
            "value": round(prepared / alone, 3),
            "unit": "ratio",
            "conditions": conditions,
        },
        {
            "name": "prepare_images_per_second",
            "value": round(NUM_IMAGES / prepared),
            "unit": "images/s",
            "conditions": conditions,
        },
        {
            "name": "prepare_memory",
            "value": round(peak / 2**20),
            "unit": "MiB",
            "conditions": f"most at a time of what all processes held beyond the page cache; {conditions}",
        },
    ]


def write_images(folder: Path) -> None:
    """Smooth random images, which JPEG compresses as it does photographs: about 10 kB each."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for i in range(NUM_DIFFERENT):
        coarse = Image.fromarray(draws.integers(0, 256, (22, 18, 3), dtype=np.uint8))
        coarse.resize(CELEBA_SHAPE, Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)
    for i in range(NUM_DIFFERENT, NUM_IMAGES):
        os.link(folder / f"{i % NUM_DIFFERENT:06d}.jpg", folder / f"{i:06d}.jpg")


def write_project(project: Path, images: Path) -> None:
    from ruamel.yaml import YAML

    project.mkdir()
    root, yaml = Path(__file__).parents[1], YAML()
    shutil.copy(root / "dvc.yaml", project)
    params = yaml.load(root / "params.yaml")
    params["data"].update(name="folder", binarization="none")
    params["data"]["folder"].update(path=str(images), size=[64, 64], color=True)
    params["model"]["likelihood"] = {"name": "discretized_logistic"}
    yaml.dump(params, project / "params.yaml")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


def stage(project: Path, name: str) -> None:
    subprocess.run(command("pipeline", name), cwd=project, env=environment(), check=True, capture_output=True)


def decode_alone(images: Path) -> float:
    """Seconds in which as many processes as cores decode all images, and keep none."""
    cores = len(os.sched_getaffinity(0))
    started = time.perf_counter()
    processes = [
        subprocess.Popen(command("benchmarks.prepare", str(images), str(i), str(cores)), env=environment())
        for i in range(cores)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError("decoding alone failed")
    return time.perf_counter() - started


def decode_share(images: str, first: str, step: str) -> None:
    """Decode every step-th image in this process."""
    from flowvae.data.decoding import decode

    for name in sorted(os.listdir(images))[int(first) :: int(step)]:
        decode(os.path.join(images, name), **HOW)


def watched(project: Path) -> tuple[float, int]:
    """Seconds that prepare takes, and the most bytes that it and its children held at a time beyond the page cache."""
    started, most = time.perf_counter(), 0
    process = psutil.Popen(command("pipeline", "prepare"), cwd=project, env=environment(), stdout=subprocess.DEVNULL)

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            most = max(most, anonymous(process))
            time.sleep(SECONDS_BETWEEN_LOOKS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    watcher.join()
    if code:
        raise RuntimeError("prepare failed")
    return seconds, most


def anonymous(root: psutil.Process) -> int:
    """Memory of a process and its children that is no file's."""
    total = 0
    for process in (root, *children(root)):
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return total


def children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    decode_share(*sys.argv[1:])
