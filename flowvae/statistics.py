"""Means and variances of features: of the global batch in training, of the population in evaluation.

The global batch may be spread over several workers, so its moments are made of sums and counts that go
through `BatchStatistics.sum_over_workers`. What belongs to a whole training set is held in buffers, which
`flowvae.population` computes, so that in evaluation no image depends on those beside it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.transforms import affine


class Moments(NamedTuple):
    """Of each feature over the rows of a global batch.

    Args:
        count: rows, shape (1,).
        mean: shape (features,).
        variance: mean squared distance from the mean, shape (features,).
    """

    count: Tensor
    mean: Tensor
    variance: Tensor


def alone(tensor: Tensor) -> Tensor:
    """The sum over the one worker that there is."""
    return tensor


class BatchStatistics(nn.Module):
    """Moments of a global batch over all axes but that of the features, with gradients.

    With `accumulation_steps` above 1 a batch comes in parts, and the moments are those of each part, which
    holds other images where more workers share the batch.

    Attributes:
        sum_over_workers: the sum of every worker's tensor, differentiable, the same on all of them.
        left_out: this worker's rows are none of the batch's; it only takes part in the sums.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sum_over_workers: Callable[[Tensor], Tensor] = alone
        self.left_out = False

    def forward(self, x: Tensor) -> Moments:
        """x, this worker's share, shape (N, features, *positions)."""
        x = x[:0] if self.left_out else x
        num_features, axes = x.shape[1], (0, *range(2, x.dim()))
        count = x.new_full((1,), x.numel() // num_features)
        sums = self.sum_over_workers(torch.cat((count, x.sum(axes))))
        count, mean = sums[:1], sums[1:] / sums[:1].clamp_min(1)
        squares = (x - per_feature(mean, x)).square().sum(axes)
        return Moments(count, mean, self.sum_over_workers(squares) / count.clamp_min(1))


class PopulationStatistics(nn.Module):
    """Mean and variance that normalise a batch: its own in training, those of the population in evaluation.

    A global batch of a single row has no variance; in training it is given the population's moments, which are
    mean 0 and variance 1 until they are first computed.

    Args:
        num_features: features.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.batch = BatchStatistics()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("variance", torch.ones(num_features))

    def forward(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance, shape (features,) each, for x of shape (N, features, *positions).

        In evaluation nothing depends on x, which may be None.
        """
        if not self.training:
            return self.mean, self.variance
        count, mean, variance = self.batch(x)
        return torch.where(count > 1, mean, self.mean), torch.where(count > 1, variance, self.variance)


class BatchNormScaling(nn.Module):
    """Batch norm as a log-scale and a shift of each feature (Ioffe & Szegedy 2015, arXiv:1502.03167).

        y = (x - mean) / sqrt(variance) * exp(log_scale) + shift

    The variance counts as EPSILON at least. The parameters' 0 is plain normalisation, so weight decay pulls
    them there.

    Args:
        num_features: features.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.statistics = PopulationStatistics(num_features)
        self.log_scale = nn.Parameter(torch.zeros(num_features))
        self.shift = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and t with y = x exp(s) + t, shape (features,) each; x as in `PopulationStatistics`."""
        mean, variance = self.statistics(x)
        log_scale = self.log_scale - 0.5 * variance.clamp_min(EPSILON).log()
        return log_scale, self.shift - mean * log_scale.exp()


class BatchNorm(nn.Module):
    """Batch norm as a layer of a network.

    Args:
        num_features: size of the axis before those of the positions.
        num_position_axes: 0 for vectors, 2 for images.
    """

    def __init__(self, num_features: int, num_position_axes: int = 0) -> None:
        super().__init__()
        self.scaling, self.num_position_axes = BatchNormScaling(num_features), num_position_axes

    def forward(self, x: Tensor) -> Tensor:
        """x (*leading, features, *positions) -> the shape of x."""
        rows = x.flatten(0, -2 - self.num_position_axes)
        log_scale, shift = (per_feature(values, rows) for values in self.scaling(rows))
        return affine(rows, log_scale, shift).view_as(x)


def per_feature(values: Tensor, x: Tensor) -> Tensor:
    """values, shape (features,), ready to meet x, shape (N, features, *positions)."""
    return values.view(-1, *(1,) * (x.dim() - 2))


def batch_statistics(module: nn.Module) -> list[BatchStatistics]:
    """All that is in a module."""
    return [child for child in module.modules() if isinstance(child, BatchStatistics)]


@contextmanager
def left_out(module: nn.Module) -> Iterator[None]:
    """Inside it a forward pass of `module` takes part in the sums over workers, with nothing to add."""
    children = batch_statistics(module)
    for child in children:
        child.left_out = True
    try:
        yield
    finally:
        for child in children:
            child.left_out = False


EPSILON = 1e-5  # what a variance counts as at least
