"""The workers of a Ray Train group, and their all-reduce."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowvae.model.batch_norm import batch_statistics
from flowvae.training.workers import SingleWorker, Workers


@dataclass(frozen=True)
class RayWorkers(Workers):
    """The workers of a group, under torch's DistributedDataParallel.

    Args:
        rank: of this worker.
        count: number of workers.
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
        # Buffers are equal on all workers.
        options = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
        return ray.train.torch.prepare_model(vae, parallel_strategy_kwargs=options)

    def loss(self, values: Tensor, batch_size: int) -> Tensor:
        return values.sum() * (self.count / batch_size)  # DistributedDataParallel divides by count

    def accumulate(self, model: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(model, nn.parallel.DistributedDataParallel)
        return model.no_sync()

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total


class AllReduce(torch.autograd.Function):
    """The sum of every worker's tensor; its backward pass sums the gradients of all workers (all-reduce)."""

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


def current_workers() -> Workers:
    """The group that this Ray worker belongs to; a group of one computes exactly what a plain process does."""
    context = ray.train.get_context()
    count = context.get_world_size()
    return SingleWorker() if count == 1 else RayWorkers(context.get_world_rank(), count)
