"""Workers of a cluster run the code of the driver: it is sent to them, and each compares what it imports."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import ray.util
import torch
import torch.distributed

import flowvae
import pipeline
from flowvae.errors import InputError
from pipeline.fitting import code_hash
from pipeline.running.trackers import sent_variables

PACKAGES = (flowvae, pipeline)
EXPECTED = "FLOWVAE_DRIVER"  # variable of a worker: the versions of the driver
CACHES = shutil.ignore_patterns("__pycache__")


def folder_of(package: ModuleType) -> Path:
    """The folder that this process imported a package from."""
    assert package.__file__
    return Path(package.__file__).parent


def versions() -> dict[str, str]:
    """What this process runs: hashes of the sources of both packages, and the version of torch."""
    code = {
        package.__name__: code_hash([package.__name__], folder_of(package).parent) for package in PACKAGES
    }  # of which one may be installed, and the other in the project's folder
    return code | {"torch": torch.__version__}


@contextmanager
def sent_code() -> Iterator[dict[str, Any]]:
    """A runtime environment of Ray in which workers run the code of this process, whatever their nodes have installed.

    Ray uploads the code in `ray.init`; nodes keep it under the hash of its content. A working directory comes first on
    the path of the workers, before their PYTHONPATH and the folders of the driver, which py_modules would not.
    """
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            shutil.copytree(folder_of(package), Path(folder) / package.__name__, ignore=CACHES)
        yield {"working_dir": folder, "env_vars": {EXPECTED: json.dumps(versions()), **sent_variables(os.environ)}}


def check_code() -> None:
    """Raise InputError, which names this node, unless this worker runs the code and the torch of the driver."""
    if problem := difference():
        raise InputError(problem)


def check_code_of_group(device: torch.device) -> None:
    """Do the same for the workers of a group: all of them raise, so that none waits for another.

    Args:
        device: of this worker.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # with which NCCL gathers
    problems: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, difference())
    if found := [problem for problem in problems if problem]:
        raise InputError(found[0])


def difference() -> str | None:
    """What this worker runs in another version than the driver; None for nothing, and on the driver's machine."""
    if EXPECTED not in os.environ:
        return None
    expected, own = json.loads(os.environ[EXPECTED]), versions()
    different = [
        f"{name} {short(own[name])} instead of {short(expected[name])}" for name in own if own[name] != expected[name]
    ]
    if not different:
        return None
    node = ray.util.get_node_ip_address()
    return f"node {node}: runs {' and '.join(different)}, which the driver runs; install the same there"


def short(version: str) -> str:
    """A version, or the beginning of a hash."""
    return version[:12]
