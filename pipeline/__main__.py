"""Run one stage: python -m pipeline STAGE [OPTIONS]."""

import argparse
import importlib
import os
import sys
from typing import Any

from pipeline.running.machine import limit_threads

OPTIONS = {
    "fetch": (),
    "prepare": (),
    "train": ("variant", "seed", "workers", "profile"),
    "evaluate": ("variant", "seed"),
    "interpolate": (),
    "study": ("name",),
    "report": (),
}  # of each stage; they are the arguments of its function `run`
STAGES = tuple(OPTIONS)


def main() -> int:
    """Exit code 0, or 1 after one line per mistake of the user's on standard error."""
    options = vars(parse_options())
    stage = options.pop("stage")
    # cuBLAS reads this when it starts: with it, one process computes the same bits on every run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Threads that spin for long while they wait starve beside any other busy process, and threads that do not spin
    # are slow to wake: benchmarks/threads.py compares the two with a short spin.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    limit_threads()
    from flowvae.errors import InputError
    from pipeline.params.reading import load_params
    from pipeline.paths import PARAMS
    from pipeline.tracking import tracked

    try:
        params = load_params(PARAMS)
        with tracked(stage, params, options):
            importlib.import_module(f"pipeline.stages.{stage}").run(params, **options)
    except InputError as error:
        return fail(stage, str(error))
    except OSError as error:  # a full disk, a folder without permission
        reason = error.strerror or " ".join(str(error).split())
        return fail(stage, f"{error.filename or 'writing'}: {reason}; free space or fix it, and run again")
    except KeyboardInterrupt:
        return fail(stage, "interrupted; run again to resume")
    return 0


def parse_options() -> argparse.Namespace:
    """The stage and its options."""
    arguments: dict[str, dict[str, Any]] = {
        "variant": {"required": True, "help": "a key of variants in params.yaml"},
        "seed": {"required": True, "type": int, "help": "one of seeds in params.yaml"},
        "workers": {"help": "Ray workers that share each batch: 2, or 1-4; FLOWVAE_WORKERS if not given"},
        "profile": {"action": "store_true", "help": "profile one step into logs/train"},
        "name": {"required": True, "help": "a key of studies in params.yaml"},
    }
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage, names in OPTIONS.items():
        subparser = stages.add_parser(stage)
        for name in names:
            subparser.add_argument(f"--{name}", **arguments[name])
    return parser.parse_args()


def fail(stage: str, message: str) -> int:
    """Print a message, whose lines name the stage, and return the exit code."""
    for line in message.splitlines():
        print(f"{stage}: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
