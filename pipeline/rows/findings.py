"""What a study found, in sentences whose every number comes from its records, and how sure each is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from pipeline.params.schema import SIDES
from pipeline.rows.plan import Row
from pipeline.rows.records import Record
from pipeline.rows.results import SURE, Gain, Gains, Result, gains_between, results_of, spread

RECONSTRUCTION = "reconstruction_nats"
ALONE = {"posterior": "in the posterior alone", "prior": "in the prior alone"}


@dataclass(frozen=True)
class Findings:
    """What a page of findings is made of.

    Args:
        preset: its name.
        rows: of the preset, in the order of training.
        records: by the names of the rows.
        results: the variants of which a row is finished, in the order of the preset.
    """

    preset: str
    rows: Sequence[Row]
    records: Mapping[str, Record]
    results: Sequence[Result]

    @property
    def main(self) -> list[Result]:
        """The variants that were trained with the settings of the preset itself: those of its first study."""
        first = min(self.rows, key=lambda row: row.place)
        return [result for result in self.results if result.row.training == first.training]

    @property
    def others(self) -> list[Result]:
        """The variants with other settings of training."""
        main = {id(result) for result in self.main}
        return [result for result in self.results if id(result) not in main]

    @property
    def compared(self) -> list[Result]:
        """The main variants with a flow that have a plain VAE to compare with."""
        return [result for result in self.main if result.gains]

    def with_flows(self, sides: tuple[str, ...]) -> list[Result]:
        """Those of them that have flows on exactly these sides."""
        return [result for result in self.compared if result.sides == sides]


def findings_of(preset: str, rows: Sequence[Row], records: Mapping[str, Record]) -> Findings:
    """Compute everything.

    Raises:
        InputError: records are damaged, or cannot be compared.
    """
    return Findings(preset, rows, records, results_of(rows, records))


def sentences(found: Findings) -> dict[str, list[str]]:
    """The findings by the headings of their parts; a part of which nothing is known yet says so."""
    return {
        "What is there": list(coverage(found)),
        "What a flow buys": list(answers(found)) or ["No flow can be compared with the plain VAE yet."],
        "What depth buys": list(depths(found)) or ["No family has two depths yet."],
        "Posterior or prior, or both": list(sides(found))
        or ["No flow is there both in the posterior and in the prior yet."],
        "What it costs": list(costs(found)) or ["No row with a flow is there yet."],
        "What keeps deep stacks stable": list(stability(found)) or ["No row of these studies is there yet."],
    }


def coverage(found: Findings) -> Iterator[str]:
    """How many rows are there, how many are missing, and the protocol."""
    present = [row for result in found.results for row in result.rows.values()]
    diverged = [name for name, record in found.records.items() if record.status == "diverged"]
    yield f"{len(present)} of {len(found.rows)} rows are there{f', and {len(diverged)} diverged' if diverged else ''}."
    missing = []
    for study in dict.fromkeys(row.study for row in sorted(found.rows, key=lambda row: row.place)):
        total = sum(row.study == study for row in found.rows)
        if absent := total - sum(done.row.study == study for done in present):
            missing.append(f"{absent} of {total} of `{study}`")
    if missing:
        yield f"Not there: {', '.join(missing)}. This page says nothing about them."
    if present:
        yield protocol(found)
    if plain := plain_of(found.main):
        yield (
            f"The plain VAE has −ELBO {mean_text(plain, 'negative_elbo')} and NLL {mean_text(plain, 'nll')} nats per "
            f"test image ({seeds_text(len(plain.rows))})."
        )


def protocol(found: Findings) -> str:
    """Data, training and scoring in words."""
    record = next(iter(found.results[0].rows.values())).record
    data, images = record.protocol, record.protocol["images"]
    draws = record.evaluation.num_importance_samples
    counts = sorted(
        {done.record.evaluation.num_nll_images for result in found.results for done in result.rows.values()}
    )
    return (
        f"All rows are on {data['dataset']}, {data['binarization']} binarization ({images['train']:,} / "
        f"{images['valid']:,} / {images['test']:,} images); NLL is by {draws} draws, measured on "
        f"{' or '.join(f'{count:,}' for count in counts)} test images. Gains are over the plain VAE with the same seed "
        "and settings, image by image; ± is one standard error, over images and, where there are several, over seeds. "
        "A spread over two or three seeds is itself rough."
    )


def answers(found: Findings) -> Iterator[str]:
    """The best variants, and how much of a gain is a tighter bound."""
    for chosen in (("posterior",), ("prior",), SIDES):
        if results := found.with_flows(chosen):
            best = max(results, key=lambda result: gains_of(result).nll.value)
            where = ALONE[chosen[0]] if len(chosen) == 1 else "in posterior and prior together"
            yield (
                f"Of {count_text(len(results), 'variant')} with a flow {where}, `{best.name}` has the largest gain "
                f"in NLL: {gains_text(gains_of(best))} ({seeds_text(len(gains_of(best).nll.seeds))}). {tightness(best)}"
            )
    unsure = [result for result in found.compared if not gains_of(result).nll.is_sure]
    if unsure:
        yield f"Not surely better or worse models than the plain VAE: {names(unsure)}."
    worse = [result for result in found.compared if (gain := gains_of(result).nll).is_sure and gain.value < 0]
    if worse:
        yield f"Surely worse models than the plain VAE: {names(worse)}."


def tightness(result: Result) -> str:
    """Which part of a gain in −ELBO is a tighter bound, and which a better model."""
    gains = gains_of(result)
    if not gains.bound.is_sure or gains.bound.value <= 0:
        return "Its −ELBO is not surely better."
    if not gains.tighter.is_sure:
        return f"Its bound is not surely tighter ({gain_text(gains.tighter)}): what it gains is a better model."
    if gains.tighter.value < 0:
        return f"Its bound is looser ({gain_text(gains.tighter)}): what it gains is a better model."
    share = gains.tighter.value / gains.bound.value
    return f"Its bound is tighter by {gain_text(gains.tighter)}, {share:.0%} of its gain in −ELBO."


def depths(found: Findings) -> Iterator[str]:
    """In which families more depth helps, and what it does to the reconstruction."""
    compared = depth_gains(found.main)
    yield from sorted_verdicts(
        "the greatest k instead of the least", {family: gains.nll for family, (_, _, gains) in compared.items()}
    )
    worse = [
        f"`{family}` ({shallow.mean_of(RECONSTRUCTION):.2f} to {deep.mean_of(RECONSTRUCTION):.2f})"
        for family, (shallow, deep, _) in compared.items()
        if min(deep.each(RECONSTRUCTION)) > max(shallow.each(RECONSTRUCTION))
    ]
    if compared:
        yield (
            f"−log p(x|z) is worse at the greatest depth than at the least, for every seed, in {len(worse)} of "
            f"{count_text(len(compared), 'family', 'families')}{': ' + ', '.join(worse) if worse else ''}."
        )


def depth_gains(results: Iterable[Result]) -> dict[str, tuple[Result, Result, Gains]]:
    """The shallowest and the deepest variant of each family, and what the second gains over the first."""
    compared = {}
    for family, members in families(results).items():
        gains = gains_between(members[0].rows, members[-1].rows) if len(members) > 1 else None
        if gains:
            compared[family] = members[0], members[-1], gains
    return compared


def sorted_verdicts(what: str, gains: Mapping[str, Gain]) -> Iterator[str]:
    """Which gains in NLL are surely positive, surely negative, and neither, the largest first."""
    ordered = sorted(gains.items(), key=lambda item: -item[1].value)
    for verb, chosen in (
        ("surely lowers NLL", lambda gain: gain.is_sure and gain.value > 0),
        ("surely raises NLL", lambda gain: gain.is_sure and gain.value < 0),
        ("changes NLL by nothing that is sure", lambda gain: not gain.is_sure),
    ):
        if texts := [f"`{name}` ({gain_with_seeds(gain)})" for name, gain in ordered if chosen(gain)]:
            yield f"{what[0].upper()}{what[1:]} {verb} in {len(texts)} of {len(gains)}: {', '.join(texts)}."


def sides(found: Findings) -> Iterator[str]:
    """The same family and depth in the posterior and in the prior, and both together against the sum."""
    pairs = {f"{other.name}": gains.nll for _, other, gains in side_gains(found)}
    yield from sorted_verdicts("the same flow at the same depth in the prior instead of the posterior", pairs)
    posteriors, priors = (found.with_flows((side,)) for side in SIDES)
    for both in found.with_flows(SIDES):
        parts = [
            next((each for each in alone if getattr(each.row.vae, side) == getattr(both.row.vae, side)), None)
            for side, alone in zip(SIDES, (posteriors, priors), strict=True)
        ]
        if parts[0] and parts[1]:
            alone, together = [gains_of(part).nll for part in parts if part], gains_of(both).nll
            total = alone[0].value + alone[1].value
            error = (together.stderr**2 + alone[0].stderr ** 2 + alone[1].stderr ** 2) ** 0.5
            yield (
                f"`{both.name}` gains {gain_with_seeds(together)}; alone its flows gain {gain_text(alone[0])} "
                f"and {gain_text(alone[1])}, together {total:.2f}. {addition(together.value - total, error)}"
            )


def side_gains(found: Findings) -> list[tuple[Result, Result, Gains]]:
    """Pairs of variants with one flow, in the posterior and in the prior, and what the second gains over the first."""
    posteriors, priors = (found.with_flows((side,)) for side in SIDES)
    return [
        (one, other, gains)
        for one in posteriors
        for other in priors
        if one.flow("posterior") == other.flow("prior") and (gains := gains_between(one.rows, other.rows))
    ]


def addition(difference: float, error: float) -> str:
    """Whether two gains add up. Their errors are taken to be independent, which overstates that of the difference."""
    if abs(difference) <= SURE * error:
        return f"They add up, as far as one can tell ({difference:+.2f} ± {error:.2f} nats)."
    more = "more" if difference > 0 else "less"
    return f"Together they gain {more} than the sum, by {abs(difference):.2f} ± {error:.2f} nats."


def costs(found: Findings) -> Iterator[str]:
    """Seconds of training and of sampling, relative to the plain VAE."""
    plain = plain_of(found.main)
    measured = found.compared
    if not plain or not measured:
        return
    yield (
        f"The plain VAE trains in {plain.seconds('training') / 60:.0f} minutes and draws 1,000 images in "
        f"{plain.seconds('sampling'):.2f} s."
    )
    best = max(measured, key=lambda result: gains_of(result).nll.value)
    cheap = max(measured, key=lambda result: gains_of(result).nll.value / result.seconds("training"))
    for result, what in ((best, "The largest gain in NLL"), (cheap, "The largest gain in NLL per second of training")):
        yield (
            f"{what} is that of `{result.name}`: {gain_text(gains_of(result).nll)} nats for "
            f"{result.seconds('training') / plain.seconds('training'):.2f} times the time of training, and "
            f"{result.seconds('sampling') / plain.seconds('sampling'):.2f} times that of sampling."
        )
    if machines := machines_of(found):
        yield f"Times are of one core ({', '.join(machines)}), some beside other programs, so they are rough."


def machines_of(found: Findings) -> list[str]:
    """The processors."""
    records = (done.record for result in found.results for done in result.rows.values())
    return sorted({str(record.machine["processor"]) for record in records})


def stability(found: Findings) -> Iterator[str]:
    """Whether rows with other settings of training got worse with depth, or diverged."""
    for study in dict.fromkeys(result.row.study for result in found.others):
        compared = depth_gains(result for result in found.others if result.row.study == study)
        yield from sorted_verdicts(
            f"in `{study}`, the greatest k instead of the least",
            {family: gains.nll for family, (_, _, gains) in compared.items()},
        )
        for family, (shallow, deep, _) in compared.items():
            values = shallow.each(RECONSTRUCTION), deep.each(RECONSTRUCTION)
            if min(values[1]) > max(values[0]):
                yield (
                    f"In `{study}`, −log p(x|z) of `{family}` gets worse with depth for every seed: "
                    f"{mean(values[0]):.2f} to {mean(values[1]):.2f}."
                )
    diverged = [f"`{name}`" for name, record in found.records.items() if record.status == "diverged"]
    if diverged:
        yield f"Diverged: {', '.join(diverged)}."
    elif found.others:
        yield "No row diverged."


def largest_gradient(result: Result) -> float:
    """The largest norm of a gradient, before it was clipped, over all seeds."""
    return max(max(done.record.curve["max_grad_norm"]) for done in result.rows.values())


def families(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Variants by family, with the shallowest first, without the plain VAE."""
    grouped: dict[str, list[Result]] = {}
    for result in results:
        if not result.is_plain:
            grouped.setdefault(result.row.point.family, []).append(result)
    return grouped


