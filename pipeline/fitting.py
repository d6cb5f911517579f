"""Fit one variant with one seed in this process, alone or as one of several workers."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from flowvae.data.arrays import open_images
from flowvae.errors import InputError
from flowvae.files import sha256_of_files
from flowvae.model.loading import build_vae
from flowvae.model.settings import VAEConfig
from flowvae.model.vae import VAE
from flowvae.training.checkpoint import CheckpointFolder, Checkpoints, Interval
from flowvae.training.config import TrainingConfig
from flowvae.training.loop import epochs_for, fit
from flowvae.training.state import EpochRecord
from flowvae.training.workers import SingleWorker, Workers
from pipeline import paths
from pipeline.device import device_text, keep_freed_memory, pick_device
from pipeline.running.profiling import StepProfiler
from pipeline.running.progress import Stopwatch, TrainingProgress, warn

# The code that the result of training depends on: what the stage `train` lists in dvc.yaml, without the stage itself.
TRAINING_CODE = (
    "flowvae/model",
    "flowvae/data",
    "flowvae/training",
    "flowvae/config.py",
    "flowvae/files.py",
    "flowvae/randomness.py",
    "pipeline/fitting.py",
    "pipeline/device.py",
    "pipeline/files.py",
    "pipeline/distributed/training.py",
    "pipeline/distributed/workers.py",
)


@dataclass(frozen=True)
class RunSpec:
    """One variant with one seed, as plain data that can be sent to other processes.

    Args:
        name: of the run.
        vae: the model.
        training: the optimization.
        seed: of both.
        data: SHA-256 of each array, by name.
        prepared: folder of the arrays.
        logs: folder for the log files.
        profile: whether to profile a step.
    """

    name: str
    vae: VAEConfig
    training: TrainingConfig
    seed: int
    data: Mapping[str, str]
    prepared: Path
    logs: Path
    profile: bool

    @property
    def run_id(self) -> str:
        """The name and a hash of config, seed, data and code: runs that differ in any never share checkpoints."""
        depends_on = {
            "vae": self.vae.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "data": self.data,
            "code": code_hash(TRAINING_CODE),
            "torch": torch.__version__,
        }
        return f"{self.name}-{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]}"


def code_hash(code: Sequence[str], root: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 over sources: editing other code keeps the checkpoints and results that are stored under it.

    Args:
        code: files and folders, relative to the project's folder.
        root: the project's folder.
    """
    files = [file for part in code for file in (sorted((root / part).rglob("*.py")) or [root / part])]
    return sha256_of_files(root, [file.relative_to(root).as_posix() for file in files])


@dataclass(frozen=True)
class FittedRun:
    """The result of training.

    Args:
        vae: the trained model.
        records: the learning curve.
        images_per_second: since the run was started or resumed.
        device: description.
    """

    vae: VAE
    records: list[EpochRecord]
    images_per_second: float
    device: str


def fit_locally(spec: RunSpec, checkpoints: Checkpoints) -> FittedRun:
    """Fit in this process, from the last checkpoint of the same run if there is one."""
    fitted = fit_run(spec, pick_device(), SingleWorker(), checkpoints, is_main=True)
    fitted.vae.cpu()
    return fitted


def local_checkpoints(spec: RunSpec, interval: Interval) -> CheckpointFolder:
    """Checkpoints of a run in the project's folder."""
    return CheckpointFolder(paths.CHECKPOINTS / spec.run_id, interval, on_damage=warn)


def fit_run(
    spec: RunSpec,
    device: torch.device,
    workers: Workers,
    checkpoints: Checkpoints,
    *,
    is_main: bool,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> FittedRun:
    """Fit as one of the workers.

    Args:
        spec: what to fit.
        device: of this worker.
        workers: who share the batches.
        checkpoints: of the run.
        is_main: whether this worker reports progress and writes logs.
        on_epoch: called after each epoch by a worker that is not the main one.

    Raises:
        InputError: the data are missing or damaged, or the device does not support what the run needs.
        NonFiniteLossError: training diverged.
    """
    keep_freed_memory()
    check_precision(spec.training.precision, device)
    images, valid = (open_images(spec.prepared, split, device) for split in ("train", "valid"))
    vae = build_vae(spec.vae, seed=spec.seed).to(device)
    train = partial(fit, vae, images, valid, spec.training, seed=spec.seed, workers=workers, checkpoints=checkpoints)
    if not is_main:
        watch = Stopwatch(spec.training.batch_size)
        records = train(on_step=watch.on_step, on_epoch=on_epoch)
        return FittedRun(vae, records, watch.images_per_second, device_text(device))
    with TrainingProgress(spec.name, spec.logs, len(images), epochs_for(len(images), spec.training)) as progress:
        on_step = StepProfiler(spec.logs, spec.name).then(progress.on_step) if spec.profile else progress.on_step
        records = train(on_step=on_step, on_epoch=progress.on_epoch, on_halving=progress.on_halving)
    return FittedRun(vae, records, progress.images_per_second, device_text(device))


def check_precision(precision: str, device: torch.device) -> None:
    """Raise InputError if bfloat16 would be emulated, which is slower than float32 and less exact."""
    if precision == "float32":
        return
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not supported:
        raise InputError(
            f"params.yaml: training.precision: the hardware of this device ({device}) does not support bfloat16; "
            "use float32, or another device"
        )
