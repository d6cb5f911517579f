"""Commands in a project: each starts the module of the pipeline that does the work."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from flowvae.commands.adding import add
from flowvae.errors import InputError

PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}  # to the module
QUIET = {
    **{"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}  # of the environment, as in the Makefile
FILES = ("dvc.yaml", "params.yaml", "pipeline")


def run(
    context: typer.Context,
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help="A stage, such as train@vae-0; default: all.")
    ] = None,
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", metavar="KEY=VALUE", help="A value of params.yaml for this run only."),
    ] = None,
) -> None:
    """Run the stages that are stale.

    Without TARGET, all stages run, up to the report. With -S, the run works in a copy of the project, so no file of the
    project changes. A terminal shows one view of the run, a pipe a line per event; the output of each stage is in
    logs/stages. Ctrl-C stops the run, and the next one resumes. More options: python -m pipeline.workflow --help.
    """
    values = [word for value in set_param or () for word in ("-S", value)]
    start("pipeline.workflow", *values, *(targets or ()), *context.args)


def preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A file in presets/ without its ending, or a FILE.yaml.")],
) -> None:
    """Write a preset into params.yaml."""
    start("pipeline.preset", name)


def submit(
    context: typer.Context,
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help="A stage or a variant; default: all.")
    ] = None,
) -> None:
    """Run stages on a Ray cluster.

    Their results are copied back. Its options: python -m pipeline.submit --help.
    """
    start("pipeline.submit", *(targets or ()), *context.args)


def study(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help="A file study-*.yaml in presets/ without its ending.")
    ],
    status: Annotated[
        bool, typer.Option("--status", help="Only say how many rows are done and how long the rest takes.")
    ] = False,
    hours: Annotated[float | None, typer.Option(min=0, metavar="H", help="Start no row after H hours.")] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Rows at a time; default: one per core.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STUDY|REGEX", help="Only rows of this study, or with this in their names.")
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Measure the NLL of all test images for the best row of each family.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep rows of which only the code changed: results are the same.")
    ] = False,
    findings: Annotated[bool, typer.Option("--findings", help="Write what the rows say, and its figures.")] = False,
) -> None:
    """Continue a study of many hours, row by row.

    Rows that are done are in git, in reports/study/rows, so any clone continues it. Without options,
    all rows are trained that are missing, each from its last checkpoint.
    """
    flags = {"--status": status, "--finish": finish, "--keep": keep, "--findings": findings}
    values = {"--hours": hours, "--parallel": parallel, "--only": only}
    words = [word for name, value in values.items() if value is not None for word in (name, str(value))]
    start("pipeline.rows", preset, *(name for name, chosen in flags.items() if chosen), *words)


def status() -> None:
    """Show what is stale, runs or failed.

    Also why a stage is stale, and where its log is.
    """
    start("pipeline.status")


def start(module: str, *arguments: str) -> None:
    """Let a module of the pipeline take the place of this process, with its signals and its exit code.

    Raises:
        InputError: the working folder is not a project, or packages of the pipeline are missing.
    """
    folder = Path.cwd()
    if lacking := [name for name in FILES if not (folder / name).exists()]:
        raise InputError(f"{folder}: not a project, it has no {', '.join(lacking)}; change to a clone of the project")
    if missing := [name for name in ("dvc", "prefect", "ray") if find_spec(name) is None]:
        raise InputError(f"{', '.join(missing)}: not installed; pip install -e '.[pipeline]' in a project installs it")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], QUIET | os.environ)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, run, "run", "run train@vae-0", "run -S training.epochs=2 train@vae-0", context_settings=PASS_ON)
    add(app, preset, "preset five-minutes")
    add(app, submit, "submit", "submit vae --detach", context_settings=PASS_ON)
    add(app, study, "study study-larochelle --hours 8", "study study-larochelle --status")
    add(app, status, "status")
