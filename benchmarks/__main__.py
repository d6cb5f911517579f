"""Run the benchmarks named on the command line, or all: python -m benchmarks [NAME ...]."""

import importlib
import json
import os
import platform
import sys
from pathlib import Path

import torch

from flowvae.files import write_atomically

BENCHMARKS = (
    "flow_speed",
    "threads",
    "allocator",
    "prepare",
    "loading",
    "fit_over_bare_loop",
    "ray_training",
    "scaling",
    "sweep",
    "workflow",
    "workflow_overhead",
    "pipeline_over_bare_loop",
)
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Measure, and replace the entries of the same names in results.json."""
    names = sys.argv[1:] or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        print(f"benchmarks: expected names among {', '.join(BENCHMARKS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 1
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in names:
        measured = importlib.import_module(f"benchmarks.{name}").measure()
        for entry in measured:
            entry["conditions"] = f"{entry['conditions']}; {machine()}"
            print(f"{entry['name']} = {entry['value']} {entry['unit']}  ({entry['conditions']})", flush=True)
        replaced = {entry["name"] for entry in measured}
        kept = [entry for entry in kept if entry["name"] not in replaced] + measured
        write_atomically(RESULTS, (json.dumps(kept, indent=2) + "\n").encode())
    return 0


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
