"""report: the table, the figures and the page."""

from pipeline import paths
from pipeline.files import read_json, write_csv, write_text
from pipeline.params import Params, run_key
from pipeline.report.figures import learning_curves, nll_against_depth
from pipeline.report.page import html_page, markdown_page
from pipeline.report.runs import COLUMNS, Run, read_runs
from pipeline.report.table import summarize


def run(params: Params) -> None:
    runs = read_runs(params)
    rows = summarize(runs, params.report.reference)
    write_csv(paths.REPORTS / "results.csv", [run.row() for run in runs], COLUMNS)
    learning_curves(runs, paths.FIGURES / "learning_curves.png")
    nll_against_depth(rows, paths.FIGURES / "nll_against_depth.png")
    write_text(paths.REPORTS / "results.md", markdown_page(params, runs, rows))
    write_text(paths.REPORTS / "index.html", html_page(params, runs, rows))
    collect_timings(runs)


def collect_timings(runs: list[Run]) -> None:
    """reports/timings.csv: no output of the stage, since times differ from run to run."""
    rows = []
    for run in runs:
        for stage in ("train", "evaluate"):
            path = paths.TIMINGS / stage / f"{run_key(run.variant, run.seed)}.json"
            if path.exists():  # absent where the result came from a cache
                rows.append({"stage": stage, "variant": run.variant, "seed": run.seed} | read_json(path))
    if rows:
        write_csv(paths.REPORTS / "timings.csv", rows, rows[0])
