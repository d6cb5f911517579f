"""Ray's Jobs API: hand a job in, follow its log, and survive a connection that drops."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from flowvae.errors import InputError
from pipeline.distributed.cluster import check_address

T = TypeVar("T")
EXCLUDED = [
    *("/.git", "/.venv", "/.dvc/cache", "/.dvc/tmp", "/.dvc/config.local", "__pycache__"),
    *("/data", "/models", "/logs", "/checkpoints", "/timings", "/tests", "/benchmarks"),
]  # as in .gitignore
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

    def submit(self, job: str, entrypoint: str, folder: Path, variables: dict[str, str]) -> None:
        """Send the project's folder, without what is in no git, and start the job under this name."""
        started = time.monotonic()
        while True:
            try:
                return self._submit(job, entrypoint, folder, variables)
            except InputError as error:  # a cluster that has just started has nobody yet to run jobs
                if "No available agent" not in str(error) or time.monotonic() - started > SECONDS_TO_START:
                    raise
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _submit(self, job: str, entrypoint: str, folder: Path, variables: dict[str, str]) -> None:
        environment = {"working_dir": str(folder), "excludes": EXCLUDED, "env_vars": variables}
        answered(
            self.address,
            lambda: self.client.submit_job(submission_id=job, entrypoint=entrypoint, runtime_env=environment),
        )

    def follow(self, job: str, show: Callable[[str], None]) -> bool:
        """Show the log as it grows, until the job ends; whether it succeeded.

        Raises:
            InputError: the cluster has not answered for minutes.
        """
        shown, heard = 0, time.monotonic()
        while True:
            try:
                status = self.client.get_job_status(job)
                log = self.client.get_job_logs(job)
                heard = time.monotonic()
            except (requests.RequestException, RuntimeError, ConnectionError) as error:
                if "does not exist" in str(error):
                    raise InputError(f"{self.address}: knows no job {job}; is it another cluster?") from error
                if time.monotonic() - heard > SECONDS_OF_SILENCE:
                    raise InputError(
                        f"{self.address}: no answer for {SECONDS_OF_SILENCE} s ({first_line(error)}); the job goes on; "
                        f"follow it again with --attach {job}"
                    ) from error
            else:
                show(log[shown:])
                shown = len(log)
                if status.is_terminal():
                    return status == JobStatus.SUCCEEDED
            time.sleep(SECONDS_BETWEEN_LOOKS)


def answered(address: str, ask: Callable[[], T]) -> T:
    """What the cluster says, or InputError with why it does not."""
    try:
        return ask()
    except (requests.RequestException, RuntimeError, ConnectionError) as error:
        text = str(error)
        if any(word in text for word in ("401", "403", "Unauthorized", "InvalidAuthToken", "uthentication")):
            raise InputError(
                f"{address}: the token is missing or not the cluster's; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            ) from error
        raise InputError(f"{address}: the cluster refused ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
