"""Exchange the run of one stage with DVC's remote: python -m pipeline.workflow.remote {pull,push} STAGE.

`push` follows a stage that has run, and `pull` comes before one that would. It is a process of its own, which can be
stopped like a command of DVC's, and does not hold DVC's lock while it transfers files.
"""

import sys

from pipeline.dvc_internals import open_repo, pull_run, push_run
from pipeline.running.redaction import redact


def main() -> int:
    """Exit code 0, or 1 after one line on standard error."""
    direction, stage = sys.argv[1:]
    try:
        with open_repo() as repo:
            if direction == "push":
                push_run(repo, stage)
                print(f"pushed the results of {stage}")
            elif pull_run(repo, stage):
                print(f"pulled the results of an earlier run of {stage}")
    except Exception as error:  # of DVC's, or of the client of any storage
        print(f"{direction}: {redact(' '.join(str(error).split()) or type(error).__name__)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
