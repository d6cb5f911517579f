"""Planar flows: Rezende & Mohamed 2015, arXiv:1505.05770, section 4.1 and appendix A.1."""

from copy import copy
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from flowvae.config import NumTransforms
from flowvae.model.flows.amortised import context_head, parameters_at
from flowvae.model.flows.family import Flow, FlowConfig
from flowvae.model.networks import SOFTPLUS_INV_ONE
from flowvae.model.transforms import Transform


class PlanarConfig(FlowConfig):
    """K maps z + u tanh(w'z + b), arXiv:1505.05770, section 4.1. They have no inverse, so they are for posteriors.

    Attributes:
        num_transforms: K.
        amortised: whether the parameters depend on the image, or are the same for all.
    """

    context_field: ClassVar[str] = "amortised"

    flow: Literal["planar"] = "planar"
    num_transforms: NumTransforms
    amortised: bool = True


class PlanarTransform(Transform):
    """K planar maps f_k(z) = z + u_k tanh(w_k'z + b_k), composed and evaluated together.

        ln|det| = sum_k ln|1 + u_k' psi_k(z_{k-1})|,  psi_k(z) = (1 - tanh^2(w_k'z + b_k)) w_k

    arXiv:1505.05770, equations 10 to 12. Since z_{k-1} = z_0 + sum_{j<k} u_j h_j, the activations
    a_k = w_k'z_0 + b_k + sum_{j<k} (w_k'u_j) h_j need only the Gram matrix w_k'u_j: K steps on
    scalars instead of K steps on vectors. Global parameters have no batch axis.

    With d_k = 1 + w_k'u_k and h_k = tanh(.), the determinant is h_k^2 + (1 - h_k^2) d_k, in which all terms are
    positive: nothing cancels where a map almost folds.

    Args:
        w: shape (batch, K, D) or (K, D).
        u: the same shape; each u_k is replaced by the nearest one with w_k'u_k > -1 along w_k (`invertible_u`).
        b: shape (batch, K) or (K,).
    """

    has_inverse = False

    def __init__(self, w: Tensor, u: Tensor, b: Tensor) -> None:
        self.amortised = w.dim() == 3
        if not self.amortised:
            w, u, b = w[None], u[None], b[None]
        self.w, self.b = w, b  # (groups, K, D), (groups, K)
        self.u, self.one_plus_dot = invertible_u(w, u)  # (groups, K, D), (groups, K)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        grouped = self._group(z)  # (groups, N, D)
        gram = self.w @ self.u.mT  # (groups, K, K); [g, k, j] = w_k'u_j
        drive = torch.baddbmm(self.b[:, :, None], self.w, grouped.mT)  # (groups, K, N): w_k'z_0 + b_k
        h = PlanarRecurrence.apply(drive.transpose(0, 1).contiguous(), gram.permute(1, 2, 0).contiguous())
        dets = torch.lerp(self.one_plus_dot.mT[..., None], h.new_ones(()), h.square())  # (K, groups, N)
        ladj = dets.log().sum(0)  # (groups, N)
        out = torch.baddbmm(grouped, h.permute(1, 2, 0), self.u)  # (groups, N, D): z_0 + sum_k u_k h_k
        return self._ungroup(out, z.shape), self._ungroup(ladj, z.shape[:-1])

    def steps(self, num_transforms: int) -> list[Transform]:
        """Its maps, whose u are already such that each is invertible."""
        return [self._only(slice(k, k + 1)) for k in range(num_transforms)]

    def _only(self, maps: slice) -> "PlanarTransform":
        chosen = copy(self)
        chosen.w, chosen.u = self.w[:, maps], self.u[:, maps]
        chosen.b, chosen.one_plus_dot = self.b[:, maps], self.one_plus_dot[:, maps]
        return chosen

    def _group(self, z: Tensor) -> Tensor:
        """(*sample_shape, batch, D) -> (groups, N, D), with one group per set of parameters."""
        if not self.amortised:
            return z.reshape(1, -1, z.shape[-1])
        rows = z.flatten(0, -3) if z.dim() > 2 else z[None]  # not reshape(-1, ...): the batch may be empty
        return rows.transpose(0, 1)

    def _ungroup(self, grouped: Tensor, shape: torch.Size) -> Tensor:
        return (grouped.transpose(0, 1) if self.amortised else grouped).reshape(shape)


