"""Submit a job to a Ray cluster and copy its results back: python -m pipeline.submit [TARGET ...].

A TARGET is a stage of dvc.yaml (study@depth, train@vae-0, or study for all studies) or a variant of params.yaml, which
means its training and evaluation with every seed. Without targets, all variants and all studies are submitted. The job
runs `dvc repro` on the cluster. Afterwards its results are copied into the working tree and committed to DVC as if they
had been produced here, so that `dvc status` is clean.
"""

import argparse
import hashlib
import os
import secrets
import shlex
import sys
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flowvae.errors import InputError
from pipeline import paths
from pipeline.distributed.arrays import share_arrays
from pipeline.distributed.storage import Storage
from pipeline.params.reading import load_params
from pipeline.params.schema import Params, run_name
from pipeline.submit.results import copy_results_back

VARIABLES = (
    *("FLOWVAE_STORAGE", "FLOWVAE_WORKERS", "FLOWVAE_WORKERS_PER_TRIAL", "FLOWVAE_CPUS_PER_WORKER"),
    *("FLOWVAE_DEVICE", "FLOWVAE_CHECKPOINT_EVERY", "FLOWVAE_MAX_FAILURES"),
)  # of this environment, which the job gets
DEFAULT_TARGETS = ("evaluate", "study")
HASHED_PATHS = ("params.yaml", "dvc.yaml", "flowvae", "pipeline")  # what results depend on, apart from data


def main() -> int:
    """Exit code 0, or 1 after one line per problem on standard error."""
    options = parse_options()
    try:
        submit(options)
    except (InputError, DvcException) as error:
        for line in str(error).splitlines():
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
    results = Storage.of(uri, f"jobs/{job}")
    jobs = None if options.prepare or options.collect else Jobs(options.address)
    if options.attach or options.collect:
        check_sources(results)
    else:
        stages = stages_to_run(options.targets, load_params(paths.PARAMS))
        prepare(stages, uri, results)
        if jobs:
            variables = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
            jobs.submit(job, shlex.join(["python", "-m", "pipeline.submit.job", job, *stages]), Path.cwd(), variables)
            print(f"submitted {job}; to follow it again: python -m pipeline.submit --attach {job}", flush=True)
    if options.prepare or options.detach:
        return
    if jobs:
        jobs.follow(job, lambda text: print(text, end="", flush=True))
    check_sources(results)
    print(f"{job}: copied back the results of {', '.join(copy_results_back(Path.cwd(), results))}")


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


def prepare(stages: list[str], uri: str, results: Storage) -> None:
    """Check that the stages exist, prepare the data, and put into storage what the job needs apart from the code."""
    with Repo() as repo:
        for stage in stages:
            repo.stage.collect(stage)
        repo.reproduce(["prepare"])
    results.write("data", share_arrays(paths.PREPARED, uri).encode())
    results.write("sources", source_hash(Path.cwd()).encode())


def check_sources(results: Storage) -> None:
    """Raise InputError unless the job ran with the code and params of this folder, to which DVC attributes its results.

    Args:
        results: of the job.
    """
    expected = results.read("sources")
    if expected is None:
        raise InputError(f"{results.folder}: no job of this name was submitted with this FLOWVAE_STORAGE")
    if expected.decode() != source_hash(Path.cwd()):
        raise InputError(
            f"{results.folder}: the job ran with other code or params than those in this folder; check those out, and "
            "run the command with --attach or --collect again"
        )


def source_hash(project: Path) -> str:
    """SHA-256 over everything that results depend on, except for the data, whose hashes are in dvc.lock."""
    digest = hashlib.sha256()
    for name in HASHED_PATHS:
        path = project / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.relative_to(project).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
