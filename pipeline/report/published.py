"""What others reached on the same images: rows of published.csv, each with its own protocol."""

from collections.abc import Mapping
from pathlib import Path

from flowvae.data.arrays import is_eight_bit
from pipeline.files import read_csv
from pipeline.report.columns import ABSENT
from pipeline.report.runs import Flows, ScoredRun

FILE = Path(__file__).with_name("published.csv")
HEADINGS = ("source", "data", "posterior", "prior", "k", "−ELBO", "NLL", "protocol", "checked")


def results_on(dataset: str, binarization: str) -> list[dict[str, str]]:
    """Published results on these images, with the same kind of values: bits or 8-bit values."""
    return [row for row in read_csv(FILE) if matches(row, dataset, binarization)]


def matches(row: Mapping[str, str], dataset: str, binarization: str) -> bool:
    """Whether a published result is on these images."""
    name, _, _ = dataset.partition(",")  # details follow the comma
    same_images = row["dataset"].removeprefix("binarized ") == name
    eight_bit = row["binarization"] == "none"  # all other values describe bits, in the words of the source
    return same_images and eight_bit == is_eight_bit(binarization)


def published_table(run: ScoredRun) -> list[list[str]]:
    """Cells under HEADINGS of the published results on the images of a run."""
    data = run.protocol["data"]
    return [
        [
            row["source"],
            f"{row['dataset']}, {row['binarization']}",
            row["posterior"],
            row["prior"],
            row["num_transforms"] or ABSENT,
            row["negative_elbo_nats"] or ABSENT,
            nll_cell(row),
            row["protocol"],
            row["verified"],
        ]
        for row in results_on(data["dataset"], data["binarization"])
    ]


def published_depth(row: Mapping[str, str], flows: Flows) -> int | None:
    """k of a published result with flows of these families; None for other families, and where it has no k."""
    same = row["posterior"].startswith(flows.posterior) and row["prior"].startswith(flows.prior)
    return int(row["num_transforms"] or 0) or None if same else None


def nll_cell(row: Mapping[str, str]) -> str:
    """NLL with its number of importance samples, if known."""
    samples = f" ({row['importance_samples']} samples)" if row["importance_samples"] else ""
    return f"{row['nll_nats']}{samples}" if row["nll_nats"] else ABSENT
