"""stability: which normalisation inside Real NVP lets deep stacks train; every depth with each, on Ray Tune."""

import os
import sys

import torch

from flowvae.data.arrays import read_metadata
from pipeline import paths
from pipeline.files import write_csv
from pipeline.params import Params
from pipeline.placement import find_trial_placement
from pipeline.report.stability_figure import stability_figure
from pipeline.trials import SPEED, columns, describe


def run(params: Params) -> None:
    from pipeline.distributed.tuning import Sweep, run_sweep

    study, metadata = params.with_stability_as_sweep(), read_metadata(paths.PREPARED)
    placement = find_trial_placement(torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    rows = run_sweep(Sweep(study, metadata, paths.PREPARED.resolve(), placement))
    write_csv(paths.REPORTS / "stability.csv", rows, [*columns(study), SPEED])
    stability_figure(rows, describe(study, metadata), paths.FIGURES / "stability.png")
    for ended in (row for row in rows if row["status"] in ("failed", "diverged")):
        print(f"stability: {ended['trial']} {ended['status']}: {ended['reason']}", file=sys.stderr)
