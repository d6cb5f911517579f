"""The page of findings, docs/findings.md, and its figures."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pipeline import paths
from pipeline.files import write_text
from pipeline.rows import others
from pipeline.rows.figures import FIGURES, draw_figures
from pipeline.rows.findings import (
    RECONSTRUCTION,
    Findings,
    depth_gains,
    gain_text,
    largest_gradient,
    mean_text,
    sentences,
    side_gains,
)
from pipeline.rows.results import Gains, Result

PAGE = Path("docs/findings.md")
WIDTH = 120
HEADINGS = (
    *("study", "variant", "seeds", "−log p(x\\|z)", "KL", "−ELBO", "NLL", "gain in −ELBO", "gain in NLL"),
    *("sd of it over seeds", "training, min", "1,000 samples, s"),
)
ABSENT = "–"
MAIN = "study-larochelle"  # whose findings are the page


def write_findings(found: Findings) -> list[Path]:
    """Write the page and its figures.

    Returns:
        The files.
    """
    figures = draw_figures(found)
    page = page_path(found.preset)
    write_text(page, page_text(found))
    return [page, *figures]


def page_path(preset: str) -> Path:
    """The file of a preset's findings: a page of the documentation for the main study."""
    return PAGE if preset == MAIN else paths.STUDY / f"{preset}.md"


def page_text(found: Findings) -> str:
    """The whole page."""
    page = page_path(found.preset)
    folder = "../" * (len(page.parts) - 1)
    figures = (folder + (paths.STUDY / found.preset / f"{name}.png").as_posix() for name in FIGURES)
    parts = [
        "# What flows buy",
        paragraph(
            f"What the study `{found.preset}` has found so far, from the rows in git. A command writes this page and "
            "its figures, and a test writes the page again and compares:"
        ),
        f"    flowvae study {found.preset} --findings",
        paragraph(
            f"[Studies]({folder}docs/studies.md) explains rows, and [the report]({folder}docs/report.md) the scores, "
            "which are in nats per test image. A difference is called sure if it is above two standard errors, with "
            "two seeds or more."
        ),
        *(part for heading, lines in sentences(found).items() for part in section(found, heading, lines)),
        *((f"![{text}]({path})") for (text, path) in zip(FIGURES.values(), figures, strict=True) if found.compared),
        "## What others found",
        others_text(found),
        "## All variants",
        markdown_table(HEADINGS, (cells(result) for result in found.results)) if found.results else "None yet.",
    ]
    return "\n\n".join(parts) + "\n"


def section(found: Findings, heading: str, lines: Iterable[str]) -> Iterator[str]:
    """A part of the page: sentences, and a table of what they are about, if there is one."""
    yield f"## {heading}"
    yield bullets(lines)
    rows = list(TABLES.get(heading, lambda found: ())(found))
    if rows:
        yield markdown_table(TABLE_HEADINGS[heading], rows)


def depth_rows(found: Findings) -> Iterator[tuple[str, ...]]:
    """What the deepest of each family gains over the shallowest."""
    for family, (shallow, deep, gains) in depth_gains(found.main).items():
        yield (family, *change_cells(shallow, deep, gains))


def stability_rows(found: Findings) -> Iterator[tuple[str, ...]]:
    """The same for rows with other settings of training, and the largest gradients."""
    for study in dict.fromkeys(result.row.study for result in found.others):
        compared = depth_gains(result for result in found.others if result.row.study == study)
        for family, (shallow, deep, gains) in compared.items():
            gradients = f"{largest_gradient(shallow):,.0f} to {largest_gradient(deep):,.0f}"
            yield (study, family, *change_cells(shallow, deep, gains), gradients)


def change_cells(shallow: Result, deep: Result, gains: Gains) -> tuple[str, ...]:
    """Depths, NLL, −log p(x|z), and gains of the second over the first."""
    ks = f"{shallow.row.point.num_transforms} to {deep.row.point.num_transforms}"
    nll, reconstruction = (
        f"{shallow.mean_of(name):.2f} to {deep.mean_of(name):.2f}" for name in ("nll_nats", RECONSTRUCTION)
    )
    return ks, nll, reconstruction, gain_text(gains.bound), gain_text(gains.nll), str(len(gains.nll.seeds))


def side_rows(found: Findings) -> Iterator[tuple[str, ...]]:
    """What a flow in the prior gains over the same flow in the posterior."""
    for one, other, gains in side_gains(found):
        yield one.name, other.name, gain_text(gains.bound), gain_text(gains.nll), str(len(gains.nll.seeds))


CHANGES = ("k", "NLL", "−log p(x\\|z)", "gain in −ELBO", "gain in NLL", "seeds")
TABLE_HEADINGS = {
    "What depth buys": ("family", *CHANGES),
    "Posterior or prior, or both": ("posterior", "prior", *CHANGES[3:]),
    "What keeps deep stacks stable": ("study", "family", *CHANGES, "largest gradient"),
}
TABLES: dict[str, Callable[[Findings], Iterable[tuple[str, ...]]]] = dict(
    zip(TABLE_HEADINGS, (depth_rows, side_rows, stability_rows), strict=True)
)


def others_text(found: Findings) -> str:
    """Their gains over their own plain VAE, beside ours."""
    lines = list(others.sentences(found))
    rows = list(others.table(found))
    if not rows:
        return "Nothing can be compared yet."
    intro = paragraph(
        "Gains of published results on these images over the plain VAE of the same source, which can be compared where "
        "absolute values cannot; beside them our variant with the same flows at the closest depth."
    )
    return "\n\n".join([*([bullets(lines)] if lines else []), intro, markdown_table(others.HEADINGS, rows)])


def cells(result: Result) -> Iterator[str]:
    """The cells of a variant under HEADINGS."""
    yield result.row.study
    yield result.name
    yield str(len(result.rows))
    yield f"{result.mean_of('reconstruction_nats'):.2f}"
    yield f"{result.mean_of('kl_nats'):.2f}"
    yield mean_text(result, "negative_elbo")
    yield mean_text(result, "nll")
    gains = result.gains
    yield gain_text(gains.bound) if gains else ABSENT
    yield gain_text(gains.nll) if gains else ABSENT
    yield f"{gains.nll.spread:.2f}" if gains and gains.nll.spread is not None else ABSENT
    yield f"{result.seconds('training') / 60:.1f}"
    yield f"{result.seconds('sampling'):.2f}"


def markdown_table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraph(text: str) -> str:
    """Text in lines of WIDTH."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def bullets(lines: Iterable[str]) -> str:
    """A list in lines of WIDTH."""
    return "\n".join(
        textwrap.fill(
            line, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    )
