"""What was found, in words made from the numbers, and how sure that is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowvae.estimates import Estimate, paired_gains
from pipeline.report.columns import BY_NAME, NLL_GAIN
from pipeline.report.runs import ScoredRun
from pipeline.report.table import NLL, SURE_ERRORS, Summary, is_sure, lowest


@dataclass(frozen=True)
class Findings:
    """The sentences of a headline.

    Args:
        first: the answer.
        others: what qualifies it.
    """

    first: str
    others: list[str]


def findings(runs: Sequence[ScoredRun], rows: Sequence[Summary], reference: str) -> Findings:
    """The best model and how sure that is, what posterior and prior gain alone, and what depth adds."""
    best = lowest(rows, NLL)
    if len(rows) == 1:
        return Findings(f"Only {reference} was trained, so there is nothing to compare.", [])
    if not is_sure(best.values, NLL_GAIN):
        first = f"No variant is surely a better model than {reference}: {closest(rows, reference)}"
        return Findings(first, [*depths(runs, rows), certainty(runs)])
    others = [row for row in rows if row.variant not in (best.variant, reference)]
    second = [follower(runs, best, lowest(others, NLL))] if others else []
    first = (
        f"{best.variant} is the best model: its NLL is {BY_NAME[NLL].cell(best.values)} nats per test image, "
        f"{gain_text(best)} nats lower than that of {reference}."
    )
    return Findings(first, [*second, *parts(rows), *depths(runs, rows), certainty(runs)])


def closest(rows: Sequence[Summary], reference: str) -> str:
    """The largest gain, although it is not sure."""
    row = max((row for row in rows if row.variant != reference), key=lambda row: row.values[NLL_GAIN])
    return f"the largest gain in NLL is that of {row.variant}, {gain_text(row, signed=True)} nats."


def gain_text(row: Summary, *, signed: bool = False) -> str:
    """A gain in NLL over the reference with its standard error."""
    return estimate_text(Estimate(row.values[NLL_GAIN], row.values[f"{NLL_GAIN}_stderr"]), signed=signed)


def estimate_text(estimate: Estimate, *, signed: bool = False) -> str:
    """A difference with its standard error."""
    return f"{estimate.value:{'+' if signed else ''}.2f} ± {estimate.stderr:.2f}"


def surely(estimate: Estimate) -> bool:
    """Whether a difference is not 0, as far as test images tell."""
    return abs(estimate.value) > SURE_ERRORS * estimate.stderr


def runs_of(runs: Iterable[ScoredRun], row: Summary) -> list[ScoredRun]:
    """The runs of a variant, in the order of the seeds."""
    return [run for run in runs if run.variant == row.variant]


def difference(runs: Sequence[ScoredRun], worse: Summary, better: Summary) -> Estimate:
    """How much lower the NLL of one variant is than that of another, image by image."""
    _, gain = paired_gains(*([run.images for run in runs_of(runs, row)] for row in (worse, better)))
    return gain


def follower(runs: Sequence[ScoredRun], best: Summary, second: Summary) -> str:
    """How far the second is behind the best."""
    behind = difference(runs, second, best)
    doubt = "" if surely(behind) else ", so which of the two is better is open"
    return f"{second.variant} follows, {estimate_text(behind)} nats behind{doubt}."


def parts(rows: Sequence[Summary]) -> list[str]:
    """What a flow gains in the posterior alone, and in the prior alone; nothing unless both were tried."""
    alone = {
        "posterior": [row for row in rows if row.flows.posterior_transforms and not row.flows.prior_transforms],
        "prior": [row for row in rows if row.flows.prior_transforms and not row.flows.posterior_transforms],
    }
    best = {side: lowest(some, NLL) for side, some in alone.items() if any(NLL_GAIN in row.values for row in some)}
    if len(best) < len(alone) or any(NLL_GAIN not in row.values for row in best.values()):
        return []
    texts = [f"in the {side} alone {gain_text(row, signed=True)} ({row.variant})" for side, row in best.items()]
    return [f"The largest gain of a flow: {'; '.join(texts)}."]


def depths(runs: Sequence[ScoredRun], rows: Sequence[Summary]) -> list[str]:
    """What the deepest variant of each family gains over the shallowest."""
    families: dict[str, dict[int, Summary]] = {}
    for row in rows:
        families.setdefault(row.flows.label, {}).setdefault(row.flows.depth, row)
    texts = []
    for family, by_depth in families.items():
        low, high = min(by_depth), max(by_depth)
        if low and low < high:
            gain = difference(runs, by_depth[low], by_depth[high])
            doubt = "" if surely(gain) else ", which is not sure"
            texts.append(f"{estimate_text(gain, signed=True)} for {family} (k = {low} to {high}{doubt})")
    return [f"What depth adds in NLL: {'; '.join(texts)}."] if texts else []


def certainty(runs: Sequence[ScoredRun]) -> str:
    """What the errors include, and what they do not."""
    seeds = len({run.seed for run in runs})
    luck = (
        "with one training seed they leave out the luck of training, which only more seeds would show"
        if seeds == 1
        else f"differences are averaged over {seeds} training seeds"
    )
    return f"± is one standard error of differences image by image; {luck}."
