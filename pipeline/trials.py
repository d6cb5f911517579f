"""The trials of a sweep: what params.yaml declares, how one runs, and the row that it leaves."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from flowvae.checkpoint import Checkpoints
from flowvae.config import EvaluationConfig, ModelConfig
from flowvae.data.arrays import Metadata, open_images
from flowvae.errors import InputError
from flowvae.evaluation import evaluate
from flowvae.flows import AnyFlowConfig
from flowvae.training import TrainingConfig, fit
from flowvae.training_state import EpochRecord
from flowvae.vae import VAEConfig, build_vae
from pipeline.fitting import Task, check_precision
from pipeline.params import Params, describe
from pipeline.preset import overlay
from pipeline.scores import flat_metrics
from pipeline.sweeps import Range

SCHEMAS = {
    "model": TypeAdapter(ModelConfig),
    "flow": TypeAdapter(AnyFlowConfig),
    "training": TypeAdapter(TrainingConfig),
    "evaluation": TypeAdapter(EvaluationConfig),
}  # by section, what a trial may change
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
    "active_units",
    "parameters",
    "epochs",
    "status",
    "reason",
    "trial",
)


@dataclass(frozen=True)
class Point:
    """Where a trial stands in what is compared.

    Args:
        family: a key of `families`.
        num_transforms: k.
        seed: of the training.
        values: of the other params that are varied, by path.
    """

    family: str
    num_transforms: int
    seed: int
    values: Mapping[str, Any]

    def columns(self) -> dict[str, Any]:
        return {"family": self.family, "num_transforms": self.num_transforms, "seed": self.seed, **self.values}


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


def grid(params: Params) -> list[Point]:
    """Every combination, deeper models last."""
    budget = params.sweep.chosen
    values = [
        dict(zip(budget.over, chosen, strict=True)) for chosen in itertools.product(*map(list, budget.over.values()))
    ]
    return [Point(*base, chosen) for base in families_depths_seeds(params) for chosen in values]


def families_depths_seeds(params: Params) -> list[tuple[str, int, int]]:
    budget = params.sweep.chosen
    return [
        (name, depth, seed)
        for name, family in budget.families.items()
        for depth in family.num_transforms
        for seed in budget.seeds
    ]


def trial_at(params: Params, point: Point, metadata: Metadata, prepared: Path) -> Trial:
    """The trial of a point.

    Raises:
        InputError: its settings make no sense.
    """
    sections = resolve(params, point)
    key = f"{point.family}-{point.num_transforms}-{point.seed}"
    vae = VAEConfig(model=sections["model"], flow=sections["flow"], image_shape=metadata.image_shape)
    task = Task(key, vae, sections["training"], point.seed, prepared, prepared.parent, profile=False)
    return Trial(point, task, sections["evaluation"])


def resolve(params: Params, point: Point) -> dict[str, Any]:
    """Typed sections model, flow, training and evaluation: params.yaml's, then `settings`, then the point's.

    Raises:
        InputError: one line per key that makes no sense.
    """
    budget, where = params.sweep.chosen, f"sweep.budgets.{params.sweep.budget}"
    content = {name: getattr(params, name).model_dump(mode="json") for name in SCHEMAS if name != "flow"}
    content["flow"] = budget.families[point.family].flow | {"num_transforms": point.num_transforms}
    changes = nested(point.values)
    for name, given in ((f"{where}.settings", budget.settings), (f"{where}.over", changes)):
        if unknown := given.keys() - SCHEMAS.keys():
            raise InputError(f"{name}: expected keys of {', '.join(SCHEMAS)}, got {', '.join(sorted(unknown))}")
        content = overlay(content, given)
    problems, typed = [], {}
    for name, schema in SCHEMAS.items():
        try:
            typed[name] = schema.validate_python(content[name])
        except ValidationError as error:
            for problem in error.errors():
                described = describe(problem | {"loc": (name, *problem["loc"])}, content)
                problems.append(f"{where}, {point.family} with k = {point.num_transforms}: {described}")
    if problems:
        raise InputError("\n".join(problems))
    return typed


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} -> {'a': {'b': 1}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def check_sweep(params: Params) -> Iterator[str]:
    """What is wrong with `sweep` beyond its schema, a line each."""
    if params.sweep.budget not in params.sweep.budgets:
        yield f"sweep.budget: expected one of {', '.join(params.sweep.budgets)}, got {params.sweep.budget!r}"
        return
    budget, where = params.sweep.chosen, f"sweep.budgets.{params.sweep.budget}"
    ranges = [path for path, values in budget.over.items() if isinstance(values, Range)]
    if budget.search.name == "grid" and ranges:
        yield f"{where}.over.{ranges[0]}: a grid needs a list of values; a range goes with random or optuna"
        return
    middle = {path: values.low if isinstance(values, Range) else values[0] for path, values in budget.over.items()}
    for name, family in budget.families.items():
        for depth in family.num_transforms:
            try:
                resolve(params, Point(name, depth, 0, middle))
            except InputError as error:
                yield from str(error).splitlines()


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
    task = trial.task
    check_precision(task.training.precision, device)
    images, valid, test = (open_images(prepared, split, device) for split in ("train", "valid", "test"))
    vae = build_vae(task.vae, seed=task.seed).to(device)
    records = fit(vae, images, valid, task.training, seed=task.seed, checkpoints=checkpoints, on_epoch=on_epoch)
    scores = flat_metrics(evaluate(vae, test, trial.evaluation), vae)
    return row(trial, "finished") | {
        "valid_negative_elbo": round(min(record.valid_negative_elbo for record in records), 4),
        "epochs": len(records),
        **{name: value for name, value in scores.items() if name in LAST_COLUMNS},
    }


def row(trial: Trial, status: str, reason: str = "") -> dict[str, Any]:
    """A row without scores."""
    return trial.point.columns() | {"status": status, "reason": reason, "trial": trial.trial_id}


def columns(params: Params) -> list[str]:
    """Of the table of all trials."""
    return [*FIRST_COLUMNS, *params.sweep.chosen.over, *LAST_COLUMNS]
