"""What all charts have in common, and the legends beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures.looks import Look

Spec = dict[str, Any]
CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{f"{part}Color": "var(--ink)" for part in ("label", "title")},
        **{f"{part}Color": "var(--faint)" for part in ("domain", "tick")},
        "gridColor": "var(--line)",
        **{"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"},
    },
    "title": {"color": "var(--ink)", "fontSize": 14, "fontWeight": "normal", "anchor": "start"},
}
HEIGHT = 320
# Moving and zooming by itself would take the wheel and the finger from the page.
ZOOM = {
    "name": "zoom",
    "bind": "scales",
    "select": {
        "type": "interval",
        "zoom": "wheel![event.shiftKey || event.ctrlKey]",
        "translate": "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
    },
}
HIDDEN = {"name": "hidden", "value": []}  # names that the legend hides
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-left", "triangle-right")
GLYPHS = "○□◇△▽✚◁▷"  # as SYMBOLS


@dataclass(frozen=True)
class Entry:
    """One line of a legend, which shows and hides what has its name.

    Args:
        name: of a variant, a family or a source.
        color: a variable of the style sheet.
        dashes: of its line.
        glyph: in place of a line.
    """

    name: str
    color: str
    dashes: str = ""
    glyph: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Args:
        name: of its element.
        group: legend and sliders with the same name control it.
        title: above it, in the page's text.
        spec: of Vega-Lite.
    """

    name: str
    group: str
    title: str
    spec: Spec


def chart(name: str, group: str, title: str, description: str, content: Spec, *, height: int = HEIGHT) -> Chart:
    """A chart as wide as its place, with `description` for those who do not see it."""
    size = {"width": "container", "height": height, "autosize": {"type": "fit", "contains": "padding"}}
    return Chart(name, group, title, {"description": description, "config": CONFIG, **size, **content})


def variable(kind: str, number: int) -> str:
    """A colour of the style sheet."""
    return f"var(--{kind}-{number})"


def colors(looks: Mapping[str, Look], kind: str, *, dark: bool) -> list[str]:
    """The declarations of the variables."""
    return [f"--{kind}-{i}: {look.color_on_dark if dark else look.color};" for i, look in enumerate(looks.values())]


def as_given(field: str) -> Spec:
    """An encoding by values that the data hold as they are drawn: colours, dashes and symbols."""
    return {"field": field, "type": "nominal", "scale": None}


def visible(field: str) -> Spec:
    """A transform that leaves out what the legend hides."""
    return {"filter": f"indexof(hidden, datum.{field}) < 0"}
