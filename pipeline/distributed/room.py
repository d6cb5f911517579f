"""How many stages of a submitted job a cluster has room for."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
import torch

from pipeline.distributed.cluster import connect
from pipeline.running.placement import Placement, find_placement

STAGE_MEMORY = 1 << 30  # bytes on this node, of DVC, the process that waits for workers, and what Ray Train starts


@contextmanager
def room_for_stages() -> Iterator[Callable[[], int] | None]:
    """Connect to the cluster of RAY_ADDRESS, if it is set.

    Yields:
        A function that returns the number of stages to run at a time, which grows with the cluster; None without one.

    Raises:
        InputError: the environment is invalid, or the cluster cannot be accessed.
    """
    placement = find_placement(None, torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    if not placement.address:
        yield None
        return
    connect(placement)
    try:
        yield lambda: num_stages(placement, ray.cluster_resources(), memory_of_this_node())
    finally:
        ray.shutdown()


def num_stages(placement: Placement, resources: dict[str, float], memory: float) -> int:
    """The number of stages to run at a time.

    Half as many again as there is room for, and at least one, wait for resources: this is what lets an autoscaler add
    nodes, and they have already started when resources become free.

    Args:
        placement: of a stage.
        resources: of the cluster.
        memory: bytes of this node, on which the processes run that wait for workers.
    """
    per_worker, name = (1, "GPU") if placement.use_gpu else (placement.cpus_per_worker, "CPU")
    num_workers, _ = placement.workers or (1, 1)
    room = int(resources.get(name, 0)) // (num_workers * per_worker)
    return max(1, min(room + max(1, room // 2), int(memory) // STAGE_MEMORY))


def memory_of_this_node() -> float:
    """Bytes of memory that Ray counts for tasks on this node."""
    own = ray.get_runtime_context().get_node_id()
    return next((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["NodeID"] == own), 0.0)
