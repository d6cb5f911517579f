"""Figures of the variants: learning curves, and gains over the reference against depth."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flowvae.config import ImageShape
from pipeline.report.columns import BOUND_GAIN, BY_NAME, NLL_GAIN
from pipeline.report.figures.style import (
    BASE_COLOR,
    COLORMAPS,
    DEPTH_LABEL,
    depth_axis,
    family_color,
    report_style,
    save_png,
)
from pipeline.report.runs import ScoredRun
from pipeline.report.table import Summary

SPLIT_TITLES = {"train": "training images", "valid": "validation images"}
VISIBLE_NATS = 25  # learning curves start hundreds of nats higher; the view begins this far above the best value,
VISIBLE_SHARE = 0.05  # or, for images with many nats, this fraction of it
TIME_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
MANY_UNITS = 3  # of the longest run, for a unit to be used


def learning_curves(runs: Sequence[ScoredRun], path: Path) -> None:
    """Draw −ELBO per epoch on training and validation images, for every variant."""
    with report_style():
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
        colors = variant_colors(runs)
        for panel, (split, title) in zip(panels, SPLIT_TITLES.items(), strict=True):
            for run in runs:
                label = run.variant if run.seed == runs[0].seed else None
                epochs = [point["epoch"] for point in run.curve]
                losses = [point[f"{split}_negative_elbo"] for point in run.curve]
                marker = "." if len(epochs) < 20 else None
                panel.plot(epochs, losses, color=colors[run.variant], label=label, marker=marker, linewidth=1.2)
            panel.set(title=title, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses = [point[f"{split}_negative_elbo"] for run in runs for point in run.curve for split in SPLIT_TITLES]
        panels[0].set(ylabel="−ELBO (nats)", ylim=near_the_best(losses))
        add_bits_and_legend(panels[1], runs[0])
        save_png(figure, path)


def curves_against_time(runs: Sequence[ScoredRun], seconds: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw −ELBO on validation images against the time of training.

    Args:
        runs: all runs, for the same colours as in the other figures.
        seconds: at the end of each epoch, by the name of the run; runs without are left out.
        path: of the file.
    """
    longest = max(times[-1] for times in seconds.values())
    unit, divisor = next(pair for pair in TIME_UNITS if longest >= MANY_UNITS * pair[1] or pair[1] == 1)
    with report_style():
        figure, panel = plt.subplots(figsize=(7, 3.8), layout="constrained")
        colors, visible = variant_colors(runs), list[float]()
        for run in runs:
            if run.name in seconds:
                times = [second / divisor for second in seconds[run.name]]
                losses = [point["valid_negative_elbo"] for point in run.curve]
                visible += losses
                label = run.variant if run.seed == runs[0].seed else None
                panel.plot(times, losses, color=colors[run.variant], label=label, marker=".", linewidth=1.2)
        panel.set(xlabel=f"{unit} of training", ylabel="−ELBO (nats)", ylim=near_the_best(visible))
        panel.set_title(SPLIT_TITLES["valid"])
        add_bits_and_legend(panel, runs[0])
        save_png(figure, path)


def near_the_best(losses: Iterable[float]) -> tuple[float, float]:
    """The visible range of learning curves."""
    best = min(losses)
    visible = max(VISIBLE_NATS, VISIBLE_SHARE * abs(best))
    return best - 0.08 * visible, best + visible


def add_bits_and_legend(panel: Axes, run: ScoredRun) -> None:
    """Add a legend and, if the images have 8-bit values, an axis in bits per dimension before it."""
    if run.eight_bit:
        add_bits_axis(panel, run.image_shape)
    panel.legend(loc="center left", bbox_to_anchor=(1.2 if run.eight_bit else 1, 0.5))


def add_bits_axis(panel: Axes, image_shape: ImageShape) -> None:
    """Add a second axis in bits per dimension beside one in nats per image."""
    nats_per_bit = math.prod(image_shape) * math.log(2)
    functions = (lambda nats: nats / nats_per_bit, lambda bits: bits * nats_per_bit)
    panel.secondary_yaxis("right", functions=functions).set(ylabel="−ELBO (bits per dimension)")


def gains_against_depth(rows: Sequence[Summary], path: Path) -> None:
    """Draw the gains in −ELBO and in NLL against the number of transformations, per family, with standard errors."""
    with report_style():
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        for panel, name in zip(panels, (BOUND_GAIN, NLL_GAIN), strict=True):
            draw_against_depth(panel, rows, name)
        panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save_png(figure, path)


def draw_against_depth(panel: Axes, rows: Sequence[Summary], name: str) -> None:
    """Draw one gain of all variants; that of the reference is 0."""
    column = BY_NAME[name]
    for row in rows:
        if not row.flows.depth:
            panel.axhline(row.values.get(name, 0.0), color=BASE_COLOR, linestyle="--", linewidth=1, label=row.variant)
    for i, family in enumerate(families_of(rows)):
        members = sorted((row for row in rows if row.flows.label == family), key=lambda row: row.flows.depth)
        panel.errorbar(
            [row.flows.depth for row in members],
            [row.values.get(name, 0.0) for row in members],
            [row.values.get(str(column.error), 0.0) for row in members],
            color=family_color(i),
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            label=family,
        )
    depth_axis(panel, {row.flows.depth for row in rows if row.flows.depth})
    panel.set(xlabel=DEPTH_LABEL, ylabel=f"{column.heading} (nats)")


def variant_colors(runs: Sequence[ScoredRun]) -> dict[str, tuple[float, ...] | str]:
    """A colour per variant: a hue per family, darker with depth; black without a flow."""
    colors: dict[str, tuple[float, ...] | str] = {run.variant: BASE_COLOR for run in runs}
    for i, family in enumerate(families_of(runs)):
        members = [run for run in runs if run.flows.label == family]
        depths = sorted({run.flows.depth for run in members})
        for run in members:
            shade = 0.4 + 0.55 * depths.index(run.flows.depth) / (len(depths) - 1) if len(depths) > 1 else 0.75
            colors[run.variant] = plt.get_cmap(COLORMAPS[i % len(COLORMAPS)])(shade)
    return colors


def families_of(rows: Sequence[ScoredRun] | Sequence[Summary]) -> list[str]:
    """Families of flows, of posterior and prior together, in order of appearance, without that of the plain VAE."""
    return list(dict.fromkeys(row.flows.label for row in rows if row.flows.depth))
