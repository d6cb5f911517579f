"""Ray's Jobs API: hand a job in, follow its log, and survive a connection that drops."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from flowvae.errors import InputError
from pipeline.distributed.cluster import TOKEN, check_address, first_sentence

T = TypeVar("T")
NO_ANSWER = (requests.RequestException, RuntimeError, ConnectionError)
LEFT_OUT = {
    *(".git", ".venv", ".dvc/cache", ".dvc/tmp", ".dvc/config.local"),
    *("data", "models", "logs", "checkpoints", "timings", "tests", "benchmarks"),
}  # of the project's folder, when it goes with a job
SECONDS_BETWEEN_LOOKS = 2
SECONDS_TO_START = 25  # of a cluster, until it takes jobs
SECONDS_OF_SILENCE = 300  # without any answer from the cluster, after which following ends; the job goes on


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, like http://127.0.0.1:8265.

    Raises:
        InputError: nobody listens there, or the token is not the cluster's.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--address: expected http://HOST:PORT of the cluster's dashboard, got {address!r}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        check_address(f"{parts.hostname}:{port}", "--address")
        self.address = address
        self.client = answered(address, lambda: JobSubmissionClient(address))
        logging.getLogger("ray").setLevel(logging.WARNING)  # else it names each file that it leaves out

    def submit(self, job: str, entrypoint: str, folder: Path, variables: dict[str, str]) -> None:
        """Send the project's folder, without what no job needs, and start the job under this name."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as still:  # Ray loses a folder in which a file changes meanwhile
            copy = copy_project(folder, Path(still) / "project")
            while True:
                try:
                    return self._submit(job, entrypoint, copy, variables)
                except InputError as error:  # a cluster that has just started has nobody yet to run jobs
                    if "No available agent" not in str(error) or time.monotonic() - started > SECONDS_TO_START:
                        raise
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _submit(self, job: str, entrypoint: str, folder: Path, variables: dict[str, str]) -> None:
        environment = {"working_dir": str(folder), "env_vars": variables}
        answered(
            self.address,
            lambda: self.client.submit_job(submission_id=job, entrypoint=entrypoint, runtime_env=environment),
        )

    def follow(self, job: str, show: Callable[[str], None]) -> None:
        """Show the log as it grows, until the job has succeeded.

        Raises:
            InputError: it failed or was stopped, or the cluster has not answered for minutes.
        """
        shown, heard = 0, time.monotonic()
        while True:
            try:
                info = self.client.get_job_info(job)
                log = self.client.get_job_logs(job)
                heard = time.monotonic()
            except NO_ANSWER as error:
                if "does not exist" in str(error):
                    raise InputError(f"{self.address}: knows no job {job}; is it another cluster?") from error
                if time.monotonic() - heard > SECONDS_OF_SILENCE:
                    raise InputError(
                        f"{self.address}: no answer for {SECONDS_OF_SILENCE} s ({first_sentence(error)}); the job goes "
                        f"on; follow it again with --attach {job}"
                    ) from error
            else:
                show(log[shown:])
                shown = len(log)
                if info.status == JobStatus.SUCCEEDED:
                    return
                if info.status.is_terminal():
                    raise InputError(
                        f"{job}: {reason_of(info)}; its log is above; submit again to go on from its last checkpoints"
                    )
            time.sleep(SECONDS_BETWEEN_LOOKS)


def copy_project(folder: Path, target: Path) -> Path:
    """A copy of the project's folder without what no job needs."""

    def left_out(parent: str, names: list[str]) -> set[str]:
        inside = Path(parent).relative_to(folder)
        return {name for name in names if name == "__pycache__" or (inside / name).as_posix() in LEFT_OUT}

    return shutil.copytree(folder, target, ignore=left_out, ignore_dangling_symlinks=True)


def reason_of(info: JobDetails) -> str:
    """Why a job ended that did not succeed, in one line."""
    message = (info.message or info.status.value).partition(", last available logs")[0]
    first, *more = message.strip().splitlines()
    return " ".join([first, *more[-1:]]).rstrip(".")


def answered(address: str, ask: Callable[[], T]) -> T:
    """What the cluster says, or InputError with why it does not."""
    try:
        return ask()
    except AuthenticationError as error:
        raise InputError(f"--address: {address} does not let us in ({first_sentence(error)}); {TOKEN}") from error
    except NO_ANSWER as error:
        raise InputError(f"{address}: the cluster refused ({first_sentence(error)})") from error
