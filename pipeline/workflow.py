"""The pipeline as a Prefect workflow, one task per stage: python -m pipeline.workflow [TARGET ...].

A TARGET is a stage of dvc.yaml (sweep, train@vae-0, or train for all of its instances); none means all. DVC alone
decides what is stale, and runs it; here is decided what runs beside what, what is tried again, and what is shown.
With PREFECT_API_URL the run is seen on that server, else on a temporary one.
"""

import argparse
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import httpx
import prefect
from dvc.exceptions import DvcException
from prefect import Task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed, State
from pydantic import Field

from flowvae.config import NonNegativeInt, PositiveInt
from flowvae.errors import InputError
from pipeline import exhibits
from pipeline.drift import compare, describe, fresh_clone
from pipeline.graph import StageGraph
from pipeline.overrides import overridden, wrong_params
from pipeline.reproduction import Children, alone, children

SECONDS_BETWEEN_UPDATES = 10  # of a progress artifact
JITTER = 0.5  # of the delay before a stage is tried again
Words = list[str] | None
NonNegative = Annotated[float, Field(ge=0)]


class WithoutFailedRuns(logging.Filter):
    """Drops the traceback through Prefect of a run whose state says that it has failed, and why."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


for _name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(WithoutFailedRuns())


@prefect.flow(name="reproduce")
def reproduce(
    targets: Words = None,
    set_params: Words = None,
    concurrency: PositiveInt | None = None,
    retries: NonNegativeInt = 0,
    retry_delay: NonNegative = 30,
    pull: bool = False,
    push: bool = False,
    experiment: str | None = None,
) -> State:
    """Bring stages and all that they need up to date, one task per stage.

    Args:
        targets: stages, as for `dvc repro`; none means all.
        set_params: values of params.yaml for this run alone, as for `dvc exp run --set-param`.
        concurrency: stages at a time, which share the cores; if unset, as many as there are cores, or one on a GPU.
        retries: of a stage that fails.
        retry_delay: seconds before a stage is tried again.
        pull: first fetch what DVC's remote has.
        push: at the end send the results to DVC's remote, and the experiment to git's.
        experiment: the name under which the results are saved as a DVC experiment; %Y-%m-%d becomes the date.
    """
    task = run_dvc.with_options(retries=retries, retry_delay_seconds=retry_delay, retry_jitter_factor=JITTER)
    name = datetime.now().strftime(experiment) if experiment else None
    before = [["pull", "--run-cache", "--allow-missing", *(targets or ())]] if pull else []
    after = [["exp", "save", "--force", "--name", name]] if name else []
    after += [["push", "--run-cache", *(targets or ())]] if push else []
    after += [["exp", "push", "--force", "--no-cache", "origin", name]] if push and name else []
    with failing() as problems, alone(prefect.get_run_logger().info), overridden(set_params or ()):
        graph = StageGraph(targets or ())
        with children(graph.width, concurrency) as (work, limit):
            problems += in_order(before, task, work) or run_stages(graph, task, work, limit, force=False)
            show(graph)
            problems += [] if problems else in_order(after, task, work)
    return conclude(problems)


@prefect.flow(name="drift-check")
def drift_check(
    targets: list[str], num_standard_errors: NonNegative = 1, concurrency: PositiveInt | None = None
) -> State:
    """Train and score the last commit again, from nothing, and compare the metrics with those committed.

    Args:
        targets: what to make again; a small part.
        num_standard_errors: of the difference, beyond which a metric has drifted.
        concurrency: as for `reproduce`.
    """
    with failing() as problems, fresh_clone():
        graph = StageGraph(targets)
        committed = exhibits.read_metrics(graph.repo)
        with children(graph.width, concurrency) as (work, limit):
            problems += run_stages(graph, run_dvc, work, limit, force=True)
        if not problems:
            rows = compare(committed, exhibits.read_metrics(graph.repo), num_standard_errors)
            create_table_artifact(rows, key="drift", description="Committed metrics, and those of the same code now")
            problems += [describe(row) for row in rows if row["drifted"]]
    return conclude(problems)


@prefect.task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_dvc(name: str, arguments: list[str], work: Children) -> State:
    """One command of DVC's; its lines become the log, and what they say of progress an artifact."""
    logger = prefect.get_run_logger()
    progress = Progress(name, logger.warning)

    def hear(line: str) -> None:
        logger.info(line)
        if (fraction := exhibits.fraction_done(line)) is not None:
            progress.show(fraction)

    try:
        work.run(arguments, hear)
    except InputError as error:
        return Failed(message=str(error))
    progress.finish()
    return Completed()


@prefect.task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def leave(name: str) -> State:
    """A stage that is up to date."""
    return Completed(name="Unchanged", message=f"{name} is up to date")


