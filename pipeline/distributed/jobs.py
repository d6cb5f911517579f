"""Ray's Jobs API: submit a job and follow its log, even if the connection drops for a while."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from flowvae.errors import InputError
from pipeline.distributed.cluster import TOKEN_HINT, check_address, first_sentence

T = TypeVar("T")
NO_ANSWER = (requests.RequestException, aiohttp.ClientError, RuntimeError, ConnectionError)
POLL_SECONDS = 2
START_SECONDS = 25  # after which a new cluster accepts jobs
QUIET_SECONDS = 60  # without a line of the log, after which the status is asked for: the connection may be dead
SILENCE_SECONDS = 300  # without an answer from the cluster, after which following ends; the job continues


class JobFailedError(InputError):
    """A job failed or was stopped."""


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
        for name in ("ray", JobSubmissionClient.__module__):  # otherwise Ray logs each file that it excludes, and more
            logging.getLogger(name).setLevel(logging.WARNING)

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
            show: called with whole lines of the log.

        Raises:
            JobFailedError: the job failed or was stopped.
            InputError: there is no such job, or the cluster did not answer for minutes.
        """
        log, last_answer = Log(show), time.monotonic()
        while True:
            try:
                info = self.client.get_job_info(job)
                last_answer = time.monotonic()
                asyncio.run(self._tail(job, log))
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
                time.sleep(POLL_SECONDS)
            else:
                if info.status.is_terminal():  # before its log was read to the end
                    log.end()
                    check_succeeded(job, info)
                    return

    async def _tail(self, job: str, log: "Log") -> None:
        """Show what Ray sends of a log, until Ray closes the connection or the job has ended."""
        log.restart()
        pieces = self.client.tail_job_logs(job)
        while True:
            piece = asyncio.ensure_future(anext(pieces, None))
            while not (await asyncio.wait((piece,), timeout=QUIET_SECONDS))[0]:
                if self.client.get_job_info(job).status.is_terminal():
                    piece.cancel()
                    return
            text = piece.result()
            if text is None:
                return
            log.add(text)


class Log:
    """Shows the lines of a log once each, although Ray sends it from its start after each connection.

    Args:
        show: called with whole lines.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show, self.num_received, self.position, self.line = show, 0, 0, ""

    def restart(self) -> None:
        """Begin with another connection."""
        self.position = 0

    def add(self, text: str) -> None:
        """Show those lines of a piece that earlier connections did not send."""
        start, self.position = self.position, self.position + len(text)
        lines, newline, self.line = (self.line + text[max(0, self.num_received - start) :]).rpartition("\n")
        self.num_received = max(self.num_received, self.position)
        if newline:
            self.show(lines + newline)

    def end(self) -> None:
        """Show the last line if it does not end with a newline."""
        if self.line:
            self.show(self.line)


def check_succeeded(job: str, info: JobDetails) -> None:
    """Raise JobFailedError if a job that has ended failed or was stopped."""
    if info.status != JobStatus.SUCCEEDED:
        raise JobFailedError(
            f"{job}: {reason_of(info)}; its log is above; submit again: what is finished is not repeated"
        )


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
