"""What the posterior is good for: imputation of the lower half of images, and a linear probe on latents."""

from collections.abc import Sequence
from statistics import mean, median

import numpy as np

from flowvae.estimates import Estimate, mean_estimate, mean_over_seeds
from pipeline.report.columns import ABSENT
from pipeline.report.runs import ScoredRun

NOTE = (
    "NLL of missing pixels: −log p(lower half | upper half) in nats, with one standard error over the images; its gain "
    "over the reference is a mean of differences image by image. It is NLL of the image minus that of its upper half. "
    "Both are too high, so what the first has too much makes it too high, and what the second has too much makes it "
    "too low. Effective particles: the fewest at any temperature of the sampler for the second, as the median over "
    "images; where they are one or two, do not trust it. Accuracy: of a linear classifier on the latents of so many "
    "labelled training images per class, on all test images; its error includes which images were labelled."
)
UNSCORED = "Missing pixels are not scored, because downstream.imputation.num_images is 0 in params.yaml."
UNPROBED = (
    "There is no linear probe: the images have no labels, training images lack classes of test images, or classes are "
    "smaller than each number of labels in params.yaml."
)


def headings(runs: Sequence[ScoredRun]) -> list[str]:
    """Of the table."""
    imputation = ["NLL of missing pixels", "gain", "effective particles"] if is_scored(runs) else []
    return ["variant", *imputation, *(f"accuracy, {count:,} labels (%)" for count in label_counts(runs))]


def downstream_table(runs: Sequence[ScoredRun], reference: str) -> list[list[str]]:
    """Cells under the headings, one line per variant: means over its seeds."""
    by_variant: dict[str, list[ScoredRun]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    rows = []
    for variant, group in by_variant.items():
        cells = imputation_cells(group, by_variant[reference]) if is_scored(runs) else []
        accuracies = (accuracy(group, count) for count in label_counts(runs))
        rows.append([variant, *cells, *(f"{100 * each.value:.1f} ± {100 * each.stderr:.1f}" for each in accuracies)])
    return rows


def imputation_cells(group: Sequence[ScoredRun], references: Sequence[ScoredRun]) -> list[str]:
    """NLL of missing pixels, its gain over the reference, and the effective particles."""
    nll, reference = ([missing_nll(run) for run in some] for some in (group, references))
    gain = ABSENT
    if group[0].variant != references[0].variant:
        differences = mean_over_seeds([one - other for one, other in zip(reference, nll, strict=True)])
        gain = estimate_cell(mean_estimate(differences), "+.2f")
    particles = median(mean(each) for each in zip(*(effective(run) for run in group), strict=True))
    return [estimate_cell(mean_estimate(mean_over_seeds(nll)), ".2f"), gain, f"{particles:.1f}"]


def estimate_cell(estimate: Estimate, spec: str) -> str:
    """A value with its error; absent if it is not finite."""
    if not np.isfinite(estimate.value):
        return ABSENT
    return f"{estimate.value:{spec}} ± {estimate.stderr:.2f}"


def missing_nll(run: ScoredRun) -> np.ndarray:
    """NLL of the missing pixels of each image, in nats; NaN where it is not finite."""
    return np.array(run.downstream["imputation"]["nll"], dtype=np.float64)


def effective(run: ScoredRun) -> list[float]:
    """Effective number of the particles of each image."""
    return [value or 0.0 for value in run.downstream["imputation"]["effective"]]


def is_scored(runs: Sequence[ScoredRun]) -> bool:
    """Whether missing pixels were scored."""
    return runs[0].downstream["imputation"] is not None


def label_counts(runs: Sequence[ScoredRun]) -> list[int]:
    """Numbers of labels per class for which there is a probe, ascending."""
    return sorted(map(int, runs[0].downstream["probe"]))


def accuracy(group: Sequence[ScoredRun], count: int) -> Estimate:
    """Mean accuracy over seeds; the standard error is averaged over them."""
    found = [run.downstream["probe"][str(count)] for run in group]
    return Estimate(*(mean(each[name] for each in found) for name in ("accuracy", "stderr")))


def notes(runs: Sequence[ScoredRun]) -> list[str]:
    """How to read the table, and what it leaves out."""
    absent = [text for text, there in ((UNSCORED, is_scored(runs)), (UNPROBED, label_counts(runs))) if not there]
    return [*([NOTE] if len(absent) < 2 else []), *absent]
