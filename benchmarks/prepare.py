"""The stage `prepare` with many image files: its time relative to that of only decoding them, and its memory.

Prediction: decoding a 178 x 218 JPEG and resizing its centre to 64 x 64 takes about 1 ms, so 100,000 of them take about
60 s on two cores. Besides, prepare lists the files and their status (1 s), starts a process per core (0.1 s), sends 400
requests as JSON (under 1 s), copies 1.2 GB from the decoded file into the array (2 s), and hashes the array (2 s): 1.1
to 1.2 times the decoding; the limit is 2. Its memory consists of the main process with torch (250 MB), its decoders (15
MB each beyond what they share) and one chunk of 500 images: under 400 MB; the limit is 1 GiB.
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

from benchmarks.measuring import Entry, entry
from flowvae.datasets.decoder import DecodeOptions, decode
from pipeline.running.machine import available_cpus

NUM_IMAGES, NUM_DIFFERENT = 100_000, 2_000  # each different file exists many times, as hard links
CELEBA_SIZE = (178, 218)  # width, height
SECONDS_BETWEEN_SAMPLES = 0.05  # of the memory
ROOT = Path(__file__).parents[1]


def measure() -> list[Entry]:
    """Run the stages fetch and prepare in a new project, as users do; decode before and after prepare."""
    with tempfile.TemporaryDirectory(prefix="flowvae-prepare-") as folder:
        images, project = Path(folder) / "images", Path(folder) / "project"
        write_images(images)
        write_project(project, images)
        run_stage(project, "fetch")
        decoding_before = decoding_seconds(images)
        prepare_seconds, peak_memory = run_prepare(project)
        decoding_only = (decoding_before + decoding_seconds(images)) / 2
    conditions = (
        f"{NUM_IMAGES:,} JPEGs of {CELEBA_SIZE[0]} x {CELEBA_SIZE[1]} ({NUM_DIFFERENT:,} different ones) to 64 x 64, "
        f"{available_cpus()} processes: prepare {prepare_seconds:.1f} s, decoding only {decoding_only:.1f} s"
    )
    memory_conditions = f"peak memory of all processes together, without the page cache; {conditions}"
    return [
        entry("prepare_over_decoding", prepare_seconds / decoding_only, "ratio", conditions, digits=3),
        entry("prepare_images_per_second", NUM_IMAGES / prepare_seconds, "images/s", conditions),
        entry("prepare_memory", peak_memory / 2**20, "MiB", memory_conditions),
    ]


def write_images(folder: Path) -> None:
    """Write smooth random images, which JPEG compresses like photographs: about 10 kB each."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for i in range(NUM_DIFFERENT):
        coarse = Image.fromarray(draws.integers(0, 256, (22, 18, 3), dtype=np.uint8))
        coarse.resize(CELEBA_SIZE, Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)
    for i in range(NUM_DIFFERENT, NUM_IMAGES):
        os.link(folder / f"{i % NUM_DIFFERENT:06d}.jpg", folder / f"{i:06d}.jpg")


def write_project(project: Path, images: Path) -> None:
    """Write params.yaml and dvc.yaml of a project that reads a folder of images."""
    from ruamel.yaml import YAML  # not needed by the processes that decode

    project.mkdir()
    shutil.copy(ROOT / "dvc.yaml", project)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"].update(name="folder", binarization="none")
    params["data"]["folder"].update(path=str(images), size=[64, 64], color=True)
    params["model"]["likelihood"] = {"name": "discretized_logistic"}
    yaml.dump(params, project / "params.yaml")


def python_command(*arguments: str) -> list[str]:
    """The command that runs a module with this Python."""
    return [sys.executable, "-m", *arguments]


def environment() -> dict[str, str]:
    """Environment variables with which other folders find this project's code."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run_stage(project: Path, name: str) -> None:
    """Run a stage, without output."""
    subprocess.run(python_command("pipeline", name), cwd=project, env=environment(), check=True, capture_output=True)


def decoding_seconds(images: Path) -> float:
    """Seconds in which one process per core decodes all images and discards them."""
    started = time.perf_counter()
    num_processes = available_cpus()
    processes = [
        subprocess.Popen(
            python_command("benchmarks.prepare", str(images), str(i), str(num_processes)), env=environment()
        )
        for i in range(num_processes)
    ]
    exit_codes = [process.wait() for process in processes]
    if any(exit_codes):
        raise RuntimeError("decoding failed; its messages are above")
    return time.perf_counter() - started


def decode_share(folder: str, first: int, step: int) -> None:
    """Decode every step-th image of a folder in this process."""
    options = DecodeOptions(size=(64, 64), color=True, crop=None, invert=False)
    for name in sorted(os.listdir(folder))[first::step]:
        decode(os.path.join(folder, name), options)


def run_prepare(project: Path) -> tuple[float, int]:
    """Run the stage `prepare`.

    Returns:
        Its seconds, and the peak memory of its processes together, in bytes, without the page cache.
    """
    started, peak = time.perf_counter(), 0
    process = psutil.Popen(
        python_command("pipeline", "prepare"), cwd=project, env=environment(), stdout=subprocess.DEVNULL
    )

    def sample_memory() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, memory_of(process))
            time.sleep(SECONDS_BETWEEN_SAMPLES)

    sampler = threading.Thread(target=sample_memory)
    sampler.start()
    exit_code = process.wait()
    seconds = time.perf_counter() - started
    sampler.join()
    if exit_code:
        raise RuntimeError("prepare failed; its messages are above")
    return seconds, peak


def memory_of(root: psutil.Process) -> int:
    """Memory of a process and its children, in bytes, except for pages of files."""
    total = 0
    for process in (root, *children_of(root)):
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:  # the process has ended
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return total


def children_of(root: psutil.Process) -> list[psutil.Process]:
    """All descendants of a process; none if it has ended."""
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    decode_share(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
