"""Maps of latent space. The page's script gives them their points, those of the chosen variant."""

from typing import Any

from pipeline.report.charts.style import Chart, Spec, chart
from pipeline.report.latents import Latents

GROUP = "map"
HEIGHT = 420
PICTURE = 56  # pixels per side, of the image beside the chosen point
FIRST = {"x": 0, "y": 0, "label": 0, "image": 0}  # until the script has replaced it; without any, Vega warns
TEN, TWENTY = "tableau10", "tableau20"  # colour schemes


def map_charts(latents: Latents) -> list[Chart]:
    """The map of the variant on the left, and of that on the right."""
    description = (
        "Test images on the first two principal axes of their latents, each at its label. The slider above chooses one."
    )
    return [
        chart(f"map-{side}", GROUP, "", description, map_spec(latents), height=HEIGHT) for side in ("left", "right")
    ]


def map_spec(latents: Latents) -> Spec:
    """One map, with one point; the script gives {x, y, label, image} each."""
    chosen = {"filter": "datum.image === chosen"}
    scheme = TEN if len(set(latents.maps["labels"])) <= 10 else TWENTY
    color = {"field": "label", "type": "nominal", "scale": {"scheme": scheme}, "legend": None}
    labels: dict[str, Any] = {
        "mark": {"type": "text", "fontSize": 12} if latents.labelled else {"type": "point", "filled": True, "size": 25},
        "encoding": {"text": {"field": "label"}, "color": color} if latents.labelled else {},
    }
    picture = {"type": "image", "width": PICTURE, "height": PICTURE, "align": "left", "baseline": "bottom"}
    return {
        "data": {"name": "points", "values": [FIRST]},
        "params": [{"name": "chosen", "value": 0}, {"name": "picture", "value": ""}],
        "padding": {"left": 5, "bottom": 5, "top": PICTURE, "right": PICTURE},
        "encoding": {
            axis: {
                "field": axis,
                "type": "quantitative",
                "title": f"principal axis {number}",
                "scale": {"zero": False},
            }
            for number, axis in enumerate("xy", start=1)
        },
        "layer": [
            labels,
            {"transform": [chosen], "mark": {"type": "point", "size": 350, "color": "var(--ink)", "strokeWidth": 2}},
            {"transform": [chosen], "mark": {**picture, "url": {"expr": "picture"}}},
        ],
    }
