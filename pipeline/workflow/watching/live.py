"""A run as a view on a terminal: above a line for each stage that has ended, below what runs, redrawn in place."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.workflow.watching.board import Board, Running
from pipeline.workflow.watching.text import clean, count, duration, ending, left_text, names, near

SECONDS_BETWEEN_FRAMES = 0.25
MAX_HISTORY = 200  # lines that are printed again when the size of the terminal changes
FIXED_LINES = 8  # of the view, beside those of stages: title, time, header, next, three blank ones, one for the cursor
COLUMNS = {" ": 40, "done": 0, "images/s": 72, "−ELBO": 60, "left": 50}  # and the least width of a terminal for each
MANY = ("step", "image")  # units that are too many to be counted on a screen


class LiveView:
    """Draws the state of a run.

    Args:
        board: the state of the run, after each event.
        console: a terminal.
    """

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.console = board, console
        self.history: deque[RenderableType] = deque(maxlen=MAX_HISTORY)
        self.size, self.last_frame = console.size, 0.0
        self.is_stopping = False
        self.live = Live(
            get_renderable=self.region,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self.live.start(refresh=True)

    def show(self, event: Mapping[str, Any]) -> None:
        """Print what lasts of an event, which the board knows."""
        for line in getattr(self, f"on_{event['kind']}", lambda event: [])(event):
            self.history.append(line)
            self.console.print(line)

    def refresh(self) -> None:
        """Draw the next frame, if it is time for it."""
        if (now := self.board.clock()) - self.last_frame < SECONDS_BETWEEN_FRAMES:
            return
        self.last_frame = now
        if self.console.size != self.size:
            self.size = self.console.size
            self.redraw()
        self.live.refresh()

    def redraw(self) -> None:
        """Clear the terminal, which has moved the lines of the last frame, and print again what fits."""
        self.console.control(Control.home(), Control.clear())
        room = max(0, self.console.height - FIXED_LINES - len(self.board.running) - len(self.board.failed))
        for line in list(self.history)[len(self.history) - min(room, len(self.history)) :]:
            self.console.print(line)

    def stop(self) -> None:
        """Show that the run is being stopped."""
        self.is_stopping = True

    def close(self) -> None:
        """Remove the view, and show the cursor again."""
        self.live.stop()

    def on_finished(self, event: Mapping[str, Any]) -> list[RenderableType]:
        line = Text.assemble(("✓ ", "green"), f"{event['stage']}  {ending(event)}")
        return [line, *(indented(Text(clean(note), "yellow")) for note in event["notes"])]

    def on_failed(self, event: Mapping[str, Any]) -> list[RenderableType]:
        return [
            Text.assemble(("✗ ", "red"), f"{event['stage']} failed: {clean(event['reason'])}"),
            *(indented(Text(clean(line), "dim")) for line in event["lines"]),
            indented(Text(f"its output: {near(event['log'])}")),
        ]

    def on_note(self, event: Mapping[str, Any]) -> list[RenderableType]:
        return [Text(event["text"])]

    def region(self) -> RenderableType:
        """The part that is redrawn, in the size of the terminal."""
        board, (width, height) = self.board, self.console.size
        title = Text(no_wrap=True, overflow="ellipsis")
        if self.is_stopping:
            title.append("stopping what runs", "bold")
        elif not board.stages:
            title.append("starting Prefect and DVC", "bold").append(f"  {duration(board.clock() - board.since)}")
        else:
            self.append_counts(title)
        lines: list[RenderableType] = [title]
        if board.stages and not self.is_stopping:
            lines.append(Text(left_text(board), no_wrap=True, overflow="ellipsis"))
        failed = list(board.failed)[-max(1, height // 4) :]
        room = max(1, height - FIXED_LINES - len(failed))
        if board.running:
            lines += [Text(), self.table(width, room)]
        if board.to_come:
            lines.append(Text(f"\nnext: {names(list(board.to_come), width - 6)}", no_wrap=True, overflow="ellipsis"))
        for stage in failed:
            text = f"✗ {stage} failed, see {near(board.failed[stage].log)}"
            lines.append(Text(text, "red", no_wrap=True, overflow="ellipsis"))
        return Group(Text(), *lines)

    def append_counts(self, title: Text) -> None:
        """How many stages are in each state."""
        board = self.board
        title.append(f"{board.up_to_date} of {count(len(board.stages), 'stage')} up to date", "bold")
        title.append(f" · {len(board.running)} running")
        title.append(f" · {len(board.to_come)} to come" if board.to_come else "")
        title.append(f" · {len(board.failed)} failed" if board.failed else "", "red")
        title.append(f" · {duration(board.clock() - board.since)} so far", "dim")

    def table(self, width: int, room: int) -> Table:
        """A row per stage that runs, and the number of those for which there is no room."""
        board = self.board
        columns = [name for name, least in COLUMNS.items() if width >= least]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=True)
        longest = max(map(len, board.running))
        table.add_column(no_wrap=True, overflow="ellipsis", width=min(longest, width // 3))
        for name in columns:
            table.add_column(
                name.strip(), justify="right", no_wrap=True, ratio=None if name.strip() else 1, min_width=4
            )
        shown = list(board.running.items())[: room if len(board.running) <= room else room - 1]
        for stage, running in shown:
            cells = self.cells(running, board.usual(stage))
            table.add_row(stage, *(cells[name] for name in columns))
        if hidden := len(board.running) - len(shown):
            table.add_row(f"and {hidden} more")
        return table

    def cells(self, running: Running, usual: float | None) -> dict[str, RenderableType]:
        """What each column shows of a stage."""
        now = self.board.clock()
        fraction, left = running.fraction(now, usual), running.seconds_left(now, usual)
        tick = running.last[1] if running.last else None
        speed = tick.images_per_second if tick else None
        bound = tick.negative_elbo if tick else None
        if tick and tick.unit not in MANY:
            done = f"{tick.done}/{tick.total} {tick.unit}s"
        else:
            done = f"{'' if tick else '~'}{fraction:.0%}" if fraction is not None else ""
        return {
            " ": ProgressBar(
                1.0,
                fraction or 0.0,
                pulse=fraction is None,
                animation_time=now,
                complete_style="cyan",  # rich's own is red
                pulse_style="cyan",
            ),
            "done": done,
            "images/s": f"{speed:,.0f}" if speed else "",
            "−ELBO": f"{bound:.2f}" if bound is not None else "",
            "left": duration(left) if left is not None else duration(now - running.since) + " so far",
        }


def indented(text: Text) -> Padding:
    """A text below the line that it belongs to."""
    return Padding(text, (0, 0, 0, 2))
