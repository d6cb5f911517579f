"""The Prefect tasks of a workflow: one per stage, and one per DVC command before and after them."""

from collections.abc import Iterable, Sequence

import prefect
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed, State

from flowvae.errors import InputError
from pipeline.running.records import record_success
from pipeline.workflow.artifacts import ProgressArtifact
from pipeline.workflow.children import DVC, Children, StoppedError, TimeLimitError
from pipeline.workflow.events import emit
from pipeline.workflow.graph import StageGraph
from pipeline.workflow.order import run_in_order
from pipeline.workflow.watched import WatchedRun

MAX_NAME = 100  # characters of the name of a task
REMOTE = ("pipeline.workflow.remote",)
TIMED_OUT = "TimedOut"  # Prefect's name of the state of a task that has taken too long


def is_worth_a_retry(task: Task[..., State], run: TaskRun, state: State) -> bool:
    """Whether a command that failed is run again: not if it has taken too long."""
    return state.name != TIMED_OUT


@prefect.task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_worth_a_retry)
def run_dvc(
    name: str, arguments: list[str], children: Children, *, pull: str | None = None, program: Sequence[str] = DVC
) -> State:
    """Run one DVC command; its output goes to the log and a file, and the progress that it reports to an artifact.

    Args:
        name: of the task.
        arguments: of DVC.
        children: run the command.
        pull: a stage of which an earlier run is pulled from DVC's remote first, if there is one.
        program: what to run in place of DVC.
    """
    logger = prefect.get_run_logger()
    progress = ProgressArtifact(name, logger.warning)
    with WatchedRun(name, logger.info, progress.update) as run:
        try:
            if pull:
                children.run(["pull", pull], run.on_line, REMOTE)
            children.run(arguments, run.on_line, program, run.on_tick)
        except StoppedError as error:
            return Failed(message=str(error))
        except InputError as error:
            run.fail(error)
            return Failed(name=TIMED_OUT if isinstance(error, TimeLimitError) else "Failed", message=str(error))
        run.succeed()
    progress.finish()
    return Completed()


@prefect.task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def mark_unchanged(name: str) -> State:
    """Record a stage that is up to date."""
    return Completed(name="Unchanged", message=f"{name} is up to date")


def run_stages(
    graph: StageGraph,
    task: Task[..., State],
    children: Children,
    limit: int,
    *,
    force: bool = False,
    pull: bool = False,
    push: bool = False,
) -> list[str]:
    """Run stages as Prefect tasks, in the order of `pipeline.workflow.order`.

    Args:
        graph: of the stages.
        task: runs one stage: `run_dvc`, with options.
        children: run the DVC commands.
        limit: number of stages at a time.
        force: whether to run all stages, not only stale ones.
        pull: whether to pull earlier runs of stages that would run.
        push: whether to push the results of each stage when it has ended; others do not wait for that.

    Returns:
        One line per problem.
    """
    repro = ["repro", "--single-item", *(["--force"] if force else [])]
    futures: dict[str, PrefectFuture[State]] = {}
    ran: list[str] = []
    pushes: list[PrefectFuture[State]] = []

    def submit(stage: str, task: Task[..., State], *arguments: object, **options: object) -> PrefectFuture[State]:
        # Prefect draws the graph by wait_for, and shows a stage as not ready if one that it depends on failed.
        before = [futures[name] for name in graph.dependencies[stage]]
        futures[stage] = task.submit(stage, *arguments, **options, wait_for=before)
        return futures[stage]

    def start(stage: str) -> PrefectFuture[State]:
        ran.append(stage)
        return submit(stage, task, [*repro, stage], children, pull=stage if pull else None)

    def succeeded(stage: str) -> bool:
        futures[stage].wait()
        return futures[stage].state.is_completed()

    def skip(stage: str) -> None:
        submit(stage, mark_unchanged)
        record_success(stage, None)
        emit("skipped", stage=stage)

    def on_success(stage: str) -> None:
        if push:
            after = [futures[stage]]
            pushes.append(task.submit(f"push {stage}", ["push", stage], children, program=REMOTE, wait_for=after))

    blocked = run_in_order(graph, start, succeeded, skip, lambda: limit, force=force, on_success=on_success)
    # Not only those whose state is Failed: a task can crash, too.
    ended = {stage: futures[stage].state for stage in ran}
    failed = [f"{stage}: {state.message or state.name}" for stage, state in ended.items() if not state.is_completed()]
    for stage in blocked:
        submit(stage, mark_unchanged)
    emit("blocked", stages=blocked)
    failed += [f"not run, because a dependency failed: {', '.join(blocked)}"] if blocked else []
    for future in pushes:
        future.wait()
    return failed + [future.state.message or "a push failed" for future in pushes if not future.state.is_completed()]


def run_one_by_one(commands: Iterable[Sequence[str]], task: Task[..., State], children: Children) -> list[str]:
    """Run DVC commands one after another until one fails.

    Returns:
        The problem, if one failed.
    """
    for command in commands:
        future = task.submit(f"dvc {' '.join(command)}"[:MAX_NAME], list(command), children)
        future.wait()
        if not future.state.is_completed():
            return [future.state.message or f"dvc {' '.join(command)} failed"]
    return []
