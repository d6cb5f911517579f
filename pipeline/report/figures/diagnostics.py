"""The figure of diagnostics: NLL against the number of draws, KL per dimension, and the work of each transformation."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from pipeline.report.diagnostics import nll_excess
from pipeline.report.figures.looks import Look, looks_of
from pipeline.report.figures.style import add_legend, depth_axis, report_style, save_png
from pipeline.report.runs import ScoredRun
from pipeline.report.variants import first_seed

LADJ = {"posterior_ladj": "-", "prior_ladj": "--"}  # line styles


def diagnostics_figure(runs: Sequence[ScoredRun], path: Path) -> None:
    """Draw the diagnostics of the first seed of every variant."""
    first = first_seed(runs)
    looks = looks_of(first)
    with report_style():
        figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
        for run in first:
            draw_run(panels, run, looks[run.variant])
        panels[0].set(xscale="log", xlabel="draws per image", ylabel="NLL above that of all draws (nats)")
        panels[0].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the default needs math, which is off
        panels[1].set(xlabel="latent dimension, sorted", ylabel="KL of the dimension (nats)")
        depth_axis(panels[2], {depth for run in first for depth in lengths(run)})
        panels[2].set(xlabel="transformation", ylabel="ln|det| (nats)")
        panels[2].set_title("solid: posterior, dashed: prior", fontsize=9)
        add_legend(figure, panels[0])
        save_png(figure, path)


def lengths(run: ScoredRun) -> set[int]:
    """The first transformation, and the last of each flow."""
    return {1, *(len(run.diagnostics[name]) for name in LADJ if run.diagnostics[name])}


def draw_run(panels: Sequence[Axes], run: ScoredRun, look: Look) -> None:
    """Draw one run in all panels."""
    excess = nll_excess(run.diagnostics)
    panels[0].plot(list(excess), list(excess.values()), **look.line, linewidth=1.2, label=run.variant)
    panels[1].plot(sorted(run.diagnostics["kl_per_dim"], reverse=True), **look.line, linewidth=1.2)
    for name, style in LADJ.items():
        values = run.diagnostics[name]
        panels[2].plot(range(1, len(values) + 1), values, style, color=look.color, marker=".", linewidth=1)
