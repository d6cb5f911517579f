"""Learning curves."""

import math
from collections.abc import Sequence

from pipeline.report.charts.style import HIDDEN, ZOOM, Chart, Entry, Spec, as_given, chart, variable, visible
from pipeline.report.columns import ABSENT
from pipeline.report.figures.looks import Look, looks_of
from pipeline.report.figures.variants import SPLIT_TITLES, near_the_best
from pipeline.report.runs import ScoredRun

GROUP = "curves"
FEW_EPOCHS = 20  # below which each is a point
HEADINGS = ("run", "epochs", "−ELBO, training", "−ELBO, validation", "lowest", "at epoch")


def curve_charts(runs: Sequence[ScoredRun]) -> list[Chart]:
    """−ELBO by epoch, on training and on validation images, with a slider for the visible range."""
    return [
        chart(
            f"curves-{split}",
            GROUP,
            title[0].upper() + title[1:],
            f"−ELBO of {title} by epoch, one line per run. The table below has the last values.",
            curves_spec(runs, f"{split}_negative_elbo"),
        )
        for split, title in SPLIT_TITLES.items()
    ]


def visible_range(runs: Sequence[ScoredRun]) -> tuple[float, float, float]:
    """The lowest visible value, how far the view reaches above it at first, and at most."""
    losses = [point[f"{split}_negative_elbo"] for run in runs for point in run.curve for split in SPLIT_TITLES]
    shown = [loss for loss in losses if math.isfinite(loss)] or [0.0]
    low, high = near_the_best(shown)
    return round(low, 3), round(high - low, 3), round(max(max(shown), high) - low, 3)


def curves_spec(runs: Sequence[ScoredRun], column: str) -> Spec:
    """One chart."""
    looks, (low, reach, _) = looks_of(runs), visible_range(runs)
    names = list(looks)
    values = [
        {
            "variant": run.variant,
            "seed": run.seed,
            "color": variable("variant", names.index(run.variant)),
            "dash": list(looks[run.variant].dashes) or [1, 0],
            "epoch": [round(point["epoch"], 3) for point in run.curve],
            "loss": [finite(point[column]) for point in run.curve],
        }
        for run in runs
    ]
    few = max(len(run.curve) for run in runs) < FEW_EPOCHS
    tips = [{"field": name} for name in ("variant", "seed", "epoch")]
    return {
        "data": {"values": values},
        "params": [HIDDEN, {"name": "reach", "value": reach}, ZOOM],
        "transform": [{"flatten": ["epoch", "loss"]}, visible("variant")],
        "mark": {"type": "line", "clip": True, "strokeWidth": 1.6, "point": {"size": 30, "opacity": float(few)}},
        "encoding": {
            "x": {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1}, "scale": {"zero": False}},
            "y": {
                "field": "loss",
                "type": "quantitative",
                "title": "−ELBO (nats)",
                "scale": {"zero": False, "nice": False, "domainMin": low, "domainMax": {"expr": f"{low} + reach"}},
            },
            "color": as_given("color"),
            "strokeDash": as_given("dash"),
            "detail": [{"field": "variant"}, {"field": "seed"}],
            "tooltip": [*tips, {"field": "loss", "title": "−ELBO (nats)", "format": ".2f"}],
        },
    }


def finite(loss: float) -> float | None:
    """A value that JSON can hold; None leaves a gap in the line."""
    return round(loss, 3) if math.isfinite(loss) else None


def variant_legend(looks: dict[str, Look]) -> list[Entry]:
    """One entry per variant."""
    return [
        Entry(name, variable("variant", i), " ".join(map(str, look.dashes)))
        for i, (name, look) in enumerate(looks.items())
    ]


def last_values(runs: Sequence[ScoredRun]) -> list[list[str]]:
    """Cells under HEADINGS: the end of each curve, and its lowest value on validation images."""
    rows = []
    for run in runs:
        shown = [point for point in run.curve if math.isfinite(point["valid_negative_elbo"])]
        best = min(shown, key=lambda point: point["valid_negative_elbo"], default=None)
        last = [f"{run.curve[-1][f'{split}_negative_elbo']:.2f}" for split in SPLIT_TITLES]
        lowest = [f"{best['valid_negative_elbo']:.2f}", f"{best['epoch']:g}"] if best else [ABSENT, ABSENT]
        rows.append([run.name, str(len(run.curve)), *last, *lowest])
    return rows
