"""The report as one self-contained HTML page."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline import paths
from pipeline.report import diagnostics, downstream, published, studies
from pipeline.report.charts import curves, depth
from pipeline.report.charts.diagnostics import diagnostics_charts
from pipeline.report.charts.downstream import downstream_charts
from pipeline.report.charts.maps import map_charts
from pipeline.report.charts.style import colors
from pipeline.report.embedding import data_uri
from pipeline.report.figures.looks import family_looks, looks_of
from pipeline.report.latents import paths_note
from pipeline.report.libraries import plotting_library
from pipeline.report.making import COMMANDS, NOTES, settings_used
from pipeline.report.page import (
    AGAINST_TIME,
    PUBLISHED_NOTE,
    STUDY_CAPTION,
    STUDY_FIGURES,
    Report,
)
from pipeline.report.table import unproven, variant_table
from pipeline.report.variants import GALLERIES, IMPUTATIONS, first_seed, pictures, settings_text

FOLDER = Path(__file__).parent


def html_page(report: Report) -> str:
    """The text of reports/index.html: pictures, styles and scripts are embedded, and equal inputs give equal bytes."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.globals["source"] = source
    return environment.get_template("page.html.j2").render(
        report=report,
        shown=[report.params.report.reference, report.best.variant],
        plotting_library=plotting_library(),
        **tables(report),
        **figures(report),
        **charts(report),
    )


def source(name: str) -> Markup:
    """A style sheet or script beside the template."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def tables(report: Report) -> dict[str, Any]:
    """What the template shows as tables, and the text beside them."""
    headings, cells = variant_table(report.runs, report.rows)
    return {
        "headings": headings,
        "rows": cells,
        "best": [i for i, row in enumerate(report.rows) if row.variant == report.best.variant],
        "settings": [settings_text(report.params, row.variant, report.runs[0]) for row in report.rows],
        "unproven": unproven(report.rows, report.params.report.reference),
        "studies": [
            {"name": study.name, "image": data_uri(STUDY_FIGURES / f"{study.name}.png"), "rows": study.table()}
            for study in report.studies
        ],
        "study_caption": STUDY_CAPTION,
        "study_headings": studies.HEADINGS,
        "downstream_headings": downstream.headings(report.runs),
        "downstream": downstream.downstream_table(report.runs, report.params.report.reference),
        "downstream_notes": downstream.notes(report.runs),
        "diagnostics_note": diagnostics.NOTE,
        "diagnostics_headings": diagnostics.HEADINGS,
        "diagnostics": diagnostics.diagnostics_table(report.runs),
        "published_headings": published.HEADINGS,
        "published_note": PUBLISHED_NOTE,
        "published": published.published_table(report.runs[0]),
        "made": settings_used(report.runs[0], report.metadata),
        "made_notes": NOTES,
        "commands": COMMANDS,
    }


def figures(report: Report) -> dict[str, Any]:
    """What the template shows as pictures."""
    runs = first_seed(report.runs)
    return {
        "against_time": AGAINST_TIME.relative_to(paths.REPORTS).as_posix(),
        "paths_note": paths_note(report.params.interpolation),
        "variants": [run.variant for run in runs],
        "galleries": [{"gallery": gallery, "pictures": pictures(gallery, runs)} for gallery in GALLERIES],
        "imputations": {"gallery": IMPUTATIONS, "pictures": pictures(IMPUTATIONS, runs)},
    }


def charts(report: Report) -> dict[str, Any]:
    """What the template shows as charts, with their legends and colours."""
    looks, first = looks_of(report.runs), report.runs[0]
    _, reach, most = curves.visible_range(report.runs)
    kinds = {"variant": looks, "family": family_looks(report.rows)}
    return {
        "colors": {
            mode: Markup(
                " ".join(line for kind, some in kinds.items() for line in colors(some, kind, dark=mode == "dark"))
            )
            for mode in ("light", "dark")
        },
        "depth_charts": depth.depth_charts(report.rows, first),
        "depth_legend": depth.depth_legend(report.rows, first),
        "diagnostics_charts": diagnostics_charts(first_seed(report.runs)),
        "downstream_charts": downstream_charts(first_seed(report.runs)),
        "map_charts": map_charts(report.latents),
        "curve_charts": curves.curve_charts(report.runs),
        "curve_legend": curves.variant_legend(looks),
        "curve_slider": {"reach": reach, "least": round(reach / 25, 3), "most": most},
        "curve_headings": curves.HEADINGS,
        "curve_rows": curves.last_values(report.runs),
    }
