"""Plots of the report. PNG without dates, so that the same numbers give the same bytes."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowvae.files import write_atomically
from pipeline.report.runs import Run
from pipeline.report.table import Summary

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
COLORMAPS = ("Blues", "Oranges", "Greens", "Purples", "Reds")  # one per family, darker with depth
BASE_COLOR = "black"
SPLITS = {"train": "training images", "valid": "validation images"}
VISIBLE_NATS = 25  # learning curves start hundreds of nats up; the view begins this far above the best,
VISIBLE_SHARE = 0.05  # or, where images have many nats, this share of the best


def learning_curves(runs: Sequence[Run], path: Path) -> None:
    """-ELBO per epoch on training and validation images, every variant."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
        colors = family_colors(runs)
        for panel, (split, title) in zip(panels, SPLITS.items(), strict=True):
            for run in runs:
                label = run.variant if run.seed == runs[0].seed else None
                epochs = [point["epoch"] for point in run.curve]
                losses = [point[f"{split}_negative_elbo"] for point in run.curve]
                marker = "." if len(epochs) < 20 else None
                panel.plot(epochs, losses, color=colors[run.variant], label=label, marker=marker, linewidth=1.2)
            panel.set(title=title, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses = [point[f"{split}_negative_elbo"] for run in runs for point in run.curve for split in SPLITS]
        best = min(losses)
        visible = max(VISIBLE_NATS, VISIBLE_SHARE * abs(best))
        panels[0].set(ylabel="−ELBO (nats)", ylim=(best - 0.08 * visible, best + visible))
        if runs[0].eight_bit:
            bits = bits_axis(panels[1], runs[0].image_shape)
            bits.set(ylabel="−ELBO (bits per dimension)")
        panels[1].legend(loc="center left", bbox_to_anchor=(1.2 if runs[0].eight_bit else 1, 0.5))
        save_png(figure, path)


def bits_axis(panel: Axes, image_shape: Sequence[int]) -> SecondaryAxis:
    """A second axis beside one in nats per image."""
    nats_per_bit = math.prod(image_shape) * math.log(2)
    return panel.secondary_yaxis(
        "right", functions=(lambda nats: nats / nats_per_bit, lambda bits: bits * nats_per_bit)
    )


def nll_against_depth(rows: Sequence[Summary], path: Path) -> None:
    """-ELBO and NLL against the number of transformations, per family, with standard errors."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        draw_depth(panels[0], rows, "negative_elbo", "−ELBO (nats)")
        draw_depth(panels[1], rows, "nll", "NLL (nats)")
        panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save_png(figure, path)


def draw_depth(panel: Axes, rows: Sequence[Summary], name: str, label: str) -> None:
    families = families_of(rows)
    for row in rows:
        if not row.num_transforms:
            panel.axhline(getattr(row, name), color=BASE_COLOR, linestyle="--", linewidth=1, label=row.variant)
    for i, family in enumerate(families):
        members = sorted((row for row in rows if row.flow == family), key=lambda row: row.num_transforms)
        panel.errorbar(
            [row.num_transforms for row in members],
            [getattr(row, name) for row in members],
            [getattr(row, f"{name}_stderr") for row in members],
            color=plt.get_cmap(COLORMAPS[i % len(COLORMAPS)])(0.75),
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            label=family,
        )
    depths = sorted({row.num_transforms for row in rows if row.num_transforms})
    if depths:
        panel.set_xscale("log")
        panel.set_xticks(depths, map(str, depths))
        panel.minorticks_off()
    panel.set(xlabel="k, number of transformations", ylabel=label)


def family_colors(runs: Sequence[Run]) -> dict[str, tuple[float, ...] | str]:
    """A hue per family, darker with depth; black without a flow."""
    colors: dict[str, tuple[float, ...] | str] = {}
    families = families_of(runs)
    for i, family in enumerate(families):
        depths = sorted({run.num_transforms for run in runs if run.flow == family})
        for run in (run for run in runs if run.flow == family):
            shade = 0.4 + 0.55 * depths.index(run.num_transforms) / max(1, len(depths) - 1)
            colors[run.variant] = plt.get_cmap(COLORMAPS[i % len(COLORMAPS)])(shade)
    return {run.variant: colors.get(run.variant, BASE_COLOR) for run in runs}


def families_of(rows: Sequence[Run] | Sequence[Summary]) -> list[str]:
    """Families in order of appearance, without the plain VAE's."""
    return list(dict.fromkeys(row.flow for row in rows if row.num_transforms))


def save_png(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    plt.close(figure)
