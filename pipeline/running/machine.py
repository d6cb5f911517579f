"""What this process may use of the machine: cores and GPUs."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Number of cores that this process may use: those it is pinned to, and no more than the quota of its container."""
    return max(1, min((pinned_cpus(), *quotas(MEMBERSHIP, CGROUPS))))


def pinned_cpus() -> int:
    """Number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads() -> None:
    """Let torch, which must not be imported yet, start no more threads than a quota allows.

    It knows the cores to which a process is pinned, but not the quota of a container.
    """
    if (cpus := available_cpus()) < pinned_cpus():
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus))


def quotas(membership: Path, root: Path) -> Iterator[int]:
    """Cores that the control groups of this process allow, rounded up; none outside Linux.

    Args:
        membership: the kernel's list of the groups that this process is a member of.
        root: where control groups are mounted. Inside a container its own group may be the root.
    """
    if not membership.exists():
        return
    for line in membership.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        folder = root if not controllers else root / controllers
        for path in (group, *map(str, PurePosixPath(group).parents)):
            quota = quota_of(folder / path.lstrip("/"))
            if quota is not None:
                yield quota


def quota_of(folder: Path) -> int | None:
    """The quota of one control group, of version 2 (cpu.max) or 1 (cpu.cfs_quota_us); None if there is none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:  # the group has no controller of CPUs, or is not visible in this container
        return None
    return None if quota == "max" or int(quota) <= 0 else math.ceil(int(quota) / int(period))


def has_gpu() -> bool:
    """Whether a stage would use a GPU: torch sees one, and FLOWVAE_DEVICE does not choose the CPU."""
    import torch  # takes seconds

    return os.environ.get("FLOWVAE_DEVICE") != "cpu" and torch.cuda.is_available()
