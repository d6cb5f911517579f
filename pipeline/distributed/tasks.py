"""One computation on a worker of the cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ray
import torch
from ray.exceptions import RayTaskError

from flowvae.data.arrays import Metadata
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.cluster import connect
from pipeline.placement import Placement

T = TypeVar("T")
Call = Callable[[Path, torch.device], T]


def compute_on_ray(call: Call[T], prepared: Path, metadata: Metadata, placement: Placement) -> T:
    """`compute` on the cluster at the placement's address.

    Raises:
        InputError: Ray or the storage cannot be reached, or `call` raised it.
    """
    share_arrays(prepared, placement.storage)
    connect(placement)
    try:
        return compute(call, prepared, metadata, placement)
    finally:
        ray.shutdown()


def compute(call: Call[T], prepared: Path, metadata: Metadata, placement: Placement) -> T:
    """What `call` returns, given the folder of the arrays and the device, where a worker is free."""
    task = ray.remote(
        num_cpus=placement.cpus_per_worker,
        num_gpus=int(placement.use_gpu),
        scheduling_strategy="DEFAULT",  # outside of what Tune reserved for a trial that waits for it
    )(on_node)
    try:
        return ray.get(task.remote(call, prepared, metadata, placement))
    except RayTaskError as error:
        raise error.cause from error


def on_node(call: Call[T], prepared: Path, metadata: Metadata, placement: Placement) -> T:
    return call(local_arrays(prepared, metadata, placement), device_here(placement))


def device_here(placement: Placement) -> torch.device:
    """What a worker of Ray's that was given one GPU or some cores computes on; it takes no more threads than cores."""
    torch.set_num_threads(placement.cpus_per_worker)
    return torch.device("cuda" if placement.use_gpu else "cpu")
