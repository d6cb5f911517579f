"""The description of a run that trackers receive before training, and the results that they receive after a stage."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flowvae.data.arrays import read_info
from pipeline import paths
from pipeline.files import read_csv, read_json
from pipeline.fitting import RunSpec
from pipeline.params.schema import Params, run_name
from pipeline.running.timings import git_revision
from pipeline.running.trackers import RUN, Trackers, prepare_clients, requested_trackers
from pipeline.running.trackers.tracker import TrackedRun, Value

TRACKED = ("train", "evaluate", "study")
TIMED = ("seconds", "images_per_second", "device", "placement")  # of timings/STAGE/NAME.json


@contextmanager
def tracked(stage: str, params: Params, options: Mapping[str, Any]) -> Iterator[None]:
    """Let the trackers of FLOWVAE_TRACKER follow a stage.

    Args:
        stage: its name.
        params: of the project.
        options: of the stage.

    Raises:
        InputError: FLOWVAE_TRACKER or the settings of a client are invalid, or the stage will not find its input.
    """
    names = requested_trackers(os.environ)
    if not names or stage not in TRACKED:
        yield
        return
    prepare_clients(names, Path.cwd())
    if stage == "study":  # whose trials are runs
        yield
        return
    spec = run_spec(params, options["variant"], options["seed"])
    variant = {"variant": options["variant"]}
    run = TrackedRun(names, spec.run_id, spec.name, options["variant"], False, variant | config_of(spec))
    os.environ[RUN] = run.to_json()  # which reaches the process that trains
    yield
    run = TrackedRun.from_json(os.environ[RUN])
    trackers = Trackers(run, lambda line: print(f"{stage}: {line}", file=sys.stderr, flush=True))
    if stage == "train":
        rows = read_csv(paths.CURVES / f"{run.name}.csv")
        trackers.complete([{column: float(value) for column, value in row.items()} for row in rows])
    else:
        scores = read_json(paths.METRICS / f"{run.name}.json")
        trackers.add(scores_of(scores, scores))
    timing = read_json(paths.TIMINGS / stage / f"{run.name}.json")
    trackers.add({f"{stage}_{name}": timing[name] for name in TIMED})
    trackers.close()


def run_spec(params: Params, variant: str, seed: int) -> RunSpec:
    """What the stage `train` fits. Its id, under which checkpoints are stored, is that of the run in trackers.

    Raises:
        InputError: params.yaml does not declare the run, or its data are missing or damaged.
    """
    params.check_run(variant, seed)
    data = {split: read_info(paths.PREPARED, split) for split in ("train", "valid")}
    return RunSpec(
        name=run_name(variant, seed),
        vae=params.vae_config(variant, data["train"].image_shape),
        training=params.training,
        seed=seed,
        data={split: info.sha256 for split, info in data.items()},
        prepared=paths.PREPARED,
        logs=paths.LOGS,
        profile=False,
    )


def config_of(spec: RunSpec) -> dict[str, Any]:
    """The settings of a run, and what else its result depends on."""
    return {
        "seed": spec.seed,
        "model": spec.vae.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
        "data": dict(spec.data),
        "torch": torch.__version__,
        "git_revision": git_revision(),
    }


def scores_of(values: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    """Scores on the test set under names that say so."""
    return {f"test_{name}": values[name] for name in names}
