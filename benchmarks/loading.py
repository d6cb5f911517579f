"""Random batches of an array larger than memory: each read when it is needed, or gathered ahead; compared with memory.

Prediction: a batch of 128 colour images of 64 x 64 is 1.5 MB. From memory, or from a memory map whose pages are all
cached, gathering it takes 0.3 ms (cache misses at about 5 GB/s): 400,000 images/s. From a cold disk, each image is one
or two reads. 128 of them one after another, at 0.1 to 0.5 ms each, take 20 to 50 ms: 3,000 to 6,000 images/s. If the
kernel knows all of them in advance, it requests them from the disk in parallel: up to ten times as fast, limited
by the disk's bandwidth (a separate trial: 3,450 and 29,500 images/s). That the array does not fit into memory changes
nothing, because each page is read once per epoch in any case. A step of a small convolutional VAE on such a batch takes
80 ms on two cores. So with batches gathered ahead, a step takes 1.00 to 1.02 times as long as from memory if the pages
are cached, and up to 1.05 times if they are not (the threads use some of the cores). Without, and not cached, it takes
1.2 to 1.5 times as long.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks.measuring import Entry, entry
from flowvae.data.arrays import memory_map
from flowvae.data.images import ImageSet
from flowvae.training.batches import BATCHES_AHEAD, CACHED_BYTES, NUM_THREADS, gather_batches

IMAGE_SHAPE, BATCH = (3, 64, 64), 128
NUM_CACHED = 180_000  # images of the cases in memory or in the page cache: 2.2 GB
MEMORY_FACTOR, MAX_DISK_SHARE = 1.25, 0.6  # size of the array, relative to the memory; the most of the free disk
NUM_BATCHES, NUM_STEPS, WARM_STEPS, ROUNDS = 300, 40, 5, 5
CHUNK = 10_000  # images written at a time
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MODEL = "four convolutions, to 32 channels and back, and AdamW"
# (images, indices of each batch) -> (indices, pixels) of each batch
Gather = Callable[[ImageSet, list[Tensor]], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Case:
    """A source of batches, and the way in which they are gathered.

    Args:
        name: part of the names of the results.
        open_images: opens the source.
        num_images: batches are drawn from the first images, of this number.
        gather: gathers the batches.
        state: of the pages, in words, for the conditions.
        prepare: brings the pages into that state.
    """

    name: str
    open_images: Callable[[], ImageSet]
    num_images: int
    gather: Gather
    state: str
    prepare: Callable[[], object]


def measure() -> list[Entry]:
    """Measure every case once per round."""
    with tempfile.TemporaryDirectory(prefix="flowvae-loading-") as folder:
        path = Path(folder) / "train.npy"
        num_images = array_length(Path(folder))
        write_array(path, num_images)
        cases = all_cases(path, num_images)
        speeds: dict[Case, list[float]] = {case: [] for case in cases}
        step_times: dict[Case, list[float]] = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case in cases:
                speeds[case].append(images_per_second(case))
                step_times[case].append(step_milliseconds(case))
    results = []
    for prefix, unit, description, values in (
        ("loading_", "images/s", "gathering only", speeds),
        ("loading_step_", "ms", f"a step of {MODEL}", step_times),
    ):
        for case in cases:
            low, high = min(values[case]), max(values[case])
            conditions = f"{description}, {ROUNDS} rounds from {low:.1f} to {high:.1f}; {case_conditions(case)}"
            results.append(entry(f"{prefix}{case.name}", median(values[case]), unit, conditions, digits=1))
    return results


def array_length(folder: Path) -> int:
    """Number of images of an array larger than this machine's memory; NUM_CACHED if the disk has no room for it."""
    num_bytes = int(MEMORY_FACTOR * psutil.virtual_memory().total)
    if num_bytes <= MAX_DISK_SHARE * shutil.disk_usage(folder).free:
        return num_bytes // prod(IMAGE_SHAPE)
    print(f"loading: no room for {num_bytes / 1e9:.0f} GB in {folder}; using an array that fits into memory")
    return NUM_CACHED


