"""Commands on a pseudo-terminal of a chosen size."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# The terminal becomes that of the command's session, so that it sends Ctrl-C as a signal.
ADOPT = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3|4|9)[0-9](?:;[0-9]+)*m")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor


class Terminal:
    """A terminal on which a command runs.

    Args:
        main: the end of the terminal at which a person sits.
        process: the command.
    """

    def __init__(self, main: int, process: subprocess.Popen[bytes]) -> None:
        self.main, self.process = main, process
        self.output = b""
        self.settings = termios.tcgetattr(main)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the command has closed the other end
            while part := os.read(self.main, 4096):
                self.output += part

    @property
    def text(self) -> str:
        """All that was written, with what moves the cursor and chooses colours."""
        return self.output.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """All lines that were written, without that."""
        return SEQUENCE.sub("", self.text).replace("\r", "").splitlines()

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self.main, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self, seconds: float) -> int:
        """The exit code of the command, once all that it has written was read."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds} s: {self.lines[-9:]}") from None
        self.reader.join(10)
        return code

    def is_sane(self) -> bool:
        """Whether the terminal is as it was before the command, with its cursor visible."""
        return self.text.rfind(SHOW) >= self.text.rfind(HIDE) and termios.tcgetattr(self.main) == self.settings


@contextmanager
def terminal(folder: Path, command: Sequence[str], environment: dict[str, str], columns: int = 80, rows: int = 24):
    """Run a command on a terminal; it is killed at the end of the block.

    Args:
        folder: in which it works.
        command: with its arguments.
        environment: of the command, but for the size of the terminal.
        columns, rows: the size.
    """
    main, other = pty.openpty()
    kept = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", ADOPT, *command], cwd=folder, stdin=other, stdout=other,
                               stderr=other, env=kept, start_new_session=True)  # fmt: skip
    os.close(other)  # so that reading ends when the command does
    try:
        shown = Terminal(main, process)
        yield shown
    finally:
        process.kill()
        process.wait(30)
        shown.reader.join(10)
        os.close(main)
