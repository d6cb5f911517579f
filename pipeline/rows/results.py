"""Numbers of a study from its records: means over seeds, and paired differences over images, in nats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean, stdev

import numpy as np

from flowvae.errors import InputError
from flowvae.estimates import ImageScores, mean_estimate, paired_gains
from pipeline.params.schema import SIDES
from pipeline.rows.computing import CPU
from pipeline.rows.plan import Row, is_plain, is_reference_of
from pipeline.rows.records import Done, Record, has_settings, read_scores

SURE = 2.0  # standard errors, above which a difference is called one


@dataclass(frozen=True)
class Gain:
    """How much lower a score is than another one, in nats.

    Args:
        value: mean over images and seeds.
        images: standard error over images.
        seeds: the gain of each seed.
    """

    value: float
    images: float
    seeds: Sequence[float]

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        return spread(self.seeds)

    @property
    def stderr(self) -> float:
        """Standard error over images and seeds; over images alone with one seed."""
        return (self.images**2 + (self.spread or 0.0) ** 2 / len(self.seeds)) ** 0.5

    @property
    def is_sure(self) -> bool:
        """Whether it is more than SURE standard errors from 0; never with one seed, which may be lucky."""
        return len(self.seeds) > 1 and abs(self.value) > SURE * self.stderr


@dataclass(frozen=True)
class Gains:
    """Gains in −ELBO and in NLL, and by how much the first exceeds the second: how much tighter the bound is."""

    bound: Gain
    nll: Gain
    tighter: Gain


@dataclass(frozen=True)
class Result:
    """A variant with all of its seeds that are finished.

    Args:
        rows: by seed.
        references: the plain VAE with the same settings, by seed; those that are finished.
    """

    rows: Mapping[int, Done]
    references: Mapping[int, Done]

    @property
    def row(self) -> Row:
        """Its first row."""
        return next(iter(self.rows.values())).row

    @property
    def name(self) -> str:
        """FAMILY-DEPTH, or the family alone where there is no flow."""
        point = self.row.point
        return f"{point.family}-{point.num_transforms}" if point.num_transforms else point.family

    @property
    def is_plain(self) -> bool:
        """Whether it is the plain VAE."""
        return is_plain(self.row.vae)

    @cached_property
    def gains(self) -> Gains | None:
        """Gains over the plain VAE; None for itself, and as long as none has a seed of the variant."""
        return None if self.is_plain else gains_between(self.references, self.rows)

    def mean_of(self, name: str) -> float:
        """The mean over seeds of a score."""
        return mean(self.each(name))

    def each(self, name: str) -> list[float]:
        """A score of each seed."""
        return [done.record.scores[name] for done in self.rows.values()]

    def seconds(self, name: str) -> float:
        """The mean over seeds of training, scoring or sampling: of the processor, where they are known."""
        return mean(done.record.seconds.get(f"{name}{CPU}") or done.record.seconds[name] for done in self.rows.values())

    def flow(self, side: str) -> tuple[str, int]:
        """Family and depth of the flow of a side."""
        config = getattr(self.row.vae, side)
        return config.flow, config.num_transforms

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that have a flow."""
        return tuple(side for side in SIDES if self.flow(side)[1])


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation; None for a single value."""
    return stdev(values) if len(values) > 1 else None


def gains_between(references: Mapping[int, Done], others: Mapping[int, Done]) -> Gains | None:
    """Gains of rows over others with the same seeds; None if they have none in common."""
    seeds = sorted(references.keys() & others.keys())
    if not seeds:
        return None
    ones, twos = ([read_scores(rows[seed]) for seed in seeds] for rows in (references, others))
    ones, twos = (on_common_images(scores, [*ones, *twos]) for scores in (ones, twos))
    both = paired_gains(ones, twos)
    each = [paired_gains([one], [two]) for one, two in zip(ones, twos, strict=True)]
    bound, nll = (
        Gain(estimate.value, estimate.stderr, [gains[i].value for gains in each]) for i, estimate in enumerate(both)
    )
    narrower = mean_estimate(np.mean([gap(one) - gap(two) for one, two in zip(ones, twos, strict=True)], axis=0))
    tighter = [one - other for one, other in zip(bound.seeds, nll.seeds, strict=True)]
    return Gains(bound, nll, Gain(bound.value - nll.value, narrower.stderr, tighter))


def gap(scores: ImageScores) -> np.ndarray:
    """−ELBO − NLL of the images whose NLL was measured, in nats, shape (n,)."""
    return scores.subset_negative_elbo - scores.nll


def on_common_images(scores: Sequence[ImageScores], others: Iterable[ImageScores]) -> list[ImageScores]:
    """Scores whose NLL is of the images on which all others have one: some rows have it of all test images."""
    subset = scores[0].subset
    for other in others:
        subset = np.intersect1d(subset, other.subset)
    return [restricted(each, subset) for each in scores]


def restricted(scores: ImageScores, subset: np.ndarray) -> ImageScores:
    """Scores whose NLL is of fewer images."""
    kept = np.searchsorted(scores.subset, subset)
    return replace(scores, subset=subset, nll=scores.nll[kept], subset_negative_elbo=scores.subset_negative_elbo[kept])


def results_of(rows: Sequence[Row], records: Mapping[str, Record]) -> list[Result]:
    """The variants of which a row is finished, in the order of the preset.

    Args:
        rows: of the preset.
        records: by the names of the rows. Those of other settings than the preset's are left out.

    Raises:
        InputError: they are of several versions of the data, or were scored in several ways.
    """
    done = [
        Done(row, records[row.name]) for row in rows if row.name in records and has_settings(row, records[row.name])
    ]
    finished = [each for each in done if each.is_finished]
    check_protocol(finished)
    grouped: dict[tuple[str, str], dict[int, Done]] = {}
    for each in sorted(finished, key=lambda each: (each.row.place, each.row.point.num_transforms, each.row.point.seed)):
        grouped.setdefault((each.row.study, each.row.variant), {})[each.row.point.seed] = each
    return [Result(variant, references_of(variant, finished)) for variant in grouped.values()]


def references_of(variant: Mapping[int, Done], finished: Sequence[Done]) -> dict[int, Done]:
    """The plain VAE with the settings of a variant, by seed."""
    pairs = ((seed, each) for seed, done in variant.items() for each in finished if is_reference_of(each.row, done.row))
    return dict(pairs)


def check_protocol(finished: Sequence[Done]) -> None:
    """Raise InputError unless all rows can be compared: of the same data, and scored with the same draws."""
    protocols: dict[str, str] = {}
    for done in finished:
        evaluation = done.record.evaluation.model_dump(exclude={"num_nll_images", "chunk_size", "num_figure_images"})
        protocols.setdefault(str((sorted(done.record.data.items()), evaluation)), done.row.name)
    if len(protocols) > 1:
        one, other, *_ = protocols.values()
        raise InputError(
            f"{one} and {other} are of other data or were scored with other settings; train one of them again"
        )
