"""Normalisation as layers of a flow: one invertible affine map per feature, with its log-determinant.

A layer is a module that returns its transform when it is called, like a flow, but without a context. With its
parameters at 0 a layer is the identity or plain normalisation, which is therefore what weight decay pulls towards, as
it pulls s and t towards 0.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowvae.model.batch_norm import MIN_VARIANCE, BatchNormScaling, BatchStatistics, per_feature
from flowvae.model.transforms import Transform, affine, affine_inv

Normalization = Literal["none", "batch_norm", "act_norm"]


class NormLayer(nn.Module, ABC):
    """A module that determines a scale and a shift for each feature.

    Args:
        num_features: features of the latent vector: its channels, or all its dimensions.
        num_positions: number of consecutive elements of the latent vector that belong to one feature.
    """

    def __init__(self, num_features: int, num_positions: int) -> None:
        super().__init__()
        self.num_features, self.num_positions = num_features, num_positions

    @property
    @abstractmethod
    def has_inverse(self) -> bool:
        """Whether scale and shift are independent of the batch to which they are applied."""

    @abstractmethod
    def scale_and_shift(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-scale and shift, shape (features,) each.

        Args:
            x: the batch, shape (N, features, positions); None if they must not depend on a batch.
        """

    def forward(self) -> "FeatureAffine":
        return FeatureAffine(self)


class FeatureAffine(Transform):
    """y = z exp(s) + t with one s and t per feature; ln|det| = positions * sum s.

    Args:
        layer: provides s and t.
    """

    def __init__(self, layer: NormLayer) -> None:
        self.layer = layer

    @property
    def has_inverse(self) -> bool:
        return self.layer.has_inverse

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self._features(z)
        log_scale, shift = self.layer.scale_and_shift(x)
        out = affine(x, per_feature(log_scale, x), per_feature(shift, x)).view_as(z)
        return out, self._ladj(log_scale, z)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self._features(z)
        log_scale, shift = self.layer.scale_and_shift(None)
        out = affine_inv(x, per_feature(log_scale, x), per_feature(shift, x)).view_as(z)
        return out, -self._ladj(log_scale, z)

    def _ladj(self, log_scale: Tensor, z: Tensor) -> Tensor:
        return (self.layer.num_positions * log_scale.sum()).expand(z.shape[:-1])

    def _features(self, z: Tensor) -> Tensor:
        """(*sample_shape, batch, D) -> (N, features, positions), or (N, features) if there is one position."""
        shape = (self.layer.num_features, self.layer.num_positions)
        return z.reshape(-1, *(shape if shape[1] > 1 else shape[:1]))


class BatchNormLayer(NormLayer):
    """Batch norm as a layer of a flow: Dinh et al. 2017, arXiv:1605.08803, section 3.7.

        y = (z - mean) / sqrt(variance) * exp(log_scale) + shift
        ln|det| = positions * sum (log_scale - 1/2 ln variance)

    In training it uses the moments of the global batch, through which gradients flow, and has no inverse. In
    evaluation it uses the moments of the population.
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

    Before the first global batch in training, this is the identity. That batch sets both so that y has mean 0 and
    variance 1. After it they are ordinary parameters. The buffer `initialized` records whether the first batch has been
    seen, so that a resumed run does not initialise them again.
    """

    has_inverse = True
    initialized: Tensor

    def __init__(self, num_features: int, num_positions: int) -> None:
        super().__init__(num_features, num_positions)
        self.statistics = BatchStatistics()
        self.log_scale = nn.Parameter(torch.zeros(num_features))
        self.shift = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("initialized", torch.tensor(False))
        self.known_initialized = False  # reading the buffer at every step would force a GPU to synchronise
        self.register_load_state_dict_post_hook(recheck_initialized)

    def scale_and_shift(self, x: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.training and x is not None and not self.known_initialized:
            if not self.initialized:
                self._initialize(x)
            self.known_initialized = True
        return self.log_scale, self.shift

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        num_rows, mean, variance = self.statistics(x)
        variance = torch.where(num_rows > 1, variance, 1)  # a single row has no variance
        self.log_scale.copy_(-0.5 * variance.clamp_min(MIN_VARIANCE).log())
        self.shift.copy_(-mean * self.log_scale.exp())
        self.initialized.fill_(True)


def recheck_initialized(layer: ActNormLayer, incompatible_keys: Any) -> None:
    """Read `initialized` again after a state dict was loaded, which may be from before the first batch."""
    layer.known_initialized = False


def awaits_first_batch(module: nn.Module) -> bool:
    """Whether a module has layers that the next batch in training will initialise, or that have yet to look."""
    return any(isinstance(layer, ActNormLayer) and not layer.known_initialized for layer in module.modules())


LAYERS: dict[Normalization, type[NormLayer]] = {"batch_norm": BatchNormLayer, "act_norm": ActNormLayer}


def norm_layers(
    normalization: Normalization, num_layers: int, num_features: int, num_positions: int = 1
) -> nn.ModuleList:
    """Build `num_layers` layers of one kind; the list is empty for the normalisation "none"."""
    kind = LAYERS.get(normalization)
    return nn.ModuleList(kind(num_features, num_positions) for _ in range(num_layers) if kind)
