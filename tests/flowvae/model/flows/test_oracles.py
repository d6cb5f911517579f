"""Agreement with Pyro, zuko and torch.distributions, each in its own process.

Pyro and zuko patch torch when they are imported, which must not affect the other tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "oracles"
ROOT = Path(__file__).parents[4]
ORACLES = {
    "pyro": "pyro_agrees.py",
    "pyro families": "pyro_families_agree.py",
    "zuko": "zuko_agrees.py",
    "zuko adapter": "zuko_adapter.py",
    "torch": "torch_agrees.py",
}


@pytest.fixture(scope="module")
def processes():
    """Start all scripts at once, because most of their time goes into imports."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": paths}
    started = {
        package: subprocess.Popen(
            [sys.executable, str(FOLDER / script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for package, script in ORACLES.items()
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def test_every_script_is_run():
    assert {path.name for path in FOLDER.glob("*.py")} == set(ORACLES.values())


@pytest.mark.long
@pytest.mark.parametrize("package", ORACLES)
def test_agreement(processes, package):
    output, errors = processes[package].communicate()
    assert processes[package].returncode == 0, errors
    assert output == "agrees\n"
