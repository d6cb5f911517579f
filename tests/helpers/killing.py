"""Training runs in processes that tests kill, and their results; Ray nodes."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from project import edit_params, environment

VARIANT = ("--variant", "real-nvp-2", "--seed", "0")
KEY = "real-nvp-2-0"
NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")
PATIENCE = 180  # seconds, far longer than anything here takes


def slow_down(project: Path, epochs: int) -> None:
    """Make training long enough to be killed: hundreds of steps of some milliseconds."""
    edit_params(project, lambda params: params["training"].update(epochs=epochs, batch_size=100))


def start(project: Path, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
    """Start the training of VARIANT."""
    return start_stage(project, "train", *VARIANT, *arguments, **changes)


def start_stage(project: Path, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
    """Start `python -m pipeline` in its own session, with its output in a file."""
    changes = NO_PROXY | {"FLOWVAE_CHECKPOINT_EVERY": "20 steps", "PYTHONUNBUFFERED": "1"} | changes
    with (project / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=project,
            env=environment(project, **changes),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], project: Path) -> None:
    """Wait until the process succeeds."""
    assert process.wait(PATIENCE) == 0, (project / "output.txt").read_text()[-5000:]


def results(project: Path) -> dict[str, bytes]:
    """The files that a training run has written, after a check that it has removed its checkpoints."""
    assert not any((project / "checkpoints").rglob("*.safetensors")), "checkpoints were not removed"
    model = project / "models" / KEY
    return {path.name: path.read_bytes() for path in (*sorted(model.iterdir()), project / f"curves/{KEY}.csv")}


def undisturbed(project: Path, *arguments: str, **changes: str) -> dict[str, bytes]:
    """The results of an uninterrupted run, whose model is then removed."""
    finish(start(project, *arguments, **changes), project)
    expected = results(project)
    for path in (project / "models" / KEY).iterdir():
        path.unlink()
    return expected


def has_checkpoint(project: Path, since: float = 0.0) -> bool:
    """Whether a checkpoint was written after a time."""
    with suppress(FileNotFoundError):  # it may be replaced by the next one between the two calls
        return any(path.stat().st_mtime > since for path in (project / "checkpoints").rglob("*.safetensors"))
    return False


def wait_for(condition, process: subprocess.Popen[bytes] | None = None) -> bool:
    """Wait until the condition is true or the process has ended.

    Returns:
        Whether the condition was true first.
    """
    for _ in range(PATIENCE * 20):
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.05)
    raise AssertionError(f"the condition was not met in {PATIENCE} s")


def a_moment(seconds: float) -> None:
    """Sleep for a random time up to this many seconds."""
    time.sleep(random.uniform(0, seconds))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its descendants."""
    children = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def still_running(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until processes have ended. Returns: those that have not.

    One that has ended, and whose parent has not asked for its exit code yet, is a zombie, and has ended.
    """
    end = time.monotonic() + seconds
    while alive := [process for process in processes if is_alive(process)]:
        if time.monotonic() > end:
            return alive
        time.sleep(0.1)
    return []


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, and is not a zombie."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def ray_workers(root: psutil.Process) -> list[psutil.Process]:
    """The training workers among the descendants of a process."""
    workers = []
    with suppress(psutil.NoSuchProcess):
        for child in root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "RayTrainWorker" in " ".join(child.cmdline()):
                    workers.append(child)
    return workers


def without(folder: Path) -> list[str]:
    """A prefix of a command that hides the content of a folder from it, as on another machine.

    It is empty if this process is not allowed to mount.
    """
    script = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, str(folder)]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return []
    return prefix if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0 else []


@contextmanager
def ray_node(folder: Path, *arguments: str, prefix: Sequence[str] = (), **changes: str):
    """Run `ray start --block` with one CPU, and kill it with all its descendants at the end of the block."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    ray_folder = tempfile.mkdtemp(prefix="ray-")  # not in `folder`, whose path is too long for a socket
    command = [*prefix, str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", "--block", *arguments]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder.parent / "token")}
    settings = environment(folder, RAY_TMPDIR=ray_folder, TMPDIR=str(folder / "tmp"), **token, **NO_PROXY, **changes)
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=settings, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        kill_group(process)
        shutil.rmtree(ray_folder, ignore_errors=True)


def free_port() -> int:
    """The number of a TCP port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
