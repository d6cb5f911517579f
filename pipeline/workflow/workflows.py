"""The Prefect flows `reproduce` and `drift_check`, which run the stages of DVC's graph as tasks.

DVC decides which stages are stale, and runs them. `pipeline.workflow.order` decides what runs in parallel, and when.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import prefect
from dvc.exceptions import DvcException
from prefect import Task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed, State
from pydantic import Field

from flowvae.config import NonNegativeInt, PositiveInt
from flowvae.errors import InputError
from pipeline.workflow.artifacts import ProgressArtifact, finished_fraction, read_metrics, show
from pipeline.workflow.children import Children, child_processes, exclusive
from pipeline.workflow.drift import compare, drift_line, fresh_clone
from pipeline.workflow.graph import StageGraph
from pipeline.workflow.order import run_in_order
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
            problems += run_one_by_one(before, task, children) or run_stages(graph, task, children, limit, force=False)
            show(graph)
            problems += [] if problems else run_one_by_one(after, task, children)
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
    """Run stages as Prefect tasks, in the order of `pipeline.workflow.order`.

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
    futures: dict[str, PrefectFuture[State]] = {}

    def submit(stage: str, task: Task[..., State], *arguments: object) -> PrefectFuture[State]:
        # Prefect draws the graph by wait_for, and shows a stage as not ready if one that it depends on failed.
        before = [futures[name] for name in graph.dependencies[stage]]
        futures[stage] = task.submit(stage, *arguments, wait_for=before)
        return futures[stage]

    def start(stage: str) -> PrefectFuture[State]:
        return submit(stage, task, [*repro, stage], children)

    def succeeded(stage: str) -> bool:
        futures[stage].wait()
        return futures[stage].state.is_completed()

    def skip(stage: str) -> None:
        submit(stage, mark_unchanged)

    blocked = run_in_order(graph, start, succeeded, skip, lambda: limit, force=force)
    failed = [f"{stage}: {future.state.message}" for stage, future in futures.items() if future.state.is_failed()]
    for stage in blocked:
        submit(stage, mark_unchanged)
    return failed + ([f"not run, because a dependency failed: {', '.join(blocked)}"] if blocked else [])


def run_one_by_one(commands: Iterable[Sequence[str]], task: Task[..., State], children: Children) -> list[str]:
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
