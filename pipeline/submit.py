"""Send work to a Ray cluster and bring its results home: python -m pipeline.submit [TARGET ...].

A TARGET is a stage of dvc.yaml (sweep, train@vae-0) or a variant of params.yaml (its training and
evaluation with every seed); none means all variants and the sweep. The job runs `dvc repro` on the cluster.
Afterwards what it made is put into place and committed to DVC here, so that `dvc status` is clean as if
it had been made here.
"""

import argparse
import hashlib
import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flowvae.errors import InputError
from pipeline import paths
from pipeline.home import bring_home
from pipeline.params import Params, load_params, run_key
from pipeline.paths import PARAMS

if TYPE_CHECKING:
    from pipeline.distributed.storage import Storage

VARIABLES = ("FLOWVAE_STORAGE", "FLOWVAE_WORKERS", "FLOWVAE_WORKERS_PER_TRIAL", "FLOWVAE_CPUS_PER_WORKER",
             "FLOWVAE_DEVICE", "FLOWVAE_CHECKPOINT_EVERY", "FLOWVAE_MAX_FAILURES")  # fmt: skip
DEFAULT = ("evaluate", "sweep")
SOURCES = ("params.yaml", "dvc.yaml", "flowvae", "pipeline")  # what results depend on, data aside


def main() -> int:
    options = parse_options()
    try:
        submit(options)
    except (InputError, DvcException) as error:
        for line in str(error).splitlines():
            print(f"submit: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("submit: interrupted; a job that was submitted goes on", file=sys.stderr)
        return 1
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.submit", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--address", default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
                        help="the cluster's dashboard; RAY_API_SERVER_ADDRESS")  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--detach", action="store_true", help="submit, and leave; --attach brings it home later")
    how.add_argument("--attach", metavar="JOB", help="follow a job that was submitted earlier, and bring it home")
    how.add_argument("--prepare", metavar="JOB", help="put the data into storage for a job that something else starts")
    how.add_argument("--collect", metavar="JOB", help="bring home what a job has left in storage, without the cluster")
    return parser.parse_args()


def submit(options: argparse.Namespace) -> None:
    """Raises InputError or DvcException, with one line that says what was wrong."""
    from pipeline.distributed.jobs import Jobs
    from pipeline.distributed.storage import Storage

    uri = os.environ.get("FLOWVAE_STORAGE", "")
    job = options.attach or options.prepare or options.collect or f"flowvae-{secrets.token_hex(4)}"
    results = Storage.of(uri, f"jobs/{job}")
    jobs = None if options.prepare or options.collect else Jobs(options.address)
    if options.attach or options.collect:
        check_sources(results)
    else:
        targets = [stage for target in options.targets or DEFAULT for stage in stages_of(target, load_params(PARAMS))]
        prepare(targets, uri, results)
        if jobs:
            variables = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
            jobs.submit(job, shlex.join(["python", "-m", "pipeline.job", job, *targets]), Path.cwd(), variables)
            print(f"submitted {job}; if this ends early: python -m pipeline.submit --attach {job}", flush=True)
    if options.prepare or options.detach:
        return
    if jobs:
        jobs.follow(job, lambda text: print(text, end="", flush=True))
    check_sources(results)
    print(f"{job}: brought home {', '.join(bring_home(Path.cwd(), results))}")


def prepare(targets: list[str], uri: str, results: "Storage") -> None:
    """Check the targets, make the data, and put into storage what the job needs beside the code."""
    from pipeline.distributed.arrays import share_arrays

    with Repo() as repo:
        for target in targets:
            repo.stage.collect(target)
        repo.reproduce(["prepare"])
    results.write("data", share_arrays(paths.PREPARED, uri).encode())
    results.write("sources", fingerprint(Path.cwd()).encode())


def check_sources(results: "Storage") -> None:
    """Raise InputError unless the job ran with the code and params that are here: DVC would take them for its."""
    expected = results.read("sources")
    if expected is None:
        raise InputError(f"{results.folder}: no job of that name was submitted with this FLOWVAE_STORAGE")
    if expected.decode() != fingerprint(Path.cwd()):
        raise InputError(
            f"{results.folder}: was made with other code or params than are here; check those out, and --attach again"
        )


def stages_of(target: str, params: Params) -> list[str]:
    """All variants' evaluations, which include their training, or one's; anything else is a stage already."""
    variants = list(params.variants) if target == "evaluate" else [target]
    if not set(variants) <= params.variants.keys():
        return [target]
    return [f"evaluate@{run_key(variant, seed)}" for variant in variants for seed in params.seeds]


def fingerprint(project: Path) -> str:
    """A hash of what results depend on, data aside: data are known by dvc.lock."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = project / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.relative_to(project).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
