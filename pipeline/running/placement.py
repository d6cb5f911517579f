"""Where a training run executes: from the command line and the environment, never from params.yaml.

FLOWVAE_WORKERS            number of Ray workers: 2, or 1-4 for as many as there is room for; default: this process
FLOWVAE_WORKERS_PER_TRIAL  the same for each trial of a study; default: one process
FLOWVAE_CPUS_PER_WORKER    threads of each worker; default: 1 on a cluster, an equal share of the cores on this machine
FLOWVAE_DEVICE             cpu or cuda; default: the GPU if there is one
RAY_ADDRESS                address of a running Ray cluster; default: Ray is started on this machine
FLOWVAE_STORAGE            a folder or bucket for checkpoints, which all nodes and clones share; default: checkpoints/
FLOWVAE_CHECKPOINT_EVERY   '60 s' (the default) or '500 steps'
FLOWVAE_MAX_FAILURES       how often Ray restarts failed workers; default: 10
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flowvae.errors import InputError
from flowvae.training.checkpoint import Interval
from pipeline import paths

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """Which processes train one variant, or one trial of a study.

    Args:
        workers: the minimum and the maximum number of Ray workers; None for a single process.
        cpus_per_worker: threads of a Ray worker.
        use_gpu: whether each Ray worker gets one GPU.
        address: of a running Ray cluster; None to start one on this machine.
        storage: folder or URI for checkpoints and what else nodes share.
        is_storage_set: whether it is FLOWVAE_STORAGE, and not the project's folder.
        interval: between two checkpoints.
        max_failures: restarts of Ray workers before the run fails.
    """

    workers: tuple[int, int] | None
    cpus_per_worker: int
    use_gpu: bool
    address: str | None
    storage: str
    is_storage_set: bool
    interval: Interval
    max_failures: int

    def text(self) -> str:
        """The placement in words, for the log and the record of timings."""
        if self.workers is None:
            return "this process"
        low, high = self.workers
        count = str(low) if low == high else f"{low} to {high}"
        kind = "GPU" if self.use_gpu else f"{self.cpus_per_worker}-CPU"
        return f"Ray, {count} {kind} worker{'s' if high > 1 else ''}, {self.address or 'started here'}"


def find_placement(workers: str | None, num_cpus: int, num_gpus: int, environment: Mapping[str, str]) -> Placement:
    """Where to train: on Ray with --workers, FLOWVAE_WORKERS, RAY_ADDRESS or several GPUs, else in this process.

    Args:
        workers: the option of the command line, which overrides the environment; None if it was not given.
        num_cpus: threads that this process would use.
        num_gpus: number of GPUs of this machine.
        environment: variables of this process.

    Raises:
        InputError: a value is invalid.
    """
    device = environment.get("FLOWVAE_DEVICE", "")
    address = environment.get("RAY_ADDRESS") or None
    default = str(num_gpus) if not device and num_gpus > 1 else "1" if address else ""
    try:
        requested = parse_workers(workers) if workers else read(environment, "FLOWVAE_WORKERS", parse_workers, default)
    except InputError as error:
        raise InputError(str(error) if not workers else f"--workers: {error}") from None
    return placement_of(requested, num_cpus, num_gpus, environment)


def find_trial_placement(num_cpus: int, num_gpus: int, environment: Mapping[str, str]) -> Placement:
    """Where each trial of a study is trained: in a single Ray worker, or by a group of them.

    Args:
        num_cpus: threads that this process would use.
        num_gpus: number of GPUs of this machine.
        environment: variables of this process.

    Raises:
        InputError: a value is invalid.
    """
    requested = read(environment, "FLOWVAE_WORKERS_PER_TRIAL", parse_workers, "")
    return placement_of(requested if requested != (1, 1) else None, num_cpus, num_gpus, environment)


def placement_of(
    workers: tuple[int, int] | None, num_cpus: int, num_gpus: int, environment: Mapping[str, str]
) -> Placement:
    """The placement of this number of workers; everything else is read from the environment."""
    device = environment.get("FLOWVAE_DEVICE", "")
    address = environment.get("RAY_ADDRESS") or None
    storage = environment.get("FLOWVAE_STORAGE") or None
    threads = 1 if address or not workers else max(1, num_cpus // workers[1])
    return Placement(
        workers=workers,
        cpus_per_worker=read(environment, "FLOWVAE_CPUS_PER_WORKER", parse_positive, str(threads)),
        use_gpu=device.startswith("cuda") or (not device and num_gpus > 0),
        address=address,
        storage=storage or str(paths.CHECKPOINTS.resolve()),
        is_storage_set=storage is not None,
        interval=read(environment, "FLOWVAE_CHECKPOINT_EVERY", Interval.parse, "60 s"),
        max_failures=read(environment, "FLOWVAE_MAX_FAILURES", parse_positive, "10"),
    )


def read(environment: Mapping[str, str], name: str, parse: Callable[[str], T], default: str) -> T:
    """Parse a variable of the environment.

    Raises:
        InputError: its value is invalid; the message names the variable.
    """
    try:
        return parse(environment.get(name) or default)
    except (ValueError, InputError) as error:
        raise InputError(f"{name}: {error}") from None


def parse_workers(text: str) -> tuple[int, int] | None:
    """Read '2' or '1-4' as the minimum and the maximum number of workers; empty text means this process, None.

    Raises:
        InputError: the text has another form.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise InputError(f"expected a number of workers like 2, or a range like 1-4, got {text!r}")
    return low, high


def parse_positive(text: str) -> int:
    """Read a whole number above 0.

    Raises:
        InputError: the text is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"expected a whole number above 0, got {text!r}")
    return int(text)
