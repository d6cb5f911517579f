"""The order of stages, with threads that stand for DVC commands."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from pipeline.workflow import order

DEPENDENCIES = {
    "fetch": set(),
    "train@a": {"fetch"},
    "train@b": {"fetch"},
    "evaluate@a": {"train@a"},
    "evaluate@b": {"train@b"},
    "report": {"evaluate@a", "evaluate@b"},
}


class Run:
    """Stages that are noted, and that end at once or, if they are held, when they are let go."""

    def __init__(self, stale=tuple(DEPENDENCIES), fails=(), held=()):
        self.graph = SimpleNamespace(
            dependencies=DEPENDENCIES,
            stale=lambda stages: set(stages) & set(stale),
            first=lambda stages: min(stages, key=list(DEPENDENCIES).index),
        )
        self.fails, self.held = fails, {stage: threading.Event() for stage in held}
        self.started, self.skipped, self.ended = [], [], []
        self.pool = ThreadPoolExecutor(len(DEPENDENCIES))

    def start(self, stage):
        self.started.append(stage)
        return self.pool.submit(self.held[stage].wait if stage in self.held else lambda: None)

    def all(self, limit=lambda: 2, **options):
        with self.pool:
            return order.run_in_order(
                self.graph, self.start, lambda stage: stage not in self.fails, self.skipped.append, limit,
                on_success=self.ended.append, **options,
            )  # fmt: skip


def test_each_stage_runs_after_those_that_it_depends_on():
    run = Run()
    assert run.all() == []
    assert sorted(run.started) == sorted(DEPENDENCIES) and not run.skipped
    for stage, needs in DEPENDENCIES.items():
        assert all(run.started.index(need) < run.started.index(stage) for need in needs)


def test_what_is_up_to_date_is_skipped_unless_forced():
    run = Run(stale=["train@b", "evaluate@b", "report"])
    run.all()
    assert run.skipped == ["fetch", "train@a", "evaluate@a"]
    assert run.started == ["train@b", "evaluate@b", "report"]
    forced = Run(stale=[])
    forced.all(force=True)
    assert sorted(forced.started) == sorted(DEPENDENCIES)


def test_a_failure_blocks_only_what_depends_on_it():
    run = Run(fails=["train@a"])
    assert run.all() == ["evaluate@a", "report"]
    assert run.ended == ["fetch", "train@b", "evaluate@b"]


def test_a_stage_that_has_succeeded_is_told_before_others_end():
    run = Run(held=["train@a"])
    told = []

    def on_success(stage):
        told.append(stage)
        if stage == "evaluate@b":
            run.held["train@a"].set()

    with run.pool:
        order.run_in_order(run.graph, run.start, lambda stage: True, run.skipped.append, lambda: 2,
                           on_success=on_success)  # fmt: skip
    assert told == ["fetch", "train@b", "evaluate@b", "train@a", "evaluate@a", "report"]


@pytest.mark.parametrize("before", [0, 1])
def test_a_limit_that_grows_is_noticed_while_stages_run(before, monkeypatch):
    """As of a cluster that has no room yet, or only for one stage."""
    monkeypatch.setattr(order, "SECONDS_BETWEEN_LOOKS", 0.01)
    run = Run(stale=["train@a", "train@b"], held=["train@a"])
    limits = iter([before] * 4)

    def start(stage):
        future = run.start(stage)
        if stage == "train@b":
            run.held["train@a"].set()
        return future

    with run.pool:
        order.run_in_order(run.graph, start, lambda stage: True, run.skipped.append, lambda: next(limits, 2))
    assert run.started == ["train@a", "train@b"]
