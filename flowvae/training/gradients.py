"""Gradients of a batch: the objective, backpropagated in parts, and clipping."""

from contextlib import nullcontext
from functools import partial, reduce

import torch
from torch import Tensor, nn

from flowvae.model.batch_norm import excluded
from flowvae.model.flows import awaits_first_batch
from flowvae.model.objectives import loss_terms, objective
from flowvae.model.transforms import without_tf32
from flowvae.training.config import TrainingConfig
from flowvae.training.precision import autocast
from flowvae.training.workers import Workers


def backward(
    model: nn.Module,
    x: Tensor,
    noise: Tensor,
    kl_weight: float,
    config: TrainingConfig,
    workers: Workers,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of this worker's share of a batch, in `accumulation_steps` parts one after another.

    Args:
        model: returned by `workers.replicate`.
        x: images of the share, shape (share, C, H, W).
        noise: shape (*sample_shape, share, D).
        kl_weight: of the KL term.
        config: objective and precision.
        workers: sum their gradients in the backward pass of the last part.
        batch_size: number of images in the global batch.

    Returns:
        The loss of the share, a scalar, and the sums of `loss_terms` over its images, shape (3,).
    """
    losses, terms = [], []
    parts = split_into_parts(x, noise, min(config.accumulation_steps, batch_size))
    for i, (x_part, noise_part, mask) in enumerate(parts):
        with workers.accumulate(model) if i + 1 < len(parts) else nullcontext():
            exact = without_tf32(x.device) if config.compile else nullcontext()  # a graph cannot change it inside
            with autocast(x.device, config.precision), exact, nullcontext() if mask else excluded(model):
                densities = model(x_part, noise_part)
            batch_mean = partial(masked_mean, mask=mask, workers=workers)
            bound = objective(densities, config.objective, kl_weight, config.free_nats, batch_mean)
            loss = workers.loss(-mask * bound, batch_size)
            loss.backward()
        losses.append(loss.detach())
        terms.append(mask * loss_terms(densities).detach().sum(1))
    return reduce(torch.add, losses), reduce(torch.add, terms)


@torch.no_grad()
def initialize_layers(model: nn.Module, x: Tensor, noise: Tensor, config: TrainingConfig, batch_size: int) -> None:
    """Run the first part of a batch through layers that it initialises, if there are any that wait for one.

    `backward` would do the same, but such a layer decides by its data whether it is initialised, which splits a
    compiled model into many graphs, at all later steps too.

    Args:
        model: returned by `workers.replicate`, not compiled.
        x, noise, config, batch_size: as for `backward`.
    """
    if not awaits_first_batch(model):
        return
    x_part, noise_part, mask = split_into_parts(x, noise, min(config.accumulation_steps, batch_size))[0]
    with autocast(x.device, config.precision), nullcontext() if mask else excluded(model):
        model(x_part, noise_part)


def masked_mean(values: Tensor, mask: int, workers: Workers) -> Tensor:
    """The mean over the images of all workers, without those of workers whose mask is 0.

    Args:
        values: one per image of this worker, shape (images,).
        mask: 1 for real images, 0 for zeros.
        workers: all of them call this function.
    """
    total, count = workers.sum(mask * torch.stack((values.sum(), values.new_tensor(len(values)))))
    return total / count.clamp_min(1)


def split_into_parts(x: Tensor, noise: Tensor, num_parts: int) -> list[tuple[Tensor, Tensor, int]]:
    """Split a share into parts whose gradients are computed one after another, the same number on each worker.

    Workers compute batch statistics and sum gradients together. Therefore a worker without remaining images takes
    part with an image of zeros, which is masked.

    Returns:
        Images, noise, and a mask: 1 for real images, 0 for zeros.
    """
    parts = list(zip(x.chunk(num_parts), noise.chunk(num_parts, dim=-2), [1] * num_parts)) if len(x) else []
    blank = (x.new_zeros(1, *x.shape[1:]), noise.new_zeros(*noise.shape[:-2], 1, noise.shape[-1]), 0)
    return parts + [blank] * (num_parts - len(parts))


def sample_shape(config: TrainingConfig) -> tuple[int, ...]:
    """Leading axes of the draws of a step: none for one draw per image."""
    return () if config.num_samples == 1 and config.objective == "elbo" else (config.num_samples,)


def clip_gradients(vae: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most max_norm.

    On a CPU the multiplication is skipped if the factor would be 1. On a GPU this check would wait for the device.

    Returns:
        The norm before scaling, a scalar.
    """
    parameters = list(vae.parameters())
    norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
    if norm.device.type != "cpu" or norm > max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
