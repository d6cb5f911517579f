"""Affine couplings of two blocks of the latent vector, for any partition into blocks (arXiv:1605.08803, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowvae.config import PositiveFloat, PositiveInt
from flowvae.model.flows.family import FlowConfig
from flowvae.model.flows.normalization import Normalization
from flowvae.model.flows.partitions import Partition
from flowvae.model.transforms import Transform, affine, affine_inv

ALTERNATING = (1, 0)  # the block that each coupling of a pair moves


class CouplingConfig(FlowConfig):
    """Settings that all families of coupling flows have."""

    num_transforms: PositiveInt
    context: bool
    log_scale_bound: PositiveFloat
    normalization: Normalization
    weight_norm: bool
    net_batch_norm: bool


class CouplingStack(Transform):
    """Affine couplings that move the two blocks of the latent vector in turns.

        y_kept = z_kept,  y_moved = z_moved * exp(s) + t,  (s, t) = net(z_kept, context)
        ln|det| = sum s

    arXiv:1605.08803, equations 4 to 6; s is bounded by log_scale_bound * tanh(. / log_scale_bound). The vector is split
    before the first coupling and joined after the last.

    Args:
        nets: one per coupling; (z_kept, context term) -> raw s and t, concatenated on the axis of features.
        context_terms: one per net, the context's contribution (`flowvae.model.networks.context_terms`).
        partition: the two blocks.
        log_scale_bound: bound on |s|.
        gain: factor by which the nets' outputs are multiplied.
    """

    has_inverse = True

    def __init__(
        self,
        nets: Sequence[nn.Module],
        context_terms: Sequence[Tensor | None],
        partition: Partition,
        log_scale_bound: float,
        gain: float,
    ) -> None:
        self.nets, self.context_terms, self.partition = nets, context_terms, partition
        self.log_scale_bound, self.gain = log_scale_bound, gain

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        blocks = self.partition.split(z)
        log_scales = [torch.zeros_like(block) for block in blocks]  # summed over couplings
        for i in range(len(self.nets)):
            moved = ALTERNATING[i % 2]
            s, t = self.scale_and_shift(i, blocks[1 - moved])
            blocks[moved] = affine(blocks[moved], s, t)
            log_scales[moved] = log_scales[moved] + s
        return self.partition.join(blocks), self.partition.join(log_scales).sum(-1)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        blocks = self.partition.split(z)
        log_scales = [torch.zeros_like(block) for block in blocks]
        for i in reversed(range(len(self.nets))):
            moved = ALTERNATING[i % 2]
            s, t = self.scale_and_shift(i, blocks[1 - moved])
            blocks[moved] = affine_inv(blocks[moved], s, t)
            log_scales[moved] = log_scales[moved] - s
        return self.partition.join(blocks), self.partition.join(log_scales).sum(-1)

    def scale_and_shift(self, i: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale s and shift t of coupling i, each with the shape of the block that it moves."""
        raw = self.partition.confine(self.gain * self.nets[i](kept, self.context_terms[i]), ALTERNATING[i % 2])
        raw, t = raw.chunk(2, dim=self.partition.axis)
        return self.log_scale_bound * torch.tanh(raw / self.log_scale_bound), t
