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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.leash import end

HERE = Path(__file__).parent
HOST, POOL = "127.0.0.1", "flowvae"
PREFECT = [sys.executable, "-m", "prefect"]
SECONDS_TO_START = 120
SECONDS_BEFORE_ANOTHER = 5  # worker is started


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
        print("prefect: all ended")
    return 0


def bring_up(port: str) -> None:
    """Start everything, and keep it up.

    Raises:
        NotUpError: the port is taken, a part does not start, or the server ends by itself.
    """
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise NotUpError(f"FLOWVAE_PREFECT_PORT: expected a port's number, got {port!r}")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, int(port))) == 0:
            raise NotUpError(f"FLOWVAE_PREFECT_PORT: something listens on {port} already; end it, or take another port")
    environment = settings(port)
    address = environment["PREFECT_API_URL"]
    serve = [*PREFECT, "server", "start", "--host", HOST, "--port", port]
    with running("server", serve, environment) as server:
        wait_until_healthy(f"{address}/health", server)
        do([*PREFECT, "work-pool", "create", POOL, "--type", "process", "--overwrite"], environment)
        do([*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(HERE / "local.yaml")], environment)
        do([sys.executable, str(HERE / "automations.py")], environment, quiet=False)
        print(f"prefect: {address.removesuffix('/api')} is up, logs are in {log_of('server').parent}; Ctrl-C ends all")
        sys.stdout.flush()
        while server.poll() is None:
            work(server, environment)
    raise NotUpError(f"the server ended by itself; its last words are in {log_of('server')}")


def work(server: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """Have a worker until it or the server ends by itself."""
    command = [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process"]
    with running("worker", command, environment) as worker:
        while server.poll() is None and worker.poll() is None:
            time.sleep(1)
    if server.poll() is None:
        print(f"prefect: the worker ended by itself, its last words are in {log_of('worker')}; starting another")
        sys.stdout.flush()
        time.sleep(SECONDS_BEFORE_ANOTHER)


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


@contextmanager
def running(name: str, command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, that ends with all that it has started."""
    log = log_of(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def log_of(name: str) -> Path:
    return Path("logs/prefect") / f"{name}.log"


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
