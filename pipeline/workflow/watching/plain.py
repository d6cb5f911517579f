"""A run as lines of text, one per event: for pipes, files and continuous integration."""

from collections.abc import Mapping
from typing import Any

from pipeline.workflow.watching.board import Board
from pipeline.workflow.watching.text import clean, duration, ending, left_text, near, plan_text

SECONDS_BETWEEN_LINES = 60  # about the progress of a stage


class PlainView:
    """Prints the events of a run.

    Args:
        board: the state of the run, after each event.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.told: dict[str, float] = {}  # when the last line about each stage was printed

    def show(self, event: Mapping[str, Any]) -> None:
        """Print what there is to say of an event, which the board knows."""
        lines: list[str] = getattr(self, f"on_{event['kind']}", lambda event: [])(event)
        for line in lines:
            print(line, flush=True)
        if lines and "stage" in event:
            self.told[event["stage"]] = self.board.clock()

    def refresh(self) -> None:
        """Nothing changes between events."""

    def stop(self) -> None:
        """Say nothing: a single line tells at the end that the run was interrupted."""

    def close(self) -> None:
        """Nothing is left to do."""

    def on_planned(self, event: Mapping[str, Any]) -> list[str]:
        return [plan_text(self.board)]

    def on_started(self, event: Mapping[str, Any]) -> list[str]:
        return [f"{event['stage']} started"]

    def on_tick(self, event: Mapping[str, Any]) -> list[str]:
        stage, now = event["stage"], self.board.clock()
        if now - self.told[stage] < SECONDS_BETWEEN_LINES:
            return []
        left = self.board.running[stage].seconds_left(now, self.board.usual(stage))
        more = f", {duration(left)} left" if left is not None else ""
        return [f"{stage} at {event['unit']} {event['done']} of {event['total']}{more}; {left_text(self.board)} in all"]

    def on_finished(self, event: Mapping[str, Any]) -> list[str]:
        return [f"{event['stage']} finished in {ending(event)}", *map(clean, event["notes"])]

    def on_failed(self, event: Mapping[str, Any]) -> list[str]:
        return [f"{event['stage']} failed: {clean(event['reason'])}; its output is in {near(event['log'])}"]

    def on_note(self, event: Mapping[str, Any]) -> list[str]:
        return [event["text"]]
