"""Submit a job to a Ray cluster and copy its results back: python -m pipeline.submit [TARGET ...].

A TARGET is a stage of dvc.yaml (study@depth, train@vae-0, or study for all studies) or a variant of params.yaml, which
means its training and evaluation with every seed. Without targets, all variants and all studies are submitted. The job
runs them with DVC on the cluster. Afterwards their results are copied into the working tree and committed to DVC as if
they had been produced here, so that `dvc status` is clean. If a stage fails, the results of the others are copied.
"""

import argparse
import os
import re
import secrets
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flowvae.errors import InputError
from pipeline import paths
from pipeline.distributed.arrays import share_arrays
from pipeline.dvc_internals import DvcException, Repo
from pipeline.params.reading import load_params
from pipeline.params.schema import Params, run_name
from pipeline.running.redaction import redact
from pipeline.running.trackers import check_submitted, sent_variables
from pipeline.submit.project import copy_tracked
from pipeline.submit.request import Request, read_request, source_hash, write_request
from pipeline.submit.results import copy_results_back, share_results

if TYPE_CHECKING:
    from pipeline.distributed.jobs import Jobs

VARIABLES = (
    *("FLOWVAE_STORAGE", "FLOWVAE_WORKERS", "FLOWVAE_WORKERS_PER_TRIAL", "FLOWVAE_CPUS_PER_WORKER"),
    *("FLOWVAE_DEVICE", "FLOWVAE_CHECKPOINT_EVERY", "FLOWVAE_MAX_FAILURES"),
)  # of this environment, which the job gets
DEFAULT_TARGETS = ("evaluate", "study")
JOB_NAME = re.compile(r"\w[\w.-]*")


def main() -> int:
    """Exit code 0, or 1 after one line per problem on standard error."""
    options = parse_options()
    try:
        submit(options)
    except (InputError, DvcException) as error:
        for line in redact(str(error)).splitlines():
            print(f"submit: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("submit: interrupted; a job that was submitted continues to run", file=sys.stderr)
        return 1
    return 0


def parse_options() -> argparse.Namespace:
    """The targets, and what to do with the job."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.submit", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    parser.add_argument("--address", default=address,
                        help=f"the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, now {address}")  # fmt: skip
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--detach", action="store_true",
                       help="submit the job and return; --attach copies its results back later")  # fmt: skip
    modes.add_argument("--attach", metavar="JOB",
                       help="follow a job that was submitted earlier, and copy its results back")  # fmt: skip
    modes.add_argument("--prepare", metavar="JOB",
                       help="put the data into storage for a job that is started by other means")  # fmt: skip
    modes.add_argument("--collect", metavar="JOB",
                       help="copy the results of a job back from storage, without the cluster")  # fmt: skip
    return parser.parse_args()


def submit(options: argparse.Namespace) -> None:
    """Do what the options ask for.

    Raises:
        InputError: a target, the storage or the cluster is invalid or unavailable, or the job failed.
        DvcException: DVC knows no such stage, or preparing the data failed.
    """
    from pipeline.distributed.jobs import Jobs  # importing Ray takes seconds

    uri = os.environ.get("FLOWVAE_STORAGE", "")
    job = options.attach or options.prepare or options.collect or f"flowvae-{secrets.token_hex(4)}"
    if not JOB_NAME.fullmatch(job):
        raise InputError(f"JOB: expected a name of letters, digits, '.', '-' and '_', got {job!r}")
    jobs = None if options.prepare or options.collect else Jobs(options.address)
    if options.attach or options.collect:
        request = read_request(uri, job)
    else:
        check_submitted(os.environ)
        request = prepare(stages_to_run(options.targets, load_params(paths.PARAMS)), uri, job)
        if jobs:
            send(jobs, job, request.stages)
    if options.prepare or options.detach:
        return
    collect(uri, job, request, follow(jobs, job) if jobs else [])


def follow(jobs: "Jobs", job: str) -> list[str]:
    """Show the log of a job until it has ended. Returns: a line if it failed or was stopped."""
    from pipeline.distributed.jobs import JobFailedError

    try:
        jobs.follow(job, lambda text: print(redact(text), end="", flush=True))
    except JobFailedError as error:
        return [str(error)]
    return []


def collect(uri: str, job: str, request: Request, problems: list[str]) -> None:
    """Copy the results of a job back.

    Args:
        uri: FLOWVAE_STORAGE.
        job: its name.
        request: what it was asked for.
        problems: of the job, one line each.

    Raises:
        InputError: the job or one of its stages failed, or its results are not those of what is in this folder. The
            results of other stages were copied.
    """
    try:
        stages, more = copy_results_back(Path.cwd(), uri, job, request)
    except InputError as error:
        stages, more = [], [str(error)]
    if stages:
        print(f"{job}: copied back the results of {', '.join(stages)}", flush=True)
    if problems or more:
        raise InputError("\n".join([*problems, *more]))


def send(jobs: "Jobs", job: str, stages: list[str]) -> None:
    """Submit a job with a copy of what git tracks; Ray fails if a file changes while it packs the folder."""
    variables = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)} | sent_variables(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_tracked(Path.cwd(), Path(folder) / "project")
        jobs.submit(job, shlex.join(["python", "-m", "pipeline.submit.job", job, *stages]), copy, variables)
    print(f"submitted {job}; to follow it again: python -m pipeline.submit --attach {job}", flush=True)


def stages_to_run(targets: list[str], params: Params) -> list[str]:
    """The stages of the targets; without targets, those of DEFAULT_TARGETS.

    Raises:
        InputError: there are none, because the target is `study` and params.yaml has no studies.
    """
    stages = [stage for target in targets or DEFAULT_TARGETS for stage in stages_of(target, params)]
    if not stages:
        raise InputError(f"{paths.PARAMS}: studies: expected at least one study to submit, got none")
    return stages


def stages_of(target: str, params: Params) -> list[str]:
    """The stages of a target.

    Returns:
        For `study` all studies; for `evaluate` the evaluations of all variants, which include their training, and for a
        variant its own; anything else is a stage already.
    """
    if target == "study":
        return [f"study@{name}" for name in params.studies]
    variants = list(params.variants) if target == "evaluate" else [target]
    if not set(variants) <= params.variants.keys():
        return [target]
    return [f"evaluate@{run_name(variant, seed)}" for variant in variants for seed in params.seeds]


def prepare(stages: list[str], uri: str, job: str) -> Request:
    """Check that the stages exist, prepare the data, and put into storage what the job needs apart from the code.

    That includes the results of stages that are up to date here, which the job then does not run.

    Returns:
        The request, which is in storage too.
    """
    with Repo() as repo:
        for stage in stages:
            repo.stage.collect(stage)
        repo.reproduce(["prepare"])
    request = Request(stages=stages, data=share_arrays(paths.PREPARED, uri), sources=source_hash(Path.cwd()))
    share_results(Path.cwd(), uri, stages)
    write_request(uri, job, request)
    return request


if __name__ == "__main__":
    sys.exit(main())
