"""The order in which the stages of DVC's graph run, several at a time. The caller decides what runs them."""

from collections.abc import Callable
from functools import partial
from graphlib import TopologicalSorter
from queue import Empty, Queue
from typing import Any, Protocol

from pipeline.workflow.graph import StageGraph

SECONDS_BETWEEN_LOOKS = 5  # at a limit that may have grown


class Future(Protocol):
    """A stage that runs, as a future of `concurrent.futures` or of Prefect."""

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call a function with this future when the stage has ended."""


def run_in_order(
    graph: StageGraph,
    start: Callable[[str], Future],
    succeeded: Callable[[str], bool],
    skip: Callable[[str], None],
    limit: Callable[[], int],
    *,
    force: bool = False,
    on_success: Callable[[str], None] = lambda stage: None,
) -> list[str]:
    """Run stages, each after those that it depends on. If a stage fails, only those that depend on it do not run.

    Args:
        graph: of the stages.
        start: starts a stage, and returns before it has ended.
        succeeded: whether a stage that has ended succeeded; called in this thread.
        skip: called with each stage that is up to date.
        limit: the number of stages at a time, which may change.
        force: whether to run all stages, not only stale ones.
        on_success: called in this thread with each stage that succeeded, before those that depend on it start.

    Returns:
        The stages that did not run because one that they depend on failed.
    """
    order = TopologicalSorter(graph.dependencies)
    order.prepare()
    ended: Queue[str] = Queue()
    waiting: set[str] = set()
    running: set[str] = set()
    seen: set[str] = set()
    while order.is_active():
        ready = order.get_ready()
        stale = set(ready) if force else graph.stale(ready)
        seen.update(ready)
        waiting |= stale
        for stage in (stage for stage in ready if stage not in stale):
            skip(stage)
            order.done(stage)
        while waiting and len(running) < limit():
            stage = graph.first(waiting)
            waiting.remove(stage)
            running.add(stage)
            start(stage).add_done_callback(partial(put_name, ended, stage))
        if len(ready) > len(stale):
            continue  # the stages that are up to date may have made others ready
        if not running and not waiting:
            break
        try:
            stage = ended.get(timeout=SECONDS_BETWEEN_LOOKS if waiting else None)
        except Empty:
            continue
        running.remove(stage)
        if succeeded(stage):
            on_success(stage)
            order.done(stage)
    return [stage for stage in graph.dependencies if stage not in seen]


def put_name(ended: "Queue[str]", stage: str, future: Future) -> None:
    """Put the name of a stage that has ended into the queue."""
    ended.put(stage)
