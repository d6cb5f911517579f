"""The trials of a sweep: what each depends on, how it runs, and the row that it leaves."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from flowvae.checkpoint import Checkpoints
from flowvae.config import EvaluationConfig
from flowvae.data.arrays import Metadata, open_images
from flowvae.evaluation import evaluate
from flowvae.training import epochs_for
from flowvae.training_state import EpochRecord
from flowvae.vae import VAE, VAEConfig
from flowvae.workers import Alone
from pipeline.fitting import Task, fit_task
from pipeline.params import Params, describe_values
from pipeline.points import Point, families_depths_seeds, resolve
from pipeline.scores import flat_metrics

FIRST_COLUMNS = ("family", "num_transforms", "seed")
LAST_COLUMNS = (
    "valid_negative_elbo",
    "reconstruction_nats",
    "reconstruction_stderr",
    "kl_nats",
    "kl_stderr",
    "negative_elbo_nats",
    "negative_elbo_stderr",
    "nll_nats",
    "nll_stderr",
    "negative_elbo_bits_per_dim",
    "negative_elbo_bits_per_dim_stderr",
    "nll_bits_per_dim",
    "nll_bits_per_dim_stderr",
    "active_units",
    "parameters",
    "mean_grad_norm",
    "max_grad_norm",
    "epochs",
    "status",
    "reason",
    "trial",
)

SPEED = "images_per_second"  # kept with each row; in no table that is to be the same on every run


@dataclass(frozen=True)
class Trial:
    """A point, and all that its result depends on.

    Args:
        point: where it stands.
        task: what to fit.
        evaluation: how to score it.
    """

    point: Point
    task: Task
    evaluation: EvaluationConfig

    @property
    def trial_id(self) -> str:
        """A hash of config, seed, data and code: the name under which a result is kept and found again."""
        score = json.dumps(self.evaluation.model_dump(mode="json"), sort_keys=True)
        return f"{self.task.run_id}-{hashlib.sha256(score.encode()).hexdigest()[:8]}"


def trial_at(params: Params, point: Point, metadata: Metadata, prepared: Path) -> Trial:
    """The trial of a point.

    Raises:
        InputError: its settings make no sense.
    """
    sections = resolve(params, point)
    key = f"{point.family}-{point.num_transforms}-{point.seed}"
    vae = VAEConfig(model=sections["model"], flow=sections["flow"], image_shape=metadata.image_shape)
    task = Task(key, vae, sections["training"], point.seed, metadata.sha256, prepared, prepared.parent, profile=False)
    return Trial(point, task, sections["evaluation"])


def run_trial(
    trial: Trial,
    prepared: Path,
    device: torch.device,
    checkpoints: Checkpoints,
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, Any]:
    """Fit and score on the arrays in `prepared`; the row of a finished trial.

    Raises:
        InputError: the data are missing or damaged, or the device cannot do what the trial wants.
        NonFiniteLossError: training diverged.
    """
    task = replace(trial.task, prepared=prepared)
    vae, records, speed = fit_task(task, device, Alone(), checkpoints, speaks=False, on_epoch=on_epoch)
    return score_trial(trial, vae, records, speed, prepared, device)


def score_trial(
    trial: Trial, vae: VAE, records: list[EpochRecord], images_per_second: float, prepared: Path, device: torch.device
) -> dict[str, Any]:
    """The row of a trial whose model has been trained.

    Raises:
        InputError: the data are missing or damaged.
    """
    test = open_images(prepared, "test", device)
    scores = flat_metrics(evaluate(vae.to(device), test, trial.evaluation), vae, test.image_shape)
    return row(trial, "finished") | {
        "valid_negative_elbo": round(min(record.valid_negative_elbo for record in records), 4),
        "mean_grad_norm": round(mean(record.mean_grad_norm for record in records), 4),
        "max_grad_norm": round(max(record.max_grad_norm for record in records), 4),
        "epochs": len(records),
        SPEED: round(images_per_second, 1),
        **{name: value for name, value in scores.items() if name in LAST_COLUMNS},
    }


def row(trial: Trial, status: str, reason: str = "") -> dict[str, Any]:
    """A row without scores."""
    return trial.point.columns() | {"status": status, "reason": reason, "trial": trial.trial_id}


def describe(params: Params, metadata: Metadata) -> str:
    """What all trials have in common, for a figure."""
    budget, section = params.sweep.chosen, params.sweep.section
    first = resolve(params, Point(*families_depths_seeds(params)[0], {}))["training"]
    several = len(budget.seeds) > 1
    seeds = f"seeds {', '.join(map(str, budget.seeds))}" if several else f"seed {budget.seeds[0]}"
    interval = "bars: 95% intervals over seeds" if several else "one seed, so no intervals"
    num_images, values = metadata.counts["train"], describe_values(metadata.binarization)
    num_epochs = epochs_for(num_images, first)
    epochs = "1 epoch" if num_epochs == 1 else f"{num_epochs} epochs"
    return (
        f"{section.capitalize()} {params.sweep.budget!r}: {metadata.dataset}, {values}\n"
        f"{epochs} of {num_images:,} images, {seeds} ({interval})"
    )


def warn_of_unfinished(params: Params, rows: list[dict[str, Any]]) -> None:
    """A line on stderr for each trial that did not finish."""
    for ended in (row for row in rows if row["status"] in ("failed", "diverged")):
        print(f"{params.sweep.section}: {ended['trial']} {ended['status']}: {ended['reason']}", file=sys.stderr)
    if any(row["status"] == "failed" for row in rows):
        print(f"{params.sweep.section}: dvc repro -f {params.sweep.section} tries failed trials again", file=sys.stderr)


def columns(params: Params) -> list[str]:
    """Of the table of all trials."""
    return [*FIRST_COLUMNS, *params.sweep.chosen.over, *LAST_COLUMNS]
