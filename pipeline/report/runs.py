"""The runs of a report: scores, protocol and learning curve of each. Two protocols never meet in one report."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowvae.config import ImageShape
from flowvae.data.arrays import SPLITS, Metadata, is_eight_bit
from flowvae.errors import InputError
from flowvae.estimates import ImageScores
from pipeline import paths
from pipeline.files import read_csv, read_json
from pipeline.params.schema import SIDES, Params, run_name
from pipeline.report.columns import ABSENT, REPORTED_METRICS

PER_RUN = ("variant", "seed", *SIDES)  # what may differ between the rows of one table
MISSING = object()  # differs from every value, also from null
PROTOCOL = {
    "posterior": {"flow", "num_transforms"},
    "prior": {"flow", "num_transforms"},
    "data": set(SPLITS),
    "training": {"batch_size"},
    "evaluation": {"num_elbo_samples", "num_importance_samples", "num_nll_images"},
}  # what the report reads, by section
DIAGNOSTICS = {
    *("kl_per_dim", "posterior_ladj", "prior_ladj", "prior_gap", "round_trip", "nll_by_draws"),
    *("median_effective_samples", "nearest"),
}
DOWNSTREAM = {"imputation", "probe"}
CURVE_COLUMNS = ("epoch", "train_negative_elbo", "valid_negative_elbo")


@dataclass(frozen=True)
class ScoredRun:
    """One variant with one seed: its scores, and how they were obtained."""

    variant: str
    seed: int
    metrics: Mapping[str, float]
    protocol: Mapping[str, Any]
    curve: list[dict[str, float]]
    images: ImageScores
    diagnostics: Mapping[str, Any]
    downstream: Mapping[str, Any]

    @property
    def name(self) -> str:
        return run_name(self.variant, self.seed)

    @property
    def flows(self) -> "Flows":
        """Of posterior and prior."""
        values = [(self.protocol[side]["flow"], self.protocol[side]["num_transforms"]) for side in SIDES]
        return Flows(*values[0], *values[1])

    @property
    def eight_bit(self) -> bool:
        """Whether the images have 8-bit values, for which bits per dimension say more than nats."""
        return is_eight_bit(self.protocol["data"]["binarization"])

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        channels, height, width = self.protocol["data"]["image_shape"]
        return channels, height, width

    def row(self) -> dict[str, Any]:
        """A row of results.csv."""
        data = self.protocol["data"]
        return {
            "variant": self.variant,
            **asdict(self.flows),
            "seed": self.seed,
            "dataset": data["dataset"],
            "binarization": data["binarization"],
            "num_train": data["counts"]["train"],
            "num_test": data["counts"]["test"],
            "epochs": self.protocol["epochs"],
            "num_importance_samples": self.protocol["evaluation"]["num_importance_samples"],
            **{name: self.metrics[name] for name in REPORTED_METRICS},
        }


@dataclass(frozen=True)
class Flows:
    """Families and numbers of transformations of posterior and prior."""

    posterior: str
    posterior_transforms: int
    prior: str
    prior_transforms: int

    @property
    def label(self) -> str:
        """The families: none, planar, real_nvp prior, or both."""
        return flows_label(self.posterior, self.prior)

    @property
    def depth(self) -> int:
        """k of the posterior or, if it has no flow, of the prior."""
        return self.posterior_transforms or self.prior_transforms

    def cells(self) -> list[str]:
        """Cells of a table, for posterior and prior."""
        pairs = ((self.posterior, self.posterior_transforms), (self.prior, self.prior_transforms))
        return [f"{family}, {depth}" if depth else ABSENT for family, depth in pairs]


def flows_label(posterior: str, prior: str) -> str:
    """The families of posterior and prior in words."""
    if prior == "none":
        return posterior
    return f"{prior} prior" if posterior == "none" else f"{posterior}, {prior} prior"


def read_runs(params: Params, metadata: Metadata) -> list[ScoredRun]:
    """Read all runs that params.yaml declares.

    Args:
        params: of the project.
        metadata: of the images.

    Raises:
        InputError: a file is missing or damaged, a run used other images, or two runs followed different protocols.
    """
    runs = [read_run(params, metadata, variant, seed) for variant in params.variants for seed in params.seeds]
    for other in runs[1:]:
        if difference := first_difference(runs[0].protocol, other.protocol):
            first, second = (paths.PROTOCOLS / f"{run.name}.json" for run in (runs[0], other))
            raise InputError(f"{second}: {difference} differs from {first}: two protocols in one table; run dvc repro")
    return runs


def read_run(params: Params, metadata: Metadata, variant: str, seed: int) -> ScoredRun:
    """Read one run.

    Raises:
        InputError: a file is missing or damaged, or is of another variant than params.yaml declares, or of other
            images than `metadata` describe.
    """
    name = run_name(variant, seed)
    protocol = read_protocol(paths.PROTOCOLS / f"{name}.json", metadata)
    if {side: protocol[side] for side in SIDES} != params.variants[variant].model_dump(mode="json"):
        raise InputError(f"params.yaml: variants.{variant}: differs from what {name} was trained with; run dvc repro")
    return ScoredRun(
        variant=variant,
        seed=seed,
        metrics=read_run_metrics(paths.METRICS / f"{name}.json"),
        protocol=protocol,
        curve=read_curve(paths.CURVES / f"{name}.csv"),
        images=read_image_scores(name, protocol),
        diagnostics=read_complete(paths.DIAGNOSTICS / f"{name}.json", DIAGNOSTICS),
        downstream=read_complete(paths.DOWNSTREAM / f"{name}.json", DOWNSTREAM),
    )


def read_run_metrics(path: Path) -> dict[str, float]:
    """Read metrics and check that all columns are there."""
    metrics = read_json(path)
    for name in REPORTED_METRICS:
        if not isinstance(metrics.get(name), (int, float)):
            raise InputError(f"{path}: {name}: expected a number, got {metrics.get(name)!r}; run dvc repro to fix it")
    return metrics


def read_image_scores(name: str, protocol: Mapping[str, Any]) -> ImageScores:
    """Read the scores of each image and check that they are as many as the protocol says."""
    path = paths.SCORES / f"{name}.safetensors"
    scores = ImageScores.load(path)
    counts = len(scores.negative_elbo), len(scores.nll)
    expected = protocol["data"]["counts"]["test"], protocol["evaluation"]["num_nll_images"]
    if counts != expected:
        raise InputError(f"{path}: expected scores of {expected} images, got {counts}; run dvc repro to fix it")
    return scores


def read_protocol(path: Path, metadata: Metadata) -> dict[str, Any]:
    """Read a protocol, check that it holds what the report needs, and add where its images come from."""
    protocol = read_json(path)
    for section, names in PROTOCOL.items():
        content = protocol.get(section)
        missing = names - content.keys() if isinstance(content, dict) else {"everything"}
        if missing:
            raise InputError(f"{path}: {section}: lacks {', '.join(sorted(missing))}; run dvc repro to fix it")
    if not isinstance(protocol.get("epochs"), int):
        raise InputError(f"{path}: epochs: expected a number, got {protocol.get('epochs')!r}; run dvc repro to fix it")
    for split in SPLITS:
        if protocol["data"][split] != metadata.arrays[split].model_dump(mode="json"):
            raise InputError(f"{path}: data.{split}: other images than those in {paths.PREPARED}; run dvc repro")
    images = {name: getattr(metadata, name) for name in ("binarization", "counts", "image_shape")}
    return protocol | {"data": metadata.provenance.model_dump() | images}


def read_complete(path: Path, keys: Set[str]) -> dict[str, Any]:
    """Read results of a run and check that all are there.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = read_json(path)
    if missing := keys - content.keys():
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; run dvc repro to fix it")
    return content


