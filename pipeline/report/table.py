"""The table: one row per variant, the mean over its seeds, and the protocol that all numbers rest on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from pipeline.params import describe_values
from pipeline.report.runs import Run


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
