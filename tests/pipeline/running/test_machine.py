"""What a process may use of a machine: with processes that are pinned, real control groups, and files like theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.running.machine import CGROUPS, available_cpus, pinned_cpus, quotas

ROOT = Path(__file__).parents[3]
SHOW = (
    "from pipeline.running.machine import available_cpus, limit_threads; limit_threads(); import torch;"
    "from pipeline.workflow.children import child_processes\n"
    "with child_processes(8, None) as (children, limit): print(available_cpus(), torch.get_num_threads(), limit)"
)


def shown(*prefix, environment=None):
    """Cores, threads of torch, and stages at a time, in a new process."""
    command = [*prefix, sys.executable, "-c", SHOW]
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | (environment or {})
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    return tuple(map(int, ran.stdout.split()))


def test_a_process_that_is_pinned_to_one_core():
    assert shown("taskset", "-c", str(min(os.sched_getaffinity(0)))) == (1, 1, 1)
    assert pinned_cpus() == len(os.sched_getaffinity(0))


@pytest.fixture
def group():
    """A control group with a quota of one core, of the version that this machine has."""
    version_2 = (CGROUPS / "cgroup.controllers").exists()
    folder = (CGROUPS if version_2 else CGROUPS / "cpu") / f"flowvae-test-{os.getpid()}"
    try:
        folder.mkdir()
        if version_2:
            (folder / "cpu.max").write_text("90000 100000")
        else:
            (folder / "cpu.cfs_quota_us").write_text("90000")
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"needs the right to create a control group with a quota ({error.strerror})")
    yield folder
    folder.rmdir()


def test_a_real_quota(group):
    join = ("sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh")
    assert shown(*join) == (1, 1, 1)
    assert shown(*join, environment={"OMP_NUM_THREADS": "2"})[1] == 2


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {}, []),
        ("0::/", {"cpu.max": "max 100000"}, []),
        ("0::/", {"cpu.max": "400000 100000"}, [4]),
        ("0::/", {"cpu.max": "150000 100000"}, [2]),
        ("0::/", {"cpu.max": "10000 100000"}, [1]),
        ("0::/pod/box", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "max 100000"}, [3]),
        ("0::/pod/box", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "200000 100000"}, [2, 3]),
        ("0::/elsewhere/box", {"cpu.max": "200000 100000"}, [2]),  # in a container its own group is the root
        (
            "4:memory:/box\n3:cpu,cpuacct:/box",
            {"cpu,cpuacct/box/cpu.cfs_quota_us": "200000", "cpu,cpuacct/box/cpu.cfs_period_us": "100000"},
            [2],
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
    ],
)
def test_quotas_of_control_groups(tmp_path, membership, files, expected):
    (tmp_path / "membership").write_text(membership + "\n")
    for name, content in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(content + "\n")
    assert list(quotas(tmp_path / "membership", tmp_path / "root")) == expected


def test_without_control_groups(tmp_path):
    assert list(quotas(tmp_path / "none", tmp_path)) == []
    assert 1 <= available_cpus() <= pinned_cpus()
