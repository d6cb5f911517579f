"""Random batches of images from a memory map: bare, gathered ahead, and from memory; and what a training step notices.

Prediction: a batch of 128 images of 64 x 64 in colour is 1.5 MB. From memory, and from a map whose pages are all
cached, gathering it takes 0.3 ms (cache misses at some 5 GB/s): 400,000 images/s. From a cold disk each image is one
or two reads; 128 of them one after another, at 0.1 to 0.5 ms, take 20 to 50 ms: 3,000 to 6,000 images/s. The kernel,
told of all of them at once, asks the disk for all at a time: up to ten times that, until the disk's bandwidth ends it
(tried on its own: 3,450 and 29,500 images/s). A step of a small convolutional VAE on such a
batch takes 150 ms on two cores. So with the batches gathered ahead a step takes what it takes from memory, warm (1.00
to 1.02 times) and cold (up to 1.05: the threads take some of the cores), while without, cold, it takes 1.2 times.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.data.batches import AHEAD, SMALL, THREADS, gathered
from flowvae.data.images import ImageSet

NUM_IMAGES, SHAPE, BATCH = 180_000, (3, 64, 64), 128  # 2.2 GB
NUM_BATCHES, NUM_STEPS = 300, 40
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def measure() -> list[dict[str, object]]:
    """Bare and ahead, cold and warm, and from memory."""
    with tempfile.TemporaryDirectory(prefix="flowvae-loading-") as folder:
        path = Path(folder) / "train.npy"
        write_array(path)
        entries = []
        for state in ("cold", "warm"):
            if state == "cold" and not os.access(DROP_CACHES, os.W_OK):
                print(f"loading: {DROP_CACHES} cannot be written, so nothing is measured with cold pages")
                continue
            if state == "warm":
                path.read_bytes()
            for way, iterate in {"bare": bare, "ahead": partial(gathered, share=everything)}.items():
                entries.append(speed(f"loading_{way}_{state}", partial(mapped, path), iterate, state))
                entries.append(step(f"loading_step_{way}_{state}", partial(mapped, path), iterate, state))
        memory = ImageSet(mapped(path).pixels.clone(), "levels")
        entries.append(speed("loading_memory", lambda: memory, bare, "in memory"))
        entries.append(step("loading_step_memory", lambda: memory, bare, "in memory"))
    return entries


def write_array(path: Path) -> None:
    from numpy.lib.format import open_memmap

    array, draws = open_memmap(path, "w+", np.uint8, (NUM_IMAGES, *SHAPE)), np.random.default_rng(0)
    for start in range(0, NUM_IMAGES, 10_000):
        array[start : start + 10_000] = draws.integers(0, 256, (min(10_000, NUM_IMAGES - start), *SHAPE), np.uint8)
    array.flush()


def mapped(path: Path) -> ImageSet:
    """Mapped anew: pages that are mapped somewhere stay in the cache."""
    return ImageSet(torch.from_numpy(np.load(path, mmap_mode="c")), "levels")


def drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3\n")


def everything(num_images: int) -> slice:
    return slice(0, num_images)


def bare(images: ImageSet, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch when it is asked for."""
    return ((indices, images.pixels[indices]) for indices in order)


def random_batches(count: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(time.time_ns() % 2**31)  # other pages each time
    return list(torch.randperm(NUM_IMAGES, generator=draws)[: count * BATCH].split(BATCH))


Ways = Callable[[ImageSet, list[Tensor]], Iterator[tuple[Tensor, Tensor]]]


def speed(name: str, images: Callable[[], ImageSet], iterate: Ways, state: str) -> dict[str, object]:
    """Images/s of gathering alone."""
    order = random_batches(NUM_BATCHES)
    if state == "cold":
        drop_caches()
    started = time.perf_counter()
    for _ in iterate(images(), order):
        pass
    value = NUM_BATCHES * BATCH / (time.perf_counter() - started)
    return {"name": name, "value": round(value), "unit": "images/s", "conditions": conditions(state)}


def step(name: str, images: Callable[[], ImageSet], iterate: Ways, state: str) -> dict[str, object]:
    """Milliseconds of a training step that gathers its batch in this way; the mean, as waiting comes in lumps."""
    vae, optimizer = model()
    order = random_batches(NUM_STEPS + 5)
    if state == "cold":
        drop_caches()
    started = 0.0
    for i, (_, pixels) in enumerate(iterate(images(), order)):
        if i == 5:
            started = time.perf_counter()
        optimizer.zero_grad()
        vae(pixels.to(torch.float32).div_(255)).square().mean().backward()
        optimizer.step()
    value = 1000 * (time.perf_counter() - started) / NUM_STEPS
    return {
        "name": name,
        "value": round(value, 1),
        "unit": "ms",
        "conditions": f"a step of {MODEL}; {conditions(state)}",
    }


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


def conditions(state: str) -> str:
    size = NUM_IMAGES * int(np.prod(SHAPE)) / 1e9
    return (
        f"random batches of {BATCH} from {NUM_IMAGES:,} images of {' x '.join(map(str, SHAPE))} ({size:.1f} GB), "
        f"{state}; ahead: {AHEAD} batches by {THREADS} threads (as fit does above {SMALL >> 20} MiB); "
        f"{torch.get_num_threads()} threads"
    )
