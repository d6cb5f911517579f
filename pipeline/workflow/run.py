"""One run of the workflow, in a process of its own: python -m pipeline.workflow.run OPTIONS.

`python -m pipeline.workflow` starts it and holds the other end of its standard input. When that end is closed, this
process ends, silently and within SECONDS_TO_END, with all that it has started.
"""

import json
import os
import signal
import sys
import threading
import time

from pipeline.workflow.settings import SERVER_SETTINGS

SECONDS_TO_END = 7  # more than children.py and Prefect need to end stages and the temporary server


def main() -> int:
    """Exit code 0, or 1 after one line per problem on standard error."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    threading.Thread(target=end_when_released, daemon=True).start()
    try:
        return run(**json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        return 1


def end_when_released() -> None:
    """Wait until the other end of standard input is closed, then interrupt the main thread, and finally kill it."""
    os.read(sys.stdin.fileno(), 1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(SECONDS_TO_END)
    os.killpg(os.getpid(), signal.SIGKILL)  # with the temporary server; stages are on a leash


def run(**options: object) -> int:
    """Run `reproduce` with these arguments."""
    os.environ.update(SERVER_SETTINGS | os.environ)
    if problem := server_problem():
        print(f"workflow: {problem}", file=sys.stderr)
        return 1
    from pipeline.workflow.workflows import reproduce  # importing Prefect takes seconds

    state = reproduce(**options, return_state=True)
    if state.is_completed():
        return 0
    for line in (state.message or state.name or "failed").splitlines():
        print(f"workflow: {line}", file=sys.stderr)
    return 1


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
