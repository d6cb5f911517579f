"""How variants look in all figures: a hue per family, a shade per depth, and dashes where both are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.colors import to_hex

from pipeline.report.figures.style import COLORMAPS
from pipeline.report.runs import ScoredRun
from pipeline.report.table import Summary

SHADES, SHADES_ON_DARK = (0.45, 0.95), (0.6, 0.25)  # of a colormap, from the least to the greatest depth
ONE_SHADE, ONE_SHADE_ON_DARK = 0.75, 0.5
PLAIN, PLAIN_ON_DARK = "#000000", "#ffffff"  # of variants without a flow
DASHES: tuple[tuple[int, ...], ...] = ((), (5, 2), (1, 2), (7, 2, 1, 2), (3, 1), (7, 2, 1, 2, 1, 2))
MARKERS = "osD^vP"  # by position, as DASHES


@dataclass(frozen=True)
class Look:
    """The line of one variant.

    Args:
        color, color_on_dark: #rrggbb, on white paper and on a dark page.
        position: among the variants of the same family and depth, which have the same colours.
    """

    color: str
    color_on_dark: str
    position: int

    @property
    def dashes(self) -> tuple[int, ...]:
        """Lengths of dashes and gaps, in line widths; empty for a solid line."""
        return DASHES[self.position % len(DASHES)]

    @property
    def line(self) -> dict[str, Any]:
        """Settings of Matplotlib for the line."""
        return {"color": self.color, "linestyle": (0, self.dashes) if self.dashes else "-"}


def looks_of(rows: Sequence[ScoredRun] | Sequence[Summary]) -> dict[str, Look]:
    """The look of each variant."""
    looks: dict[str, Look] = {}
    seen: dict[tuple[str, int], list[str]] = {}
    families = families_of(rows)
    depths = {family: sorted({row.flows.depth for row in rows if row.flows.label == family}) for family in families}
    for row in rows:
        same = seen.setdefault((row.flows.label, row.flows.depth), [])
        if row.variant not in same:
            same.append(row.variant)
        if not row.flows.depth:
            looks[row.variant] = Look(PLAIN, PLAIN_ON_DARK, same.index(row.variant))
            continue
        share = share_of(row.flows.depth, depths[row.flows.label])
        number = families.index(row.flows.label)
        looks[row.variant] = Look(
            hue(number, between(SHADES, share, ONE_SHADE)),
            hue(number, between(SHADES_ON_DARK, share, ONE_SHADE_ON_DARK)),
            same.index(row.variant),
        )
    return looks


def family_looks(rows: Sequence[ScoredRun] | Sequence[Summary]) -> Mapping[str, Look]:
    """The look of each family."""
    families = enumerate(families_of(rows))
    return {family: Look(hue(i, ONE_SHADE), hue(i, ONE_SHADE_ON_DARK), 0) for i, family in families}


def share_of(depth: int, depths: Sequence[int]) -> float | None:
    """The position of a depth among all, from 0 to 1; None if there is one."""
    return depths.index(depth) / (len(depths) - 1) if len(depths) > 1 else None


def between(ends: tuple[float, float], share: float | None, alone: float) -> float:
    """A shade between two."""
    return alone if share is None else ends[0] + (ends[1] - ends[0]) * share


def hue(number: int, shade: float) -> str:
    """#rrggbb of a family."""
    return to_hex(plt.get_cmap(COLORMAPS[number % len(COLORMAPS)])(shade))


def families_of(rows: Sequence[ScoredRun] | Sequence[Summary]) -> list[str]:
    """Families of flows, of posterior and prior together, in order of appearance, without that of the plain VAE."""
    return list(dict.fromkeys(row.flows.label for row in rows if row.flows.depth))


def series_of(rows: Sequence[Summary]) -> list[tuple[str, int, list[Summary]]]:
    """The curves against depth: family, position, and variants by depth; a second variant at a depth is in a second."""
    curves: dict[tuple[str, int], list[Summary]] = {}
    looks, families = looks_of(rows), families_of(rows)
    for row in sorted((row for row in rows if row.flows.depth), key=lambda row: row.flows.depth):
        curves.setdefault((row.flows.label, looks[row.variant].position), []).append(row)
    return [(family, key[1], curves[key]) for family in families for key in sorted(curves) if key[0] == family]