def write_array(path: Path, num_images: int) -> None:
    """Write a .npy file of repeated noise; neither the page cache nor the file system makes use of the repetition."""
    noise = np.random.default_rng(0).integers(0, 256, (CHUNK, *IMAGE_SHAPE), np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, *IMAGE_SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num_images, CHUNK):
            file.write(noise[: num_images - start].data)


def all_cases(path: Path, num_images: int) -> list[Case]:
    """The cases that this machine permits: the page cache can be emptied only by root."""
    in_memory = ImageSet(memory_map(path)[:NUM_CACHED].clone(), "levels")
    gathers: dict[str, Gather] = {"bare": gather_when_needed, "ahead": partial(gather_batches, share=whole_batch)}
    open_images = partial(map_images, path)
    fill_cache = partial(read_first_images, path)
    cases = [Case("memory", lambda: in_memory, NUM_CACHED, gather_when_needed, "in memory", lambda: None)]
    for name, gather in gathers.items():
        cases.append(Case(f"{name}_warm", open_images, NUM_CACHED, gather, "all in the page cache", fill_cache))
    if not os.access(DROP_CACHES, os.W_OK):
        print(f"loading: {DROP_CACHES} is not writable, so the cases without cached pages are skipped")
        return cases
    state = f"of all {num_images * prod(IMAGE_SHAPE) / 1e9:.1f} GB, the page cache empty"
    for name, gather in gathers.items():
        cases.append(Case(f"{name}_cold", open_images, num_images, gather, state, empty_cache))
    return cases


def map_images(path: Path) -> ImageSet:
    """Map the array. Each measurement maps it again, because pages of an existing map stay in the cache."""
    return ImageSet(memory_map(path), "levels")


def read_first_images(path: Path) -> None:
    """Read the first NUM_CACHED images into the page cache."""
    with path.open("rb") as file:
        for _ in range(0, NUM_CACHED, CHUNK):
            file.read(CHUNK * prod(IMAGE_SHAPE))


def empty_cache() -> None:
    """Empty the page cache of this machine."""
    os.sync()
    DROP_CACHES.write_text("3\n")


def whole_batch(num_images: int) -> slice:
    """The share of a single worker."""
    return slice(0, num_images)


def gather_when_needed(images: ImageSet, batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Gather each batch when it is requested."""
    return ((indices, images.pixels[indices]) for indices in batches)


def random_batches(num_images: int, num_batches: int) -> list[Tensor]:
    """Indices of batches drawn with replacement, shape (BATCH,) each."""
    draws = torch.Generator().manual_seed(time.time_ns() % 2**31)  # other pages each time
    return list(torch.randint(num_images, (num_batches, BATCH), generator=draws))


def images_per_second(case: Case) -> float:
    """Throughput of gathering only."""
    batches = random_batches(case.num_images, NUM_BATCHES)
    case.prepare()
    started = time.perf_counter()
    for _ in case.gather(case.open_images(), batches):
        pass
    return NUM_BATCHES * BATCH / (time.perf_counter() - started)


def step_milliseconds(case: Case) -> float:
    """Mean time of a training step on batches of the case. Not the median, because only some steps wait for data."""
    net, optimizer = small_model()
    batches = random_batches(case.num_images, NUM_STEPS + WARM_STEPS)
    case.prepare()
    started = 0.0
    for i, (_, pixels) in enumerate(case.gather(case.open_images(), batches)):
        if i == WARM_STEPS:
            started = time.perf_counter()
        optimizer.zero_grad()
        net(pixels.to(torch.float32).div_(255)).square().mean().backward()
        optimizer.step()
    return 1000 * (time.perf_counter() - started) / NUM_STEPS


def small_model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network with about as much work as a small VAE."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(32, 32, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(32, 3, 4, 2, 1),
    )
    return net, torch.optim.AdamW(net.parameters(), fused=True)


def case_conditions(case: Case) -> str:
    """The conditions of a case in words."""
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"random batches of {BATCH} images of {' x '.join(map(str, IMAGE_SHAPE))}, {case.state} "
        f"({memory:.1f} GB of memory); ahead: {BATCHES_AHEAD} batches by {NUM_THREADS} threads (as fit does above "
        f"{CACHED_BYTES >> 20} MiB); {torch.get_num_threads()} threads"
    )
