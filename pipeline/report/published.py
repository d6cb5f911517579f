"""What others reached on the same images: rows of published.csv, each with its own protocol."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.files import read_csv
from pipeline.params import eight_bit

FILE = Path(__file__).with_name("published.csv")


def results_on(dataset: str, binarization: str) -> list[dict[str, str]]:
    """Rows of results on these images, with the same kind of values: bits or 8-bit values."""
    return [row for row in read_csv(FILE) if is_of(row, dataset, binarization)]


def is_of(row: Mapping[str, str], dataset: str, binarization: str) -> bool:
    name, _, _ = dataset.partition(",")  # what follows are the particulars
    same_images = row["dataset"].removeprefix("binarized ") == name
    return same_images and eight_bit(row["binarization"]) == eight_bit(binarization)
