"""The figure of the stability study: how NLL, divergence, gradients and speed grow with depth."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, StrMethodFormatter

from pipeline.report.depth import MARKERS, curve
from pipeline.report.figures import STYLE, save_png
from pipeline.report.stability import Rows, divergence_rate, families, groups

PANELS = {
    "nll_nats": "NLL (nats)",
    "diverged": "runs that diverged (%)",
    "max_grad_norm": "largest gradient norm",
    "images_per_second": "images per second",
}
LOGARITHMIC = ("max_grad_norm", "images_per_second")


def stability_figure(rows: Rows, title: str, path: Path) -> None:
    """PANELS against k, a line per normalisation.

    Args:
        rows: of the study's table.
        title: what all points have in common.
        path: of the PNG file.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(9, 7.4), layout="constrained", sharex=True)
        for panel, column in zip(panels.flat, PANELS, strict=True):
            draw(panel, rows, column)
        ticks = sorted({depth for _, depth in groups(rows)})
        for panel in panels[1]:
            panel.set(xlabel="k, number of transformations")
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.xaxis.set_minor_locator(NullLocator())
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        figure.suptitle(title, fontsize=10)
        save_png(figure, path)


def draw(panel: Axes, rows: Rows, column: str) -> None:
    for i, family in enumerate(families(rows)):
        style = {"color": f"C{i}", "marker": MARKERS[i % len(MARKERS)], "markersize": 4, "label": family}
        if column == "diverged":
            depths, rates = divergence_rate(rows, family)
            panel.plot(depths, rates, **style)
            panel.set(ylim=(-4, 104))
        else:
            line = curve(rows, family, column)
            panel.errorbar(line.depths, line.means, line.halves, capsize=2, **style)
    panel.set(ylabel=PANELS[column], xscale="log")
    if column in LOGARITHMIC:
        panel.set(yscale="log")
        for formatted in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            formatted(StrMethodFormatter("{x:,.0f}"))
