"""Continue a study, row by row: python -m pipeline.rows PRESET [OPTIONS], or flowvae study PRESET [OPTIONS].

A row is a variant with a seed. Its record is in reports/study/rows, which is in git, so a study continues wherever the
project is cloned. A row is trained again only if its settings, its data, or the code of model, data and training
changed. Without options, all rows are trained that have no record, each from its last checkpoint.
"""

import argparse
import signal
import sys

from flowvae.errors import InputError
from pipeline.running.machine import available_cpus, limit_threads

INTERRUPTED = 130


def main() -> int:
    """Exit code 0, 1 after one line per problem on standard error, or 130 after Ctrl-C."""
    options = parse_options()
    limit_threads()
    from pipeline.rows.commands import run_study

    try:
        run_study(options)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"study: {line}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"study: {error.filename or 'writing'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("study: interrupted; run again to resume", file=sys.stderr)
        return INTERRUPTED
    return 0


def positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not number > 0:
        raise ValueError
    return number


def at_least_one(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse_options() -> argparse.Namespace:
    """The preset and the options."""
    parser = argparse.ArgumentParser(prog="flowvae study", description=__doc__)
    parser.add_argument(
        "preset", metavar="PRESET", help="a file study-*.yaml in presets/ without its ending, or a FILE.yaml"
    )
    parser.add_argument(
        "--status", action="store_true", help="only say how many rows are done and how long the rest takes"
    )
    parser.add_argument("--hours", type=positive, metavar="H", help="start no row after H hours")
    parser.add_argument(
        "--parallel",
        type=at_least_one,
        default=available_cpus(),
        metavar="N",
        help="rows at a time; default: one per core",
    )
    parser.add_argument("--only", metavar="STUDY|REGEX", help="only rows of this study, or with this in their names")
    parser.add_argument(
        "--finish", action="store_true", help="measure the NLL of all test images for the best row of each family"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep rows of which only the code changed: results are the same"
    )
    parser.add_argument("--findings", action="store_true", help="write what the rows say, and its figures")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as after Ctrl-C
    sys.exit(main())
