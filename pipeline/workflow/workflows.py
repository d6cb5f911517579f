"""The Prefect flows `reproduce` and `drift_check`, and the order in which they run the stages of DVC's graph.

DVC decides which stages are stale, and runs them. This module decides what runs in parallel and what is retried.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from graphlib import TopologicalSorter
from typing import Annotated

import prefect
from dvc.exceptions import DvcException
from prefect import Task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed, State
from pydantic import Field

from flowvae.config import NonNegativeInt, PositiveInt
from flowvae.errors import InputError
from pipeline.workflow.artifacts import ProgressArtifact, finished_fraction, read_metrics, show
from pipeline.workflow.children import Children, child_processes, exclusive
from pipeline.workflow.drift import compare, drift_line, fresh_clone
from pipeline.workflow.graph import StageGraph
from pipeline.workflow.overrides import overridden, params_problems

JITTER = 0.5  # of the delay before a retry
NonNegative = Annotated[float, Field(ge=0)]


class WithoutFailedRuns(logging.Filter):
    """Drops the traceback through Prefect of a run whose state already says that it failed, and why."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


for _name in ("prefect.flow_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(WithoutFailedRuns())


@prefect.flow(name="reproduce")
def reproduce(
    targets: list[str] | None = None,
    set_params: list[str] | None = None,
    concurrency: PositiveInt | None = None,
    retries: NonNegativeInt = 0,
    retry_delay: NonNegative = 30,
    pull: bool = False,
    push: bool = False,
    experiment: str | None = None,
) -> State:
    """Bring stages and everything that they depend on up to date, one task per stage.

    Args:
        targets: stages, as for `dvc repro`; without targets, all stages.
        set_params: values of params.yaml for this run only, as for `dvc exp run --set-param`.
        concurrency: stages at a time, which share the cores; default: the number of cores, or 1 on a GPU.
        retries: number of retries of a stage that fails.
        retry_delay: seconds before a retry.
        pull: whether to pull results from DVC's remote before the run.
        push: whether to push the results to DVC's remote, and the experiment to git's, after the run.
        experiment: the name under which the results are saved as a DVC experiment; %Y-%m-%d becomes the date.
    """
    task = run_dvc.with_options(retries=retries, retry_delay_seconds=retry_delay, retry_jitter_factor=JITTER)
    name = datetime.now().strftime(experiment) if experiment else None
    before = [["pull", "--run-cache", "--allow-missing", *(targets or ())]] if pull else []
    after = [["exp", "save", "--force", "--name", name]] if name else []
    after += [["push", "--run-cache", *(targets or ())]] if push else []
    after += [["exp", "push", "--force", "--no-cache", "origin", name]] if push and name else []
    with collecting_problems() as problems, exclusive(prefect.get_run_logger().info), overridden(set_params or ()):
        graph = StageGraph(targets or ())
        with child_processes(graph.width, concurrency) as (children, limit):
            problems += run_in_order(before, task, children) or run_stages(graph, task, children, limit, force=False)
            show(graph)
            problems += [] if problems else run_in_order(after, task, children)
    return final_state(problems)


@prefect.flow(name="drift-check")
def drift_check(
    targets: list[str], num_standard_errors: NonNegative = 1, concurrency: PositiveInt | None = None
) -> State:
    """Reproduce a part of the last commit from scratch, and compare its metrics with the committed ones.

    Args:
        targets: stages to run again; a small part.
        num_standard_errors: the number of standard errors of the difference that a metric may differ by.
        concurrency: as for `reproduce`.
    """
    with collecting_problems() as problems, fresh_clone():
        graph = StageGraph(targets)
        committed = read_metrics(graph.repo)
        with child_processes(graph.width, concurrency) as (children, limit):
            problems += run_stages(graph, run_dvc, children, limit, force=True)
        if not problems:
            rows = compare(committed, read_metrics(graph.repo), num_standard_errors)
            create_table_artifact(rows, key="drift", description="Committed metrics, and those measured in this run")
            problems += [drift_line(row) for row in rows if row["drifted"]]
    return final_state(problems)


@prefect.task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_dvc(name: str, arguments: list[str], children: Children) -> State:
    """Run one DVC command; its output goes to the log, and the progress that it reports to an artifact."""
    logger = prefect.get_run_logger()
    progress = ProgressArtifact(name, logger.warning)

    def on_line(line: str) -> None:
        logger.info(line)
        if (fraction := finished_fraction(line)) is not None:
            progress.update(fraction)

    try:
        children.run(arguments, on_line)
    except InputError as error:
        return Failed(message=str(error))
    progress.finish()
    return Completed()


@prefect.task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def mark_unchanged(name: str) -> State:
    """Record a stage that is up to date."""
    return Completed(name="Unchanged", message=f"{name} is up to date")


def run_stages(graph: StageGraph, task: Task[..., State], children: Children, limit: int, *, force: bool) -> list[str]:
    """Run stages, each after those that it depends on. If a stage fails, only those that depend on it do not run.

    Args:
        graph: of the stages.
        task: runs one stage: `run_dvc`, with options.
        children: run the DVC commands.
        limit: number of stages at a time.
        force: whether to run all stages, not only stale ones.

    Returns:
        One line per problem.
    """
    repro = ["repro", "--single-item", *(["--force"] if force else [])]
    order = TopologicalSorter(graph.dependencies)
    order.prepare()
    futures: dict[str, PrefectFuture[State]] = {}
    waiting: set[str] = set()
    running: set[str] = set()

    def start(stage: str, task: Task[..., State], *arguments: object) -> None:
        futures[stage] = task.submit(stage, *arguments, wait_for=[futures[name] for name in graph.dependencies[stage]])

    while order.is_active():
        ready = order.get_ready()
        stale = set(ready) if force else graph.stale(ready)
        waiting |= stale
        for stage in (stage for stage in ready if stage not in stale):
            start(stage, mark_unchanged)
            order.done(stage)
        while waiting and len(running) < limit:
            stage = graph.first(waiting)
            start(stage, task, [*repro, stage], children)
            waiting.remove(stage)
            running.add(stage)
        if len(ready) > len(stale):
            continue  # the stages that are up to date may have made others ready
        if not running:
            break
        stage = first_to_end({name: futures[name] for name in running})
        running.remove(stage)
        if futures[stage].state.is_completed():
            order.done(stage)
    failed = [f"{stage}: {future.state.message}" for stage, future in futures.items() if future.state.is_failed()]
    blocked = [stage for stage in graph.dependencies if stage not in futures]
    for stage in blocked:
        start(stage, mark_unchanged)  # Prefect shows it as not ready
    return failed + ([f"not run, because a dependency failed: {', '.join(blocked)}"] if blocked else [])


def first_to_end(futures: Mapping[str, PrefectFuture[State]]) -> str:
    """Wait until one of the futures has ended, and return its name."""
    ended = next(as_completed(list(futures.values())))
    ended.wait()
    return next(name for name, future in futures.items() if future is ended)


def run_in_order(commands: Iterable[Sequence[str]], task: Task[..., State], children: Children) -> list[str]:
    """Run DVC commands one after another until one fails.

    Returns:
        The problem, if one failed.
    """
    for command in commands:
        future = task.submit(f"dvc {' '.join(command)}", list(command), children)
        future.wait()
        if not future.state.is_completed():
            return [future.state.message or f"dvc {' '.join(command)} failed"]
    return []


@contextmanager
def collecting_problems() -> Iterator[list[str]]:
    """A list of problems, one line each, to which errors that the user can fix are added."""
    problems: list[str] = []
    try:
        yield problems
    except InputError as error:
        problems += str(error).splitlines()
    except DvcException as error:
        problems += params_problems() or str(error).splitlines()


def final_state(problems: Sequence[str]) -> State:
    """The state of a flow run with these problems."""
    return Failed(message="\n".join(problems)) if problems else Completed(message="everything is up to date")
