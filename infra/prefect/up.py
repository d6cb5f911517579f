"""A Prefect server, the work pool, deployments, automations and a worker, on loopback, until Ctrl-C: make prefect.

FLOWVAE_PREFECT_PORT  of the server; 4200 if unset
FLOWVAE_WEBHOOK_URL   where failures are told
PREFECT_HOME          runs and schedules are kept there; .prefect in this folder if unset
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from pipeline.leash import end

HERE = Path(__file__).parent
LOGS = Path("logs/prefect")
HOST, POOL = "127.0.0.1", "flowvae"
PREFECT = [sys.executable, "-m", "prefect"]
SECONDS_TO_START = 120
SECONDS_BEFORE_ANOTHER = 5  # server or worker is started


class NotUpError(Exception):
    """Why not everything is up, in one line."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bring_up(os.environ.get("FLOWVAE_PREFECT_PORT") or "4200")
    except NotUpError as error:
        print(f"prefect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("all ended")
    return 0


def bring_up(port: str) -> None:
    """Start everything, and keep it up.

    Raises:
        NotUpError: the port is taken, or a part does not start.
    """
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise NotUpError(f"FLOWVAE_PREFECT_PORT: expected a port's number, got {port!r}")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, int(port))) == 0:
            raise NotUpError(f"FLOWVAE_PREFECT_PORT: something listens on {port} already; end it, or take another port")
    environment = settings(port)
    address = environment["PREFECT_API_URL"]
    commands = {
        "server": [*PREFECT, "server", "start", "--host", HOST, "--port", port],
        "worker": [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process"],
    }
    with ExitStack() as stack:
        processes: dict[str, subprocess.Popen[bytes]] = {}

        def start_part(name: str) -> None:
            processes[name] = start(name, commands[name], environment)
            stack.callback(end, processes[name])
            if name == "server":
                wait_until_healthy(f"{address}/health", processes[name])

        start_part("server")
        do([*PREFECT, "work-pool", "create", POOL, "--type", "process", "--overwrite"], environment)
        do([*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(HERE / "local.yaml")], environment)
        do([sys.executable, str(HERE / "automations.py")], environment, quiet=False)
        stack.callback(end_orphans, environment)
        start_part("worker")
        say(f"{address.removesuffix('/api')} is up, logs are in {LOGS}; Ctrl-C ends all")
        while True:
            time.sleep(1)
            for name in [name for name, process in processes.items() if process.poll() is not None]:
                say(f"the {name} ended by itself, its last words are in {log_of(name)}; starting another")
                time.sleep(SECONDS_BEFORE_ANOTHER)
                start_part(name)


def end_orphans(environment: Mapping[str, str]) -> None:
    """End the runs that a worker of this folder has started and, killed itself, could not end."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            theirs = process.environ()
            ours = all(theirs.get(name) == environment[name] for name in ("PREFECT_API_URL", "FLOWVAE_FOLDER"))
            if ours and process.pid != os.getpid():
                process.terminate()


def say(text: str) -> None:
    print(f"prefect: {text}", flush=True)


def settings(port: str) -> dict[str, str]:
    """The environment of server, worker and runs."""
    folder = Path.cwd()
    defaults = {
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # beside trainings on all cores SQLite is slow
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    fixed = {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_CLI_PROMPT": "false",
        "FLOWVAE_FOLDER": str(folder),
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), HOST))),
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), HOST))),
    }
    return defaults | os.environ | fixed


def start(name: str, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C reaches this one alone."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with log_of(name).open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_of(name: str) -> Path:
    return LOGS / f"{name}.log"


def wait_until_healthy(address: str, server: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started = time.monotonic()
    while server.poll() is None and time.monotonic() - started < SECONDS_TO_START:
        try:
            with opener.open(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise NotUpError(f"the server did not start; its last words are in {log_of('server')}")


def do(command: Sequence[str], environment: dict[str, str], *, quiet: bool = True) -> None:
    """Run a command; what it prints is shown if it fails, or if it is not to be quiet."""
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotUpError(f"{' '.join(command[2:])} failed: {ran.stdout}{ran.stderr}")
    if not quiet:
        print(ran.stdout, end="")


if __name__ == "__main__":
    sys.exit(main())
