"""How good the importance samples are, what each latent dimension costs, and what each transformation does."""

import math
from collections.abc import Iterable, Sequence

from pipeline.params.schema import SIDES
from pipeline.report.charts.style import HIDDEN, ZOOM, Chart, Spec, as_given, chart, variable, visible
from pipeline.report.diagnostics import nll_excess
from pipeline.report.figures.looks import Look, looks_of
from pipeline.report.runs import ScoredRun

GROUP = "diagnostics"
Curves = list[Spec]  # of {variant, color, dash, x, y}, with lists for x and y


def diagnostics_charts(runs: Sequence[ScoredRun]) -> list[Chart]:
    """One line per run: NLL against the number of draws, KL by dimension, and ln|det| by transformation."""
    looks = looks_of(runs)
    draws, kl = list[Spec](), list[Spec]()
    ladj: dict[str, Curves] = {side: [] for side in SIDES}
    for run in runs:
        line = line_of(run, looks)
        excess = nll_excess(run.diagnostics)
        draws.append(line | {"x": list(excess), "y": rounded(excess.values())})
        units = sorted(run.diagnostics["kl_per_dim"], reverse=True)
        kl.append(line | {"x": list(range(1, len(units) + 1)), "y": rounded(units)})
        for side in SIDES:
            if values := run.diagnostics[f"{side}_ladj"]:
                ladj[side].append(line | {"x": list(range(1, len(values) + 1)), "y": rounded(values)})
    ticks = sorted({count for curve in draws for count in curve["x"]})
    log_axis = {"scale": {"type": "log", "nice": False}, "axis": {"values": ticks, "format": "d"}}
    charts = [
        line_chart("draws", "NLL above that of all draws", "draws per image", draws, log_axis),
        line_chart("kl", "KL of each latent dimension", "latent dimension, sorted", kl, {}),
    ]
    for side in SIDES:
        if ladj[side]:
            title = f"ln|det| of each transformation of the {side}"
            charts.append(line_chart(f"ladj-{side}", title, "transformation", ladj[side], {"axis": {"tickMinStep": 1}}))
    return charts


def line_of(run: ScoredRun, looks: dict[str, Look]) -> Spec:
    """What all curves of a run have in common."""
    color = variable("variant", list(looks).index(run.variant))
    return {"variant": run.variant, "color": color, "dash": list(looks[run.variant].dashes) or [1, 0]}


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Values that JSON can hold."""
    return [float(f"{value:.4g}") if value is not None and math.isfinite(value) else None for value in values]


def line_chart(name: str, title: str, x: str, curves: Curves, axis: Spec) -> Chart:
    """One chart, in nats."""
    spec = {
        "data": {"values": curves},
        "params": [HIDDEN, ZOOM],
        "transform": [{"flatten": ["x", "y"]}, visible("variant")],
        "mark": {"type": "line", "clip": True, "strokeWidth": 1.4, "point": {"size": 24}},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": x, **axis},
            "y": {"field": "y", "type": "quantitative", "title": "nats"},
            "color": as_given("color"),
            "strokeDash": as_given("dash"),
            "detail": {"field": "variant"},
            "tooltip": [{"field": "variant"}, {"field": "x", "title": x}, {"field": "y", "title": "nats"}],
        },
    }
    return chart(f"diagnostics-{name}", GROUP, title, f"{title}, one line per variant.", spec, height=260)
