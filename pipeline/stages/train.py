"""train: fit one variant with one seed, and keep the weights that were best on validation."""

import os
import time
from dataclasses import asdict, fields

import torch

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.training import NonFiniteLossError, epochs_for
from flowvae.training_state import EpochRecord
from flowvae.weights import save
from pipeline import paths
from pipeline.files import write_csv, write_json
from pipeline.fitting import Task, fit_here
from pipeline.params import Params, run_key
from pipeline.placement import find_placement
from pipeline.progress import write_dump
from pipeline.timings import record_timing


def run(params: Params, variant: str, seed: int, workers: str | None = None, profile: bool = False) -> None:
    params.check_run(variant, seed)
    placement = find_placement(workers, torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    metadata = read_metadata(paths.PREPARED)
    task = Task(
        key=run_key(variant, seed),
        vae=params.vae_config(variant, metadata.image_shape),
        training=params.training,
        seed=seed,
        data=metadata.sha256,
        prepared=paths.PREPARED.resolve(),
        logs=(paths.LOGS / "train").resolve(),
        profile=profile,
    )
    print(f"{task.key}  on {placement.describe()}", flush=True)
    started = time.monotonic()
    try:
        if placement.workers is None:
            fitted = fit_here(task, placement.interval)
        else:
            from pipeline.distributed.training import fit_on_ray

            fitted = fit_on_ray(task, placement)
    except NonFiniteLossError as error:
        dump = write_dump(paths.LOGS / "train", task.key, error)
        raise InputError(
            f"{task.key}: {error}; norms per layer are in {dump}; try a lower training.learning_rate"
        ) from error
    seconds = time.monotonic() - started
    num_epochs = epochs_for(metadata.counts["train"], params.training)
    save(paths.MODELS / task.key, fitted.vae, task.vae)
    protocol = {
        "variant": variant,
        "seed": seed,
        "flow": task.vae.flow.model_dump(),
        "model": task.vae.model.model_dump(),
        "epochs": num_epochs,
        "training": params.training.model_dump(),
        "data": metadata.model_dump(),
    }
    write_json(paths.MODELS / task.key / "training.json", protocol)
    columns = [field.name for field in fields(EpochRecord)]
    write_csv(paths.CURVES / f"{task.key}.csv", map(asdict, fitted.records), columns)
    fitted.forget()
    record_timing(
        "train",
        task.key,
        seconds=seconds,
        images_per_second=fitted.images_per_second,
        device=fitted.device,
        placement=placement.describe(),
    )
