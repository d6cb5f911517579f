"""Run one stage: python -m pipeline STAGE [--variant NAME --seed N]."""

import argparse
import importlib
import os
import sys

STAGES = ("fetch", "prepare", "train", "evaluate", "interpolate", "sweep", "stability", "report")
PER_VARIANT = ("train", "evaluate")


def main() -> int:
    """Exit code 0, or 1 after one line per mistake of the user's on standard error."""
    options = parse_options()
    # One process computes alike on every run: cuBLAS needs this before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Threads that spin long while they wait starve beside any other busy process, and threads that do not spin
    # are slow to wake: benchmarks/threads.py compares the two with a short spin.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    from flowvae.errors import InputError
    from pipeline.params import load_params
    from pipeline.paths import PARAMS

    where = {"variant": options.variant, "seed": options.seed} if options.stage in PER_VARIANT else {}
    if options.stage == "train":
        where |= {"workers": options.workers, "profile": options.profile}
    try:
        params = load_params(PARAMS)
        importlib.import_module(f"pipeline.stages.{options.stage}").run(params, **where)
    except InputError as error:
        return complain(options.stage, str(error))
    except OSError as error:  # a full disk, a folder without permission
        reason = error.strerror or " ".join(str(error).split())
        return complain(options.stage, f"{error.filename or 'writing'}: {reason}; make room or mend it, and run again")
    except KeyboardInterrupt:
        return complain(options.stage, "interrupted; run again to go on")
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--variant", help="a key of variants in params.yaml (train, evaluate)")
    parser.add_argument("--seed", type=int, help="one of seeds in params.yaml (train, evaluate)")
    parser.add_argument("--workers", help="Ray workers that share each batch: 2, or 1-4 (train); FLOWVAE_WORKERS")
    parser.add_argument("--profile", action="store_true", help="profile a step into logs/train (train)")
    options = parser.parse_args()
    per_variant = options.stage in PER_VARIANT
    if per_variant != (options.variant is not None) or per_variant != (options.seed is not None):
        parser.error("--variant and --seed go with train and evaluate, and only with them")
    if options.stage != "train" and (options.workers or options.profile):
        parser.error("--workers and --profile go with train, and only with it")
    return options


def complain(stage: str, message: str) -> int:
    for line in message.splitlines():
        print(f"{stage}: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
