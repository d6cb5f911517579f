"""The trials of a study: what each depends on, how it runs, and the row that it leaves."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from flowvae.data.arrays import Metadata, open_images
from flowvae.evaluation import EvaluationConfig, evaluate
from flowvae.training.checkpoint import Checkpoints
from flowvae.training.state import EpochRecord
from flowvae.training.workers import SingleWorker
from pipeline.fitting import FittedRun, RunSpec, code_hash, fit_run
from pipeline.params.schema import SIDES, vae_config
from pipeline.scores import flat_metrics, metric_names
from pipeline.study.points import Point, Study

VALIDATION = "valid_negative_elbo"  # in nats; what a search lowers, and what the best trial is chosen by
GRADIENTS = ("mean_grad_norm", "max_grad_norm")
THROUGHPUT = "images_per_second"  # stored with each row, but left out of tables that must be reproducible
# The code that a row depends on beside that of training.
SCORING_CODE = ("flowvae/estimates.py", "flowvae/evaluation.py", "pipeline/scores.py", "pipeline/study/trials.py")


@dataclass(frozen=True)
class Trial:
    """A point, and everything that its result depends on.

    Args:
        point: its position in the study.
        spec: what to fit.
        evaluation: how to score it.
    """

    point: Point
    spec: RunSpec
    evaluation: EvaluationConfig

    @property
    def trial_id(self) -> str:
        """A hash of config, seed, data and code: the name under which the result is stored."""
        depends_on = {"evaluation": self.evaluation.model_dump(mode="json"), "code": code_hash(SCORING_CODE)}
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        return f"{self.spec.run_id}-{digest[:8]}"


def columns(study: Study) -> list[str]:
    """Columns of the table of all trials."""
    position = ["family", "posterior", "prior", "num_transforms", "seed", *study.config.over]
    return [*position, VALIDATION, *metric_names(), *GRADIENTS, "epochs", "status", "reason", "trial"]


def trial_at(study: Study, point: Point, metadata: Metadata, prepared: Path) -> Trial:
    """The trial at a point.

    Raises:
        InputError: its settings are invalid.
    """
    sections = study.sections(point)
    spec = RunSpec(
        name=f"{point.family}-{point.num_transforms}-{point.seed}",
        vae=vae_config(sections.model, sections.variant, metadata.image_shape),
        training=sections.training,
        seed=point.seed,
        data={name: info.sha256 for name, info in metadata.arrays.items()},
        prepared=prepared,
        logs=prepared.parent,
        profile=False,
    )
    return Trial(point, spec, sections.evaluation)


def run_trial(
    trial: Trial,
    prepared: Path,
    device: torch.device,
    checkpoints: Checkpoints,
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, Any]:
    """Fit and score a trial on the arrays in `prepared`.

    Returns:
        The row of the finished trial.

    Raises:
        InputError: the data are missing or damaged, or the device does not support what the trial needs.
        NonFiniteLossError: training diverged.
    """
    spec = replace(trial.spec, prepared=prepared)
    fitted = fit_run(spec, device, SingleWorker(), checkpoints, is_main=False, on_epoch=on_epoch)
    return score_trial(trial, fitted, prepared, device)


def score_trial(trial: Trial, fitted: FittedRun, prepared: Path, device: torch.device) -> dict[str, Any]:
    """Score a trained model.

    Returns:
        The row of the finished trial.

    Raises:
        InputError: the data are missing or damaged.
    """
    test = open_images(prepared, "test", device)
    vae = fitted.vae.to(device)
    scores = flat_metrics(evaluate(vae, test, trial.evaluation), vae, test.image_shape)
    return row(trial, "finished") | {
        VALIDATION: round(min(record.valid_negative_elbo for record in fitted.records), 4),
        "mean_grad_norm": round(mean(record.mean_grad_norm for record in fitted.records), 4),
        "max_grad_norm": round(max(record.max_grad_norm for record in fitted.records), 4),
        "epochs": len(fitted.records),
        THROUGHPUT: round(fitted.images_per_second, 1),
        **scores,
    }


def row(trial: Trial, status: str, reason: str = "") -> dict[str, Any]:
    """A row without scores.

    Args:
        trial: of the row.
        status: finished, stopped (early), diverged or failed.
        reason: why it did not finish.
    """
    vae = trial.spec.vae
    flows = {side: getattr(vae, side).flow for side in SIDES}
    return trial.point.columns() | flows | {"status": status, "reason": reason, "trial": trial.trial_id}
