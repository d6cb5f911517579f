"""The results of a run as a DVC experiment, which others pull and apply."""

import subprocess

from flowvae.errors import InputError
from pipeline.workflow.graph import StageGraph


def save_command(graph: StageGraph, name: str) -> list[str]:
    """The arguments of DVC that save an experiment with everything that exists, whether or not all stages succeeded.

    `dvc exp save` leaves out new files that git does not track, so they are named. Unless stages are named, it commits
    all of them to DVC, the stale ones too, and fails if an output is missing. `dvc repro` has committed what ran, so
    one stage that is up to date is enough.

    Raises:
        InputError: git fails, or no stage is up to date, so that there is nothing to save.
    """
    stages = set(graph.dependencies)
    if not (current := stages - graph.stale(stages)):
        raise InputError(f"experiment {name}: not saved, because no stage is up to date")
    untracked = [argument for file in new_files(graph) for argument in ("--include-untracked", file)]
    message = f"Results of {name}"
    return ["exp", "save", "--force", "--name", name, "--message", message, *untracked, graph.first(current)]


def new_files(graph: StageGraph) -> list[str]:
    """The files of outputs that git neither tracks nor ignores; it ignores those in DVC's cache.

    Raises:
        InputError: git fails.
    """
    command = ["git", "ls-files", "--others", "--exclude-standard", "-z", "--", *map(str, graph.outputs)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise InputError(f"git ls-files failed ({' '.join(listed.stderr.split())})")
    return list(filter(None, listed.stdout.split("\0")))
