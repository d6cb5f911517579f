"""Where a training run happens: from the command line and the environment, never from params.yaml.

FLOWVAE_WORKERS            2, or 1-4 for as many as there is room for; unset: this process
FLOWVAE_WORKERS_PER_TRIAL  the same for each trial of a sweep; unset: one process
FLOWVAE_CPUS_PER_WORKER    threads of each worker; 1 if unset
FLOWVAE_DEVICE             cpu or cuda; unset: the GPU where there is one
RAY_ADDRESS                a running Ray cluster
FLOWVAE_STORAGE            a folder or bucket that all nodes see, for checkpoints; unset: checkpoints/
FLOWVAE_CHECKPOINT_EVERY   '60 s' (if unset) or '500 steps'
FLOWVAE_MAX_FAILURES       how often Ray restarts its workers; 10 if unset
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flowvae.checkpoint import Interval
from flowvae.errors import InputError
from pipeline import paths

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """Which processes train one variant, or one trial of a sweep.

    Args:
        workers: the smallest and the largest number of Ray workers; None for one process alone.
        cpus_per_worker: threads of a Ray worker.
        use_gpu: one GPU per Ray worker.
        address: of a running Ray cluster; None to start one here.
        storage: folder or URI for the checkpoints of Ray's runs.
        interval: between checkpoints.
        max_failures: restarts of Ray's workers before the run fails.
    """

    workers: tuple[int, int] | None
    cpus_per_worker: int
    use_gpu: bool
    address: str | None
    storage: str
    interval: Interval
    max_failures: int

    def describe(self) -> str:
        """For the log and the record of timings."""
        if self.workers is None:
            return "this process"
        low, high = self.workers
        count = str(low) if low == high else f"{low} to {high}"
        kind = "GPU" if self.use_gpu else f"{self.cpus_per_worker}-CPU"
        return f"Ray, {count} {kind} worker{'s' if high > 1 else ''}, {self.address or 'started here'}"


def find_placement(workers: str | None, num_cpus: int, num_gpus: int, environment: Mapping[str, str]) -> Placement:
    """Where to train: on Ray with --workers, FLOWVAE_WORKERS, RAY_ADDRESS or several GPUs, else in this process.

    Args:
        workers: of the command line, which comes before the environment's.
        num_cpus: threads that this process would use.
        num_gpus: of this machine.
        environment: of this process.

    Raises:
        InputError: a value makes no sense.
    """
    device = environment.get("FLOWVAE_DEVICE", "")
    address = environment.get("RAY_ADDRESS") or None
    default = str(num_gpus) if not device and num_gpus > 1 else "1" if address else ""
    try:
        asked = parse_workers(workers) if workers else read(environment, "FLOWVAE_WORKERS", parse_workers, default)
    except InputError as error:
        raise InputError(str(error) if not workers else f"--workers: {error}") from None
    return placement_of(asked, num_cpus, num_gpus, environment)


def find_trial_placement(num_cpus: int, num_gpus: int, environment: Mapping[str, str]) -> Placement:
    """Where each trial of a sweep is trained: in one process of Ray's, or by several workers.

    Args:
        num_cpus: threads that this process would use.
        num_gpus: of this machine.
        environment: of this process.

    Raises:
        InputError: a value makes no sense.
    """
    asked = read(environment, "FLOWVAE_WORKERS_PER_TRIAL", parse_workers, "")
    return placement_of(asked if asked != (1, 1) else None, num_cpus, num_gpus, environment)


def placement_of(
    workers: tuple[int, int] | None, num_cpus: int, num_gpus: int, environment: Mapping[str, str]
) -> Placement:
    """So many workers, and all else from the environment."""
    device = environment.get("FLOWVAE_DEVICE", "")
    address = environment.get("RAY_ADDRESS") or None
    each = 1 if address or not workers else max(1, num_cpus // workers[1])
    return Placement(
        workers=workers,
        cpus_per_worker=read(environment, "FLOWVAE_CPUS_PER_WORKER", positive, str(each)),
        use_gpu=device.startswith("cuda") or (not device and num_gpus > 0),
        address=address,
        storage=environment.get("FLOWVAE_STORAGE") or str(paths.CHECKPOINTS.resolve()),
        interval=read(environment, "FLOWVAE_CHECKPOINT_EVERY", Interval.parse, "60 s"),
        max_failures=read(environment, "FLOWVAE_MAX_FAILURES", positive, "10"),
    )


def read(environment: Mapping[str, str], name: str, parse: Callable[[str], T], default: str) -> T:
    """The value of a variable, or InputError that names it."""
    try:
        return parse(environment.get(name) or default)
    except (ValueError, InputError) as error:
        raise InputError(f"{name}: {error}") from None


def parse_workers(text: str) -> tuple[int, int] | None:
    """'2' or '1-4'; nothing means this process.

    Raises:
        InputError: it is neither.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise InputError(f"expected a number of workers like 2, or a range like 1-4, got {text!r}")
    return low, high


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"expected a whole number above 0, got {text!r}")
    return int(text)
