"""The Prefect flows `reproduce` and `drift_check`, which run the stages of DVC's graph as tasks.

DVC decides which stages are stale, and runs them. `pipeline.workflow.order` decides what runs in parallel, and when.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timezone
from typing import Annotated

import prefect
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from pydantic import Field

from flowvae.config import NonNegativeInt, PositiveInt
from flowvae.errors import InputError
from pipeline.dvc_internals import DvcException, has_remote
from pipeline.running.records import durations
from pipeline.running.redaction import redact
from pipeline.running.trackers import SETTING
from pipeline.workflow.artifacts import read_metrics, show
from pipeline.workflow.children import child_processes, exclusive
from pipeline.workflow.drift import compare, drift_line, fresh_checkout
from pipeline.workflow.events import emit, has_watchers
from pipeline.workflow.experiment import save_command
from pipeline.workflow.graph import StageGraph
from pipeline.workflow.logs import filter_logs
from pipeline.workflow.overrides import overridden, params_problems
from pipeline.workflow.tasks import run_dvc, run_one_by_one, run_stages

JITTER = 0.5  # of the delay before a retry
PAGES = (".md", ".html")  # outputs of stages that people read
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


filter_logs()


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
    stage_timeout: Positive | None = None,
) -> State:
    """Bring stages and everything that they depend on up to date, one task per stage.

    Args:
        targets: stages, as for `dvc repro`; without targets, all stages.
        set_params: values of params.yaml for this run only, as for `dvc exp run --set-param`. The run works in a copy
            of the project under .dvc/tmp/overrides.
        concurrency: stages at a time, which share the cores; default: the number of cores, or 1 on a GPU.
        retries: number of retries of a stage that fails.
        retry_delay: seconds before a retry.
        pull: whether to pull results from DVC's remote: first those of dvc.lock, and then, before a stage would run,
            those of an earlier run of it with the same code, params and data.
        push: whether to push the results of each stage that runs to DVC's remote when it ends, even if others fail,
            and the experiment to git's remote after the run.
        experiment: the name under which the results are saved as a DVC experiment; %Y-%m-%d becomes the date (UTC) for
            which the run is scheduled.
        stage_timeout: seconds after which a stage (or a pull or push) is terminated and fails; default: no limit.
    """
    logger = prefect.get_run_logger()
    task = run_dvc.with_options(retries=retries, retry_delay_seconds=retry_delay, retry_jitter_factor=JITTER)
    name = dated(experiment) if experiment else None
    wanted = ["--with-deps", *targets] if targets else []
    before = [["pull", "--allow-missing", *wanted]] if pull else []

    def note(text: str) -> None:
        logger.info(text)
        emit("note", text=text)

    with collecting_problems() as problems, exclusive(note), overridden(set_params or ()) as copy:
        if copy:
            before = [["checkout", "--force", "--allow-missing"], *before]  # results of the project, from its cache
        graph = StageGraph(targets or ())
        if (pull or push) and not has_remote(graph.repo):
            raise InputError("pull, push: this project has no DVC remote; dvc remote add --default NAME URL adds one")
        with child_processes(graph.width, concurrency, stage_timeout) as (children, limit):
            problems += run_one_by_one(before, task, children)
            if not problems:
                if has_watchers():
                    tell_plan(graph, limit)
                problems += run_stages(graph, task, children, limit, pull=pull, push=push)
                show(graph)
                after = [["push", *wanted]] if push and not problems else []  # also what was up to date before
                problems += run_one_by_one(after, task, children)
                saved = [save_command(graph, name)] if name else []
                saved += [["exp", "push", "--force", "--no-cache", "origin", name]] if push and name else []
                problems += run_one_by_one(saved, task, children)
        emit("results", pages=[path for path in graph.outputs if path.suffix in PAGES and path.is_file()])
        if copy:
            note(f"the results and the report of this run are in {copy}")
    return final_state(problems)


def tell_plan(graph: StageGraph, limit: int) -> None:
    """Tell those who watch which stages there are, and what is known of them before they run."""
    emit(
        "planned",
        stages=sorted(graph.dependencies, key=graph.rank),
        dependencies={stage: sorted(needed) for stage, needed in graph.dependencies.items()},
        outdated=sorted(graph.outdated(), key=graph.rank),
        seconds=durations(graph.dependencies),
        limit=limit,
    )


def dated(pattern: str) -> str:
    """A name with the date for which the run is scheduled, in UTC, wherever the worker is and whenever it starts."""
    return str(flow_run.scheduled_start_time.astimezone(timezone.utc).strftime(pattern))


@prefect.flow(name="drift-check")
def drift_check(
    targets: list[str],
    num_standard_errors: NonNegative = 1,
    concurrency: PositiveInt | None = None,
    stage_timeout: Positive | None = None,
) -> State:
    """Reproduce a part of the last commit from scratch, and compare its metrics with the committed ones.

    Args:
        targets: stages to run again; a small part.
        num_standard_errors: the number of standard errors of the difference that a metric may differ by.
        concurrency: as for `reproduce`.
        stage_timeout: as for `reproduce`.
    """
    os.environ.pop(SETTING, None)  # what it trains are not new runs
    with collecting_problems() as problems, fresh_checkout():
        graph = StageGraph(targets)
        committed = read_metrics(graph.repo)
        with child_processes(graph.width, concurrency, stage_timeout) as (children, limit):
            problems += run_stages(graph, run_dvc, children, limit, force=True)
        if not problems:
            rows = compare(committed, read_metrics(graph.repo), num_standard_errors)
            create_table_artifact(rows, key="drift", description="Committed metrics, and those measured in this run")
            problems += [drift_line(row) for row in rows if row["drifted"]]
    return final_state(problems)


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
    except OSError as error:  # a full disk, a folder without permission
        reason = error.strerror or " ".join(str(error).split())
        problems.append(f"{error.filename or 'writing'}: {reason}; free space or fix it, and run again")
    except Exception:  # what DVC raises for values in params.yaml that its matrices do not expect, such as `seeds: 0`
        if not (found := params_problems()):
            raise
        problems += found
    finally:
        problems[:] = map(redact, problems)


def final_state(problems: Sequence[str]) -> State:
    """The state of a flow run with these problems."""
    return Failed(message="\n".join(problems)) if problems else Completed(message="everything is up to date")
