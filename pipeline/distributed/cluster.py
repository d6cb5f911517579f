"""Connect to a Ray cluster, or start one on this machine."""

import os
import shlex
import socket
import sys

import ray
from ray.exceptions import AuthenticationError

from flowvae.errors import InputError
from pipeline.distributed.driver_code import sent_code
from pipeline.running.machine import available_cpus
from pipeline.running.placement import Placement

SECONDS_TO_CONNECT = 10
TOKEN_HINT = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's token"


def connect(placement: Placement) -> None:
    """Connect this process to the cluster, or start one on this machine with room for the workers.

    Raises:
        InputError: nothing listens at the address, the cluster rejects the token, or it runs another Ray or Python.
    """
    # A report counts once the controller has seen it: poll often, so that little is repeated after a failure.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # otherwise every line of a worker is shown twice
    if placement.address:
        connect_to(placement.address)
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine announces no preemption
    _, max_workers = placement.workers or (1, 1)
    # Ray 2.60 counts by the quota of the container, but not the cores that this process is pinned to.
    num_cpus = max(available_cpus(), max_workers * placement.cpus_per_worker)
    # "local": otherwise Ray connects to the cluster that was last started on this machine, even if that has ended.
    # The dashboard takes a tenth of a core; without it, Ray Train can hang when it stops a group inside a trial.
    ray.init(
        address="local",
        num_cpus=num_cpus,
        dashboard_host="127.0.0.1",
        include_dashboard=placement.workers is not None,
        runtime_env=quoted_interpreter(),
    )


def connect_to(address: str) -> None:
    """Connect to a cluster, whose workers then run the code of this process.

    Raises:
        InputError: nothing listens at the address, the cluster rejects the token, or it runs another Ray or Python.
    """
    check_address(address)
    # In a submitted job, Ray would otherwise refuse any environment but that of the job.
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    try:
        with sent_code() as environment:
            ray.init(address=address, runtime_env=environment)
    except (ConnectionError, AuthenticationError) as error:
        raise InputError(
            f"RAY_ADDRESS: {address} cannot be accessed ({first_sentence(error)}); {TOKEN_HINT}"
        ) from error
    except RuntimeError as error:  # another version of Ray or Python
        raise InputError(f"RAY_ADDRESS: {address} cannot be used ({' '.join(str(error).split())})") from error


def quoted_interpreter() -> dict[str, str] | None:
    """The runtime environment of workers on this machine if a shell would split the path of its Python.

    Ray starts workers by a shell, to which it passes the path as it is; then none would start, without an error.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def check_address(address: str, name: str = "RAY_ADDRESS") -> None:
    """Raise InputError unless something listens at an address; Ray itself would keep trying for minutes.

    Args:
        address: HOST:PORT, with or without ray://, or auto.
        name: the setting that the address comes from.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{name}: {address} cannot be reached ({reason}); expected the HOST:PORT of a running cluster"
        ) from error


def first_sentence(error: Exception) -> str:
    """The first sentence of an error of Ray, whose messages are paragraphs."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0]
