"""Train and score one row, and describe where that was done."""

import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from flowvae.data.arrays import Metadata, open_images, read_info
from flowvae.estimates import ImageScores
from flowvae.evaluation import evaluate
from flowvae.model.vae import VAE
from flowvae.training.checkpoint import CheckpointFolder
from flowvae.training.loop import epochs_for
from flowvae.training.state import EpochRecord
from flowvae.training.workers import SingleWorker
from pipeline.device import device_text
from pipeline.files import write_json
from pipeline.fitting import RunSpec, fit_run
from pipeline.rows.code import scoring_code
from pipeline.rows.places import PROGRESS, state_folder
from pipeline.rows.plan import Row
from pipeline.running.timings import git_revision
from pipeline.scores import flat_metrics

CPU = "_cpu"  # ending of the names of seconds of the processor, which other programs change little
NUM_SAMPLES = 1000  # images drawn to measure the time that it takes


@dataclass(frozen=True)
class Scored:
    """What scoring adds to a record."""

    images: ImageScores
    fields: dict[str, Any]


def train(
    row: Row, prepared: Path, data: Mapping[str, str], device: torch.device, checkpoints: CheckpointFolder
) -> tuple[VAE, list[EpochRecord], float]:
    """Train a row from its last checkpoint.

    Returns:
        The model, the learning curve, and seconds of the processor for all epochs, in proportion to those that were
        trained now; 0 if they were fewer than two.

    Raises:
        NonFiniteLossError: training diverged.
    """
    spec = RunSpec(
        name=row.name,
        vae=row.vae,
        training=row.training,
        seed=row.point.seed,
        data=data,
        prepared=prepared,
        logs=state_folder(row),
        profile=False,
    )
    progress_file = state_folder(row) / PROGRESS
    progress_file.unlink(missing_ok=True)  # of an earlier training
    num_epochs = epochs_for(read_info(prepared, "train").shape[0], row.training)

    times: dict[int, float] = {}

    def on_epoch(record: EpochRecord) -> None:
        times[record.epoch] = time.process_time()
        progress = {"epoch": record.epoch, "epochs": num_epochs, "seconds": round(record.seconds, 1)}
        write_json(progress_file, progress)

    fitted = fit_run(spec, device, SingleWorker(), checkpoints, is_main=False, on_epoch=on_epoch)
    return fitted.vae, fitted.records, seconds_for_all(times, num_epochs)


def seconds_for_all(times: Mapping[int, float], num_epochs: int) -> float:
    """Seconds for all epochs, in proportion to those between the first and the last of which the end was timed."""
    if len(times) < 2:
        return 0.0
    first, last = min(times), max(times)
    return (times[last] - times[first]) / (last - first) * num_epochs


def score(row: Row, vae: VAE, prepared: Path, device: torch.device, num_nll_images: int) -> Scored:
    """Score a trained model on the test images, and measure how long it takes to draw images."""
    test = open_images(prepared, "test", device)
    config = row.evaluation.model_copy(update={"num_nll_images": min(num_nll_images, len(test))})
    started = time.monotonic(), time.process_time()
    evaluation = evaluate(vae.to(device), test, config)
    scored = time.monotonic(), time.process_time()
    vae.sample(NUM_SAMPLES)
    drawn = time.monotonic(), time.process_time()
    times = {"scoring": (started, scored), "sampling": (scored, drawn)}
    fields = {
        "evaluation": config,
        "scoring_code": scoring_code(),
        "scores": flat_metrics(evaluation, vae, test.image_shape),
        "seconds": {
            f"{name}{kind}": round(end[i] - begin[i], 2)
            for name, (begin, end) in times.items()
            for i, kind in enumerate(("", CPU))
        },
    }
    return Scored(evaluation.images, fields)


def protocol(metadata: Metadata) -> dict[str, Any]:
    """The data in words."""
    provenance = metadata.provenance
    names = ("dataset", "origin", "split", "processing")
    words = {name: getattr(provenance, name) for name in names}
    return words | {"binarization": metadata.binarization, "images": metadata.counts}


def where(device: torch.device) -> dict[str, Any]:
    """Where and when a row was computed."""
    return {
        "machine": {
            "processor": processor(),
            "device": device_text(device),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
    }


def processor() -> str:
    """The name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
