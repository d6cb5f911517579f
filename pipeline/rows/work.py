"""Train and score one row, in a process of its own: python -m pipeline.rows.work PRESET ROW [--finish].

It is interrupted, to be resumed from its last checkpoint, when its standard input is closed: when the process that
started it ends, however it ends.
"""

import argparse
import os
import signal
import sys
import threading
from typing import Any

from filelock import Timeout

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.estimates import ImageScores
from flowvae.files import sha256
from flowvae.model.loading import load
from flowvae.model.weights import WEIGHTS
from flowvae.training.checkpoint import CheckpointFolder
from flowvae.training.loop import NonFiniteLossError
from pipeline.device import pick_device
from pipeline.rows.code import scoring_code
from pipeline.rows.computing import CPU, protocol, score, train, where
from pipeline.rows.data import checksums, prepared_folder
from pipeline.rows.places import checkpoints_of, lock_of, state_folder
from pipeline.rows.plan import Row, load_preset, rows_of
from pipeline.rows.records import Record, is_current, read_record, write_record

CURVES = ("train_negative_elbo", "valid_negative_elbo", "valid_reconstruction", "valid_kl", "max_grad_norm")
INTERRUPTED, ELSEWHERE = 130, 3  # exit codes; the second if another process has trained the row, or trains it
SECONDS_FOR_A_LOOK = 2  # at a lock, by a process that only asks whether it is held


def main() -> int:
    """Exit code 0 if the row has its record now, ELSEWHERE if another process has it; 1 after a line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.rows.work", description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("row")
    parser.add_argument("--finish", action="store_true", help="measure the NLL of all test images")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it starts with &
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        preset, params = load_preset(options.preset)
        row = next(row for row in rows_of(preset, params) if row.name == options.row)
        with lock_of(row, SECONDS_FOR_A_LOOK):
            if options.finish:
                finish_row(row)
            elif not complete_row(row):
                return ELSEWHERE
    except Timeout:  # another process works on the row
        return ELSEWHERE
    except (InputError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def end_with_parent() -> None:
    """Wait until standard input is closed, then interrupt this process."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGINT)


def complete_row(row: Row) -> bool:
    """Train and score a row, and write its record, unless another process has written one.

    Returns:
        Whether the row was trained.

    Raises:
        InputError: the data are missing or damaged.
    """
    data = checksums(read_metadata(prepared_folder(row.preset)))
    if (record := read_record(row)) and is_current(row, record, data):
        return False
    checkpoints = checkpoints_of(row, data)
    write_record(row, *computed(row, data, checkpoints))
    checkpoints.remove()
    return True


def computed(row: Row, data: dict[str, str], checkpoints: CheckpointFolder) -> tuple[Record, ImageScores | None]:
    """The record of a row that is trained now, and the scores of each image; None if it diverged."""
    prepared, device = prepared_folder(row.preset), pick_device()
    common: dict[str, Any] = {
        "vae": row.vae,
        "training": row.training,
        "seed": row.point.seed,
        "data": data,
        "protocol": protocol(read_metadata(prepared)),
        "training_code": row.code,
        "images": {},
    }
    unscored: dict[str, Any] = {
        "evaluation": row.evaluation,
        "scoring_code": scoring_code(),
        "scores": {},
        "seconds": {},
    }
    try:
        vae, records, processor_seconds = train(row, prepared, data, device, checkpoints)
    except NonFiniteLossError as error:
        outcome: dict[str, Any] = {"status": "diverged", "reason": str(error), "weights_sha256": None, "curve": {}}
        return Record(**common, **unscored, **outcome, **where(device)), None
    vae.save(state_folder(row))
    scored = score(row, vae, prepared, device, num_nll_images=row.evaluation.num_nll_images)
    outcome = {
        "status": "finished",
        "reason": None,
        "weights_sha256": sha256(state_folder(row) / WEIGHTS),
        "curve": {name: [round(getattr(each, name), 3) for each in records] for name in CURVES},
    }
    trained = {"training": round(records[-1].seconds, 1), f"training{CPU}": round(processor_seconds, 1)}
    seconds = trained | scored.fields.pop("seconds")
    return Record(**common, **outcome, **scored.fields, seconds=seconds, **where(device)), scored.images


def finish_row(row: Row) -> None:
    """Score a row again, on all test images also for NLL, with the weights that are here.

    Raises:
        InputError: there is no record, or no weights that belong to it.
    """
    record, device = read_record(row), pick_device()
    weights = state_folder(row) / WEIGHTS
    if record is None or not weights.is_file() or sha256(weights) != record.weights_sha256:
        raise InputError(f"{row.name}: its weights are not on this machine; score it where it was trained")
    prepared = prepared_folder(row.preset)
    num_images = read_metadata(prepared).counts["test"]
    scored = score(row, load(state_folder(row)), prepared, device, num_images)
    seconds = record.seconds | scored.fields.pop("seconds")
    write_record(row, record.model_copy(update=scored.fields | {"seconds": seconds}), scored.images)


if __name__ == "__main__":
    sys.exit(main())
