"""Who does the work of a global batch: one process, or several behind the same few methods.

Batches, binarization noise and latent noise belong to the global batch. Every worker draws all of
them, computes its share, and sums over workers are sums over the batch. So a run does not depend on
how many workers there are, and nothing in this library knows how many there are.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn


class Workers(Protocol):
    """What `fit` asks of those who share its batches."""

    def share(self, num_images: int) -> slice:
        """The images of a global batch that this worker takes; the shares of all workers partition it."""

    def replicate(self, vae: nn.Module) -> nn.Module:
        """A module that computes what `vae` computes, and whose backward pass adds up the workers' gradients.

        From then on the batch statistics in `vae` (`flowvae.statistics`) are those of the global batch.
        """

    def loss(self, values: Tensor, batch_size: int) -> Tensor:
        """A scalar whose gradient through `replicate` is that of the mean over the global batch.

        Args:
            values: one per image of this worker's share, or of a part of it.
            batch_size: images of the global batch.
        """

    def accumulate(self, model: nn.Module) -> AbstractContextManager[None]:
        """Backward passes inside it keep their gradients to this worker, until one outside adds all up."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every worker's tensor, the same on all of them."""


class Alone:
    """The one worker of a plain process."""

    def share(self, num_images: int) -> slice:
        return slice(0, num_images)

    def replicate(self, vae: nn.Module) -> nn.Module:
        return vae

    def loss(self, values: Tensor, batch_size: int) -> Tensor:
        return values.sum() / batch_size

    def accumulate(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor
