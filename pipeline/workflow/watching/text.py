"""Words for what happens in a run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from pipeline.workflow.watching.board import Board


def duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def clean(line: str) -> str:
    """A line of output without colours and what else moves the cursor."""
    plain = Text.from_ansi(line).plain
    return "".join(character if character.isprintable() else " " for character in plain)


def near(path: str) -> str:
    """A path as one types it in the working folder."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 stage, 2 stages."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def left_text(board: Board) -> str:
    """How long the rest of the run takes, as far as that is known."""
    if not board.running and not board.to_come:
        return "finishing"
    seconds, unknown = board.seconds_left()
    if not unknown:
        return f"about {duration(seconds)} left"
    known = f"at least {duration(seconds)} left" if seconds else "time left unknown"
    return f"{known}: no timing yet of {', '.join(unknown)}"


def plan_text(board: Board) -> str:
    """What a run will do."""
    text = f"{count(len(board.stages), 'stage')}, of which {len(board.to_come)} may run, up to {board.limit} at a time"
    return f"{text}; {left_text(board)}" if board.to_come else text


def ending(event: Mapping[str, Any]) -> str:
    """How a stage has finished: the time, and what it reports."""
    result = (event["result"] or "").replace("-ELBO", "−ELBO")
    return f"{duration(event['seconds'])}{': ' if result else ''}{result}"


def names(stages: Sequence[str], width: int) -> str:
    """As many names as fit into this many characters, and the number of others."""
    text, shown = ", ".join(stages), 1
    if len(text) <= width or len(stages) < 2:
        return text

    def first(number: int) -> str:
        return f"{', '.join(stages[:number])} and {len(stages) - number} more"

    while len(first(shown + 1)) <= width:
        shown += 1
    return first(shown)
