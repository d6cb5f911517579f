"""report: the table, the figures and the page."""

from collections.abc import Sequence
from pathlib import Path

from flowvae.data.arrays import read_metadata
from pipeline import paths
from pipeline.files import read_json, write_csv, write_text
from pipeline.params.schema import Params
from pipeline.report.figures.diagnostics import diagnostics_figure
from pipeline.report.figures.study import study_figure
from pipeline.report.figures.variants import curves_against_time, gains_against_depth, learning_curves
from pipeline.report.html import html_page
from pipeline.report.latents import read_latents
from pipeline.report.page import AGAINST_TIME, STUDY_FIGURES, Report, markdown_page
from pipeline.report.runs import ScoredRun, epoch_times, read_runs
from pipeline.report.studies import read_studies
from pipeline.report.table import summarize


def run(params: Params) -> None:
    """Write the table, the figures and the pages.

    Raises:
        InputError: a result is missing or damaged, or two runs followed different protocols.
    """
    metadata = read_metadata(paths.PREPARED)
    runs = read_runs(params, metadata)
    rows, studies = summarize(runs, params.report.reference), read_studies(params, metadata)
    table = [run.row() for run in runs]
    write_csv(paths.REPORTS / "results.csv", table, table[0])
    learning_curves(runs, paths.FIGURES / "learning_curves.png")
    gains_against_depth(rows, paths.FIGURES / "gains_against_depth.png")
    diagnostics_figure(runs, paths.FIGURES / "diagnostics.png")
    STUDY_FIGURES.mkdir(parents=True, exist_ok=True)  # an output of the stage, even without studies
    for study in studies:
        study_figure(study, metadata, STUDY_FIGURES / f"{study.name}.png")
    report = Report(params, runs, rows, studies, read_latents(params), metadata)
    write_text(paths.REPORTS / "results.md", markdown_page(report))
    write_text(paths.REPORTS / "index.html", html_page(report))
    collect_timings(runs)
    draw_times(runs, AGAINST_TIME)


def collect_timings(runs: Sequence[ScoredRun]) -> None:
    """Write reports/timings.csv. It is not an output of the stage, because times differ from run to run."""
    rows = []
    for run in runs:
        for stage in ("train", "evaluate"):
            path = paths.TIMINGS / stage / f"{run.name}.json"
            if path.exists():  # absent if the result came from a cache
                rows.append({"stage": stage, "variant": run.variant, "seed": run.seed} | read_json(path))
    if rows:
        write_csv(paths.REPORTS / "timings.csv", rows, rows[0])


def draw_times(runs: Sequence[ScoredRun], path: Path) -> None:
    """Draw the learning curves against time. As timings.csv, the figure is not an output of the stage."""
    path.unlink(missing_ok=True)
    if seconds := epoch_times(runs):
        curves_against_time(runs, seconds, path)
