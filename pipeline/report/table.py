"""The table: one row per variant and seed, and their summary; two protocols never share it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_csv, read_json
from pipeline.params import Params, run_key

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
    "num_importance_samples",
    "parameters",
)
PER_RUN = ("variant", "seed")  # what may differ between rows of one table
CURVE_COLUMNS = ("epoch", "train_negative_elbo", "valid_negative_elbo")


@dataclass(frozen=True)
class Run:
    """One variant with one seed: its scores and how they came about."""

    variant: str
    seed: int
    flow: str
    num_transforms: int
    metrics: Mapping[str, Any]
    protocol: Mapping[str, Any]
    curve: list[dict[str, float]]

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
    key, flow = run_key(variant, seed), params.variants[variant]
    try:
        curve = [{name: float(row[name]) for name in CURVE_COLUMNS} for row in read_csv(paths.CURVES / f"{key}.csv")]
        run = Run(
            variant=variant,
            seed=seed,
            flow=flow.flow,
            num_transforms=flow.num_transforms,
            metrics=read_json(paths.METRICS / f"{key}.json"),
            protocol=read_json(paths.PROTOCOLS / f"{key}.json"),
            curve=curve,
        )
        run.row()
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{key}: its metrics, protocol or curve are damaged ({error!r}); run dvc repro -f evaluate@{key}"
        ) from error
    return run


def first_difference(left: Any, right: Any, path: tuple[str, ...] = ()) -> str | None:
    """Dotted path of the first value that differs, PER_RUN aside; None if there is none."""
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return None if left == right else ".".join(path)
    for key in left | right:
        if not path and key in PER_RUN:
            continue
        if difference := first_difference(left.get(key), right.get(key), (*path, key)):
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
    )


HEADINGS = ("variant", "k", "−log p(x\\|z)", "KL", "−ELBO", "gain", "NLL", "active units", "parameters")


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
    """A Markdown table with padded columns, readable as it stands."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [headings, tuple("-" * (width - 1) + ":" for width in widths), *rows]
    return "\n".join("| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def describe_protocol(runs: list[Run], reference: str) -> str:
    """One paragraph: what every number of the table rests on."""
    protocol = runs[0].protocol
    data, training, evaluation = protocol["data"], protocol["training"], protocol["evaluation"]
    seeds = sorted({run.seed for run in runs})
    counts = data["counts"]
    return (
        f"{data['dataset']}, {data['binarization']} binarization (seed {data['binarization_seed']}), "
        f"{counts['train']:,} / {counts['valid']:,} / {counts['test']:,} images ({data['split']}); "
        f"{protocol['epochs']} epochs of batches of {training['batch_size']}, "
        f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"weights of the best epoch on validation. "
        f"All values in nats per test image; ± is one standard error over test images. −ELBO and its terms: "
        f"{evaluation['num_elbo_samples']} draws per image, all test images. NLL: importance sampling with "
        f"{evaluation['num_importance_samples']} draws, its gap to −ELBO measured on {evaluation['num_nll_images']:,} "
        f"random test images. Gain: −ELBO of {reference} minus the row's. Rows also differ by the luck of training, "
        "which more seeds would show."
    )
