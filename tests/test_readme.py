"""The README shows the committed results, and names what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(text: str) -> list[str]:
    """The lines of the first Markdown table."""
    return re.search(r"(^\|.*\n)+", text, re.MULTILINE).group().splitlines()


def test_table_is_that_of_the_report():
    assert table(README) == table((ROOT / "reports" / "results.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)]+)\)|`(tests/[\w/.]+|flowvae/flows/__init__.py)`", README))
def test_named_file_exists(name):
    assert (ROOT / (name[0] or name[1])).exists()


def test_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|^    |: )make ([a-z][a-z-]*)", README, re.MULTILINE))
    assert {"repro", "test", "test-all", "bench"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
