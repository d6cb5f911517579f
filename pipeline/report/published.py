"""What others reached on the same images: rows of published.csv, each with its own protocol."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from flowvae.data.arrays import is_eight_bit
from pipeline.files import read_csv
from pipeline.report.columns import ABSENT, BOUND_GAIN, BY_NAME, NLL_GAIN
from pipeline.report.runs import Flows, ScoredRun

FILE = Path(__file__).with_name("published.csv")
BOUNDS = {"negative_elbo_nats": BOUND_GAIN, "nll_nats": NLL_GAIN}  # columns, and the gains in them
HEADINGS = (
    *("source", "data", "posterior", "prior", "k", "−ELBO", "NLL", "gain in −ELBO", "gain in NLL"),
    *("protocol", "checked"),
)
PROTOCOL = ("source", "dataset", "binarization", "importance_samples")  # rows with the same are comparable
PLAIN = {"posterior": "none", "prior": "none", "num_transforms": "0"}


@cache
def published_rows() -> list[dict[str, str]]:
    """All published results."""
    return read_csv(FILE)


def results_on(dataset: str, binarization: str) -> list[dict[str, str]]:
    """Published results on these images, with the same kind of values: bits or 8-bit values."""
    return [row for row in published_rows() if matches(row, dataset, binarization)]


def matches(row: Mapping[str, str], dataset: str, binarization: str) -> bool:
    """Whether a published result is on these images."""
    name, _, _ = dataset.partition(",")  # details follow the comma
    same_images = row["dataset"].removeprefix("binarized ") == name
    eight_bit = row["binarization"] == "none"  # all other values describe bits, in the words of the source
    return same_images and eight_bit == is_eight_bit(binarization)


def own_gains(row: Mapping[str, str]) -> dict[str, float]:
    """Gains of a published result over the plain VAE of the same source and protocol; those that are known."""
    gains: dict[str, float] = {}
    for plain in published_rows():
        same = all(plain[name] == row[name] for name in PROTOCOL) and PLAIN.items() <= plain.items()
        if same and plain != row:
            gains |= {
                gain: float(plain[name]) - float(row[name])
                for name, gain in BOUNDS.items()
                if plain[name] and row[name]
            }
    return gains


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
            *gain_cells(row),
            row["protocol"],
            row["verified"],
        ]
        for row in results_on(data["dataset"], data["binarization"])
    ]


def gain_cells(row: Mapping[str, str]) -> list[str]:
    """The gains in −ELBO and NLL over the source's own plain VAE."""
    gains = own_gains(row)
    return [BY_NAME[name].format.format(gains[name]) if name in gains else ABSENT for name in BOUNDS.values()]


def published_depth(row: Mapping[str, str], flows: Flows) -> int | None:
    """k of a published result with flows of these families; None for other families, and where it has no k."""
    same = row["posterior"].startswith(flows.posterior) and row["prior"].startswith(flows.prior)
    return int(row["num_transforms"] or 0) or None if same else None


def nll_cell(row: Mapping[str, str]) -> str:
    """NLL with its number of importance samples, if known."""
    samples = f" ({row['importance_samples']} samples)" if row["importance_samples"] else ""
    return f"{row['nll_nats']}{samples}" if row["nll_nats"] else ABSENT
