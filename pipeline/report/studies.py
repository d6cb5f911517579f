"""The results of the studies: their rows, what all trials of a study have in common, and a table of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from flowvae.data.arrays import Metadata, pixel_text
from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_csv
from pipeline.params.schema import SIDES, Params, VariantConfig
from pipeline.report.columns import ABSENT, BY_NAME
from pipeline.report.runs import Flows

COUNTS = ("num_transforms", "seed", "epochs")
TEXTS = ("family", *SIDES, "status", "reason", "trial")
BOUNDS = (BY_NAME["negative_elbo_nats"], BY_NAME["nll_nats"])
HEADINGS = ("family", "k", *(column.heading for column in BOUNDS), "mean ‖∇‖", "max ‖∇‖", "diverged")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class StudyResult:
    """A study of params.yaml and its trials.

    Args:
        name: of the study.
        flows: those of each family at its first depth, in order.
        rows: of its trials.
        title: what all trials have in common.
    """

    name: str
    flows: Mapping[str, Flows]
    rows: Sequence[Row]
    title: str

    def family(self, name: str) -> list[Row]:
        """The trials of a family."""
        return [row for row in self.rows if row["family"] == name]

    def table(self) -> list[list[str]]:
        """Cells under HEADINGS, one line per family and depth."""
        return [
            table_line(family, depth, group)
            for family in self.flows
            for depth, group in by_depth(self.family(family)).items()
        ]


def read_studies(params: Params, metadata: Metadata) -> list[StudyResult]:
    """Read the results of all studies that params.yaml declares.

    Raises:
        InputError: a file is missing or damaged.
    """
    return [read_study(params, name, metadata) for name in params.studies]


def read_study(params: Params, name: str, metadata: Metadata) -> StudyResult:
    """Read the results of one study.

    Raises:
        InputError: the file is missing or damaged.
    """
    path, config = paths.STUDIES / f"{name}.csv", params.studies[name]
    varied = (*TEXTS, *config.over)
    try:
        rows = [{key: parse(key, text, varied) for key, text in row.items()} for row in read_csv(path)]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); run dvc repro -f study@{name}") from error
    expected = {"family", "num_transforms", "status", *(column.name for column in BOUNDS)}
    if missing := expected - rows[0].keys() if rows else {"rows"}:
        raise InputError(f"{path}: damaged, lacks {', '.join(sorted(missing))}; run dvc repro -f study@{name}")
    flows = {family: flows_of(next(iter(depths.values()))) for family, depths in config.families.items()}
    return StudyResult(name, flows, rows, title_of(name, rows, config.seeds, metadata))


def flows_of(variant: VariantConfig) -> Flows:
    """The families and depths of a variant."""
    posterior, prior = variant.posterior, variant.prior
    return Flows(posterior.flow, posterior.num_transforms, prior.flow, prior.num_transforms)


def parse(key: str, text: str, texts: Iterable[str]) -> Any:
    """A value of a study's CSV file: text, a count, or a number; None if a number is absent."""
    if key in texts:
        return text
    if not text:
        return None
    return int(text) if key in COUNTS else float(text)


def title_of(name: str, rows: Sequence[Row], seeds: Sequence[int], metadata: Metadata) -> str:
    """Two lines: the data, and the budget of each trial."""
    epochs = max((row["epochs"] for row in rows if row["epochs"]), default=0)
    length = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    seed_text = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    intervals = "bars: 95% intervals over seeds" if len(seeds) > 1 else "one seed, so no intervals"
    return (
        f"Study {name!r}: {metadata.provenance.dataset}, {pixel_text(metadata.binarization)}\n"
        f"{length} of {metadata.counts['train']:,} images, {seed_text} ({intervals})"
    )


def by_depth(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Trials of a family by their number of transformations, ascending."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["num_transforms"], []).append(row)
    return dict(sorted(groups.items()))


def has_diverged(row: Row) -> bool:
    """Whether training ended because its loss was not finite."""
    return row["status"] == "diverged"


def table_line(family: str, depth: int, group: Sequence[Row]) -> list[str]:
    """The cells of one family at one depth."""
    finished = [row for row in group if row["status"] == "finished"]
    failed = sum(row["status"] == "failed" for row in group)
    diverged = f"{sum(map(has_diverged, group))} of {len(group)}" + (f" ({failed} failed)" if failed else "")
    if not finished:
        return [family, str(depth), *[ABSENT] * (len(HEADINGS) - 3), diverged]
    cells = []
    for column in BOUNDS:
        values = {name: mean(row[name] for row in finished) for name in column.names}
        spread = f" (sd {stdev(row[column.name] for row in finished):.2f})" if len(finished) > 1 else ""
        cells.append(column.cell(values) + spread)
    gradients = (mean(row["mean_grad_norm"] for row in finished), max(row["max_grad_norm"] for row in finished))
    return [family, str(depth), *cells, *(f"{norm:.1f}" for norm in gradients), diverged]
