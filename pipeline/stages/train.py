"""train: fit one variant with one seed, and keep the weights that were best on validation."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, fields

import torch

from flowvae.data.arrays import read_info
from flowvae.errors import InputError
from flowvae.training.loop import NonFiniteLossError, epochs_for
from flowvae.training.state import EpochRecord
from pipeline import paths
from pipeline.files import write_csv, write_json
from pipeline.fitting import FittedRun, RunSpec, fit_locally, local_checkpoints
from pipeline.params.schema import Params, run_name
from pipeline.running.placement import Placement, find_placement
from pipeline.running.progress import write_diagnostics
from pipeline.running.timings import EPOCH_TIMES, record_timing


def run(params: Params, variant: str, seed: int, workers: str | None = None, profile: bool = False) -> None:
    """Write the model, its protocol and its learning curve.

    Args:
        params: of the project.
        variant: a key of `variants`.
        seed: one of `seeds`.
        workers: of the command line: 2, or 1-4; None to read the environment.
        profile: whether to profile one step.

    Raises:
        InputError: params.yaml does not declare the run, its input is damaged, or training diverged.
    """
    params.check_run(variant, seed)
    placement = find_placement(workers, torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    data = {split: read_info(paths.PREPARED, split) for split in ("train", "valid")}
    spec = RunSpec(
        name=run_name(variant, seed),
        vae=params.vae_config(variant, data["train"].image_shape),
        training=params.training,
        seed=seed,
        data={split: info.sha256 for split, info in data.items()},
        prepared=paths.PREPARED.resolve(),
        logs=(paths.LOGS / "train").resolve(),
        profile=profile,
    )
    print(f"{spec.name}  on {placement.text()}", flush=True)
    started = time.monotonic()
    try:
        fitted, remove_checkpoints = fit_at(placement, spec)
    except NonFiniteLossError as error:
        path = write_diagnostics(paths.LOGS / "train", spec.name, error)
        raise InputError(
            f"{spec.name}: {error}; norms per layer are in {path}; try a lower training.learning_rate"
        ) from error
    seconds = time.monotonic() - started
    folder = paths.MODELS / spec.name
    fitted.vae.save(folder)
    protocol = {
        "variant": variant,
        "seed": seed,
        **params.variants[variant].model_dump(),
        "model": params.model.model_dump(),
        "epochs": epochs_for(data["train"].shape[0], params.training),
        "training": params.training.model_dump(),
        "data": {split: info.model_dump() for split, info in data.items()},
    }
    write_json(folder / "training.json", protocol)
    records, columns = list(map(asdict, fitted.records)), [field.name for field in fields(EpochRecord) if field.compare]
    write_csv(paths.CURVES / f"{spec.name}.csv", records, columns)  # without the times, which are not reproducible
    write_csv(paths.EPOCH_TIMES / f"{spec.name}.csv", records, EPOCH_TIMES)
    remove_checkpoints()
    record_timing(
        "train",
        spec.name,
        seconds=seconds,
        images_per_second=fitted.images_per_second,
        device=fitted.device,
        placement=placement.text(),
    )


def fit_at(placement: Placement, spec: RunSpec) -> tuple[FittedRun, Callable[[], None]]:
    """Train in this process or on Ray's workers.

    Returns:
        The result, and a function that removes the checkpoints once the result is stored.
    """
    if placement.workers:
        from pipeline.distributed.training import fit_on_ray, run_storage

        storage = run_storage(spec, placement)
        return fit_on_ray(spec, placement, storage), storage.remove
    if placement.is_storage_set:
        from pipeline.distributed.stored_checkpoints import stored_checkpoints

        stored = stored_checkpoints(placement, spec.run_id)
        return fit_locally(spec, stored), stored.remove
    checkpoints = local_checkpoints(spec, placement.interval)
    return fit_locally(spec, checkpoints), checkpoints.remove
