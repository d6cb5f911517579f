"""Where images come from: one reader per data set, decoding, binarization, and writing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.datasets.array_writing import write_images

__all__ = ["write_images"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because decoding processes import this package and no NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flowvae.datasets import array_writing

    return getattr(array_writing, name)