class PlanarRecurrence(torch.autograd.Function):
    """h_k = tanh(drive_k + sum_{j<k} gram_kj h_j), by forward substitution.

    The backward pass is the transposed substitution, implemented explicitly: autograd would record K
    slices and their copies, which cost several times as much as the arithmetic. It can be differentiated again, and
    `torch.func` can transform the function (`vmap`, `jvp`).
    """

    @staticmethod
    def forward(drive: Tensor, gram: Tensor) -> Tensor:
        """Solve for h, shape (K, groups, N), given drive (K, groups, N) and gram (K, K, groups)."""
        h = drive.clone()
        for k, (row, column) in enumerate(zip(h.unbind(), gram[..., None].unbind(1), strict=True), start=1):
            row.tanh_()
            h[k:].addcmul_(row, column[k:])
        return h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])
        ctx.save_for_forward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor]:
        h, gram = ctx.saved_tensors
        grad = differentiable_backward(grad_h, h, gram) if torch.is_grad_enabled() else fast_backward(grad_h, h, gram)
        return grad, (grad.transpose(0, 1) @ h.permute(1, 2, 0)).tril(-1).permute(1, 2, 0)

    @staticmethod
    def jvp(ctx: Any, drive: Tensor, gram: Tensor) -> Tensor:
        """The tangent of h, given those of the inputs."""
        h, gram_value = ctx.saved_tensors
        pushed = drive + torch.einsum("kjg,jgn->kgn", gram * below_diagonal(h), h)
        rows: list[Tensor] = []
        for k in range(len(h)):
            earlier = [gram_value[k, j, :, None] * row for j, row in enumerate(rows)]
            rows.append((1 - h[k].square()) * sum(earlier, start=pushed[k]))
        return torch.stack(rows)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], drive: Tensor, gram: Tensor) -> tuple[Tensor, int]:
        """Treat the new axis as further groups."""
        batched = [
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip((drive, gram), in_dims, strict=True)
        ]  # (batch, K, groups, N), (batch, K, K, groups)
        h = PlanarRecurrence.apply(batched[0].movedim(0, 1).flatten(1, 2), batched[1].movedim(0, 2).flatten(2, 3))
        return h.unflatten(1, (info.batch_size, -1)), 1


def fast_backward(grad_h: Tensor, h: Tensor, gram: Tensor) -> Tensor:
    """The transposed substitution: dL/da_k for a_k = drive_k + sum_{j<k} gram_kj h_j, shape (K, groups, N)."""
    grad = grad_h.clone()  # row k holds dL/dh_k until visited, then dL/da_k
    rows = zip(grad.unbind(), (1 - h.square()).unbind(), gram[..., None].unbind(), strict=True)
    for k, (row, slope, gram_row) in reversed(list(enumerate(rows))):
        row.mul_(slope)
        grad[:k].addcmul_(row, gram_row[:k])
    return grad


def differentiable_backward(grad_h: Tensor, h: Tensor, gram: Tensor) -> Tensor:
    """`fast_backward` without operations in place, which autograd could not record."""
    later: list[Tensor] = []  # dL/da_j for j > k, the last first
    for k in reversed(range(len(h))):
        pulled = [gram[-1 - i, k, :, None] * row for i, row in enumerate(later)]
        later.append((1 - h[k].square()) * sum(pulled, start=grad_h[k]))
    return torch.stack(later[::-1])


def below_diagonal(h: Tensor) -> Tensor:
    """1 for the entries j < k of gram, 0 elsewhere, shape (K, K, 1)."""
    return torch.ones(len(h), len(h), dtype=h.dtype, device=h.device).tril(-1)[..., None]


def invertible_u(w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Map u to u_hat with w'u_hat > -1, so that each planar map is invertible.

        u_hat = u + (m(w'u) - w'u) w / ||w||^2,  m(t) = -1 + softplus(t + ln(e - 1))

    arXiv:1505.05770, appendix A.1, with softplus shifted so that m(0) = 0. Then u = 0 is the identity,
    and the correction is smaller than ||u|| for any w. With the paper's m(0) < 0 it is a constant divided
    by ||w|| when u is small, which diverges as w goes to 0.

    Args:
        w, u: shape (..., D).

    Returns:
        u_hat, shape (..., D), and 1 + w'u_hat = 1 + m(w'u), shape (...). It is positive, also where the difference of
        w'u_hat and -1 would be rounded to 0.
    """
    tiny = torch.finfo(w.dtype).tiny
    w_dot_u = (w * u).sum(-1, keepdim=True)
    one_plus_m = softplus(w_dot_u + SOFTPLUS_INV_ONE).clamp_min(tiny)
    squared_norm = w.square().sum(-1, keepdim=True).clamp_min(tiny)
    return torch.addcmul(u, (one_plus_m - 1 - w_dot_u) / squared_norm, w), one_plus_m.squeeze(-1)


class PlanarFlow(Flow):
    """K planar maps whose parameters are global, or a function of the context (amortised).

    It is initialised as the identity (u = 0), with hyperplanes w'z + b = 0 in random directions.

    Args:
        latent_shape: shape of the latents, with D elements.
        context_features: size of the context; ignored with global parameters.
        num_transforms: K.
        amortised: whether the parameters are an affine function of the context.
    """

    def __init__(
        self, latent_shape: tuple[int, ...], context_features: int, *, num_transforms: int, amortised: bool
    ) -> None:
        super().__init__()
        self.latent_dim = prod(latent_shape)
        self.context_features = context_features if amortised else 0
        self.bias = nn.Parameter(torch.zeros(num_transforms, 2 * self.latent_dim + 1))
        nn.init.normal_(self.bias[:, : self.latent_dim], std=self.latent_dim**-0.5)
        self.head = context_head(self.bias, context_features, amortised=amortised)

    def forward(self, context: Tensor) -> PlanarTransform:
        parameters = parameters_at(context, self.bias, self.head)
        w, u, b = parameters.split((self.latent_dim, self.latent_dim, 1), dim=-1)
        return PlanarTransform(w, u, b.squeeze(-1))
