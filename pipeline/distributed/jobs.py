"""Ray's Jobs API: submit a job and follow its log, even if the connection drops for a while."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from flowvae.errors import InputError
from pipeline.distributed.cluster import TOKEN_HINT, check_address, first_sentence

T = TypeVar("T")
NO_ANSWER = (requests.RequestException, RuntimeError, ConnectionError)
POLL_SECONDS = 2
START_SECONDS = 25  # after which a new cluster accepts jobs
SILENCE_SECONDS = 300  # without an answer from the cluster, after which following ends; the job continues


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, such as http://127.0.0.1:8265.

    Raises:
        InputError: nothing listens at the address, or the cluster rejects the token.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--address: expected http://HOST:PORT of the cluster's dashboard, got {address!r}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        check_address(f"{parts.hostname}:{port}", "--address")
        self.address = address
        self.client = call_cluster(address, lambda: JobSubmissionClient(address))
        logging.getLogger("ray").setLevel(logging.WARNING)  # otherwise Ray logs each file that it excludes

    def submit(self, job: str, entrypoint: str, folder: Path, variables: dict[str, str]) -> None:
        """Send a folder, and start the job.

        Args:
            job: its name.
            entrypoint: the command that it runs.
            folder: a copy of the project, all of which is sent.
            variables: of the environment of the job.

        Raises:
            InputError: the cluster refuses the job.
        """
        started = time.monotonic()
        while True:
            try:
                return self._submit(job, entrypoint, folder, variables)
            except InputError as error:  # a cluster that has just started has no agent yet that runs jobs
                if "No available agent" not in str(error) or time.monotonic() - started > START_SECONDS:
                    raise
            time.sleep(POLL_SECONDS)

    def _submit(self, job: str, entrypoint: str, folder: Path, variables: dict[str, str]) -> None:
        environment = {"working_dir": str(folder), "env_vars": variables}
        call_cluster(
            self.address,
            lambda: self.client.submit_job(submission_id=job, entrypoint=entrypoint, runtime_env=environment),
        )

    def follow(self, job: str, show: Callable[[str], None]) -> None:
        """Show the log of a job as it grows, until the job has succeeded.

        Args:
            job: its name.
            show: called with each new part of the log.

        Raises:
            InputError: the job failed or was stopped, or the cluster did not answer for minutes.
        """
        num_shown, last_answer = 0, time.monotonic()
        while True:
            try:
                info = self.client.get_job_info(job)
                log = self.client.get_job_logs(job)
                last_answer = time.monotonic()
            except NO_ANSWER as error:
                if "does not exist" in str(error):
                    raise InputError(
                        f"{self.address}: this cluster has no job {job}; check --address and the name of the job"
                    ) from error
                if time.monotonic() - last_answer > SILENCE_SECONDS:
                    raise InputError(
                        f"{self.address}: no answer for {SILENCE_SECONDS} s ({first_sentence(error)}); the job "
                        f"continues to run; follow it again with --attach {job}"
                    ) from error
            else:
                end = len(log) if info.status.is_terminal() else log.rfind("\n") + 1  # whole lines
                show(log[num_shown:end])
                num_shown = max(num_shown, end)
                if info.status == JobStatus.SUCCEEDED:
                    return
                if info.status.is_terminal():
                    raise InputError(
                        f"{job}: {reason_of(info)}; its log is above; submit again to resume from its checkpoints"
                    )
            time.sleep(POLL_SECONDS)


def reason_of(info: JobDetails) -> str:
    """Why a job failed or was stopped, in one line."""
    message = (info.message or info.status.value).partition(", last available logs")[0]
    first, *more = message.strip().splitlines()
    return " ".join([first, *more[-1:]]).rstrip(".")


def call_cluster(address: str, request: Callable[[], T]) -> T:
    """Send a request to the cluster.

    Returns:
        The answer.

    Raises:
        InputError: the cluster rejects the token or the request; the message says why.
    """
    try:
        return request()
    except AuthenticationError as error:
        message = f"--address: {address} cannot be accessed ({first_sentence(error)}); {TOKEN_HINT}"
        raise InputError(message) from error
    except NO_ANSWER as error:
        raise InputError(f"{address}: the cluster refused ({first_sentence(error)})") from error
