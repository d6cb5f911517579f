"""Delete from FLOWVAE_STORAGE what nothing has written to for some days: python -m pipeline.submit.prune DAYS.

That is: jobs, results of stages, rows of trials, checkpoints of runs that were given up, states of Ray, prepared data,
and pages of reports. Anything else in the storage is left alone. Whatever is in use is written to: checkpoints every
minute, data at the start of each run on a cluster. So DAYS must be longer than your longest run or job. Results that
were copied back, and models in DVC's remote, are elsewhere; what is missing later is computed or uploaded again.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from flowvae.errors import InputError
from pipeline.distributed.storage import Storage
from pipeline.running.redaction import redact

RUN = r"[^/]+-[0-9a-f]{16}(-[0-9a-f]{8})?"  # the name of a run or a trial
PARTS = (
    r"jobs/[^/]+",
    r"stages/[^/]+-[0-9a-f]{32}",
    r"data/[0-9a-f]{16}",
    rf"trials/{RUN}\.json[^/]*",
    r"reports/\d{4}-\d\d-\d\d-[^/]+",
    r"study-[^/]+",
    RUN,
)
PART = re.compile(rf"({'|'.join(PARTS)})(?=/|$)")  # what is deleted as a whole


def main() -> int:
    """Exit code 0, or 1 after one line on standard error."""
    options = parse_options()
    try:
        prune(os.environ.get("FLOWVAE_STORAGE", ""), options.days, dry_run=options.dry_run)
    except InputError as error:
        print(f"prune: {redact(str(error))}", file=sys.stderr)
        return 1
    return 0


def parse_options() -> argparse.Namespace:
    """The age, and whether anything is deleted."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.submit.prune", description=__doc__)
    parser.add_argument("days", type=number_of_days, metavar="DAYS", help="longer than your longest run or job")
    parser.add_argument("--dry-run", action="store_true", help="list what would be deleted, and delete nothing")
    return parser.parse_args()


def number_of_days(text: str) -> timedelta:
    """Read a number above 0."""
    days = float(text)
    if not 0 < days < 100_000:
        raise ValueError(text)
    return timedelta(days=days)


def prune(uri: str, age: timedelta, *, dry_run: bool) -> None:
    """Delete what is older, and print a line for each part.

    Raises:
        InputError: the storage is invalid or unavailable.
    """
    limit = datetime.now(timezone.utc) - age
    times = parts(Storage.of(uri, "").last_writes())
    for name in sorted(name for name, time in times.items() if time < limit):
        part = Storage.of(uri, name)
        if not dry_run:
            part.delete(part.folder) if name.startswith("trials/") else part.remove()
        print(f"prune: {'would delete' if dry_run else 'deleted'} {name}", flush=True)


def parts(files: Mapping[str, datetime]) -> dict[str, datetime]:
    """When something was last written to each part of the storage.

    Args:
        files: when each file was written.
    """
    times: dict[str, datetime] = {}
    for name, time in files.items():
        if part := PART.match(name):
            times[part[0]] = max(time, times.get(part[0], time))
    return times


if __name__ == "__main__":
    sys.exit(main())
