"""Random batches from an array larger than memory: bare, gathered ahead, from memory; what a training step notices.

Prediction: a batch of 128 images of 64 x 64 in colour is 1.5 MB. From memory, and from a map whose pages are all
cached, gathering it takes 0.3 ms (cache misses at some 5 GB/s): 400,000 images/s. From a cold disk each image is one
or two reads; 128 of them one after another, at 0.1 to 0.5 ms, take 20 to 50 ms: 3,000 to 6,000 images/s. The kernel,
told of all of them at once, asks the disk for all at a time: up to ten times that, until the disk's bandwidth ends it
(tried on its own: 3,450 and 29,500 images/s); that the whole does not fit into memory changes nothing, as a page is
read once an epoch either way. A step of a small convolutional VAE on such a batch takes 80 ms on two cores. So with the
batches gathered ahead a step takes what it takes from memory, warm (1.00 to 1.02 times) and cold (up to 1.05: the
threads take some of the cores), while without, cold, it takes 1.2 to 1.5 times.
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

from flowvae.data.arrays import mapped
from flowvae.data.batches import AHEAD, SMALL, THREADS, gathered
from flowvae.data.images import ImageSet

SHAPE, BATCH = (3, 64, 64), 128
IN_MEMORY = 180_000  # images: 2.2 GB
OF_THE_MEMORY, OF_THE_DISK = 1.25, 0.6  # how large the array is, and at most
NUM_BATCHES, NUM_STEPS, ROUNDS = 300, 40, 5
AT_ONCE = 10_000  # images written
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Case:
    """Where batches come from, and how.

    Args:
        name: in the results.
        images: opens them.
        num_images: of the first so many, batches are drawn.
        iterate: gathers.
        state: of the pages, for the conditions.
        prepare: brings the pages into that state.
    """

    name: str
    images: Callable[[], ImageSet]
    num_images: int
    iterate: "Ways"
    state: str
    prepare: Callable[[], object]


def measure() -> list[dict[str, object]]:
    """Medians of ROUNDS, in each of which every case has its turn."""
    with tempfile.TemporaryDirectory(prefix="flowvae-loading-") as folder:
        path = Path(folder) / "train.npy"
        num_images = as_many_as_the_memory_cannot_hold(Path(folder))
        write_array(path, num_images)
        found = cases(path, num_images)
        speeds: dict[Case, list[float]] = {case: [] for case in found}
        steps: dict[Case, list[float]] = {case: [] for case in found}
        for _ in range(ROUNDS):
            for case in found:
                speeds[case].append(images_per_second(case))
                steps[case].append(step_time(case))
    return [
        {"name": f"loading_{kind}{case.name}", "value": round(median(values), 1), "unit": unit, "conditions": said}
        for kind, unit, table, what in (
            ("", "images/s", speeds, "gathering alone"),
            ("step_", "ms", steps, f"a step of {MODEL}"),
        )
        for case, values in table.items()
        for said in [f"{what}, {ROUNDS} rounds from {min(values):.1f} to {max(values):.1f}; {conditions(case)}"]
    ]


def as_many_as_the_memory_cannot_hold(folder: Path) -> int:
    """Images of an array larger than this machine's memory; IN_MEMORY where the disk has no room for it."""
    wanted = int(OF_THE_MEMORY * psutil.virtual_memory().total)
    if wanted <= OF_THE_DISK * shutil.disk_usage(folder).free:
        return wanted // prod(SHAPE)
    print(f"loading: no room for {wanted / 1e9:.0f} GB in {folder}; the array is one that the memory can hold")
    return IN_MEMORY


def write_array(path: Path, num_images: int) -> None:
    """The same noise again and again, which no page cache and no file system can tell."""
    noise = np.random.default_rng(0).integers(0, 256, (AT_ONCE, *SHAPE), np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num_images, AT_ONCE):
            file.write(noise[: num_images - start].data)


def cases(path: Path, num_images: int) -> list[Case]:
    kept = ImageSet(mapped(path)[:IN_MEMORY].clone(), "levels")
    ways = {"bare": bare, "ahead": partial(gathered, share=everything)}
    anew = partial(opened, path)
    found = [Case("memory", lambda: kept, IN_MEMORY, bare, "in memory", lambda: None)]
    for way, iterate in ways.items():
        found.append(Case(f"{way}_warm", anew, IN_MEMORY, iterate, "all in the page cache", partial(touch, path)))
    if not os.access(DROP_CACHES, os.W_OK):
        print(f"loading: {DROP_CACHES} cannot be written, so nothing is measured with cold pages")
        return found
    state = f"of all {num_images * prod(SHAPE) / 1e9:.1f} GB, the page cache empty"
    for way, iterate in ways.items():
        found.append(Case(f"{way}_cold", anew, num_images, iterate, state, drop_caches))
    return found


def opened(path: Path) -> ImageSet:
    """Mapped anew: pages that are mapped somewhere stay in the cache."""
    return ImageSet(mapped(path), "levels")


def touch(path: Path) -> None:
    """Read the first IN_MEMORY images."""
    with path.open("rb") as file:
        for _ in range(0, IN_MEMORY, AT_ONCE):
            file.read(AT_ONCE * prod(SHAPE))


def drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3\n")


def everything(num_images: int) -> slice:
    return slice(0, num_images)


def bare(images: ImageSet, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch when it is asked for."""
    return ((indices, images.pixels[indices]) for indices in order)


def random_batches(num_images: int, count: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(time.time_ns() % 2**31)  # other pages each time
    return list(torch.randint(num_images, (count, BATCH), generator=draws))


Ways = Callable[[ImageSet, list[Tensor]], Iterator[tuple[Tensor, Tensor]]]


def images_per_second(case: Case) -> float:
    """Of gathering alone."""
    order = random_batches(case.num_images, NUM_BATCHES)
    case.prepare()
    started = time.perf_counter()
    for _ in case.iterate(case.images(), order):
        pass
    return NUM_BATCHES * BATCH / (time.perf_counter() - started)


def step_time(case: Case) -> float:
    """Milliseconds of a training step on batches of the case; the mean, as waiting comes in lumps."""
    vae, optimizer = model()
    order = random_batches(case.num_images, NUM_STEPS + 5)
    case.prepare()
    started = 0.0
    for i, (_, pixels) in enumerate(case.iterate(case.images(), order)):
        if i == 5:
            started = time.perf_counter()
        optimizer.zero_grad()
        vae(pixels.to(torch.float32).div_(255)).square().mean().backward()
        optimizer.step()
    return 1000 * (time.perf_counter() - started) / NUM_STEPS


MODEL = "four convolutions, to 32 channels and back, and AdamW"


def model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """About the work of a small VAE, without the choices that one makes."""
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 32, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(32, 32, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(32, 3, 4, 2, 1),
    ]
    net = torch.nn.Sequential(*layers)
    return net, torch.optim.AdamW(net.parameters(), fused=True)


def conditions(case: Case) -> str:
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"random batches of {BATCH} images of {' x '.join(map(str, SHAPE))}, {case.state} ({memory:.1f} GB of memory); "
        f"ahead: {AHEAD} batches by {THREADS} threads (as fit does above {SMALL >> 20} MiB); "
        f"{torch.get_num_threads()} threads"
    )
