"""Agreement with Pyro, zuko and torch.distributions, each in a process of its own.

Pyro and zuko patch torch when they are imported, which must not leak into the other tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "oracles"
ROOT = Path(__file__).parents[2]
ORACLES = {"pyro": "pyro_agrees.py", "zuko": "zuko_agrees.py", "torch": "torch_agrees.py"}


def test_every_script_is_run():
    assert {path.name for path in FOLDER.glob("*.py")} == set(ORACLES.values())


@pytest.mark.parametrize("package", ORACLES)
def test_agreement(package):
    done = subprocess.run(
        [sys.executable, str(FOLDER / ORACLES[package])],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "agrees\n"
