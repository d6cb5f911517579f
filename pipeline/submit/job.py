"""What a submitted job runs on the cluster: python -m pipeline.submit.job NAME [STAGE ...].

It runs in a copy of the project that was sent with the job. It fetches the prepared data from FLOWVAE_STORAGE and
reproduces the stages with DVC, side by side where they wait for nothing. The results of each stage go to storage when
it ends, and a manifest under the job's name says which stages ended and which failed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from flowvae.data.arrays import SOURCE, read_metadata
from flowvae.errors import InputError
from pipeline import paths
from pipeline.distributed.arrays import digest_of, fetch_arrays
from pipeline.distributed.room import room_for_stages
from pipeline.dvc_internals import Repo
from pipeline.files import read_json, write_json
from pipeline.running.redaction import redact
from pipeline.submit.outputs import DATA_STAGES
from pipeline.submit.request import Request, read_request, source_hash
from pipeline.submit.stages import run_stages

DVC = [sys.executable, "-m", "dvc"]
IGNORED = shutil.ignore_patterns("__pycache__", ".venv")


def main() -> int:
    """Exit code 0, or 1 after one line per problem on standard error."""
    name, *stages = sys.argv[1:]
    # Ray unpacks equal packages into the same folder, so several jobs would share it.
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(shutil.copytree(Path.cwd(), Path(folder) / "project", ignore=IGNORED))
        try:
            run(os.environ.get("FLOWVAE_STORAGE", ""), name, stages)
        except InputError as error:
            for line in redact(str(error)).splitlines():
                print(f"job: {line}", file=sys.stderr)
            return 1
        finally:
            os.chdir("/")
    return 0


def run(uri: str, name: str, stages: list[str]) -> None:
    """Run the job in the working folder.

    Args:
        uri: FLOWVAE_STORAGE.
        name: of the job.
        stages: to reproduce; by default, those that it was prepared for.

    Raises:
        InputError: the job was prepared for something else, storage or data cannot be read, or a stage failed.
    """
    request = read_request(uri, name)
    check_request(request, stages, name)
    fetch_data(uri, request)
    with room_for_stages() as limit:
        problems = run_stages(uri, name, request, limit)
    if problems:
        raise InputError("\n".join(problems))
    print(f"job: all stages have ended; their results are in storage at {uri}", flush=True)


def check_request(request: Request, stages: list[str], name: str) -> None:
    """Check that this job is what was asked for.

    Raises:
        InputError: other stages, or this copy of the project (in an image, say) has other code or params.
    """
    if stages and sorted(stages) != sorted(request.stages):
        asked = " ".join(request.stages)
        raise InputError(f"jobs/{name}: was prepared for {asked}, not for {' '.join(stages)}; prepare it again")
    if request.sources != source_hash(Path.cwd()):
        raise InputError(
            f"jobs/{name}: was prepared with other code or params than those that this job has; build the image again, "
            "or run python -m pipeline.submit --prepare again"
        )


def fetch_data(uri: str, request: Request) -> None:
    """Fetch the prepared data of the job, and freeze the stages that would produce them.

    Raises:
        InputError: the data are not in storage, are others, or cannot be read.
    """
    fetch_arrays(paths.PREPARED, uri, request.data)
    metadata = read_metadata(paths.PREPARED)
    if digest_of(metadata) != request.data:
        raise InputError(f"data/{request.data}: damaged, other arrays than those of the request; submit the job again")
    write_json(paths.SOURCE, read_json(paths.PREPARED / SOURCE))  # as the stage `fetch` does
    subprocess.run([*DVC, "config", "--local", "core.no_scm", "true"], check=True)
    with Repo() as repo:
        for stage in DATA_STAGES:
            repo.freeze(stage)


if __name__ == "__main__":
    sys.exit(main())
