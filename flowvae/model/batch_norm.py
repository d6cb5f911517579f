"""Batch norm: as a layer of a network, and as the scale and shift that a layer of a flow applies.

In training, features are normalised by the moments of the global batch; in evaluation, by those of the population, so
that no image depends on the other images of its batch. The global batch may be spread over several workers. Its moments
are therefore computed from sums and counts, which are added up by `BatchStatistics.sum_over_workers`. The population's
moments are those of the whole training set; they are buffers, which `flowvae.training.population` computes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.model.transforms import affine

MIN_VARIANCE = 1e-5  # smaller variances are replaced by it


class Moments(NamedTuple):
    """Moments of each feature over the rows of a global batch.

    Args:
        num_rows: shape (1,).
        mean: shape (features,).
        variance: mean squared distance from the mean, shape (features,).
    """

    num_rows: Tensor
    mean: Tensor
    variance: Tensor


def single_worker_sum(tensor: Tensor) -> Tensor:
    """Return the tensor itself, which is the sum over a single worker."""
    return tensor


class BatchStatistics(nn.Module):
    """Moments of a global batch over all axes except that of the features; gradients flow through them.

    With `accumulation_steps` above 1 a batch is processed in parts, and the moments are those of each part. Which
    images a part holds depends on the number of workers that share the batch.

    Attributes:
        sum_over_workers: maps each worker's tensor to the sum over all workers; differentiable.
        excluded: whether the rows of this worker are not part of the batch, so that it only takes part in the sums.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sum_over_workers: Callable[[Tensor], Tensor] = single_worker_sum
        self.excluded = False

    def forward(self, x: Tensor) -> Moments:
        """Compute the moments of the global batch from x, this worker's share, shape (N, features, *positions)."""
        x = x[:0] if self.excluded else x
        num_features, axes = x.shape[1], (0, *range(2, x.dim()))
        num_rows = x.new_full((1,), x.numel() // num_features)
        sums = self.sum_over_workers(torch.cat((num_rows, x.sum(axes))))
        num_rows, mean = sums[:1], sums[1:] / sums[:1].clamp_min(1)
        squares = (x - per_feature(mean, x)).square().sum(axes)
        return Moments(num_rows, mean, self.sum_over_workers(squares) / num_rows.clamp_min(1))


class PopulationStatistics(nn.Module):
    """Mean and variance that normalise a batch: its own in training, those of the population in evaluation.

    A global batch of a single row has no variance, so in training too it is normalised by the population's moments.
    These are mean 0 and variance 1 until they are first computed.

    Args:
        num_features: number of features.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.batch = BatchStatistics()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("variance", torch.ones(num_features))

    def forward(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Choose the moments for the current mode.

        Args:
            x: shape (N, features, *positions); ignored in evaluation, where it may be None.

        Returns:
            Mean and variance, shape (features,) each.
        """
        if not self.training:
            return self.mean, self.variance
        num_rows, mean, variance = self.batch(x)
        return torch.where(num_rows > 1, mean, self.mean), torch.where(num_rows > 1, variance, self.variance)


class BatchNormScaling(nn.Module):
    """Batch norm as a log-scale and a shift of each feature (Ioffe & Szegedy 2015, arXiv:1502.03167).

        y = (x - mean) / sqrt(variance) * exp(log_scale) + shift

    The variance is at least MIN_VARIANCE. With both parameters at 0 this is plain normalisation, which is therefore
    what weight decay pulls towards.

    Args:
        num_features: number of features.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.statistics = PopulationStatistics(num_features)
        self.log_scale = nn.Parameter(torch.zeros(num_features))
        self.shift = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return s and t with y = x exp(s) + t, shape (features,) each; x as in `PopulationStatistics`."""
        mean, variance = self.statistics(x)
        log_scale = self.log_scale - 0.5 * variance.clamp_min(MIN_VARIANCE).log()
        return log_scale, self.shift - mean * log_scale.exp()


class BatchNorm(nn.Module):
    """Batch norm as a layer of a network.

    Args:
        num_features: size of the axis of features, which comes before those of the positions.
        num_position_axes: 0 for vectors, 2 for images.
    """

    def __init__(self, num_features: int, num_position_axes: int = 0) -> None:
        super().__init__()
        self.scaling, self.num_position_axes = BatchNormScaling(num_features), num_position_axes

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, shape (*leading, features, *positions); the result has the shape of x."""
        rows = x.flatten(0, -2 - self.num_position_axes)
        log_scale, shift = (per_feature(values, rows) for values in self.scaling(rows))
        return affine(rows, log_scale, shift).view_as(x)


def per_feature(values: Tensor, x: Tensor) -> Tensor:
    """View values, shape (features,), so that they broadcast with x, shape (N, features, *positions)."""
    return values.view(-1, *(1,) * (x.dim() - 2))


def batch_statistics(module: nn.Module) -> list[BatchStatistics]:
    """All BatchStatistics in a module."""
    return [child for child in module.modules() if isinstance(child, BatchStatistics)]


@contextmanager
def excluded(module: nn.Module) -> Iterator[None]:
    """Exclude this worker's rows from the batch statistics of `module`, which still takes part in the sums."""
    children = batch_statistics(module)
    for child in children:
        child.excluded = True
    try:
        yield
    finally:
        for child in children:
            child.excluded = False
