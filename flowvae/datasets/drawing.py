"""Splits that are drawn. An image's split follows from what identifies it alone, whatever other images there are."""

import hashlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from flowvae.datasets.config import DataConfig

ALL = ""  # the split of images that are not split
LEAST = 2  # images in a split that is drawn


def draw_missing(
    given: Mapping[str, np.ndarray],
    keys: Callable[[np.ndarray], Iterable[str]],
    data: DataConfig,
    test_fraction: float,
    *,
    by: str,
) -> tuple[dict[str, np.ndarray], str]:
    """Draw test images if nothing is split, and validation images if there are none.

    Args:
        given: positions of the images of each split, or of ALL.
        keys: positions -> what identifies the images there.
        data: has the seed, and the fraction for validation.
        test_fraction: of the images that are not split.
        by: what `keys` are, in the plural.

    Returns:
        Positions of the images of each split, and a description of what was drawn; empty if nothing was.
    """
    rows, drawn = dict(given), []
    if ALL in rows:
        test = is_drawn(keys(rows[ALL]), data.seed, "test", test_fraction)
        rows = {"train": rows[ALL][~test], "test": rows[ALL][test]}
        drawn.append(f"{test_fraction:.3g} of all images drawn for test")
    if "valid" not in rows:
        valid = is_drawn(keys(rows["train"]), data.seed, "valid", data.valid_fraction)
        rows |= {"train": rows["train"][~valid], "valid": rows["train"][valid]}
        drawn.append(f"{data.valid_fraction:.3g} of {'the rest' if drawn else 'train'} drawn for validation")
    return rows, f"{', '.join(drawn)}, by their {by} (seed {data.seed})" if drawn else ""


def is_drawn(keys: Iterable[str], seed: int, purpose: str, fraction: float) -> np.ndarray:
    """Which images are drawn, shape (N,): each by its own key alone, unless these would be fewer than LEAST."""
    units = np.array([unit(seed, purpose, key) for key in keys])
    drawn = units < fraction
    drawn[np.argsort(units)[:LEAST]] = True
    return drawn


def unit(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1) that follows from the key of an image, uniform over keys."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{key}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