def plain_of(results: Iterable[Result]) -> Result | None:
    """The plain VAE."""
    return next((result for result in results if result.is_plain), None)


def gains_of(result: Result) -> Gains:
    """The gains of a variant that has them."""
    assert result.gains
    return result.gains


def gain_text(gain: Gain) -> str:
    """A gain with its standard error."""
    return f"{gain.value:+.2f} ± {gain.stderr:.2f}"


def gain_with_seeds(gain: Gain) -> str:
    """A gain that says so if it is of one seed."""
    return gain_text(gain) + (", one seed" if len(gain.seeds) == 1 else "")


def gains_text(gains: Gains) -> str:
    """Both gains."""
    return f"{gain_text(gains.nll)} nats, and {gain_text(gains.bound)} in −ELBO"


def mean_text(result: Result, name: str) -> str:
    """The mean over seeds of a score, with the spread over seeds; with one seed, the standard error over images."""
    values = result.each(f"{name}_nats")
    deviation = spread(values)
    error = mean(result.each(f"{name}_stderr"))
    return f"{mean(values):.2f}" + (f" ± {error:.2f}" if deviation is None else f" (sd over seeds {deviation:.2f})")


def seeds_text(count: int) -> str:
    """How many seeds there are."""
    return count_text(count, "seed")


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things."""
    return f"one {noun}" if count == 1 else f"{count} {plural or f'{noun}s'}"


def names(results: Iterable[Result]) -> str:
    """Their names, as code."""
    return ", ".join(f"`{result.name}`" for result in results)