class Progress:
    """How far a stage is, as a Prefect artifact; stages that say nothing of it have none.

    Args:
        name: of the stage.
        warn: is told when the server does not answer; the stage goes on.
    """

    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        self.name, self.warn, self.artifact, self.shown = name, warn, None, 0.0

    def show(self, fraction: float) -> None:
        """At most every few seconds."""
        if time.monotonic() - self.shown > SECONDS_BETWEEN_UPDATES:
            self.shown = time.monotonic()
            self._put(100 * fraction)

    def finish(self) -> None:
        if self.artifact:
            self._put(100.0)

    def _put(self, percent: float) -> None:
        try:
            if self.artifact:
                update_progress_artifact(self.artifact, percent)
            else:
                self.artifact = create_progress_artifact(percent, key=key_of(self.name), description=self.name)
        except httpx.HTTPError as error:
            self.warn(f"progress is not shown: {error}")


def run_stages(graph: StageGraph, task: Task[..., State], work: Children, limit: int, *, force: bool) -> list[str]:
    """Run what is stale, or with `force` all, each stage after those that it depends on; what went wrong, a line each.

    A stage that fails stops what depends on it, and nothing else.
    """
    repro = ["repro", "--single-item", *(["--force"] if force else [])]
    order = TopologicalSorter(graph.dependencies)
    order.prepare()
    futures: dict[str, PrefectFuture[State]] = {}
    waiting, running = set(), set()

    def start(stage: str, task: Task[..., State], *arguments: Any) -> None:
        futures[stage] = task.submit(stage, *arguments, wait_for=[futures[name] for name in graph.dependencies[stage]])

    while order.is_active():
        ready = order.get_ready()
        stale = set(ready) if force else graph.stale(ready)
        waiting |= stale
        for stage in (stage for stage in ready if stage not in stale):
            start(stage, leave)
            order.done(stage)
        while waiting and len(running) < limit:
            stage = graph.first(waiting)
            start(stage, task, [*repro, stage], work)
            waiting.remove(stage)
            running.add(stage)
        if len(ready) > len(stale):
            continue  # what was up to date may have let others get ready
        if not running:
            break
        stage = first_to_end({name: futures[name] for name in running})
        running.remove(stage)
        if futures[stage].state.is_completed():
            order.done(stage)
    failed = [f"{stage}: {future.state.message}" for stage, future in futures.items() if future.state.is_failed()]
    blocked = [stage for stage in graph.dependencies if stage not in futures]
    for stage in blocked:
        start(stage, leave)  # Prefect shows it as not ready
    return [*failed, *([f"not run, since they wait for those: {', '.join(blocked)}"] if blocked else [])]


def first_to_end(futures: dict[str, PrefectFuture[State]]) -> str:
    ended = next(as_completed(list(futures.values())))
    ended.wait()
    return next(name for name, future in futures.items() if future is ended)


def in_order(commands: Sequence[list[str]], task: Task[..., State], work: Children) -> list[str]:
    """Run these commands of DVC's one after another until one fails; what went wrong."""
    for command in commands:
        future = task.submit(f"dvc {' '.join(command)}", command, work)
        future.wait()
        if not future.state.is_completed():
            return [future.state.message]
    return []


@contextmanager
def failing() -> Iterator[list[str]]:
    """Lines about what went wrong; mistakes of the user's become such lines."""
    problems: list[str] = []
    try:
        yield problems
    except InputError as error:
        problems += str(error).splitlines()
    except DvcException as error:
        problems += wrong_params() or str(error).splitlines()


def show(graph: StageGraph) -> None:
    """The metrics, figures and pages of the project as artifacts."""
    if table := exhibits.metrics_table(exhibits.read_metrics(graph.repo)):
        create_table_artifact(table, key="metrics", description="All metrics that DVC knows")
    if images := exhibits.figures(graph.repo):
        text = "\n\n".join(f"## {path.stem}\n\n![{path.stem}]({exhibits.data_uri(path)})" for path in images)
        create_markdown_artifact(text, key="figures", description="The images among the plots of dvc.yaml")
    for page in filter(Path.is_file, graph.outputs):
        if page.suffix == ".md":
            create_markdown_artifact(exhibits.standing_alone(page), key=key_of(page.stem), description=page.name)
        if page.suffix == ".html":
            create_link_artifact(page.as_uri(), link_text=str(page), key=key_of(page.stem), description=page.name)


def key_of(name: str) -> str:
    """A name as Prefect takes it for the key of an artifact."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def conclude(problems: list[str]) -> State:
    return Failed(message="\n".join(problems)) if problems else Completed(message="all is up to date")


def main() -> int:
    state = reproduce(**vars(parse_options()), return_state=True)
    if not state.is_completed():
        for line in (state.message or state.name).splitlines():
            print(f"workflow: {line}", file=sys.stderr)
    return 0 if state.is_completed() else 1


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.workflow", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("-S", "--set-param", action="append", dest="set_params", metavar="KEY=VALUE",
                        help="a value of params.yaml for this run alone; may be repeated")  # fmt: skip
    parser.add_argument("--concurrency", type=int, help="stages at a time; as many as there are cores if unset")
    parser.add_argument("--retries", type=int, default=0, help="of a stage that fails")
    parser.add_argument("--retry-delay", type=float, default=30, help="seconds before a stage is tried again")
    parser.add_argument("--pull", action="store_true", help="first fetch what DVC's remote has")
    parser.add_argument("--push", action="store_true", help="at the end send the results to DVC's remote")
    parser.add_argument("--experiment", metavar="NAME", help="save the results as a DVC experiment of this name")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
