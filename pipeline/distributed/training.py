"""Training on Ray Train's workers."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowvae.checkpoint import KEPT, Checkpoint, Clock, Interval, write_checkpoint
from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.statistics import batch_statistics
from flowvae.training import NonFiniteLossError
from flowvae.training_state import EpochRecord
from flowvae.vae import build_vae
from flowvae.workers import Alone, Workers
from pipeline.device import describe_device
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.cluster import connect
from pipeline.distributed.storage import Storage, StorageError
from pipeline.fitting import Fitted, Task, fit_task
from pipeline.placement import Placement

EPOCH, METRIC = "epoch", "valid_negative_elbo"  # what trials report
STEPS_BETWEEN_LOOKS = 10  # at the clock, whose answer all workers must share


def fit_on_ray(task: Task, placement: Placement) -> Fitted:
    """Fit on Ray's workers, from the last checkpoint of the same task if there is one.

    A worker or node that dies makes Ray start the group again from the last checkpoint, with as many
    workers as there is room for. A driver that dies is simply run again.

    Raises:
        InputError: Ray cannot be reached, the run failed too often, or a worker met a mistake of the user's.
        NonFiniteLossError: training diverged.
    """
    if placement.address:
        share_arrays(task.prepared, placement.storage)
    connect(placement)
    try:
        return fit_group(task, placement, Storage.of(placement.storage, task.run_id))
    finally:
        ray.shutdown()


def fit_group(task: Task, placement: Placement, storage: Storage, on_report: UserCallback | None = None) -> Fitted:
    """Fit on a group of workers of the cluster that this process is connected to.

    Args:
        task: what to fit; its arrays are in `prepared` on this node.
        placement: of the group.
        storage: of the run.
        on_report: if given, the run is a trial: it says nothing in the terminal, and this hears of each epoch.

    Raises:
        InputError: the run failed too often, or a worker met a mistake of the user's.
        NonFiniteLossError: training diverged.
    """
    try:
        result = trainer(task, placement, storage, on_report).fit()
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{task.key}: Ray gave up after {placement.max_failures} failures of its workers ({reason}); "
            f"its checkpoints are in {placement.storage}; run again to go on"
        ) from error
    outcome = result.return_value
    if isinstance(outcome, Exception):
        raise outcome
    weights, *rest = outcome
    vae = build_vae(task.vae, seed=task.seed)
    vae.load_state_dict(load_tensors(weights))
    return Fitted(vae, *rest, forget=storage.remove)


def trainer(
    task: Task, placement: Placement, storage: Storage, on_report: UserCallback | None
) -> ray.train.torch.TorchTrainer:
    low, high = placement.workers
    resources = {"CPU": placement.cpus_per_worker} | ({"GPU": 1} if placement.use_gpu else {})
    return ray.train.torch.TorchTrainer(
        work,
        train_loop_config={
            "task": task,
            "metadata": read_metadata(task.prepared),
            "placement": placement,
            "storage": storage,
            "is_trial": on_report is not None,
        },
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu=placement.use_gpu,
            resources_per_worker=resources,
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if placement.use_gpu else "gloo"),
        run_config=RunConfig(
            name=storage.new_start(),
            storage_path=storage.folder,
            storage_filesystem=storage.filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
            failure_config=FailureConfig(max_failures=placement.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[on_report] if on_report else [],
        ),
    )


def work(config: dict[str, Any]) -> tuple[bytes, list[EpochRecord], float, str] | Exception | None:
    """What each worker does; the first one returns what it has trained, or the mistake that no restart would mend.

    Weights go as the bytes of a safetensors file: Ray Train refuses to return tensors.
    """
    task, placement = config["task"], config["placement"]
    first = ray.train.get_context().get_world_rank() == 0
    how = {"speaks": False, "on_epoch": report_epoch} if config["is_trial"] else {"speaks": first}
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    else:
        torch.set_num_threads(placement.cpus_per_worker)
    checkpoints = RayCheckpoints(placement.interval, config["storage"])
    try:
        task = replace(task, prepared=local_arrays(task.prepared, config["metadata"], placement))
        vae, records, speed = fit_task(task, device, workers_here(), checkpoints, **how)
    except StorageError:
        raise  # the next start of the group may find it mended
    except (InputError, NonFiniteLossError) as error:
        return error
    if not first:
        return None
    weights = {name: value.contiguous() for name, value in vae.cpu().state_dict().items()}
    return save_tensors(weights), records, speed, describe_device(device)


def report_epoch(record: EpochRecord) -> None:
    """To the callback of a trial; all workers call it."""
    ray.train.report({EPOCH: record.epoch, METRIC: record.valid_negative_elbo})


@dataclass(frozen=True)
class RayWorkers(Workers):
    """The workers of a group, under torch's DistributedDataParallel.

    Args:
        rank: of this one.
        count: of all.
    """

    rank: int
    count: int

    def share(self, num_images: int) -> slice:
        each, rest = divmod(num_images, self.count)
        start = self.rank * each + min(self.rank, rest)
        return slice(start, start + each + (self.rank < rest))

    def replicate(self, vae: nn.Module) -> nn.Module:
        for statistics in batch_statistics(vae):
            statistics.sum_over_workers = AllReduce.apply
        how = {"gradient_as_bucket_view": True, "broadcast_buffers": False}  # they are alike on all workers
        return ray.train.torch.prepare_model(vae, parallel_strategy_kwargs=how)

    def loss(self, values: Tensor, batch_size: int) -> Tensor:
        return values.sum() * (self.count / batch_size)  # DistributedDataParallel divides by count

    def accumulate(self, model: nn.Module) -> AbstractContextManager[None]:
        return model.no_sync()

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total


class AllReduce(torch.autograd.Function):
    """The sum of every worker's tensor; what a worker adds to it has the sum of every worker's gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total


def workers_here() -> Workers:
    """The group that this Ray worker belongs to; alone, it computes exactly what a plain process does."""
    context = ray.train.get_context()
    count = context.get_world_size()
    return Alone() if count == 1 else RayWorkers(context.get_world_rank(), count)


class RayCheckpoints:
    """Checkpoints that the first worker reports to Ray, which puts them into storage.

    Args:
        interval: between two.
        storage: of the run.
    """

    def __init__(self, interval: Interval, storage: Storage) -> None:
        self.clock, self.looked, self.storage = Clock(interval), 0, storage
        self.context = ray.train.get_context()

    def latest(self) -> Checkpoint | None:
        first = self.context.get_world_rank() == 0
        found, checkpoint = self.storage.newest() if first else (None, None)
        path = ray.train.collective.broadcast_from_rank_zero(found)
        if path is None:
            return None
        checkpoint = checkpoint or self.storage.checkpoint(path)
        self.clock.reset(checkpoint.step)
        self.looked = checkpoint.step
        return checkpoint

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        if not self._due(step):
            return
        self.clock.reset(step)
        checkpoint = capture()
        if self.context.get_world_rank() != 0:
            ray.train.report({"step": step})
            return
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), checkpoint)
            ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _due(self, step: int) -> bool:
        """The same answer on all workers."""
        if self.clock.interval.unit == "steps":
            return self.clock.due(step)
        if step - self.looked < STEPS_BETWEEN_LOOKS:
            return False
        self.looked = step
        if self.context.get_world_size() == 1:
            return self.clock.due(step)
        answer = torch.tensor(self.clock.due(step), dtype=torch.uint8, device=ray.train.torch.get_device())
        torch.distributed.broadcast(answer, 0)
        return bool(answer)
