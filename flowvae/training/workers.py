"""How a global batch is split: one process, or several behind one interface.

Batches, binarization noise and latent noise belong to the global batch. Every worker draws all of them and computes
its share. Sums over workers are sums over the batch. Therefore a run does not depend on the number of workers, and
nothing in this library knows that number.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn


class Workers(Protocol):
    """The interface between `fit` and the workers that share its batches, as seen by one worker."""

    def share(self, num_images: int) -> slice:
        """The part of a global batch that this worker computes; the shares of all workers partition the batch."""

    def replicate(self, vae: nn.Module) -> nn.Module:
        """Prepare a model for training.

        Afterwards the batch statistics in `vae` (`flowvae.model.batch_norm`) are those of the global batch.

        Returns:
            A module that computes what `vae` computes, and whose backward pass sums the gradients over all workers.
        """

    def loss(self, values: Tensor, batch_size: int) -> Tensor:
        """A scalar whose gradient through `replicate` is that of the mean over the global batch.

        Args:
            values: one per image of this worker's share, or of a part of it.
            batch_size: number of images in the global batch.
        """

    def accumulate(self, model: nn.Module) -> AbstractContextManager[None]:
        """A context in which backward passes add to this worker's gradients without summing them over workers.

        The next backward pass outside the context sums all of them.
        """

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all workers, the same on each of them."""


class SingleWorker:
    """The only worker of a single process."""

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
