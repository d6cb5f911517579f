"""Accuracy of a linear probe against the number of labels."""

from collections.abc import Sequence

from pipeline.report.charts.diagnostics import line_of
from pipeline.report.charts.style import HIDDEN, Chart, Spec, as_given, chart, visible
from pipeline.report.downstream import accuracy, label_counts
from pipeline.report.figures.looks import looks_of
from pipeline.report.runs import ScoredRun

GROUP = "downstream"
TITLE = "Accuracy of a linear probe"


def downstream_charts(runs: Sequence[ScoredRun]) -> list[Chart]:
    """One line per variant, of its first seed; nothing without several numbers of labels."""
    counts, looks = label_counts(runs), looks_of(runs)
    if len(counts) < 2:
        return []
    values = [
        {
            **line_of(run, looks),
            "labels": count,
            "accuracy": round(100 * found.value, 2),
            "low": round(100 * (found.value - found.stderr), 2),
            "high": round(100 * (found.value + found.stderr), 2),
        }
        for run in runs
        for count in counts
        for found in [accuracy([run], count)]
    ]
    description = f"{TITLE} on latents against the number of labels per class, one line per variant. The table has it."
    return [chart("downstream-accuracy", GROUP, TITLE, description, spec(values, counts))]


def spec(values: list[Spec], counts: Sequence[int]) -> Spec:
    """Lines with points, and bars of one standard error."""
    tips = [{"field": "variant"}, {"field": "labels", "title": "labels per class"}]
    tips.append({"field": "accuracy", "title": "accuracy (%)"})
    bars = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}, "color": as_given("color")}
    line = {"strokeDash": as_given("dash"), "detail": {"field": "variant"}, "color": as_given("color"), "tooltip": tips}
    return {
        "data": {"values": values},
        "params": [HIDDEN],
        "transform": [visible("variant")],
        "encoding": {
            "x": {
                "field": "labels",
                "type": "quantitative",
                "title": "labels per class",
                "scale": {"type": "log", "nice": False, "padding": 12},
                "axis": {"values": list(counts), "format": ",d"},
            },
            "y": {"field": "accuracy", "type": "quantitative", "title": "accuracy (%)", "scale": {"zero": False}},
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 30}}, "encoding": line},
            {"mark": "rule", "encoding": bars},
        ],
    }
