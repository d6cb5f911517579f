"""stability: which normalisation inside Real NVP lets deep stacks train; every depth with each, on Ray Tune."""

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import write_csv
from pipeline.params import Params
from pipeline.report.stability_figure import stability_figure
from pipeline.trials import SPEED, columns, describe, warn_of_unfinished


def run(params: Params) -> None:
    from pipeline.distributed.tuning import Sweep, run_sweep

    study = Sweep.here(params.with_stability_as_sweep())
    rows = run_sweep(study)
    write_csv(paths.REPORTS / "stability.csv", rows, [*columns(study.params), SPEED])
    stability_figure(rows, describe(study.params, study.metadata), paths.FIGURES / "stability.png")
    warn_of_unfinished(study.params, rows)
    if all(row["status"] == "failed" for row in rows):
        raise InputError("no trial was trained; the reasons are above and in reports/stability.csv")
