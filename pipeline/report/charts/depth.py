"""Gains against the number of transformations, beside those that others report over their own plain VAE."""

from collections.abc import Sequence
from typing import Any

from pipeline.report.charts.style import (
    GLYPHS,
    HIDDEN,
    SYMBOLS,
    ZOOM,
    Chart,
    Entry,
    Spec,
    as_given,
    chart,
    variable,
    visible,
)
from pipeline.report.columns import BOUND_GAIN, BY_NAME, NLL_GAIN
from pipeline.report.figures.looks import family_looks, series_of
from pipeline.report.figures.study import apart_from
from pipeline.report.figures.style import DEPTH_LABEL
from pipeline.report.published import own_gains, results_on
from pipeline.report.runs import ScoredRun, flows_label
from pipeline.report.table import Summary

GROUP = "depth"
DASHES = [[1, 0], [4, 3], [1, 3], [7, 2, 1, 2]]  # of the first, second, ... variant at one depth
Values = list[dict[str, Any]]


def depth_charts(rows: Sequence[Summary], run: ScoredRun) -> list[Chart]:
    """The gain in −ELBO, and in NLL; nothing if no variant has a flow."""
    if not any(row.flows.depth for row in rows):
        return []
    others = published_values(run)
    return [
        chart(
            f"depth-{name}",
            GROUP,
            BY_NAME[name].heading[0].upper() + BY_NAME[name].heading[1:],
            f"{BY_NAME[name].heading} over the reference against the number of transformations, per family, and gains "
            "that others report over their own plain VAE. Two tables, results and published results, have the values.",
            depth_spec(rows, others, name),
        )
        for name in (BOUND_GAIN, NLL_GAIN)
    ]


def own_values(rows: Sequence[Summary], name: str) -> Values:
    """Points of the variants."""
    values, families = [], list(family_looks(rows))
    for family, position, members in series_of(rows):
        look = {
            "color": variable("family", families.index(family)),
            "dash": DASHES[position % len(DASHES)],
            "shape": SYMBOLS[position % len(SYMBOLS)],
        }
        for row in members:
            gain, error = (row.values.get(key, 0.0) for key in (name, f"{name}_stderr"))
            values.append(
                {
                    **{"group": family, **look, "variant": row.variant, "k": row.flows.depth},
                    **{"gain": round(gain, 4), "low": round(gain - error, 4), "high": round(gain + error, 4)},
                    "text": f"{gain:+.2f} ± {error:.2f} nats",
                }
            )
    return values


def published_values(run: ScoredRun) -> Values:
    """Published results with a depth, on the images of a run, each with its gains over its own plain VAE."""
    data, values = run.protocol["data"], list[dict[str, Any]]()
    for row in results_on(data["dataset"], data["binarization"]):
        gains, depth = own_gains(row), int(row["num_transforms"] or 0)
        if gains and depth:
            flows = flows_label(row["posterior"], row["prior"])
            values.append({"group": row["source"], "variant": flows, "k": depth, "protocol": row["protocol"], **gains})
    sources = sources_of(values)
    return [row | {"shape": SYMBOLS[sources[str(row["group"])]]} for row in values]


def sources_of(values: Values) -> dict[str, int]:
    """The positions of the symbols of published sources; the first symbol is that of the variants."""
    sources = dict.fromkeys(row["group"] for row in values)
    return {source: 1 + i % (len(SYMBOLS) - 1) for i, source in enumerate(sources)}


def depth_spec(rows: Sequence[Summary], others: Values, name: str) -> Spec:
    """One chart."""
    own = own_values(rows, name)
    others = [
        {**{key: row[key] for key in ("group", "variant", "k", "protocol", "shape")}, "gain": round(row[name], 4)}
        for row in others
        if name in row
    ]
    depths = {row["k"] for row in own}
    ticks = sorted(depths | apart_from(depths, {row["k"] for row in others}))
    return {
        "params": [HIDDEN],
        "encoding": {
            "x": {
                "field": "k",
                "type": "quantitative",
                "title": DEPTH_LABEL,
                "scale": {"type": "log", "nice": False, "padding": 12},
                "axis": {"values": ticks, "format": "d", "labelOverlap": True},
            },
            "y": {"type": "quantitative", "field": "gain", "title": f"{BY_NAME[name].heading} (nats)"},
        },
        "layer": [*flat_layers(rows, name), *own_layers(own), *published_layers(others)],
    }


def flat_layers(rows: Sequence[Summary], name: str) -> list[Spec]:
    """Variants without a flow, as lines across; that of the reference is at 0."""
    values = [
        {"group": row.variant, "variant": row.variant, "gain": round(row.values.get(name, 0.0), 4)}
        for row in rows
        if not row.flows.depth
    ]
    if not values:
        return []
    mark = {"type": "rule", "strokeDash": [6, 4], "color": "var(--ink)"}
    tips = [{"field": "variant"}, {"field": "gain", "format": "+.2f"}]
    encoding = {"x": None, "tooltip": tips}
    return [{"data": {"values": values}, "transform": [visible("group")], "mark": mark, "encoding": encoding}]


def own_layers(values: Values) -> list[Spec]:
    """Lines, bars of one standard error, and points."""
    tips = [
        {"field": "variant"},
        {"field": "group", "title": "family"},
        {"field": "k"},
        {"field": "text", "title": "gain"},
    ]
    data: Spec = {"data": {"values": values}, "transform": [visible("group")]}
    color, bars = as_given("color"), {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    line: Spec = {"color": color, "strokeDash": as_given("dash"), "detail": {"field": "group"}}
    point = {"type": "point", "filled": True, "size": 36, "opacity": 1}
    return [
        {**data, "mark": {"type": "line", "strokeWidth": 1.6}, "encoding": line, "params": [ZOOM]},
        {**data, "mark": "rule", "encoding": {"color": color, **bars}},
        {**data, "mark": point, "encoding": {"color": color, "shape": as_given("shape"), "tooltip": tips}},
    ]


def published_layers(values: Values) -> list[Spec]:
    """Hollow points, with a dotted line through the depths of the same flows."""
    if not values:  # Vega warns of layers without points
        return []
    tips = [{"field": "group", "title": "source"}, {"field": "variant", "title": "flows"}, {"field": "k"}]
    tips += [{"field": "gain", "format": "+.2f"}, {"field": "protocol"}]
    data: Spec = {"data": {"values": values}, "transform": [visible("group")]}
    line = {"type": "line", "strokeDash": [1, 3], "strokeWidth": 1, "color": "var(--faint)"}
    point = {"type": "point", "size": 45, "color": "var(--faint)"}
    detail = [{"field": "group"}, {"field": "variant"}]
    return [
        {**data, "mark": line, "encoding": {"detail": detail}},
        {**data, "mark": point, "encoding": {"shape": as_given("shape"), "tooltip": tips}},
    ]


def depth_legend(rows: Sequence[Summary], run: ScoredRun) -> list[Entry]:
    """The families of the variants, and the sources of the published results."""
    own = [Entry(family, variable("family", i)) for i, family in enumerate(family_looks(rows))]
    flat = [Entry(row.variant, "var(--ink)", "6 4") for row in rows if not row.flows.depth]
    sources = sources_of(published_values(run))
    others = [Entry(source, "var(--faint)", glyph=GLYPHS[position]) for source, position in sources.items()]
    return [*flat, *own, *others]
