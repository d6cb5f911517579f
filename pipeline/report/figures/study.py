"""The figure of a study: how each term of the bound, gradients and divergence change with depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from scipy.stats import t as student

from flowvae.data.arrays import Metadata
from pipeline.report.columns import BY_NAME
from pipeline.report.figures.style import BASE_COLOR, DEPTH_LABEL, depth_axis, family_color, report_style, save_png
from pipeline.report.published import published_depth, results_on
from pipeline.report.runs import Flows, flows_label
from pipeline.report.studies import Row, StudyResult, by_depth, has_diverged

TERMS = ("nll_nats", "negative_elbo_nats", "reconstruction_nats", "kl_nats")
GRADIENT = "max_grad_norm"
DIVERGED = "diverged"
LABELS = {name: f"{BY_NAME[name].heading} (nats)" for name in TERMS} | {
    GRADIENT: "largest gradient norm",
    DIVERGED: "runs that diverged (%)",
}
PANELS = ("nll_nats", "negative_elbo_nats", GRADIENT, "reconstruction_nats", "kl_nats", DIVERGED)  # 2 rows of 3
LEVEL = 0.95
MIN_TICK_RATIO = 1.3  # between two ticks on the logarithmic axis
MARKERS = "sD^vPX<>"
Published = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]  # points by term by source
Colors = Mapping[str, tuple[float, ...]]  # by family


@dataclass(frozen=True)
class Curve:
    """One family: the mean over seeds at each depth, and half the width of its 95% interval.

    Args:
        depths: k, ascending.
        means: in the unit of the column.
        half_widths: in the same unit; None with fewer than two seeds.
    """

    depths: list[int]
    means: list[float]
    half_widths: list[float] | None


def study_figure(study: StudyResult, metadata: Metadata, path: Path) -> None:
    """Draw PANELS against k, one curve per family, and published results on the same images.

    Args:
        study: results of a study.
        metadata: of the images; published results on others are left out.
        path: of the PNG file.
    """
    with report_style():
        figure, panels = plt.subplots(2, 3, figsize=(12, 7.6), layout="constrained", sharex=True)
        by_family = {family: published_points(flows, metadata) for family, flows in study.flows.items()}
        depths: set[int] = set()
        published_depths: set[int] = set()
        colors = colors_of(study)
        for panel, name in zip(panels.flat, PANELS, strict=True):
            depths |= draw_panel(panel, study, colors, name)
            if name in TERMS:
                published_depths |= draw_published(panel, colors, by_family, name)
            panel.set(ylabel=LABELS[name])
        for panel in panels.flat:
            depth_axis(panel, depths | apart_from(depths, published_depths))
        for panel in panels[1]:
            panel.set(xlabel=DEPTH_LABEL)
        entries: dict[str, Artist] = {}
        for panel in (panels[1, 2], *panels.flat):  # the last panel has the families only, which come first
            handles, labels = panel.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        figure.legend(list(entries.values()), list(entries), loc="outside lower left", fontsize=8)
        figure.suptitle(study.title, fontsize=10)
        save_png(figure, path)


def colors_of(study: StudyResult) -> Colors:
    """A colour for each family that has transformations."""
    deep = [family for family in study.flows if set(by_depth(study.family(family))) != {0}]
    return {family: family_color(position) for position, family in enumerate(deep)}


def draw_panel(panel: Axes, study: StudyResult, colors: Colors, name: str) -> set[int]:
    """Draw one column of every family.

    Returns:
        All depths in the panel.
    """
    depths: set[int] = set()
    for family in study.flows:
        rows = study.family(family)
        curve = divergence_curve(rows) if name == DIVERGED else curve_of(rows, name)
        if family not in colors:
            for value in curve.means:  # none if the trial did not finish
                panel.axhline(value, color=BASE_COLOR, linestyle="--", linewidth=1, label=f"{family}, k = 0")
            continue
        panel.errorbar(
            curve.depths,
            curve.means,
            curve.half_widths,
            color=colors[family],
            marker="o",
            markersize=4,
            capsize=2,
            label=family,
        )
        depths |= set(curve.depths)
    if name == DIVERGED:
        panel.set(ylim=(-4, 104))
        if not any(map(has_diverged, study.rows)):
            text = f"none of {len(study.rows)} runs diverged"
            panel.text(0.5, 0.5, text, ha="center", va="center", transform=panel.transAxes)
    if name == GRADIENT:
        panel.set(yscale="log")
        for set_formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            set_formatter(StrMethodFormatter("{x:,.5g}"))
    return depths


def draw_published(panel: Axes, colors: Colors, by_family: Mapping[str, Published], name: str) -> set[int]:
    """Draw published values of one term, in the colour of the first family with those flows.

    Returns:
        All depths drawn.
    """
    depths: set[int] = set()
    drawn: set[str] = set()
    for family, color in colors.items():
        for marker, (label, values) in zip(MARKERS, by_family[family].items()):
            if (points := values[name]) and label not in drawn:
                panel.plot(*zip(*points), color=color, marker=marker, mfc="none", ls=":", lw=0.8, label=label)
                drawn.add(label)
                depths |= {depth for depth, _ in points}
    return depths


def apart_from(depths: set[int], others: set[int]) -> set[int]:
    """Those of some other depths whose ticks would not overlap those of the depths."""
    return {other for other in others if all(max(other, k) / min(other, k) > MIN_TICK_RATIO for k in depths)}


def curve_of(rows: Sequence[Row], name: str) -> Curve:
    """A column of the finished trials of a family; if other params vary, of those best on validation at each k."""
    finished = [row for row in rows if row["status"] == "finished"]
    groups = {depth: best_group(group) for depth, group in by_depth(finished).items()}
    values = {depth: [row[name] for row in group] for depth, group in groups.items()}
    half_widths = [half_width(group) for group in values.values()]
    complete = [width for width in half_widths if width is not None]
    means = [mean(group) for group in values.values()]
    return Curve(list(values), means, complete if len(complete) == len(half_widths) else None)


def best_group(rows: Sequence[Row]) -> list[Row]:
    """The trials with the same values of all other params that are best on validation."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        others = str([value for name, value in row.items() if "." in name])  # columns that are paths of params
        groups.setdefault(others, []).append(row)
    return min(groups.values(), key=mean_validation)


def mean_validation(rows: Sequence[Row]) -> float:
    """Mean −ELBO on validation, in nats."""
    return mean(row["valid_negative_elbo"] for row in rows)


def divergence_curve(rows: Sequence[Row]) -> Curve:
    """The percentage of trials that diverged at each depth."""
    groups = by_depth(rows)
    return Curve(list(groups), [100 * mean(map(has_diverged, group)) for group in groups.values()], None)


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of Student's interval for a mean; None for one value."""
    if len(values) < 2:
        return None
    return student.ppf((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / len(values) ** 0.5


def published_points(flows: Flows, metadata: Metadata) -> Published:
    """Published results on these images with flows of these kinds.

    Returns:
        (k, value in nats) by term, by source and protocol.
    """
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in results_on(metadata.provenance.dataset, metadata.binarization):
        if (depth := published_depth(row, flows)) is not None:
            families = flows_label(row["posterior"], row["prior"])
            label = f"{row['source']}: {families}, {row['binarization']}, {row['protocol']}"
            terms = points.setdefault(label, {name: [] for name in TERMS})
            for name in TERMS:
                if row.get(name):
                    terms[name].append((depth, float(row[name])))
    return {label: terms for label, terms in points.items() if any(terms.values())}
