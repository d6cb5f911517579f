"""The end of a run: what was found, the table, and where to look further."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.workflow.watching.board import Board
from pipeline.workflow.watching.text import count, duration, near

BOLD = re.compile(r"\*\*(.+?)\*\*")
# The columns that are left out, one group after another, where a terminal is narrow. Others stay.
EXPENDABLE = (
    ("parameters",),
    ("active units",),
    ("−log p(x|z)", "KL"),
    ("posterior, k", "prior, k"),
    ("gain in −ELBO",),
    ("−ELBO",),
)
GAP = 2  # blanks between columns
DRAG = "paths"  # the part of a page with an interpolation that one drags
Rows = list[list[str]]


def print_summary(board: Board, console: Console) -> None:
    """Print the end of a run that has succeeded.

    Args:
        board: the state of the run.
        console: where to print.
    """
    done = f"{count(len(board.stages), 'stage')} up to date"
    ran = f"{len(board.ran)} ran in {duration(board.clock() - board.since)}" if board.ran else "none had to run"
    console.print(Text(f"{done}, {ran}"))
    pages = {Path(page).suffix: Path(page) for page in board.pages}
    if text := pages.get(".md"):
        print_results(text.read_text(encoding="utf-8"), console)
    if page := pages.get(".html"):
        console.print(Text(f"\nThe report, one file for any browser: {near(str(page))}"), soft_wrap=True)
        if f'id="{DRAG}"' in page.read_text(encoding="utf-8"):
            console.print(Text(f"Interpolations that you drag: {page.as_uri()}#{DRAG}"), soft_wrap=True)


def print_results(page: str, console: Console) -> None:
    """Print what is bold above the first table of a Markdown page, and that table."""
    before, rows = first_table(page)
    for sentence in BOLD.findall(before):
        console.print()
        console.print(Text(sentence, "bold"))
    if rows:
        console.print()
        console.print(fitted(rows, console.width))


def first_table(page: str) -> tuple[str, Rows]:
    """The text before the first table of a Markdown page, and the cells of that: headings and rows."""
    lines = page.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("|")), len(lines))
    rows: Rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        if line.strip("|-: "):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            rows.append([cell.replace("\\|", "|").strip() for cell in cells])
    return "\n".join(lines[:first]), rows


def fitted(rows: Rows, width: int) -> Table:
    """A table of these cells, without as many columns as do not fit into this width."""
    headings, *others = rows
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kept = kept_columns(headings, columns, width)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for position in kept:
        side: Literal["left", "right"] = "right" if position else "left"
        table.add_column(headings[position], justify=side, no_wrap=True, min_width=columns[position])
    for row in others:
        table.add_row(*(Text(row[position]) for position in kept))
    return table


def kept_columns(headings: Sequence[str], columns: Sequence[int], width: int) -> list[int]:
    """The positions of the columns that fit.

    Args:
        headings: of all columns.
        columns: widths of all columns.
        width: of the terminal.
    """
    kept = list(range(len(headings)))
    for group in EXPENDABLE:
        if sum(columns[position] + GAP for position in kept) - GAP <= width:
            break
        kept = [position for position in kept if headings[position] not in group]
    return kept
