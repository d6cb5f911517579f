"""study: train and score every trial of one study on Ray Tune, and write the best one of each family as a preset."""

import io
import sys
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import write_csv, write_text
from pipeline.params.schema import SIDES, Params
from pipeline.params.trees import nested, overlay
from pipeline.study.points import Study
from pipeline.study.trials import THROUGHPUT, VALIDATION, columns

TrialRow = dict[str, Any]


def run(params: Params, name: str) -> None:
    """Write the rows of all trials, and the preset.

    Raises:
        InputError: params.yaml declares no such study, or no trial finished.
    """
    from pipeline.distributed.tuning import StudyRun, run_study

    params.check_study(name)
    study = Study(name, params)
    rows = run_study(StudyRun.from_environment(study))
    table = paths.STUDIES / f"{name}.csv"
    write_csv(table, rows, columns(study))
    # Not an output of the stage: throughput differs from run to run.
    write_csv(paths.TIMINGS / "study" / f"{name}.csv", rows, ["trial", THROUGHPUT])
    warn_about_unfinished(name, rows)
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise InputError(f"no trial of {name} finished; the reasons are above and in {table}")
    text = io.StringIO()
    YAML().dump(best_preset(study, finished), text)
    write_text(paths.STUDIES / f"{name}.yaml", text.getvalue())


def warn_about_unfinished(name: str, rows: Sequence[TrialRow]) -> None:
    """Print one line for each trial that failed or diverged."""
    for row in rows:
        if row["status"] in ("failed", "diverged"):
            print(f"study: {row['trial']} {row['status']}: {row['reason']}", file=sys.stderr)
    if any(row["status"] == "failed" for row in rows):
        print(f"study: run dvc repro -f study@{name} to retry failed trials", file=sys.stderr)


def best_preset(study: Study, finished: Sequence[TrialRow]) -> dict[str, Any]:
    """The best variant of each family on validation; other values are those of the best trial of all."""
    variants = {}
    for family in study.config.families:
        if members := [row for row in finished if row["family"] == family]:
            variants[family] = variant(study, best(members))
    reference, winner = next(iter(variants)), best(finished)
    preset = {
        "variants": variants,
        "interpolation": {"left": reference, "right": winner["family"]},
        "report": {"reference": reference},
    }
    return preset | {section: value for section, value in varied(study, winner).items() if section not in SIDES}


def best(rows: Sequence[TrialRow]) -> TrialRow:
    """The row with the lowest −ELBO on validation."""
    return min(rows, key=lambda row: row[VALIDATION])


def variant(study: Study, row: TrialRow) -> dict[str, Any]:
    """The flows of a trial, as a variant."""
    flows = study.config.families[row["family"]][row["num_transforms"]].model_dump(mode="json")
    return overlay(flows, {side: values for side, values in varied(study, row).items() if side in SIDES})


def varied(study: Study, row: TrialRow) -> dict[str, Any]:
    """The values of a trial that the study varies, by section."""
    return nested({path: row[path] for path in study.config.over})
