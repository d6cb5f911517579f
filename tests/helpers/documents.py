"""Parts of the project's Markdown pages: sections, tables, code, and the commands in it."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("make", "dvc", "prefect", "python", "flowvae")
SEPARATORS = {"&&", "||", ";", "|"}
PLACEHOLDERS = {"NAME": "depth", "JOB": "job"}
OMITTED = ("[TARGET ...]", "TARGET ...", " ...")


def read(path: Path) -> str:
    """The text of a page. Of the changelog's tables of old and new names, only the new names."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^\|.*\| (.*?) \|$", r"\1", text, flags=re.MULTILINE) if path.name == "CHANGELOG.md" else text


def section(text: str, heading: str) -> str:
    """The part of a page below a heading of the second level."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def anchors(text: str) -> set[str]:
    """What links to a part of a page may have after #."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def table(text: str) -> list[str]:
    """The lines of the first table."""
    return re.search(r"(^\|.*\n)+", text, re.MULTILINE)[0].splitlines()


def code_spans(text: str) -> list[str]:
    """All `inline code`."""
    return re.findall(r"`([^`]+)`", text)


def code_block(text: str) -> str:
    """The first indented block."""
    return textwrap.dedent(re.search(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)[0]).strip() + "\n"


def python_of(text: str) -> str:
    """All blocks of Python, which are marked as such, as one script."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def commands(text: str) -> Iterator[list[str]]:
    """Every command of PROGRAMS in code: its words, without variables of the environment and comments.

    Code is an indented line, a line in the comment of a YAML file, or inline code.
    """
    for line in [*re.findall(r"^(?:    |#     )(.*)", text, re.MULTILINE), *code_spans(text)]:
        if not re.search(rf"(?:^|[\s/])(?:{'|'.join(PROGRAMS)}) ", line):
            continue
        for omitted in OMITTED:
            line = line.replace(omitted, "")
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word in SEPARATORS:
                if command and Path(command[0]).name in PROGRAMS:
                    yield [Path(command[0]).name, *command[1:]]
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(PLACEHOLDERS.get(word, word))
