"""The table of the stability study: NLL, divergence, gradients and speed at each depth, with each normalisation."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

Rows = Sequence[Mapping[str, Any]]
MEASURED = ("nll_nats", "nll_stderr", "mean_grad_norm", "max_grad_norm", "images_per_second")
HEADINGS = ("normalisation", "k", "diverged", "NLL", "mean ‖gradient‖", "largest ‖gradient‖", "images/s")


def families(rows: Rows) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(row["family"] for row in rows))


def groups(rows: Rows) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """Trials that differ by their seed alone, by family and depth."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["family"], int(row["num_transforms"])), []).append(row)
    return found


def has_diverged(row: Mapping[str, Any]) -> bool:
    """Whether training ended because its loss was not finite."""
    return row["status"] == "diverged"


def divergence_rate(rows: Rows, family: str) -> tuple[list[int], list[float]]:
    """Depths, and the percentage of the runs that diverged at each."""
    rates = {
        depth: 100 * mean(map(has_diverged, group)) for (name, depth), group in groups(rows).items() if name == family
    }
    return list(rates), list(rates.values())


def table(rows: Rows) -> list[tuple[str, ...]]:
    """Cells under HEADINGS, a line per normalisation and depth."""
    return [cells(family, depth, group) for (family, depth), group in groups(rows).items()]


def cells(family: str, depth: int, group: Rows) -> tuple[str, ...]:
    failed = sum(row["status"] == "failed" for row in group)
    diverged = f"{sum(map(has_diverged, group))} of {len(group)}" + (f" ({failed} failed)" if failed else "")
    finished = [row for row in group if row["status"] == "finished"]
    if not finished:
        return (family, str(depth), diverged, "–", "–", "–", "–")
    values = {name: [float(row[name]) for row in finished] for name in MEASURED}
    spread = f" (sd {stdev(values['nll_nats']):.2f})" if len(finished) > 1 else ""
    return (
        family,
        str(depth),
        diverged,
        f"{mean(values['nll_nats']):.2f} ± {mean(values['nll_stderr']):.2f}{spread}",
        f"{mean(values['mean_grad_norm']):.1f}",
        f"{max(values['max_grad_norm']):.1f}",
        f"{mean(values['images_per_second']):,.0f}",
    )
