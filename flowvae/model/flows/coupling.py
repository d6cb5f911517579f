"""Couplings of two blocks of the latent vector, for any partition into blocks (arXiv:1605.08803, section 3)."""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowvae.config import NumTransforms, PositiveFloat
from flowvae.model.flows.family import FlowConfig
from flowvae.model.flows.normalization import Normalization
from flowvae.model.flows.partitions import Partition
from flowvae.model.transforms import Transform, affine, affine_inv, bounded, parts

ALTERNATING = (1, 0)  # the block that each coupling of a pair moves


class CouplingConfig(FlowConfig):
    """Settings that all families of affine couplings have."""

    context_field: ClassVar[str] = "context"

    num_transforms: NumTransforms
    context: bool = True
    log_scale_bound: PositiveFloat = 2.0
    normalization: Normalization = "none"
    weight_norm: bool = False
    net_batch_norm: bool = False


class CouplingStack(Transform):
    """Couplings that move the two blocks of the latent vector in turns, each element by a function of its own.

    arXiv:1605.08803, section 3.4. The vector is split before the first coupling and joined after the last. Subclasses
    define the functions.

    Args:
        nets: one per coupling; (z_kept, context term) -> parameters of the functions of the elements that it moves.
        context_terms: one per net, the context's contribution (`flowvae.model.networks.context_terms`).
        partition: the two blocks.
        gain: factor by which the nets' outputs are multiplied.
    """

    has_inverse = True

    def __init__(
        self, nets: Sequence[nn.Module], context_terms: Sequence[Tensor | None], partition: Partition, gain: float
    ) -> None:
        self.nets, self.context_terms, self.partition, self.gain = nets, context_terms, partition, gain

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        blocks, log_slopes = self.partition.split(z), []
        for i in range(len(self.nets)):
            moved = ALTERNATING[i % 2]
            blocks[moved], log_slope = self.move(i, blocks[moved], blocks[1 - moved])
            log_slopes.append(log_slope)
        return self.partition.join(blocks), self._total(log_slopes)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        blocks, log_slopes = self.partition.split(z), []
        for i in reversed(range(len(self.nets))):
            moved = ALTERNATING[i % 2]
            blocks[moved], log_slope = self.move_back(i, blocks[moved], blocks[1 - moved])
            log_slopes.append(log_slope)
        return self.partition.join(blocks), self._total(log_slopes)

    def _total(self, log_slopes: list[Tensor]) -> Tensor:
        """The sum over couplings and elements, shape (*sample_shape, batch)."""
        return torch.cat(log_slopes, dim=self.partition.axis).flatten(self.partition.axis).sum(-1)

    def steps(self, num_transforms: int) -> list[Transform]:
        return [
            self._only(nets, terms)
            for nets, terms in zip(parts(self.nets, num_transforms), parts(self.context_terms, num_transforms))
        ]

    def _only(self, nets: Sequence[nn.Module], context_terms: Sequence[Tensor | None]) -> "CouplingStack":
        chosen = copy(self)
        chosen.nets, chosen.context_terms = nets, context_terms
        return chosen

    def output(self, i: int, kept: Tensor) -> Tensor:
        """What net i returns for the block that coupling i keeps, times the gain."""
        return self.gain * self.nets[i](kept, self.context_terms[i])

    @abstractmethod
    def move(self, i: int, block: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The block that coupling i moves, and ln of the slope of each of its elements, given the block it keeps."""

    @abstractmethod
    def move_back(self, i: int, block: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `move`; the slopes are those of the inverse."""


class AffineCouplings(CouplingStack):
    """Affine couplings.

        y_kept = z_kept,  y_moved = z_moved * exp(s) + t,  (s, t) = gain * net(z_kept, context)
        ln|det| = sum s

    arXiv:1605.08803, equations 4 to 6; s is bounded by log_scale_bound * tanh(. / log_scale_bound).

    Args:
        nets: one per coupling; (z_kept, context term) -> s and t before gain and bound, concatenated on the axis of
            features.
        context_terms, partition, gain: as for `CouplingStack`.
        log_scale_bound: bound on |s|.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        context_terms: Sequence[Tensor | None],
        partition: Partition,
        log_scale_bound: float,
        gain: float,
    ) -> None:
        super().__init__(nets, context_terms, partition, gain)
        self.log_scale_bound = log_scale_bound

    def move(self, i: int, block: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.scale_and_shift(i, kept)
        return affine(block, s, t), s

    def move_back(self, i: int, block: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.scale_and_shift(i, kept)
        return affine_inv(block, s, t), -s

    def scale_and_shift(self, i: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale s and shift t, each with the shape of the block that coupling i moves."""
        raw, t = self.partition.confine(self.output(i, kept), ALTERNATING[i % 2]).chunk(2, dim=self.partition.axis)
        return bounded(raw, self.log_scale_bound), t
