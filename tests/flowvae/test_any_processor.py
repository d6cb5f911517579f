"""The numeric tests pass on other processors, as far as one processor can imitate them.

torch, oneDNN and MKL choose their kernels by the instructions of the processor, and environment variables restrict
them to older ones. torch reads its variable when it starts, so the tests run in a process of their own.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
NUMERIC_TESTS = [
    "model",
    "training",
    "test_evaluation.py",
    "test_interpolation.py",
    "test_randomness.py",
    "test_tolerances.py",
]
# The instructions of torch (ATEN_CPU_CAPABILITY), oneDNN (ONEDNN_MAX_CPU_ISA) and MKL (MKL_CBWR), and the threads;
# None stands for the newest instructions. The first two and the last two are the extremes.
PROCESSORS = [
    ("default", "SSE41", "COMPATIBLE", 1),
    ("default", "SSE41", "COMPATIBLE", 2),
    ("default", None, None, 1),
    ("avx2", "SSE41", None, 2),
    ("avx2", None, "COMPATIBLE", 1),
    (None, "SSE41", "COMPATIBLE", 1),
    (None, None, None, 1),
    (None, None, None, 2),
]


def environment(aten, onednn, mkl, num_threads):
    variables = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_CBWR": mkl}
    variables |= {
        "FLOWVAE_TEST_THREADS": str(num_threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    inherited = {name: value for name, value in os.environ.items() if name not in variables}
    return inherited | {name: value for name, value in variables.items() if value is not None}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variables are for x86 processors")
@pytest.mark.parametrize(("aten", "onednn", "mkl", "num_threads"), PROCESSORS)
def test_numeric_tests_pass(aten, onednn, mkl, num_threads):
    if aten == "avx2" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no AVX2")
    folder = Path(__file__).parent
    options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "--ignore", __file__]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(folder / name) for name in NUMERIC_TESTS)],
        cwd=ROOT,
        env=environment(aten, onednn, mkl, num_threads),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = finished.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    assert finished.returncode == 0, "\n".join(failed or [*lines[-20:], finished.stderr])
