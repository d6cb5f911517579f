"""sweep: train and score every trial that params.yaml declares, and the best one of each family."""

import io
import os
import sys
from typing import Any

import torch
from ruamel.yaml import YAML

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import write_csv, write_text
from pipeline.params import Params
from pipeline.placement import find_trial_placement
from pipeline.points import Point, families_depths_seeds, nested, resolve
from pipeline.report.depth import depth_figure
from pipeline.report.table import describe_values
from pipeline.trials import columns


def run(params: Params) -> None:
    from pipeline.distributed.tuning import Sweep, run_sweep

    budget, metadata = params.sweep.chosen, read_metadata(paths.PREPARED)
    placement = find_trial_placement(torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    rows = run_sweep(Sweep(params, metadata, paths.PREPARED.resolve(), placement))
    write_csv(paths.REPORTS / "sweep.csv", rows, columns(params))
    flows = {name: family.flow["flow"] for name, family in budget.families.items()}
    depth_figure(rows, flows, metadata, describe(params, metadata), paths.FIGURES / "sweep.png")
    for failed in (row for row in rows if row["status"] == "failed"):
        print(f"sweep: {failed['trial']} failed: {failed['reason']}", file=sys.stderr)
    text = io.StringIO()
    YAML().dump(best(params, rows), text)
    write_text(paths.REPORTS / "sweep_best.yaml", text.getvalue())


def describe(params: Params, metadata: Metadata) -> str:
    """What all trials have in common, for the figure."""
    budget = params.sweep.chosen
    first = resolve(params, Point(*families_depths_seeds(params)[0], {}))
    several = len(budget.seeds) > 1
    seeds = f"seeds {', '.join(map(str, budget.seeds))}" if several else f"seed {budget.seeds[0]}"
    interval = "bars: 95% intervals over seeds" if several else "one seed, so no intervals"
    return (
        f"Sweep {params.sweep.budget!r}: {metadata.dataset}, {describe_values(metadata.binarization)}\n"
        f"{first['training'].epochs} epochs of {metadata.counts['train']:,} images, {seeds} ({interval})"
    )


def best(params: Params, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A preset: the depth of each family that was best on validation, and the other values of the best trial of all."""
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise InputError("no trial finished; the reasons are above and in reports/sweep.csv")
    variants = {}
    for name, family in params.sweep.chosen.families.items():
        members = [row for row in finished if row["family"] == name]
        if members:
            depth = min(members, key=validation)["num_transforms"]
            variants[name] = family.flow | {"num_transforms": depth}
    winner = min(finished, key=validation)
    preset = {
        "variants": variants,
        "interpolation": {"left": next(iter(variants)), "right": winner["family"]},
        "report": {"reference": next(iter(variants))},
    }
    return preset | nested({path: winner[path] for path in params.sweep.chosen.over})


def validation(row: dict[str, Any]) -> float:
    return row["valid_negative_elbo"]
