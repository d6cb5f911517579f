"""How a function becomes a command, with examples below its options."""

from collections.abc import Callable
from typing import Any

import typer


def add(app: typer.Typer, command: Callable[..., None], *examples: str, **settings: Any) -> None:
    """Add a command under the name of its function.

    Args:
        app: the command line.
        command: its arguments are those of the command, and its docstring is the help.
        examples: of its use, without the name of the program.
        settings: of typer.
    """
    lines = ["\b", "Examples:", *(f"  flowvae {example}" for example in examples)]
    app.command(epilog="\n".join(lines), **settings)(command)
