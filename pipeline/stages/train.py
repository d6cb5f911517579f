"""train: fit one variant with one seed, and keep the weights that were best on validation."""

import time
from dataclasses import asdict, fields

from flowvae.checkpoint import save
from flowvae.data.arrays import open_images, read_metadata
from flowvae.errors import InputError
from flowvae.training import EpochRecord, NonFiniteLossError, epochs_for, fit
from flowvae.vae import build_vae
from pipeline import paths
from pipeline.device import pick_device
from pipeline.files import write_csv, write_json
from pipeline.params import Params, run_key
from pipeline.progress import TrainingProgress
from pipeline.timings import record_timing


def run(params: Params, variant: str, seed: int) -> None:
    key = run_key(variant, seed)
    params.check_run(variant, seed)
    device = pick_device()
    images, valid = (open_images(paths.PREPARED, split, device) for split in ("train", "valid"))
    config = params.vae_config(variant, images.image_shape)
    vae = build_vae(config, seed=seed).to(device)
    num_epochs = epochs_for(len(images), params.training)
    started = time.monotonic()
    with TrainingProgress(key, paths.LOGS / "train" / f"{key}.log", len(images), num_epochs) as progress:
        try:
            records = fit(
                vae,
                images,
                valid,
                params.training,
                seed=seed,
                on_step=progress.on_step,
                on_epoch=progress.on_epoch,
            )
        except NonFiniteLossError as error:
            raise stopped(key, error) from error
    seconds = time.monotonic() - started
    save(paths.MODELS / key, vae, config)
    protocol = {
        "variant": variant,
        "seed": seed,
        "flow": config.flow.model_dump(),
        "model": config.model.model_dump(),
        "epochs": num_epochs,
        "training": params.training.model_dump(),
        "data": read_metadata(paths.PREPARED).model_dump(),
    }
    write_json(paths.MODELS / key / "training.json", protocol)
    write_csv(paths.CURVES / f"{key}.csv", map(asdict, records), [field.name for field in fields(EpochRecord)])
    num_images = num_epochs * len(images)
    record_timing("train", key, seconds=seconds, images_per_second=num_images / seconds, device=device)


def stopped(key: str, error: NonFiniteLossError) -> InputError:
    """One line for the user, and the dump in a file."""
    dump = paths.LOGS / "train" / f"{key}.non_finite.json"
    write_json(dump, error.dump)
    return InputError(f"{key}: {error}; norms per layer are in {dump}; try a lower training.learning_rate")
