"""Batches gathered ahead of the step that wants them, where gathering takes time."""

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

T, U = TypeVar("T"), TypeVar("U")
THREADS = 2  # that gather
AHEAD = 8  # batches
SMALL = 256 << 20  # bytes of images that stay in the page cache: a hand-over would cost more than the gathering


def gathered(
    images: ImageSet, batches: Iterable[Tensor], share: Callable[[int], slice]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch of indices with the pixels of this worker's share, in order.

    Of images that are many, or not on the device of batches, the next batches are gathered by threads meanwhile. What
    comes out is the same.

    Args:
        images: the set.
        batches: indices, shape (batch,) each.
        share: the part of a batch of so many images that is wanted.

    Returns:
        (indices, pixels): shape (batch,), and uint8 (share, C, H, W) on the device of batches.
    """

    def gather(indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices, images.gather(indices[share(len(indices))])

    def gather_for_another_device(indices: Tensor) -> tuple[Tensor, Tensor]:
        expect(images.pixels, indices[share(len(indices))])
        return gather(indices)

    def gather_mapped(indices: Tensor) -> tuple[Tensor, Tensor]:
        chosen = indices[share(len(indices))]
        expect(images.pixels, chosen)
        # By NumPy, on this thread alone: torch would start threads that the step needs.
        return indices, torch.from_numpy(np.take(images.pixels.numpy(), chosen.numpy(), axis=0))

    if images.pixels.device.type != images.device.type:
        return ahead(gather_for_another_device, batches)
    if images.pixels.device.type == "cpu" and images.pixels.nbytes > SMALL:
        return ahead(gather_mapped, batches)
    return map(gather, batches)


def one_draw_each(
    images: ImageSet,
    batch_size: int,
    latent_dim: int,
    dtype: torch.dtype,
    draws: torch.Generator,
    share: Callable[[int], slice],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each image once, in order, with the latent noise of one draw of z.

    Args:
        images: the set.
        batch_size: images at once, of all workers together.
        latent_dim: D.
        dtype: of both.
        draws: generator on the device of batches, drawn from for the whole of each batch.
        share: the part of a batch of so many images that is wanted.

    Returns:
        (x, noise): what the model sees, shape (share, C, H, W), and standard-normal draws, shape (share, D).
    """
    batches = torch.arange(len(images), device=images.pixels.device).split(batch_size)
    for indices, pixels in gathered(images, batches, share):
        wanted = share(len(indices))
        x = images.read(pixels, len(indices), dtype, draws, wanted)
        noise = torch.randn(len(indices), latent_dim, dtype=dtype, device=images.device, generator=draws)
        yield x, noise[wanted]


MADVISE = getattr(ctypes.CDLL(None), "madvise", None) if os.name == "posix" else None
if MADVISE:
    MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def expect(pixels: Tensor, indices: Tensor) -> None:
    """Tell the kernel which images of a memory map will be read, so that a disk fetches them all at a time.

    Touched one after another, each would wait for its own pages: a tenth of the speed (benchmarks/loading.py).
    """
    if MADVISE is None:
        return
    size = pixels[0].nbytes
    for start in (pixels.data_ptr() + indices * size).tolist():
        first = start - start % mmap.PAGESIZE
        MADVISE(first, start + size - first, mmap.MADV_WILLNEED)  # advice: what comes of it does not matter


def ahead(call: Callable[[T], U], inputs: Iterable[T]) -> Iterator[U]:
    """call(x) of each input in order, of AHEAD of them before they are asked for."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="gather") as pool:
        try:
            todo = iter(inputs)
            waiting = deque(pool.submit(call, x) for x in islice(todo, AHEAD))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(call, x) for x in islice(todo, 1))
                yield done
        finally:
            pool.shutdown(cancel_futures=True)
