"""Style of the report's figures. PNG files have no dates, so that the same numbers give the same bytes."""

from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flowvae.files import write_atomically

COLORMAPS = (  # one per family, darker with depth
    *("Blues", "Oranges", "Greens", "Purples", "Reds"),
    *("PuRd", "Greys", "copper_r"),
)
BASE_COLOR = "black"  # of models without a flow
LEGEND_SIDE = 14  # entries beside a figure; more are below it
LEGEND_COLUMNS = 5
LINE_HEIGHT = 0.19  # inches, of a legend
DEPTH_LABEL = "k, number of transformations"


def report_style() -> AbstractContextManager[None]:
    """The settings with which all figures are drawn."""
    return plt.rc_context(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "text.parse_math": False,  # names may contain $
        }
    )


def family_color(position: int) -> tuple[float, ...]:
    """The colour of a family, by its position among the families."""
    return plt.get_cmap(COLORMAPS[position % len(COLORMAPS)])(0.75)


def depth_axis(panel: Axes, depths: set[int]) -> None:
    """A logarithmic axis with a tick at every depth."""
    if depths:
        panel.set_xscale("log")
        panel.set_xticks(sorted(depths), [str(depth) for depth in sorted(depths)])
        panel.xaxis.set_minor_locator(NullLocator())


def add_legend(figure: Figure, panel: Axes) -> None:
    """Add the legend of a panel beside the figure, or below it in columns, where the figure grows by its height."""
    handles, labels = panel.get_legend_handles_labels()
    if len(labels) <= LEGEND_SIDE:
        figure.legend(handles, labels, loc="outside right center")
        return
    width, height = figure.get_size_inches()
    lines = -(-len(labels) // LEGEND_COLUMNS)
    figure.set_size_inches(max(width, 12), height + LINE_HEIGHT * lines)
    figure.legend(handles, labels, loc="outside lower left", ncols=LEGEND_COLUMNS, fontsize=8)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure and close it."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    plt.close(figure)
