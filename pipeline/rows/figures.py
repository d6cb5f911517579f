"""The three figures of a study: gains against depth, by side, and against the time of training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline import paths
from pipeline.report.figures.style import DEPTH_LABEL, add_legend, depth_axis, report_style, save_png
from pipeline.rows.findings import Findings, families, gains_of, plain_of
from pipeline.rows.results import Gain, Result

FIGURES = {
    "depth": "Gain over the plain VAE in −ELBO (left) and NLL (right) against depth, by family",
    "sides": "Gain of the best depth of each family: in the posterior, in the prior, and in both",
    "seconds": "Gain in NLL against the time of training, relative to the plain VAE",
}
SIDE_COLORS = {"posterior": "tab:blue", "prior": "tab:orange", "posterior and prior": "tab:green"}
SIDE_LINES = {"posterior": ("-", "o"), "prior": ("--", "s"), "posterior and prior": (":", "D")}
COLORS = tuple(f"C{number}" for number in range(10))  # of families, on any side
INCHES_PER_LINE = 0.3
OFFSETS = {"NLL": 0.12, "−ELBO": -0.12}  # of the two dots of a line


def draw_figures(found: Findings) -> list[Path]:
    """Write the figures; none as long as there is nothing to compare.

    Returns:
        Their files.
    """
    if not found.compared:
        return []
    draw = {"depth": depth_figure, "sides": sides_figure, "seconds": seconds_figure}
    files = []
    with report_style():
        for name in FIGURES:
            path = paths.STUDY / found.preset / f"{name}.png"
            save_png(draw[name](found), path)
            files.append(path)
    return files


def depth_figure(found: Findings) -> Figure:
    """A panel for each bound, a line for each family."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", sharey=True)
    by_family = families(found.compared)
    flows = list(dict.fromkeys(name_of_flow(results[0]) for results in by_family.values()))
    for panel, bound in zip(panels, ("−ELBO", "NLL"), strict=True):
        for family, results in by_family.items():
            line, marker = SIDE_LINES[side_of(results[0])]
            gains = [gain_in(result, bound) for result in results]
            panel.errorbar(
                [result.row.point.num_transforms for result in results],
                [gain.value for gain in gains],
                [gain.stderr for gain in gains],
                color=COLORS[flows.index(name_of_flow(results[0])) % len(COLORS)],
                linestyle=line,
                marker=marker,
                markersize=5,
                capsize=2,
                label=family,
            )
        panel.axhline(0, color="black", linewidth=0.8)
        depth_axis(panel, {result.row.point.num_transforms for result in found.compared})
        panel.set_xlabel(DEPTH_LABEL)
        panel.set_title(f"gain in {bound}, nats per image")
    add_legend(figure, panels[0])
    return figure


def sides_figure(found: Findings) -> Figure:
    """A line for each family with two dots, the best at the top."""
    best = [
        max(results, key=lambda result: gains_of(result).nll.value) for results in families(found.compared).values()
    ]
    best.sort(key=lambda result: gains_of(result).nll.value)
    figure, panel = plt.subplots(figsize=(9, 1.4 + INCHES_PER_LINE * len(best)), layout="constrained")
    for position, result in enumerate(best):
        for bound, offset in OFFSETS.items():
            gain, filled = gain_in(result, bound), bound == "NLL"
            color = SIDE_COLORS[side_of(result)]
            panel.errorbar(
                gain.value,
                position + offset,
                xerr=gain.stderr,
                color=color,
                marker="o",
                markerfacecolor=color if filled else "white",
                capsize=2,
            )
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(best)), [result.name for result in best])
    panel.set_xlabel("gain over the plain VAE, nats per image: NLL (filled), −ELBO (open)")
    add_side_legend(figure, panel, best)
    return figure


def seconds_figure(found: Findings) -> Figure:
    """A dot for each variant; those have names that gain more than all that take less time."""
    plain = plain_of(found.main)
    figure, panel = plt.subplots(figsize=(9, 5.5), layout="constrained")
    most = 0.0
    for result in sorted(found.compared, key=lambda result: result.seconds("training")):
        gain = gains_of(result).nll
        times = result.seconds("training") / (plain.seconds("training") if plain else 1)
        panel.errorbar(times, gain.value, gain.stderr, color=SIDE_COLORS[side_of(result)], marker="o", capsize=2)
        if gain.value > most:
            most = gain.value
            panel.annotate(result.name, (times, most), xytext=(6, 4), textcoords="offset points", fontsize=8)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xlabel("time of training, relative to the plain VAE")
    panel.set_ylabel("gain in NLL, nats per image")
    add_side_legend(figure, panel, found.compared)
    return figure


def add_side_legend(figure: Figure, panel: Axes, results: Sequence[Result]) -> None:
    """A legend of the colours of the sides that there are."""
    for side, color in SIDE_COLORS.items():
        if any(side_of(result) == side for result in results):
            panel.plot([], [], color=color, marker="o", linestyle="", label=f"in the {side}")
    add_legend(figure, panel)


def side_of(result: Result) -> str:
    """Where the flows of a variant are."""
    return " and ".join(result.sides)


def name_of_flow(result: Result) -> str:
    """The family of the flow; with two, of that in the posterior."""
    return result.flow(result.sides[0])[0]


def gain_in(result: Result, bound: str) -> Gain:
    """The gain in NLL or −ELBO."""
    return gains_of(result).nll if bound == "NLL" else gains_of(result).bound
