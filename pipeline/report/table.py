"""The table: one row per variant and seed, and their summary; two protocols never share it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_csv, read_json
from pipeline.params import Params, describe_values, eight_bit, run_key

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


@dataclass(frozen=True)
class Summary:
    """A row of the report's table: one variant, the mean over its seeds."""

    variant: str
    flow: str
    num_transforms: int
    reconstruction: float
    kl: float
    negative_elbo: float
    negative_elbo_stderr: float
    nll: float
    nll_stderr: float
    gain: float  # -ELBO of the reference minus this one's
    seed_spread: float | None  # standard deviation of -ELBO over seeds
    active_units: float
    parameters: int
    negative_elbo_bits: float  # per dimension
    nll_bits: float
    nll_bits_stderr: float


def summarize(runs: Iterable[Run], reference: str) -> list[Summary]:
    """One summary per variant, in order. Standard errors are over test images, averaged over seeds."""
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    base = mean(run.metrics["negative_elbo_nats"] for run in by_variant[reference])
    return [summary(group, base) for group in by_variant.values()]


def summary(group: list[Run], base: float) -> Summary:
    average = {name: mean(run.metrics[name] for run in group) for name in group[0].metrics}
    bounds = [run.metrics["negative_elbo_nats"] for run in group]
    return Summary(
        variant=group[0].variant,
        flow=group[0].flow,
        num_transforms=group[0].num_transforms,
        reconstruction=average["reconstruction_nats"],
        kl=average["kl_nats"],
        negative_elbo=average["negative_elbo_nats"],
        negative_elbo_stderr=average["negative_elbo_stderr"],
        nll=average["nll_nats"],
        nll_stderr=average["nll_stderr"],
        gain=base - average["negative_elbo_nats"],
        seed_spread=stdev(bounds) if len(bounds) > 1 else None,
        active_units=average["active_units"],
        parameters=group[0].metrics["parameters"],
        negative_elbo_bits=average["negative_elbo_bits_per_dim"],
        nll_bits=average["nll_bits_per_dim"],
        nll_bits_stderr=average["nll_bits_per_dim_stderr"],
    )


HEADINGS = ("variant", "k", "−log p(x\\|z)", "KL", "−ELBO", "gain", "NLL", "active units", "parameters")
BITS_HEADINGS = ("−ELBO, bits/dim", "NLL, bits/dim")


def table(runs: Sequence[Run], rows: Iterable[Summary]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows, as text; 8-bit data have bits per dimension at the end."""
    if not runs[0].eight_bit:
        return HEADINGS, [cells(row) for row in rows]
    return HEADINGS + BITS_HEADINGS, [cells(row) + bits_cells(row) for row in rows]


def bits_cells(row: Summary) -> tuple[str, ...]:
    """Under BITS_HEADINGS."""
    return f"{row.negative_elbo_bits:.3f}", f"{row.nll_bits:.3f} ± {row.nll_bits_stderr:.3f}"


def cells(row: Summary) -> tuple[str, ...]:
    """The table's cells, as text, under HEADINGS."""
    spread = "" if row.seed_spread is None else f" (sd {row.seed_spread:.2f})"
    return (
        row.variant,
        str(row.num_transforms),
        f"{row.reconstruction:.2f}",
        f"{row.kl:.2f}",
        f"{row.negative_elbo:.2f} ± {row.negative_elbo_stderr:.2f}{spread}",
        f"{row.gain:+.2f}",
        f"{row.nll:.2f} ± {row.nll_stderr:.2f}",
        f"{row.active_units:g}",
        f"{row.parameters:,}",
    )


def markdown(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table with padded columns, readable as it stands; some readers want three characters in a rule."""
    widths = [max(3, *map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [headings, tuple("-" * (width - 1) + ":" for width in widths), *rows]
    return "\n".join("| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def describe_protocol(runs: list[Run], reference: str) -> str:
    """One paragraph: what every number of the table rests on."""
    protocol = runs[0].protocol
    data, training, evaluation = protocol["data"], protocol["training"], protocol["evaluation"]
    seeds = sorted({run.seed for run in runs})
    counts, levels = data["counts"], runs[0].eight_bit
    drawn = "" if levels else f" (seed {data['binarization_seed']})"
    bits = ", the last two columns in bits per dimension" if levels else ""
    most = "at most " if training.get("patience") else ""
    return (
        f"{data['dataset']}, {describe_values(data['binarization'])}{drawn}, "
        f"{counts['train']:,} / {counts['valid']:,} / {counts['test']:,} images "
        f"({'; '.join(filter(None, (data['split'], data.get('processing'))))}); "
        f"{most}{protocol['epochs']} epochs of batches of {training['batch_size']}, "
        f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"weights of the best epoch on validation. "
        f"All values in nats per test image{bits}; ± is one standard error over test images. −ELBO and its terms: "
        f"{evaluation['num_elbo_samples']} draws per image, all test images. NLL: importance sampling with "
        f"{evaluation['num_importance_samples']} draws, its gap to −ELBO measured on {evaluation['num_nll_images']:,} "
        f"random test images. Gain: −ELBO of {reference} minus the row's. Rows also differ by the luck of training, "
        "which more seeds would show."
    )
