"""sweep: train and score every trial that params.yaml declares, and the best one of each family."""

import io
from typing import Any

from ruamel.yaml import YAML

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import write_csv, write_text
from pipeline.params import Params
from pipeline.points import nested
from pipeline.preset import overlay
from pipeline.report.depth import depth_figure
from pipeline.trials import SPEED, columns, describe, warn_of_unfinished


def run(params: Params) -> None:
    from pipeline.distributed.tuning import Sweep, run_sweep

    sweep = Sweep.here(params)
    rows = run_sweep(sweep)
    table = [{name: value for name, value in row.items() if name != SPEED} for row in rows]
    write_csv(paths.REPORTS / "sweep.csv", table, columns(params))
    flows = {name: family.flow["flow"] for name, family in params.sweep.chosen.families.items()}
    depth_figure(rows, flows, sweep.metadata, describe(params, sweep.metadata), paths.FIGURES / "sweep.png")
    warn_of_unfinished(params, rows)
    text = io.StringIO()
    YAML().dump(best(params, rows), text)
    write_text(paths.REPORTS / "sweep_best.yaml", text.getvalue())


def best(params: Params, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A preset: each family's depth and flow that were best on validation, other values from the best trial of all."""
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise InputError("no trial finished; the reasons are above and in reports/sweep.csv")
    variants = {}
    for name, family in params.sweep.chosen.families.items():
        members = [row for row in finished if row["family"] == name]
        if members:
            best_of_family = min(members, key=validation)
            chosen = values(params, best_of_family).get("flow", {})
            variants[name] = overlay(family.flow, chosen) | {"num_transforms": best_of_family["num_transforms"]}
    winner = min(finished, key=validation)
    preset = {
        "variants": variants,
        "interpolation": {"left": next(iter(variants)), "right": winner["family"]},
        "report": {"reference": next(iter(variants))},
    }
    return preset | {name: value for name, value in values(params, winner).items() if name != "flow"}


def values(params: Params, row: dict[str, Any]) -> dict[str, Any]:
    """Of what the sweep varies, by section."""
    return nested({path: row[path] for path in params.sweep.chosen.over})


def validation(row: dict[str, Any]) -> float:
    return row["valid_negative_elbo"]
