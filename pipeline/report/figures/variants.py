"""Figures of the variants: learning curves, and gains over the reference against depth."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flowvae.config import ImageShape
from pipeline.report.columns import BOUND_GAIN, BY_NAME, NLL_GAIN
from pipeline.report.figures.looks import MARKERS, family_looks, looks_of, series_of
from pipeline.report.figures.style import BASE_COLOR, DEPTH_LABEL, add_legend, depth_axis, report_style, save_png
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
        looks = looks_of(runs)
        for panel, (split, title) in zip(panels, SPLIT_TITLES.items(), strict=True):
            for run in runs:
                label = run.variant if run.seed == runs[0].seed else None
                epochs = [point["epoch"] for point in run.curve]
                losses = [point[f"{split}_negative_elbo"] for point in run.curve]
                marker = "." if len(epochs) < 20 else None
                panel.plot(epochs, losses, **looks[run.variant].line, label=label, marker=marker, linewidth=1.2)
            panel.set(title=title, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses = [point[f"{split}_negative_elbo"] for run in runs for point in run.curve for split in SPLIT_TITLES]
        panels[0].set(ylabel="−ELBO (nats)", ylim=near_the_best(losses))
        add_bits(panels[1], runs[0])
        add_legend(figure, panels[1])
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
        looks, visible = looks_of(runs), list[float]()
        for run in runs:
            if run.name in seconds:
                times = [second / divisor for second in seconds[run.name]]
                losses = [point["valid_negative_elbo"] for point in run.curve]
                visible += losses
                label = run.variant if run.seed == runs[0].seed else None
                panel.plot(times, losses, **looks[run.variant].line, label=label, marker=".", linewidth=1.2)
        panel.set(xlabel=f"{unit} of training", ylabel="−ELBO (nats)", ylim=near_the_best(visible))
        panel.set_title(SPLIT_TITLES["valid"])
        add_bits(panel, runs[0])
        add_legend(figure, panel)
        save_png(figure, path)


def near_the_best(losses: Iterable[float]) -> tuple[float, float]:
    """The visible range of learning curves."""
    best = min(losses)
    visible = max(VISIBLE_NATS, VISIBLE_SHARE * abs(best))
    return best - 0.08 * visible, best + visible


def add_bits(panel: Axes, run: ScoredRun) -> None:
    """Add an axis in bits per dimension if the images have 8-bit values."""
    if run.eight_bit:
        add_bits_axis(panel, run.image_shape)


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
        add_legend(figure, panels[1])
        save_png(figure, path)


def draw_against_depth(panel: Axes, rows: Sequence[Summary], name: str) -> None:
    """Draw one gain of all variants; that of the reference is 0."""
    column = BY_NAME[name]
    for row in rows:
        if not row.flows.depth:
            panel.axhline(row.values.get(name, 0.0), color=BASE_COLOR, linestyle="--", linewidth=1, label=row.variant)
    looks = family_looks(rows)
    for family, position, members in series_of(rows):
        panel.errorbar(
            [row.flows.depth for row in members],
            [row.values.get(name, 0.0) for row in members],
            [row.values.get(str(column.error), 0.0) for row in members],
            color=looks[family].color,
            marker=MARKERS[position % len(MARKERS)],
            linestyle=":" if position else "-",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            label=family if not position else ", ".join(row.variant for row in members),
        )
    depth_axis(panel, {row.flows.depth for row in rows if row.flows.depth})
    panel.set(xlabel=DEPTH_LABEL, ylabel=f"{column.heading} (nats)")
