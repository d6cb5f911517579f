"""One computation on a worker of a Ray cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ray
import torch
from ray.exceptions import RayTaskError

from flowvae.data.arrays import Metadata
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.cluster import connect
from pipeline.distributed.driver_code import check_code
from pipeline.running.placement import Placement

T = TypeVar("T")
Call = Callable[[Path, torch.device], T]


def compute_on_ray(call: Call[T], prepared: Path, metadata: Metadata, placement: Placement) -> T:
    """Connect to the cluster and run `compute` there.

    Raises:
        InputError: Ray or the storage is unavailable, or `call` raised it.
    """
    share_arrays(prepared, placement.storage)
    connect(placement)
    try:
        return compute(call, prepared, metadata, placement)
    finally:
        ray.shutdown()


def compute(call: Call[T], prepared: Path, metadata: Metadata, placement: Placement) -> T:
    """Run `call(folder of the arrays, device)` on any free worker.

    Returns:
        What `call` returns.

    Raises:
        InputError: the arrays or the storage cannot be read, or the worker runs other code.
        Exception: what `call` raised.
    """
    remote = ray.remote(
        num_cpus=placement.cpus_per_worker,
        num_gpus=int(placement.use_gpu),
        scheduling_strategy="DEFAULT",  # outside of what Tune reserved for a trial that waits for this computation
    )(call_on_node)
    try:
        return ray.get(remote.remote(call, prepared, metadata, placement))
    except RayTaskError as error:
        raise error.cause from error


def call_on_node(call: Call[T], prepared: Path, metadata: Metadata, placement: Placement) -> T:
    """Run `call` in this process, on its copy of the arrays."""
    check_code()
    return call(local_arrays(prepared, metadata, placement), worker_device(placement))


def worker_device(placement: Placement) -> torch.device:
    """The device of a Ray worker that was given one GPU or some cores; threads are limited to its cores."""
    torch.set_num_threads(placement.cpus_per_worker)
    return torch.device("cuda" if placement.use_gpu else "cpu")
