"""Batches gathered ahead of the step that wants them, where gathering takes time."""

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
THREADS = 4  # that gather: each waits for one page of a cold disk at a time
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

    def gather_mapped(indices: Tensor) -> tuple[Tensor, Tensor]:
        # By NumPy, on this thread alone: torch would start threads that the step needs.
        chosen = np.take(images.pixels.numpy(), indices[share(len(indices))].numpy(), axis=0)
        return indices, torch.from_numpy(chosen)

    if images.pixels.device.type != images.device.type:
        return ahead(gather, batches)
    if images.pixels.device.type == "cpu" and images.pixels.nbytes > SMALL:
        return ahead(gather_mapped, batches)
    return map(gather, batches)


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
