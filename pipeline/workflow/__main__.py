"""Run the pipeline as a Prefect workflow, one task per stage: python -m pipeline.workflow [TARGET ...].

A TARGET is a stage of dvc.yaml (study@depth, train@vae-0, or train for all its instances); without targets, all stages
run. DVC decides which stages are stale, and runs them. The workflow decides what runs in parallel, what is retried
and what is displayed. If PREFECT_API_URL is set, that server shows the run; otherwise a temporary one does.
"""

import argparse
import os
import sys

from pipeline.workflow.settings import HEARTBEAT, PATIENCE


def main() -> int:
    """Exit code 0, or 1 after one line per problem on standard error."""
    options = parse_options()
    os.environ.update(PATIENCE | os.environ | HEARTBEAT)
    if problem := server_problem():
        print(f"workflow: {problem}", file=sys.stderr)
        return 1
    from pipeline.workflow.workflows import reproduce  # importing Prefect takes seconds

    state = reproduce(**vars(options), return_state=True)
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

    address = PREFECT_API_URL.value()
    if not address:
        return None
    try:
        with get_client(sync_client=True) as client:
            client.hello()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        advice = "set PREFECT_API_AUTH_STRING to its login" if code == 401 else "is it a Prefect server?"
        return f"PREFECT_API_URL {address!r}: the server answers {code}; {advice}"
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
        return f"PREFECT_API_URL {address!r}: {' '.join(str(error).split())}; is the server running?"
    return None


def parse_options() -> argparse.Namespace:
    """The arguments of `reproduce`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.workflow", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("-S", "--set-param", action="append", dest="set_params", metavar="KEY=VALUE",
                        help="a value of params.yaml for this run only; can be repeated")  # fmt: skip
    parser.add_argument("--concurrency", type=int, help="stages at a time; default: the number of cores, or 1 on a GPU")
    parser.add_argument("--retries", type=int, default=0, help="retries of a stage that fails; default: 0")
    parser.add_argument("--retry-delay", type=float, default=30, help="seconds before a retry; default: 30")
    parser.add_argument("--pull", action="store_true", help="before the run, pull results from DVC's remote")
    parser.add_argument("--push", action="store_true", help="after the run, push results to DVC's remote")
    parser.add_argument("--experiment", metavar="NAME", help="save the results as a DVC experiment of this name")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
