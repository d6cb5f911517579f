"""Fit one variant with one seed in this process, alone or as one of several workers."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from flowvae.checkpoint import CheckpointFolder, Checkpoints, Interval
from flowvae.data.arrays import open_images
from flowvae.errors import InputError
from flowvae.training import epochs_for, fit
from flowvae.training_config import TrainingConfig
from flowvae.training_state import EpochRecord
from flowvae.vae import VAE, VAEConfig, build_vae
from flowvae.workers import Alone, Workers
from pipeline import paths
from pipeline.device import describe_device, keep_freed_memory, pick_device
from pipeline.files import write_text
from pipeline.progress import Stopwatch, TrainingProgress


@dataclass(frozen=True)
class Task:
    """One variant with one seed; plain data, to be sent to other processes.

    Args:
        key: of the run.
        vae: the model.
        training: the optimization.
        seed: of both.
        data: SHA-256 of each array, by name.
        prepared: the folder of the arrays.
        logs: the folder for what the run says.
        profile: whether to profile a step.
    """

    key: str
    vae: VAEConfig
    training: TrainingConfig
    seed: int
    data: Mapping[str, str]
    prepared: Path
    logs: Path
    profile: bool

    @property
    def run_id(self) -> str:
        """The key, and a hash of config, seed, data and code: runs that differ in any never share checkpoints."""
        depends_on = {
            "vae": self.vae.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "data": self.data,
            "code": code_hash(),
            "torch": torch.__version__,
        }
        return f"{self.key}-{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]}"


def code_hash() -> str:
    """SHA-256 over the sources of the library."""
    (root,) = map(Path, find_spec("flowvae").submodule_search_locations)
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Fitted:
    """What a training run leaves.

    Args:
        vae: on the CPU.
        records: the learning curve.
        images_per_second: since the run began or was resumed.
        device: in words.
        forget: removes the checkpoints, once all of this is safe.
    """

    vae: VAE
    records: list[EpochRecord]
    images_per_second: float
    device: str
    forget: Callable[[], None]


def fit_here(task: Task, interval: Interval) -> Fitted:
    """Fit in this process, from the last checkpoint of the same task if there is one."""
    device = pick_device()
    checkpoints = CheckpointFolder(paths.CHECKPOINTS / task.run_id, interval, on_damage=warn)
    vae, records, speed = fit_task(task, device, Alone(), checkpoints, speaks=True)
    return Fitted(vae.cpu(), records, speed, describe_device(device), checkpoints.remove)


def warn(line: str) -> None:
    print(f"train: {line}", file=sys.stderr, flush=True)


def fit_task(
    task: Task,
    device: torch.device,
    workers: Workers,
    checkpoints: Checkpoints,
    *,
    speaks: bool,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> tuple[VAE, list[EpochRecord], float]:
    """The trained model, its learning curve, and images/s.

    Args:
        task: what to fit.
        device: of this worker.
        workers: who shares the work.
        checkpoints: of the run.
        speaks: whether this worker is the one that shows progress and writes logs.
        on_epoch: called after each epoch of a worker that does not speak.

    Raises:
        InputError: the data are missing or damaged, or the device cannot do what the task wants.
        NonFiniteLossError: training diverged.
    """
    keep_freed_memory()
    check_precision(task.training.precision, device)
    images, valid = (open_images(task.prepared, split, device) for split in ("train", "valid"))
    vae = build_vae(task.vae, seed=task.seed).to(device)
    where = {"seed": task.seed, "workers": workers, "checkpoints": checkpoints}
    if not speaks:
        watch = Stopwatch(task.training.batch_size)
        records = fit(vae, images, valid, task.training, **where, on_step=watch.on_step, on_epoch=on_epoch)
        return vae, records, watch.images_per_second
    with TrainingProgress(task.key, task.logs, len(images), epochs_for(len(images), task.training)) as progress:
        profiler = StepProfiler(task.logs, task.key) if task.profile else None
        records = fit(
            vae,
            images,
            valid,
            task.training,
            **where,
            on_step=profiler.then(progress.on_step) if profiler else progress.on_step,
            on_epoch=progress.on_epoch,
            on_halving=progress.on_halving,
        )
    return vae, records, progress.images_per_second


class StepProfiler:
    """Profiles one step, once the first ones have warmed up.

    Args:
        logs: folder for KEY.profile.json, the trace for Perfetto, and KEY.profile.txt, the table of operations.
        key: of the run.
    """

    def __init__(self, logs: Path, key: str) -> None:
        self.trace, self.table = logs / f"{key}.profile.json", logs / f"{key}.profile.txt"
        self.calls = 0
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profile = torch.profiler.profile(activities=activities, record_shapes=True)

    def then(self, on_step: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """A callback that profiles the step after WARM_STEPS, and calls `on_step`."""

        def called(step: int, num_steps: int) -> None:
            self.calls += 1
            if self.calls == WARM_STEPS + 1:
                self.profile.stop()
                self.write()
            if self.calls == WARM_STEPS:
                self.profile.start()
            on_step(step, num_steps)

        return called

    def write(self) -> None:
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        write_text(self.table, self.profile.key_averages().table(sort_by=order, row_limit=30))
        self.profile.export_chrome_trace(str(self.trace))
        print(f"train: profile of one step in {self.table} and {self.trace}", flush=True)


WARM_STEPS = 10


def check_precision(precision: str, device: torch.device) -> None:
    """Raise InputError where bfloat16 would be emulated: slower than float32, and less exact."""
    if precision == "float32":
        return
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capable = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not capable:
        raise InputError(
            f"params.yaml: training.precision: bfloat16 is not in the hardware of this device ({device}); "
            "use float32, or a device that has it"
        )
