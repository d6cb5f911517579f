"""The table: one row per variant, the mean over its seeds, and the protocol behind all numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from flowvae.data.arrays import pixel_text
from flowvae.estimates import paired_gains
from pipeline.report.columns import BOUND_GAIN, BY_NAME, NLL_GAIN, REPORTED_METRICS, shown
from pipeline.report.runs import Flows, ScoredRun

BOUND, NLL = "negative_elbo_nats", "nll_nats"
GAINS = (BOUND_GAIN, NLL_GAIN)
SURE_ERRORS = 2  # standard errors above 0 of a gain that counts as one


@dataclass(frozen=True)
class Summary:
    """One variant of the report's table.

    Args:
        variant, flows: of the variant.
        values: mean over seeds of every metric, and the gains over the reference with their standard errors
            (`paired_gains`), except for the reference itself. Standard errors are over test images; those of metrics
            are averaged over seeds.
        seed_spread: standard deviation of −ELBO over seeds; None for a single seed.
    """

    variant: str
    flows: Flows
    values: Mapping[str, float]
    seed_spread: float | None


def summarize(runs: Iterable[ScoredRun], reference: str) -> list[Summary]:
    """Summarize every variant, in order.

    Args:
        runs: of all variants.
        reference: the variant that the others are compared with.
    """
    by_variant: dict[str, list[ScoredRun]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    return [summary(group, by_variant[reference]) for group in by_variant.values()]


def summary(group: Sequence[ScoredRun], references: Sequence[ScoredRun]) -> Summary:
    """Summarize the runs of one variant, given those of the reference, both in the order of the seeds."""
    first, bounds = group[0], [run.metrics[BOUND] for run in group]
    values = {name: mean(run.metrics[name] for run in group) for name in REPORTED_METRICS}
    if first.variant != references[0].variant:
        gains = paired_gains(*([run.images for run in runs] for runs in (references, group)))
        for name, gain in zip(GAINS, gains, strict=True):
            values |= {name: gain.value, f"{name}_stderr": gain.stderr}
    spread = stdev(bounds) if len(bounds) > 1 else None
    return Summary(first.variant, first.flows, values, spread)


def variant_table(runs: Sequence[ScoredRun], rows: Iterable[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of variants, as text."""
    columns = shown(eight_bit=runs[0].eight_bit)
    headings = ["variant", "posterior, k", "prior, k", *(column.heading for column in columns)]
    cells = [
        [row.variant, *row.flows.cells(), *(column.cell(row.values, row.seed_spread) for column in columns)]
        for row in rows
    ]
    return headings, cells


def lowest(rows: Iterable[Summary], metric: str) -> Summary:
    """The first of the variants with the lowest value of a metric."""
    return min(rows, key=lambda row: row.values[metric])


def unproven(rows: Sequence[Summary], reference: str) -> str:
    """One sentence: which variants do not beat the reference, as far as the test images tell."""
    exceptions = []
    for row in rows:
        missed = [BY_NAME[gain].heading.removeprefix("gain in ") for gain in GAINS if not is_sure(row.values, gain)]
        if missed and row.variant != reference:
            exceptions.append(f"{row.variant} ({' and '.join(missed)})")
    return (
        f"Every variant beats {reference} by more than {SURE_ERRORS} standard errors of the paired difference, in "
        f"−ELBO and in NLL{', except ' if exceptions else ''}{', '.join(exceptions)}."
    )


def is_sure(values: Mapping[str, float], gain: str) -> bool:
    """Whether a gain is positive by more than SURE_ERRORS standard errors."""
    return gain in values and values[gain] > SURE_ERRORS * values[f"{gain}_stderr"]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns, readable as it stands; some readers need three characters in a rule."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (headings, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    padded = [[cell.rjust(width) for cell, width in zip(line, widths)] for line in (lines[0], rule, *lines[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def protocol_text(runs: Sequence[ScoredRun], reference: str) -> str:
    """One paragraph: how every number of the table was obtained."""
    protocol = runs[0].protocol
    data, training, evaluation = protocol["data"], protocol["training"], protocol["evaluation"]
    seeds = sorted({run.seed for run in runs})
    counts, eight_bit = data["counts"], runs[0].eight_bit
    drawn = "" if eight_bit else f" (seed {data['binarization_seed']})"
    bits = ", the last two columns in bits per dimension" if eight_bit else ""
    at_most = "at most " if training.get("patience") else ""
    return (
        f"{data['dataset']}, {pixel_text(data['binarization'])}{drawn}, "
        f"{counts['train']:,} / {counts['valid']:,} / {counts['test']:,} images "
        f"({'; '.join(filter(None, (data['split'], data.get('processing'))))}); "
        f"{at_most}{protocol['epochs']} epochs of batches of {training['batch_size']}, "
        f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"weights of the best epoch on validation. "
        f"All values in nats per test image{bits}; ± is one standard error over test images. −ELBO and its terms: "
        f"{evaluation['num_elbo_samples']} draws per image, all test images. NLL: importance sampling with "
        f"{evaluation['num_importance_samples']} draws; its gap to −ELBO is measured on "
        f"{evaluation['num_nll_images']:,} random test images. Gains over {reference} are means of differences image "
        f"by image with the same noise, so their errors are smaller than those of the columns beside them. The gain in "
        f"NLL is that of a better model; what the gain in −ELBO exceeds it by is that of a tighter bound. "
        f"{seeds_text(len(seeds))}"
    )


def seeds_text(num_seeds: int) -> str:
    """What the number of seeds means for differences between rows."""
    if num_seeds == 1:
        return "One training seed: rows also differ by chance, which only more seeds would show."
    return f"Means over {num_seeds} training seeds; sd is the standard deviation over them."
