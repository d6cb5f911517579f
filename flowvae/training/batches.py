"""Batches of images, gathered by background threads if gathering takes time."""

import ctypes
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from flowvae.data.images import ImageSet

In = TypeVar("In")
Out = TypeVar("Out")
NUM_THREADS = 2  # that gather
BATCHES_AHEAD = 8  # gathered before they are needed
# Memory-mapped sets up to this size stay in the page cache. Gathering from it is faster than passing a batch between
# threads.
CACHED_BYTES = 256 << 20


def gather_batches(
    images: ImageSet, batches: Iterable[Tensor], share: Callable[[int], slice]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gather the pixels of this worker's share of each batch, in order.

    If the set is large, or not on the batch device, threads gather the next batches during a training step. The
    result is the same.

    Args:
        images: the set.
        batches: indices, shape (batch,) each.
        share: number of images in a batch -> the part of the batch to gather.

    Returns:
        (indices, pixels) of each batch: shape (batch,), and uint8 (share, C, H, W) on the batch device.
    """

    def gather(indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices, images.gather(indices[share(len(indices))])

    def gather_for_another_device(indices: Tensor) -> tuple[Tensor, Tensor]:
        prefetch_pages(images.pixels, indices[share(len(indices))])
        return gather(indices)

    def gather_from_map(indices: Tensor) -> tuple[Tensor, Tensor]:
        selected = indices[share(len(indices))]
        prefetch_pages(images.pixels, selected)
        # With NumPy, which uses only this thread: torch would start threads that compete with the training step.
        return indices, torch.from_numpy(np.take(images.pixels.numpy(), selected.numpy(), axis=0))

    if images.pixels.device.type != images.device.type:
        return run_ahead(gather_for_another_device, batches)
    if images.pixels.device.type == "cpu" and images.pixels.nbytes > CACHED_BYTES:
        return run_ahead(gather_from_map, batches)
    return map(gather, batches)


def draw_once_each(
    images: ImageSet,
    batch_size: int,
    latent_dim: int,
    dtype: torch.dtype,
    draws: torch.Generator,
    share: Callable[[int], slice],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over all images in order, with the latent noise of one draw of z for each.

    Args:
        images: the set.
        batch_size: number of images in a batch, over all workers.
        latent_dim: D.
        dtype: of images and noise.
        draws: generator on the batch device, used for the whole of each batch.
        share: number of images in a batch -> the part of the batch to return.

    Returns:
        (x, noise) of each batch: what the model sees, shape (share, C, H, W), and standard-normal draws, shape
        (share, D).
    """
    batches = torch.arange(len(images), device=images.pixels.device).split(batch_size)
    for indices, pixels in gather_batches(images, batches, share):
        own = share(len(indices))
        x = images.read(pixels, len(indices), dtype, draws, own)
        noise = torch.randn(len(indices), latent_dim, dtype=dtype, device=images.device, generator=draws)
        yield x, noise[own]


MADVISE = getattr(ctypes.CDLL(None), "madvise", None) if os.name == "posix" else None
if MADVISE:
    MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def prefetch_pages(pixels: Tensor, indices: Tensor) -> None:
    """Tell the kernel which images of a memory map will be read, so that it fetches all of them in parallel.

    Without this, each image waits for its own pages, at a tenth of the speed (benchmarks/loading.py).
    """
    if MADVISE is None:
        return
    size = pixels[0].nbytes
    for start in (pixels.data_ptr() + indices * size).tolist():
        first = start - start % mmap.PAGESIZE
        MADVISE(first, start + size - first, mmap.MADV_WILLNEED)  # only advice, so a failure can be ignored


def run_ahead(function: Callable[[In], Out], inputs: Iterable[In]) -> Iterator[Out]:
    """Call a function with each input in background threads, at most BATCHES_AHEAD calls ahead.

    Returns:
        The results, in the order of the inputs.
    """
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="gather") as pool:
        try:
            remaining = iter(inputs)
            pending = deque(pool.submit(function, x) for x in islice(remaining, BATCHES_AHEAD))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, x) for x in islice(remaining, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
