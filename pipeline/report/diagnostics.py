"""Diagnostics of each run: how good its prior and its importance samples are, and what its flows do."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.columns import ABSENT
from pipeline.report.runs import ScoredRun

HEADINGS = (
    *("run", "gap to the prior", "ln|det|, posterior", "ln|det|, prior", "effective draws", "NLL from fewer draws"),
    *("round trip", "nearest training image"),
)
NOTE = (
    "In nats, as means over the test images, with one draw per image. Gap to the prior: a lower bound on how far the "
    "aggregated posterior is from the prior, which samples miss. ln|det|: sum over the transformations of each flow; "
    "in the figure, KL of a dimension is without them. Effective draws: the median of those behind NLL; where few are "
    "effective, NLL is an upper bound that is not tight. Beside it how much higher NLL from 10 or 50 draws is. Round "
    "trip: the worst error of noise that the prior's flow maps to latents and back, in standard deviations. Nearest "
    "training image: the root mean square difference over pixels from draws of the model, and in brackets from test "
    "images, as medians; samples that are much nearer than test images are copies."
)
FEW_SHOWN = (10, 50)
NEAREST = ("samples", "test_images")


def diagnostics_table(runs: Sequence[ScoredRun]) -> list[list[str]]:
    """Cells under HEADINGS, one line per run."""
    return [line(run.name, run.diagnostics) for run in runs]


def line(name: str, values: Mapping[str, Any]) -> list[str]:
    """The cells of one run."""
    sums = [f"{sum(values[key]):.2f}" if values[key] else ABSENT for key in ("posterior_ladj", "prior_ladj")]
    excess = nll_excess(values)
    num_draws = max(excess)
    gap = values["prior_gap"]
    return [
        name,
        ABSENT if gap is None else f"{gap:.2f}",
        *sums,
        f"{values['median_effective_samples']:.1f} of {num_draws}",
        ", ".join(f"{few}: {excess[few]:+.2f}" for few in FEW_SHOWN if few in excess and few < num_draws) or ABSENT,
        round_trip_cell(values["round_trip"]),
        nearest_cell(values["nearest"]),
    ]


def nll_excess(values: Mapping[str, Any]) -> dict[int, float]:
    """How much higher than from all draws NLL is, in nats, by the number of draws; 0 for all."""
    by_draws = {int(count): nll for count, nll in values["nll_by_draws"].items()}
    return {count: nll - by_draws[max(by_draws)] for count, nll in by_draws.items()}


def round_trip_cell(trip: Mapping[str, float | None] | None) -> str:
    """The worst error, and how many samples do not return."""
    if trip is None:
        return ABSENT
    worst = math.inf if trip["worst"] is None else trip["worst"]
    return f"{worst:.1e}" + (f" ({trip['lost']:.1%} lost)" if trip["lost"] else "")


def nearest_cell(distances: Mapping[str, float | None]) -> str:
    """The distance of samples to the nearest training image, and that of test images."""
    samples, images = (ABSENT if distances[name] is None else f"{distances[name]:.3f}" for name in NEAREST)
    return f"{samples} ({images})"
