"""The benchmarks that are named exist, and say what they predicted."""

import importlib
import json
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, RESULTS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_run_and_says_what_was_predicted(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.measure)
    assert "Prediction" in module.__doc__


def test_no_other_benchmark_lies_about():
    helpers = {"__init__", "__main__", "bare_loop"}
    assert {path.stem for path in Path(RESULTS).parent.glob("*.py")} - helpers == set(BENCHMARKS)


def test_results_are_complete():
    entries = json.loads(RESULTS.read_text())
    assert all(entry.keys() == {"name", "value", "unit", "conditions"} for entry in entries)
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    assert {"pipeline_over_bare_loop", "fit_over_bare_loop", "two_workers_speedup"} <= set(names)
