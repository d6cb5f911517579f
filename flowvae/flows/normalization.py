"""Normalisation as layers of a flow: one invertible affine map per feature, with its log-determinant.

A layer is a module that makes its transform when called, as a flow does, but without a context. Its
parameters' 0 is the identity or plain normalisation, so weight decay pulls them there, as it pulls s and t.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowvae.statistics import EPSILON, BatchNormScaling, BatchStatistics, per_feature
from flowvae.transforms import Transform, affine, affine_inv

Normalization = Literal["none", "batch_norm", "act_norm"]


class NormLayer(nn.Module, ABC):
    """A module that says how to scale and shift each feature.

    Args:
        num_features: features of the latent vector, its channels or all its dimensions.
        num_positions: numbers of a feature, one after another in the latent vector.
    """

    def __init__(self, num_features: int, num_positions: int) -> None:
        super().__init__()
        self.num_features, self.num_positions = num_features, num_positions

    @property
    @abstractmethod
    def has_inverse(self) -> bool:
        """Whether scale and shift are known without the batch that they are applied to."""

    @abstractmethod
    def scale_and_shift(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-scale and shift, shape (features,) each, for x of shape (N, features, positions); None: for any."""

    def forward(self) -> "FeatureAffine":
        return FeatureAffine(self)


class FeatureAffine(Transform):
    """y = z exp(s) + t with one s and t per feature; ln|det| = positions * sum s.

    Args:
        layer: where s and t come from.
    """

    def __init__(self, layer: NormLayer) -> None:
        self.layer = layer

    @property
    def has_inverse(self) -> bool:
        return self.layer.has_inverse

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self._features(z)
        log_scale, shift = self.layer.scale_and_shift(x)
        out = affine(x, per_feature(log_scale, x), per_feature(shift, x)).view_as(z)
        return out, (self.layer.num_positions * log_scale.sum()).expand(z.shape[:-1])

    def _inv(self, z: Tensor) -> Tensor:
        x = self._features(z)
        return affine_inv(x, *(per_feature(value, x) for value in self.layer.scale_and_shift(None))).view_as(z)

    def _features(self, z: Tensor) -> Tensor:
        """(*sample_shape, batch, D) -> (N, features, positions), without an axis of positions for a vector."""
        shape = (self.layer.num_features, self.layer.num_positions)
        return z.reshape(-1, *(shape if shape[1] > 1 else shape[:1]))


class BatchNormLayer(NormLayer):
    """Batch norm as a layer of a flow: Dinh et al. 2017, arXiv:1605.08803, section 3.7.

        y = (z - mean) / sqrt(variance) * exp(log_scale) + shift
        ln|det| = positions * sum (log_scale - 1/2 ln variance)

    In training with the moments of the global batch, through which gradients flow, and without an inverse;
    in evaluation with those of the population.
    """

    def __init__(self, num_features: int, num_positions: int) -> None:
        super().__init__(num_features, num_positions)
        self.scaling = BatchNormScaling(num_features)

    @property
    def has_inverse(self) -> bool:
        return not self.training

    def scale_and_shift(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.scaling(x)


class ActNormLayer(NormLayer):
    """Act norm: Kingma & Dhariwal 2018, arXiv:1807.03039, section 3.1.

        y = z exp(log_scale) + shift,  ln|det| = positions * sum log_scale

    The first global batch in training sets both so that y has mean 0 and variance 1; from then on they are
    parameters like any other. Before, this is the identity. That the first batch has been is in a buffer,
    so that a resumed run goes on.
    """

    has_inverse = True

    def __init__(self, num_features: int, num_positions: int) -> None:
        super().__init__(num_features, num_positions)
        self.statistics = BatchStatistics()
        self.log_scale = nn.Parameter(torch.zeros(num_features))
        self.shift = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("initialized", torch.tensor(False))
        self.known_initialized = False  # a look at the buffer would make a GPU wait at each step
        self.register_load_state_dict_post_hook(look_again)

    def scale_and_shift(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.training and x is not None and not self.known_initialized:
            if not self.initialized:
                self._initialize(x)
            self.known_initialized = True
        return self.log_scale, self.shift

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        count, mean, variance = self.statistics(x)
        variance = torch.where(count > 1, variance, 1)  # a single row has none
        self.log_scale.copy_(-0.5 * variance.clamp_min(EPSILON).log())
        self.shift.copy_(-mean * self.log_scale.exp())
        self.initialized.fill_(True)


def look_again(layer: ActNormLayer, incompatible_keys: Any) -> None:
    """After other weights were loaded, which may be from before the first batch."""
    layer.known_initialized = False


LAYERS: dict[Normalization, type[NormLayer] | None] = {
    "none": None,
    "batch_norm": BatchNormLayer,
    "act_norm": ActNormLayer,
}


def norm_layers(name: Normalization, num_layers: int, num_features: int, num_positions: int = 1) -> nn.ModuleList:
    """As many layers of a kind; an empty list for none."""
    kind = LAYERS[name]
    return nn.ModuleList(kind(num_features, num_positions) for _ in range(num_layers if kind else 0))
