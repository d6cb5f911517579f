"""Connecting to a Ray cluster, or starting one here."""

import os
import socket

import ray
from ray.exceptions import AuthenticationError

from flowvae.errors import InputError
from pipeline.placement import Placement

SECONDS_TO_CONNECT = 10
TOKEN = "is the token the cluster's? Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"


def connect(placement: Placement) -> None:
    """To the cluster, or to one started here with room for the workers."""
    # A report counts once the controller has seen it: look often, so that little is repeated after a failure.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it shows every line of a worker twice
    if placement.address:
        check_address(placement.address)
        try:
            ray.init(address=placement.address)
        except (ConnectionError, AuthenticationError) as error:
            raise InputError(
                f"RAY_ADDRESS: {placement.address} does not let us in ({first_sentence(error)}); {TOKEN}"
            ) from error
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine gives no notice
    _, most = placement.workers or (1, 1)
    # "local": else Ray connects to whatever cluster was last started on this machine, gone or not.
    num_cpus = max(os.cpu_count() or 1, most * placement.cpus_per_worker)
    # The dashboard takes a tenth of a core; without it Ray Train can hang when it stops a group inside a trial.
    ray.init(
        address="local",
        num_cpus=num_cpus,
        dashboard_host="127.0.0.1",
        include_dashboard=placement.workers is not None,
    )


def check_address(address: str, name: str = "RAY_ADDRESS") -> None:
    """Raise InputError unless someone listens there: Ray itself would go on trying for minutes.

    Args:
        address: HOST:PORT, with or without ray://, or auto.
        name: of the setting that the address came from.
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
    """Of what Ray says, which goes on for a paragraph."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0]
