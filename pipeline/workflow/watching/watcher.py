"""Shows a run in the way that suits where its output goes, and says at the end what came of it."""

import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from rich.console import Console

from pipeline.workflow.watching.board import Board
from pipeline.workflow.watching.live import LiveView
from pipeline.workflow.watching.plain import PlainView
from pipeline.workflow.watching.reading import Event
from pipeline.workflow.watching.summary import print_summary
from pipeline.workflow.watching.text import clean, near

NO_LIMIT = 10_000  # columns of a file


class Watcher:
    """Shows events: live on a terminal that can move its cursor, else as lines."""

    def __init__(self) -> None:
        self.board = Board()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a locale may lack ± and −
        console = Console()
        is_live = sys.stdout.isatty() and not console.is_dumb_terminal
        self.console = console if is_live else Console(color_system=None, force_terminal=False, width=NO_LIMIT)
        self.view: LiveView | PlainView = LiveView(self.board, console) if is_live else PlainView(self.board)
        self.is_stopped = False

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.view.close()

    def show(self, events: Iterable[Event]) -> None:
        """Show events, and the time that passes; nothing more once the run is being stopped."""
        for event in events:
            if not self.is_stopped:
                self.board.apply(event)
                self.view.show(event)
        self.view.refresh()

    def stop(self) -> None:
        """Show that the run is being stopped."""
        self.is_stopped = True
        self.view.stop()

    def summarize(self, code: int, log: Path) -> None:
        """Print the end of a run that was not interrupted.

        Args:
            code: its exit code.
            log: the file with its output.
        """
        if self.console.is_terminal:
            self.console.print()  # below the stages that have ended
        if code == 0:
            print_summary(self.board, self.console)
            return
        for line in self.board.problems or [unexpected(code, log)]:
            print(f"workflow: {line}", file=sys.stderr)
        for stage, failure in self.board.failed.items():
            print(f"output of {stage}: {near(failure.log)}", file=sys.stderr)


def unexpected(code: int, log: Path) -> str:
    """What is known of a run that has ended without saying why."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f": {clean(lines[-1]).strip()}" if lines else ""
    return f"ended unexpectedly with exit code {code}{last}; see {log}"