def read_curve(path: Path) -> list[dict[str, float]]:
    """Read a learning curve."""
    try:
        curve = [{name: float(row[name]) for name in CURVE_COLUMNS} for row in read_csv(path)]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run dvc repro to fix it") from error
    if not curve:
        raise InputError(f"{path}: damaged, it holds no epoch; run dvc repro to fix it")
    return curve


def epoch_times(runs: Sequence[ScoredRun]) -> dict[str, list[float]]:
    """Seconds of training at the end of each epoch, by the name of the run.

    Runs that were not trained here have none, nor have those whose times are of another curve or damaged.
    """
    times = {}
    for run in runs:
        try:
            rows = read_csv(paths.EPOCH_TIMES / f"{run.name}.csv")
            seconds = [float(row["seconds"]) for row in rows]
        except (InputError, KeyError, ValueError, TypeError):
            continue
        if len(seconds) == len(run.curve):
            times[run.name] = seconds
    return times


def first_difference(left: Any, right: Any, path: tuple[str, ...] = ()) -> str | None:
    """Dotted path of the first value that differs, except for PER_RUN; None if there is none."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return None if left == right else ".".join(path)
    for key in left | right:
        if not path and key in PER_RUN:
            continue
        if difference := first_difference(left.get(key, MISSING), right.get(key, MISSING), (*path, key)):
            return difference
    return None
