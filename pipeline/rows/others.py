"""What others found, beside ours: their gains over their own plain VAE."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from pipeline.params.schema import SIDES
from pipeline.report.columns import BOUND_GAIN, NLL_GAIN
from pipeline.report.published import PLAIN, own_gains, results_on
from pipeline.rows.findings import Findings, gain_text, gains_of
from pipeline.rows.results import Result

HEADINGS = ("source", "checked", "binarization", *SIDES, "k", "−ELBO", "NLL", "ours", "−ELBO", "NLL")
ABSENT = "–"


@dataclass(frozen=True)
class Published:
    """A published result with gains over the plain VAE of the same source and protocol.

    Args:
        row: of published.csv.
        gains: in −ELBO and NLL, those that are known.
        ours: the variant with the same flows and the closest depth; None if there is none.
    """

    row: Mapping[str, str]
    gains: Mapping[str, float]
    ours: Result | None

    @property
    def depth(self) -> int | None:
        """k, where it is known."""
        return int(self.row["num_transforms"] or 0) or None

    @property
    def agrees(self) -> bool | None:
        """Whether ours gains in NLL if theirs does; None where one of the two is unknown."""
        if not self.ours or NLL_GAIN not in self.gains:
            return None
        return gains_of(self.ours).nll.value * self.gains[NLL_GAIN] > 0


def published(found: Findings) -> list[Published]:
    """The published results on the images of the study that have a plain VAE of their own."""
    if not found.main:
        return []
    protocol = next(iter(found.main[0].rows.values())).record.protocol
    rows = (
        row for row in results_on(protocol["dataset"], protocol["binarization"]) if not PLAIN.items() <= row.items()
    )
    return [Published(row, gains, closest(row, found)) for row in rows if (gains := own_gains(row))]


def closest(row: Mapping[str, str], found: Findings) -> Result | None:
    """Our variant with the flows of a published result, at the depth that is closest to its own."""
    same = [
        result
        for result in found.main
        if result.gains and all(is_named(result.flow(side)[0], row[side]) for side in SIDES)
    ]
    depth = int(row["num_transforms"] or 0)
    return min(same, key=lambda result: abs(result.row.point.num_transforms - depth), default=None)


def is_named(flow: str, text: str) -> bool:
    """Whether the words of a source name a family of flows."""
    return flow in text.split()


def table(found: Findings) -> Iterator[tuple[str, ...]]:
    """Cells under HEADINGS."""
    for each in published(found):
        ours = (
            [each.ours.name, gain_text(gains_of(each.ours).bound), gain_text(gains_of(each.ours).nll)]
            if each.ours
            else []
        )
        theirs = [f"{each.gains[name]:+.2f}" if name in each.gains else ABSENT for name in (BOUND_GAIN, NLL_GAIN)]
        source = (each.row[name] for name in ("source", "verified", "binarization", *SIDES))
        yield (*source, str(each.depth or ABSENT), *theirs, *(ours or [ABSENT] * 3))


def sentences(found: Findings) -> Iterator[str]:
    """Which of others' findings ours confirm."""
    compared = [each for each in published(found) if each.agrees is not None]
    if compared:
        sure = [each for each in compared if each.ours and gains_of(each.ours).nll.is_sure]
        agreeing = sum(bool(each.agrees) for each in sure)
        yield (
            f"Of {len(compared)} published gains in NLL with flows that are here, ours surely has the same sign in "
            f"{agreeing} and surely the other in {len(sure) - agreeing}; in {len(compared) - len(sure)} it is not sure."
        )
    yield from grows_with_depth(found, compared)
    yield from prior_against_posterior(compared)


def grows_with_depth(found: Findings, compared: Sequence[Published]) -> Iterator[str]:
    """Sources with several depths of one flow."""
    groups: dict[tuple[str, ...], list[Published]] = {}
    for each in compared:
        if each.depth:
            groups.setdefault(
                (each.row["source"], *(each.row[side] for side in SIDES), each.row["binarization"]), []
            ).append(each)
    for (source, *flows, _), members in groups.items():
        least, most = (choose(members, key=lambda each: each.depth or 0) for choose in (min, max))
        if least.ours and most.ours and least.ours is not most.ours:
            theirs = most.gains[NLL_GAIN] - least.gains[NLL_GAIN]
            ours = gains_of(most.ours).nll.value - gains_of(least.ours).nll.value
            flow = next(flow for flow in flows if flow != "none")
            yield (
                f"{source}: from k = {least.depth} to {most.depth}, {flow} gained {theirs:+.2f} nats more in NLL; here "
                f"from k = {least.ours.row.point.num_transforms} to {most.ours.row.point.num_transforms}, {ours:+.2f}."
            )


def prior_against_posterior(compared: Sequence[Published]) -> Iterator[str]:
    """Sources with the same flow on either side."""
    for one, other in product(compared, repeat=2):
        same = all(one.row[name] == other.row[name] for name in ("source", "binarization", "num_transforms"))
        mirrored = one.row["posterior"] == other.row["prior"] and one.row["prior"] == other.row["posterior"] == "none"
        if same and mirrored and one.ours and other.ours:
            ours = (f"{gain_text(gains_of(each).nll)} (`{each.name}`)" for each in (one.ours, other.ours))
            yield (
                f"{one.row['source']}: {one.row['posterior']} gained {one.gains[NLL_GAIN]:.2f} nats of NLL in the "
                f"posterior and {other.gains[NLL_GAIN]:.2f} in the prior; here {' and '.join(ours)}."
            )
