"""Training on Ray Train's workers."""

from dataclasses import dataclass, replace
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

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.errors import InputError
from flowvae.model.loading import build_vae
from flowvae.training.checkpoint import NUM_KEPT
from flowvae.training.loop import NonFiniteLossError
from flowvae.training.state import EpochRecord
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.checkpoints import RayCheckpoints
from pipeline.distributed.cluster import connect
from pipeline.distributed.driver_code import check_code_of_group
from pipeline.distributed.storage import Storage, StorageError
from pipeline.distributed.workers import current_workers
from pipeline.fitting import FittedRun, RunSpec, fit_run
from pipeline.running.placement import Placement

EPOCH, METRIC = "epoch", "valid_negative_elbo"  # what trials report


@dataclass(frozen=True)
class GroupConfig:
    """What each worker of a group needs.

    Args:
        spec: what to fit.
        metadata: of the data.
        placement: of the group.
        storage: of the run.
        is_trial: whether the run belongs to a study: it prints nothing, and reports each epoch.
    """

    spec: RunSpec
    metadata: Metadata
    placement: Placement
    storage: Storage
    is_trial: bool


def run_storage(spec: RunSpec, placement: Placement) -> Storage:
    """Folder of a run in storage."""
    return Storage.of(placement.storage, spec.run_id)


def fit_on_ray(spec: RunSpec, placement: Placement, storage: Storage) -> FittedRun:
    """Fit on Ray's workers, from the last checkpoint of the same run if there is one.

    If a worker or node dies, Ray restarts the group from the last checkpoint, with as many workers as there is room
    for. If the driver dies, the same command resumes the run.

    Args:
        spec: what to fit.
        placement: of the group.
        storage: of the run.

    Raises:
        InputError: Ray is unavailable, the run failed too often, or a worker found a mistake of the user's.
        NonFiniteLossError: training diverged.
    """
    if placement.address:
        share_arrays(spec.prepared, placement.storage)
    connect(placement)
    try:
        return fit_group(spec, placement, storage)
    finally:
        ray.shutdown()


def fit_group(
    spec: RunSpec, placement: Placement, storage: Storage, on_report: UserCallback | None = None
) -> FittedRun:
    """Fit on a group of workers of the cluster that this process is connected to.

    Args:
        spec: what to fit; its arrays are in `prepared` on this node.
        placement: of the group.
        storage: of the run.
        on_report: callback for each epoch. If given, the run is a trial, and prints nothing.

    Raises:
        InputError: the run failed too often, or a worker found a mistake of the user's.
        NonFiniteLossError: training diverged.
    """
    try:
        result = trainer(spec, placement, storage, on_report).fit()
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{spec.name}: Ray gave up after {placement.max_failures} failures of its workers ({reason}); "
            f"its checkpoints are in {placement.storage}; run again to resume"
        ) from error
    outcome = result.return_value
    if isinstance(outcome, Exception):
        raise outcome
    weights, records, images_per_second, device = outcome
    vae = build_vae(spec.vae, seed=spec.seed)
    vae.load_state_dict(load_tensors(weights))
    return FittedRun(vae, records, images_per_second, device)


def trainer(
    spec: RunSpec, placement: Placement, storage: Storage, on_report: UserCallback | None
) -> ray.train.torch.TorchTrainer:
    """Ray's trainer of one group of workers."""
    assert placement.workers
    low, high = placement.workers
    resources: dict[str, float] = {"CPU": placement.cpus_per_worker}
    if placement.use_gpu:
        resources["GPU"] = 1
    config = GroupConfig(spec, read_metadata(spec.prepared), placement, storage, is_trial=on_report is not None)
    return ray.train.torch.TorchTrainer(
        fit_as_worker,
        train_loop_config={"group": config},
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
            checkpoint_config=CheckpointConfig(num_to_keep=NUM_KEPT),
            failure_config=FailureConfig(max_failures=placement.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[on_report] if on_report else [],
        ),
    )


def fit_as_worker(config: dict[str, Any]) -> tuple[bytes, list[EpochRecord], float, str] | Exception | None:
    """Fit as one worker of a group.

    Returns:
        Rank zero returns the weights, the learning curve, images per second and the device. Weights are the bytes of a
        safetensors file, because Ray Train refuses to return tensors. Any rank returns an error that a restart of the
        group would not fix.
    """
    group: GroupConfig = config["group"]
    spec, placement = group.spec, group.placement
    is_rank_zero = ray.train.get_context().get_world_rank() == 0
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    else:
        torch.set_num_threads(placement.cpus_per_worker)
    checkpoints = RayCheckpoints(placement.interval, group.storage)
    try:
        check_code_of_group(device)
        spec = replace(spec, prepared=local_arrays(spec.prepared, group.metadata, placement))
        is_main = is_rank_zero and not group.is_trial
        on_epoch = report_to_train if group.is_trial else ignore_epoch
        fitted = fit_run(spec, device, current_workers(), checkpoints, is_main=is_main, on_epoch=on_epoch)
    except StorageError:
        raise  # the storage may be available again when the group restarts
    except (InputError, NonFiniteLossError) as error:
        return error
    if not is_rank_zero:
        return None
    weights = {name: value.contiguous() for name, value in fitted.vae.cpu().state_dict().items()}
    return save_tensors(weights), fitted.records, fitted.images_per_second, fitted.device


def report_to_train(record: EpochRecord) -> None:
    """Report an epoch of a trial to Ray; all workers call it."""
    ray.train.report({EPOCH: record.epoch, METRIC: record.valid_negative_elbo})


def ignore_epoch(record: EpochRecord) -> None:
    """Report nothing."""
