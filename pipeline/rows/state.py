"""How far a study is: which rows are done, which run, and how long the others will take."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from flowvae.errors import InputError
from pipeline.files import read_json
from pipeline.rows.code import scoring_code
from pipeline.rows.places import PROGRESS, is_locked, state_folder
from pipeline.rows.plan import Row, is_reference_of
from pipeline.rows.records import Done, Record, is_current, read_record

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class State:
    """The rows of a preset and their records.

    Args:
        rows: in the order of training.
        records: of rows, by name; also outdated ones.
        data: SHA-256 of the arrays on this machine; None if they are not prepared.
    """

    rows: Sequence[Row]
    records: Mapping[str, Record]
    data: Mapping[str, str] | None

    @cached_property
    def done(self) -> list[Done]:
        """The rows that need no training."""
        return [
            Done(row, record)
            for row in self.rows
            if (record := self.records.get(row.name)) and is_current(row, record, self.data)
        ]

    @cached_property
    def missing(self) -> list[Row]:
        """The rows that are to be trained."""
        done = {each.row.name for each in self.done}
        return [row for row in self.rows if row.name not in done]

    @cached_property
    def finished(self) -> list[Done]:
        """Those of them that did not diverge."""
        return [done for done in self.done if done.is_finished]

    def reference(self, other: Done) -> Done | None:
        """The plain VAE that a row is compared with: of the same seed and all other settings; None if it is missing."""
        return next((done for done in self.finished if is_reference_of(done.row, other.row)), None)

    def hours(self, rows: Iterable[Row]) -> float | None:
        """Hours of one process for these rows, estimated from measured ones; None before the first is done."""
        seconds = (seconds_for(row, self.finished) for row in rows)
        return sum(seconds) / SECONDS_PER_HOUR if self.finished else None


def read_state(rows: Sequence[Row], data: Mapping[str, str] | None) -> State:
    """How far a study is.

    Raises:
        InputError: one line for each record that is damaged.
    """
    return State(rows, read_records(rows), data)


def read_records(rows: Sequence[Row]) -> dict[str, Record]:
    """All records, by the names of the rows.

    Raises:
        InputError: one line for each that is damaged.
    """
    records, problems = {}, []
    for row in rows:
        try:
            if record := read_record(row):
                records[row.name] = record
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return records


def seconds_for(row: Row, measured: Sequence[Done]) -> float:
    """Seconds of one row: those of the closest rows that were measured, in proportion to the epochs."""
    closer: list[Callable[[Row], bool]] = [
        lambda other: (other.vae, other.training) == (row.vae, row.training),
        lambda other: other.vae == row.vae,
        lambda other: other.point.family == row.point.family,
        lambda other: True,
    ]
    close = next(found for test in closer if (found := [done.record for done in measured if test(done.row)]))
    per_epoch = mean(record.seconds["training"] / record.training.epochs for record in close)
    return per_epoch * row.training.epochs + mean(record.seconds["scoring"] for record in close)


def status_lines(preset: str, state: State, parallel: int) -> Iterator[str]:
    """What there is to say of a study."""
    yield f"{preset}: {len(state.done)} of {len(state.rows)} rows are done, {hours_text(state, parallel)}"
    for study in dict.fromkeys(row.study for row in sorted(state.rows, key=lambda row: row.place)):
        done, missing = (
            [each for each in rows if each.study == study] for rows in (rows_of(state.done), state.missing)
        )
        yield f"  {study}: {len(done)} of {len(done) + len(missing)}"
    for row in state.missing:
        if is_locked(row):
            yield f"  running: {row.name}{progress_text(row)}"
    for each in state.done:
        if not each.is_finished:
            yield f"  diverged: {each.row.name}: {each.record.reason}"
    outdated = [row.name for row in state.missing if row.name in state.records]
    if outdated:
        yield (
            f"  to be trained again, because settings, data or code changed: {some(outdated)}; if results cannot have "
            "changed, --keep keeps those of which only the code did"
        )
    if earlier := [each.row.name for each in state.done if not is_scored_as_now(each)]:
        yield f"  scored with other settings or code than the present: {some(earlier)}"
    if machines := {str(each.record.machine["processor"]) for each in state.done}:
        yield f"  machines: {', '.join(sorted(machines))}"


def is_scored_as_now(done: Done) -> bool:
    """Whether the scores are those that the present settings and code give, or of more images."""
    now, then = done.row.evaluation, done.record.evaluation
    more = {"num_nll_images": max(now.num_nll_images, then.num_nll_images)}
    return then == now.model_copy(update=more) and done.record.scoring_code == scoring_code()


def rows_of(done: Iterable[Done]) -> list[Row]:
    """Their rows."""
    return [each.row for each in done]


def hours_text(state: State, parallel: int) -> str:
    """How long the rest takes."""
    if not state.missing:
        return "nothing is left"
    hours = state.hours(state.missing)
    return f"about {hours / parallel:.1f} hours are left" if hours else "hours left are unknown until the first is done"


def progress_text(row: Row) -> str:
    """The epoch of a row that runs, if it has finished one."""
    path = state_folder(row) / PROGRESS
    if not path.is_file():
        return ""
    progress = read_json(path)
    return f", epoch {progress['epoch']} of {progress['epochs']}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
