"""One run of the workflow, in a process of its own: python -m pipeline.workflow.run OPTIONS PIPE.

`python -m pipeline.workflow` starts it, shows what it writes into the pipe, and holds the other end of its standard
input. When that end is closed, this process ends, within SECONDS_TO_END, with all that it has started.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from flowvae.errors import InputError
from pipeline.listing import git
from pipeline.workflow.events import connect, emit
from pipeline.workflow.settings import SERVER_SETTINGS

SECONDS_TO_END = 7  # more than children.py and Prefect need to end stages and the temporary server


def main() -> int:
    """Exit code 0, or 1 after one event with the problems."""
    options, pipe = sys.argv[1:]
    connect(int(pipe))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    threading.Thread(target=end_when_released, daemon=True).start()
    try:
        problems = run(**json.loads(options))
    except KeyboardInterrupt:
        return 1
    emit("ended", problems=problems)
    return 1 if problems else 0


def end_when_released() -> None:
    """Wait until the other end of standard input is closed, then interrupt the main thread, and finally kill it."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(SECONDS_TO_END)
    os.killpg(os.getpid(), signal.SIGKILL)  # with the temporary server; stages are on a leash


def run(**options: object) -> list[str]:
    """Run `reproduce` with these arguments. Returns: one line per problem."""
    os.environ.update(SERVER_SETTINGS | os.environ)
    if problem := server_problem():
        return [problem]
    from pipeline.dvc_internals import work_without_git
    from pipeline.workflow.workflows import reproduce  # importing Prefect takes seconds

    project = Path.cwd()
    if (project / ".dvc").is_dir() and not is_in_git(project):
        work_without_git(project)
    state = reproduce(**options, return_state=True)
    return [] if state.is_completed() else (state.message or state.name or "failed").splitlines()


def is_in_git(folder: Path) -> bool:
    """Whether a folder is in a git repository that git can use."""
    try:
        git(folder, "rev-parse", "--is-inside-work-tree")
    except InputError:
        return False
    return True


def server_problem() -> str | None:
    """Why the server at PREFECT_API_URL cannot be used, in one line; None if it can, or if none is set."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    from pipeline.running.redaction import redact

    address = PREFECT_API_URL.value()
    if not address:
        return None
    where = f"PREFECT_API_URL {redact(address)!r}"
    try:
        with get_client(sync_client=True) as client:
            client.hello()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        login = "set PREFECT_API_AUTH_STRING to its login, or PREFECT_API_KEY for Prefect Cloud"
        advice = login if code == 401 else "is it a Prefect server?"
        return f"{where}: the server answers {code}; {advice}"
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
        return f"{where}: {redact(' '.join(str(error).split()))}; is the server running?"
    return None


if __name__ == "__main__":
    sys.exit(main())
