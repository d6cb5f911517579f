"""Run Prefect on this machine until Ctrl-C: a server, deployments, automations and a worker. `make prefect` calls it.

FLOWVAE_PREFECT_PORT  port of the server; default: 4200
FLOWVAE_WEBHOOK_URL   where notifications of failures are sent
PREFECT_HOME          where runs, schedules and the login are stored; default: .prefect in this folder

The server answers only to a login, which is random, made at the first start, and kept in a file of mode 600.
"""

import os
import shlex
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

from pipeline.workflow.leash import terminate_tree
from pipeline.workflow.settings import SERVER_SETTINGS, guarded, kept_login

HERE = Path(__file__).parent
LOGS = Path("logs/prefect")
HOST, POOL = "127.0.0.1", "flowvae"
PREFECT = [sys.executable, "-m", "prefect"]
START_SECONDS = 120
RESTART_SECONDS = 5  # before a server or worker that has ended is restarted


class StartError(Exception):
    """A part cannot be started; the message says why."""


def main() -> int:
    """Exit code 0 after Ctrl-C, or 1 after a message on standard error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(os.environ.get("FLOWVAE_PREFECT_PORT") or "4200")
    except StartError as error:
        print(f"prefect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        log("all stopped")
    return 0


def run(port: str) -> None:
    """Start everything, and restart the server or the worker if it ends.

    Raises:
        StartError: the port is in use, or a part does not start.
    """
    check_port(port)
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
            stack.callback(terminate_tree, processes[name])
            if name == "server":
                wait_until_healthy(f"{address}/health", processes[name])

        start_part("server")
        # --overwrite would resume a pool that the user has paused.
        call([*PREFECT, "work-pool", "create", POOL, "--type", "process"], environment, unless="already exists")
        call([*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(HERE / "local.yaml")], environment)
        call([sys.executable, str(HERE / "automations.py")], environment, quiet=False)
        stack.callback(terminate_orphans, environment)
        start_part("worker")
        log(f"{address.removesuffix('/api')} is up; logs are in {LOGS}; Ctrl-C stops everything")
        log(f"the login, for the page in your browser, is the line in {login_file(environment)}; in other terminals:")
        print(export_command(environment), flush=True)
        while True:
            time.sleep(1)
            for name in [name for name, process in processes.items() if process.poll() is not None]:
                log(f"the {name} ended unexpectedly; its last messages are in {log_file(name)}; restarting it")
                time.sleep(RESTART_SECONDS)
                start_part(name)


def check_port(port: str) -> None:
    """Raise StartError unless this is the number of a free port."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise StartError(f"FLOWVAE_PREFECT_PORT: expected a port number, got {port!r}")
    with socket.socket() as probe:
        if probe.connect_ex((HOST, int(port))) == 0:
            raise StartError(
                f"FLOWVAE_PREFECT_PORT: port {port} is in use; stop the program that uses it, or set another"
            )


def terminate_orphans(environment: Mapping[str, str]) -> None:
    """Terminate the runs of this folder that a worker started and, because it was killed, could not terminate."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            variables = process.environ()
            ours = all(variables.get(name) == environment[name] for name in ("PREFECT_API_URL", "FLOWVAE_FOLDER"))
            if ours and process.pid != os.getpid():
                process.terminate()


def log(text: str) -> None:
    """Print a line at once."""
    print(f"prefect: {text}", flush=True)


def settings(port: str) -> dict[str, str]:
    """The environment of the server, the worker and the runs."""
    folder, address = Path.cwd(), f"http://{HOST}:{port}"
    defaults = {
        "PREFECT_HOME": str(folder / ".prefect"),
        "DO_NOT_TRACK": "1",
        **SERVER_SETTINGS,
    }
    fixed = {
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_CLI_PROMPT": "false",
        "FLOWVAE_FOLDER": str(folder),
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), HOST))),
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), HOST))),
    }
    environment = defaults | os.environ | fixed
    path = login_file(environment)
    try:
        return environment | guarded(address, os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or kept_login(path))
    except OSError as error:
        raise StartError(f"{path}: cannot keep the login of the server there ({error.strerror})") from error


def login_file(environment: Mapping[str, str]) -> Path:
    """Where the login of the server is kept."""
    return Path(environment["PREFECT_HOME"]).expanduser() / "login"


def export_command(environment: Mapping[str, str]) -> str:
    """What the user types in another terminal, so that commands there reach the server."""
    login = f'"$(cat {shlex.quote(str(login_file(environment)))})"'
    return f"    export PREFECT_API_URL={environment['PREFECT_API_URL']} PREFECT_API_AUTH_STRING={login}"


def start(name: str, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own session, so that Ctrl-C reaches only this process."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with log_file(name).open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_file(name: str) -> Path:
    """Where the output of the server or the worker goes."""
    return LOGS / f"{name}.log"


def wait_until_healthy(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers.

    Raises:
        StartError: it ended, or did not answer in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started = time.monotonic()
    while server.poll() is None and time.monotonic() - started < START_SECONDS:
        try:
            with opener.open(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise StartError(f"the server did not start; its last messages are in {log_file('server')}")


def call(command: Sequence[str], environment: dict[str, str], *, quiet: bool = True, unless: str | None = None) -> None:
    """Run a command until it ends; unless it is quiet, its output is shown.

    Args:
        command: with its arguments.
        environment: of the command.
        quiet: whether its output is hidden.
        unless: a text in the output of a failure that is none.

    Raises:
        StartError: it failed; the message contains its output.
    """
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if completed.returncode and not (unless and unless in completed.stdout + completed.stderr):
        raise StartError(f"{' '.join(command[2:])} failed: {completed.stdout}{completed.stderr}")
    if not quiet:
        print(completed.stdout, end="")


if __name__ == "__main__":
    sys.exit(main())
