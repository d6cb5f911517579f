"""Mistakes of users as one line on standard error."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from flowvae.errors import InputError

CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # ClickException, which typer has under one name or another
INTERRUPTED = 130  # by Ctrl-C, as typer and shells have it


class OneLineGroup(TyperGroup):
    """Commands that report an error as one line: exit code 2 for a wrong call, 1 for anything else."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            code = super().main(*arguments, **options | {"standalone_mode": False})
        except CLICK_ERROR as error:
            code = complain(error.format_message(), hint_of(error), error.exit_code)
        except InputError as error:
            code = complain(str(error))
        except OSError as error:  # a full disk, a folder without permission
            code = complain(f"{error.filename or 'writing'}: {error.strerror or error}")
        except (typer.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        if code == INTERRUPTED:
            complain("interrupted")
        sys.exit(code or 0)


def complain(message: str, hint: str = "", code: int = 1) -> int:
    """Print a message as one line, and return the exit code."""
    print(f"flowvae: {' '.join(message.split())}{hint}", file=sys.stderr)
    return code


def hint_of(error: Any) -> str:
    """Where a user finds how a command is called."""
    context = getattr(error, "ctx", None)
    return f" ({context.command_path} --help)" if context else ""
