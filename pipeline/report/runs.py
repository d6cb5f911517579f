"""The runs that a report is about: scores, protocol and curve of each; two protocols never meet in one report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_csv, read_json
from pipeline.params import Params, eight_bit, run_key

COLUMNS = (
    "variant",
    "flow",
    "num_transforms",
    "seed",
    "dataset",
    "binarization",
    "num_train",
    "num_test",
    "epochs",
    "reconstruction_nats",
    "kl_nats",
    "negative_elbo_nats",
    "negative_elbo_stderr",
    "nll_nats",
    "nll_stderr",
    "negative_elbo_bits_per_dim",
    "negative_elbo_bits_per_dim_stderr",
    "nll_bits_per_dim",
    "nll_bits_per_dim_stderr",
    "num_importance_samples",
    "parameters",
)
PER_RUN = ("variant", "seed", "flow")  # what may differ between rows of one table
ABSENT = object()  # differs from every value, null too
METRICS = (
    *(name for name in COLUMNS if name.endswith(("_nats", "_stderr", "_bits_per_dim"))),
    "active_units",
    "parameters",
)
PROTOCOL = {
    "flow": {"flow", "num_transforms"},
    "data": {"dataset", "binarization", "binarization_seed", "split", "counts", "banner", "image_shape"},
    "training": {"batch_size"},
    "evaluation": {"num_elbo_samples", "num_importance_samples", "num_nll_images"},
}  # what this module reads, by section
CURVE_COLUMNS = ("epoch", "train_negative_elbo", "valid_negative_elbo")


@dataclass(frozen=True)
class Run:
    """One variant with one seed: its scores and how they came about."""

    variant: str
    seed: int
    metrics: Mapping[str, float]
    protocol: Mapping[str, Any]
    curve: list[dict[str, float]]

    @property
    def flow(self) -> str:
        return self.protocol["flow"]["flow"]

    @property
    def num_transforms(self) -> int:
        return self.protocol["flow"]["num_transforms"]

    @property
    def eight_bit(self) -> bool:
        """Whether the images have 8-bit values, and bits per dimension say more than nats."""
        return eight_bit(self.protocol["data"]["binarization"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.protocol["data"]["image_shape"])

    def row(self) -> dict[str, Any]:
        """A row of results.csv."""
        data = self.protocol["data"]
        known = {
            "variant": self.variant,
            "flow": self.flow,
            "num_transforms": self.num_transforms,
            "seed": self.seed,
            "dataset": data["dataset"],
            "binarization": data["binarization"],
            "num_train": data["counts"]["train"],
            "num_test": data["counts"]["test"],
            "epochs": self.protocol["epochs"],
            "num_importance_samples": self.protocol["evaluation"]["num_importance_samples"],
        }
        return {column: known[column] if column in known else self.metrics[column] for column in COLUMNS}


def read_runs(params: Params) -> list[Run]:
    """All runs that params.yaml declares.

    Raises:
        InputError: a file is missing or damaged, or two runs followed different protocols.
    """
    runs = [read_run(params, variant, seed) for variant in params.variants for seed in params.seeds]
    for other in runs[1:]:
        if difference := first_difference(runs[0].protocol, other.protocol):
            first, second = (paths.PROTOCOLS / f"{run_key(run.variant, run.seed)}.json" for run in (runs[0], other))
            raise InputError(f"{second}: {difference} differs from {first}: two protocols in one table; run dvc repro")
    return runs


def read_run(params: Params, variant: str, seed: int) -> Run:
    key = run_key(variant, seed)
    protocol = read_protocol(paths.PROTOCOLS / f"{key}.json")
    if protocol["flow"] != params.variants[variant].model_dump(mode="json"):
        raise InputError(f"params.yaml: variants.{variant}: is not what {key} was trained with; run dvc repro")
    return Run(
        variant=variant,
        seed=seed,
        metrics=read_metrics(paths.METRICS / f"{key}.json"),
        protocol=protocol,
        curve=read_curve(paths.CURVES / f"{key}.csv"),
    )


def read_metrics(path: Path) -> dict[str, float]:
    metrics = read_json(path)
    for name in METRICS:
        if not isinstance(metrics.get(name), (int, float)):
            raise InputError(f"{path}: {name}: expected a number, got {metrics.get(name)!r}; run dvc repro to mend it")
    return metrics


def read_protocol(path: Path) -> dict[str, Any]:
    protocol = read_json(path)
    for section, names in PROTOCOL.items():
        found = protocol.get(section)
        missing = names - found.keys() if isinstance(found, dict) else {"everything"}
        if missing:
            raise InputError(f"{path}: {section}: lacks {', '.join(sorted(missing))}; run dvc repro to mend it")
    if not isinstance(protocol.get("epochs"), int):
        raise InputError(f"{path}: epochs: expected a number, got {protocol.get('epochs')!r}; run dvc repro to mend it")
    return protocol


def read_curve(path: Path) -> list[dict[str, float]]:
    try:
        curve = [{name: float(row[name]) for name in CURVE_COLUMNS} for row in read_csv(path)]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run dvc repro to mend it") from error
    if not curve:
        raise InputError(f"{path}: damaged, it holds no epoch; run dvc repro to mend it")
    return curve


def first_difference(left: Any, right: Any, path: tuple[str, ...] = ()) -> str | None:
    """Dotted path of the first value that differs, PER_RUN aside; None if there is none."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return None if left == right else ".".join(path)
    for key in left | right:
        if not path and key in PER_RUN:
            continue
        if difference := first_difference(left.get(key, ABSENT), right.get(key, ABSENT), (*path, key)):
            return difference
    return None
