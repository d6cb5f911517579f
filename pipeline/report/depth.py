"""The figure of a sweep: how every term of the bound grows with depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from scipy.stats import t as student

from flowvae.data.arrays import Metadata
from pipeline.report.figures import BASE_COLOR, COLORMAPS, STYLE, save_png
from pipeline.report.published import results_on

PANELS = {
    "nll_nats": "NLL (nats)",
    "negative_elbo_nats": "−ELBO (nats)",
    "reconstruction_nats": "−log p(x|z) (nats)",
    "kl_nats": "KL (nats)",
}
LEVEL = 0.95
MARKERS = "sD^vPX<>"
Published = dict[str, dict[str, list[tuple[int, float]]]]  # points by column by source


@dataclass(frozen=True)
class Curve:
    """One family: the mean over seeds at each depth, and half the width of its 95% interval.

    Args:
        depths: k, ascending.
        means: nats.
        halves: nats; None with fewer than two seeds.
    """

    depths: list[int]
    means: list[float]
    halves: list[float] | None


def curve(rows: Sequence[dict[str, Any]], family: str, column: str) -> Curve:
    """Of the finished trials of a family; where other params vary too, those that are best on validation at each k."""
    by_depth: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        if row["family"] == family and row["status"] == "finished":
            others = str([value for name, value in row.items() if "." in name])  # paths of params
            by_depth.setdefault(row["num_transforms"], {}).setdefault(others, []).append(row)
    best = {depth: min(groups.values(), key=validation) for depth, groups in sorted(by_depth.items())}
    values = [[row[column] for row in group] for group in best.values()]
    halves = [half_width(group) for group in values]
    return Curve(list(best), [mean(group) for group in values], None if None in halves else halves)


def validation(group: Sequence[dict[str, Any]]) -> float:
    """Mean validation -ELBO in nats."""
    return mean(row["valid_negative_elbo"] for row in group)


def half_width(values: list[float]) -> float | None:
    """Of Student's interval for a mean; None for one value."""
    if len(values) < 2:
        return None
    return student.ppf((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5


def depth_figure(
    rows: Sequence[dict[str, Any]], flows: Mapping[str, str], metadata: Metadata, title: str, path: Path
) -> None:
    """NLL, -ELBO, reconstruction and KL against k, and what others reached.

    Args:
        rows: of the sweep's table.
        flows: the entry of FLOWS of each family, in the order in which they are drawn.
        metadata: of the images; results on others are left out.
        title: what all points have in common.
        path: of the PNG file.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(9, 8.5), layout="constrained", sharex=True)
        ticks: set[int] = set()
        others = {flow: published(flow, metadata) for flow in flows.values()}
        for panel, (column, label) in zip(panels.flat, PANELS.items(), strict=True):
            ticks |= draw(panel, rows, flows, others, column)
            panel.set(ylabel=label, xscale="log")
        for panel in panels.flat:
            panel.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
            panel.minorticks_off()
        for panel in panels[1]:
            panel.set(xlabel="k, number of transformations")
        handles = dict(zip(*reversed(panels[0, 0].get_legend_handles_labels())))
        handles |= dict(zip(*reversed(panels[0, 1].get_legend_handles_labels())))
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", fontsize=8)
        figure.suptitle(title, fontsize=10)
        save_png(figure, path)


def draw(
    panel: Axes,
    rows: Sequence[dict[str, Any]],
    flows: Mapping[str, str],
    others: Mapping[str, Published],
    column: str,
) -> set[int]:
    """One panel; all k in it."""
    hues, ticks = iter(COLORMAPS * len(flows)), set()
    for family, flow in flows.items():
        line = curve(rows, family, column)
        if line.depths == [0]:
            panel.axhline(line.means[0], color=BASE_COLOR, linestyle="--", linewidth=1, label=f"{family}, k = 0")
            continue
        color = plt.get_cmap(next(hues))(0.75)
        panel.errorbar(
            line.depths, line.means, line.halves, color=color, marker="o", markersize=4, capsize=2, label=family
        )
        ticks |= set(line.depths)
        markers = iter(MARKERS)
        for label, values in others[flow].items():
            points, marker = values[column], next(markers)
            if points:
                panel.plot(*zip(*points), color=color, marker=marker, mfc="none", ls=":", lw=0.8, label=label)
            ticks |= {depth for depth, _ in points}
    return ticks


def published(flow: str, metadata: Metadata) -> Published:
    """(k, value) by column of others' results on such images with a flow of this kind, by who reached them and how."""
    found: Published = {}
    for row in results_on(metadata.dataset, metadata.binarization):
        if row["posterior"].startswith(flow) and row["num_transforms"] != "0":
            label = f"{row['source']}: {row['posterior']}, {row['binarization']}, {row['protocol']}"
            columns = found.setdefault(label, {column: [] for column in PANELS})
            for column in PANELS:
                if row.get(column):
                    columns[column].append((int(row["num_transforms"]), float(row[column])))
    return {label: columns for label, columns in found.items() if any(columns.values())}
