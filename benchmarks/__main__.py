"""Run the benchmarks named on the command line, or all of them: python -m benchmarks [NAME ...].

The results are printed, and replace the entries with the same names in benchmarks/results.json.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path

import torch

from flowvae.errors import InputError
from flowvae.files import write_atomically

BENCHMARKS = (
    "flow_speed",
    "threads",
    "allocator",
    "prepare",
    "loading",
    "fit_over_bare_loop",
    "prior_row",
    "ray_training",
    "scaling",
    "study",
    "workflow",
    "workflow_overhead",
    "pipeline_over_bare_loop",
)
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Exit code 0, or 1 after one line on standard error."""
    names = parse_names() or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        print(f"benchmarks: expected names among {', '.join(BENCHMARKS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 1
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in names:
        try:
            measured = importlib.import_module(f"benchmarks.{name}").measure()
        except InputError as error:
            print(f"benchmarks: {name}: {error}", file=sys.stderr)
            return 1
        for entry in measured:
            entry["conditions"] = f"{entry['conditions']}; {machine()}"
            print(f"{entry['name']} = {entry['value']} {entry['unit']}  ({entry['conditions']})", flush=True)
        replaced = {entry["name"] for entry in measured}
        results = [entry for entry in results if entry["name"] not in replaced] + measured
        write_atomically(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    return 0


def parse_names() -> list[str]:
    """The names on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    return parser.parse_args().names


def machine() -> str:
    """Description of this machine and its software."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
