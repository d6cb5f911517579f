"""The benchmarks that are listed exist, and state what they predicted."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.__main__ import BENCHMARKS, RESULTS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_run_and_states_its_prediction(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.measure)
    assert "Prediction" in module.__doc__


def test_every_benchmark_is_listed():
    helpers = {"__init__", "__main__", "bare_loop", "measuring", "peers"}
    assert {path.stem for path in Path(RESULTS).parent.glob("*.py")} - helpers == set(BENCHMARKS)


def test_help_lists_the_benchmarks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    assert "flow_speed, threads," in capsys.readouterr().out


def test_an_unknown_name_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "sweeep"])
    assert command.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected names among flow_speed, " in line and line.endswith("got sweeep")


@pytest.mark.parametrize("path", sorted(Path(RESULTS).parent.glob("*.py")), ids=lambda path: path.stem)
def test_imports_of_the_project_exist(path):
    """Also those inside functions, which importing the file does not check."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("flowvae", "pipeline", "benchmarks"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module


def test_results_are_complete():
    entries = json.loads(RESULTS.read_text())
    assert all(entry.keys() == {"name", "value", "unit", "conditions"} for entry in entries)
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    assert {"pipeline_over_bare_loop", "fit_over_bare_loop", "two_workers_speedup"} <= set(names)
