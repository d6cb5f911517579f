"""Gradients of a batch: the objective, passed back in parts, and clipped."""

from contextlib import nullcontext

from torch import Tensor, nn

from flowvae.objectives import elbo, importance_weighted_bound, loss_terms
from flowvae.precision import autocast
from flowvae.statistics import left_out
from flowvae.training_config import TrainingConfig
from flowvae.vae import LogDensities
from flowvae.workers import Workers


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
        model: what `workers.replicate` returned.
        x: images of the share, shape (share, C, H, W).
        noise: shape (*sample_shape, share, D).
        kl_weight: of the KL term.
        config: objective and precision.
        workers: who add up their gradients after the last part.
        batch_size: images of the global batch.

    Returns:
        the loss of the share, and the sums over its images of `loss_terms`, shape (3,).
    """
    losses, terms = [], []
    parts = parts_of(x, noise, min(config.accumulation_steps, batch_size))
    for i, (x_part, noise_part, counts) in enumerate(parts):
        with workers.accumulate(model) if i + 1 < len(parts) else nullcontext():
            with autocast(x.device, config.precision), nullcontext() if counts else left_out(model):
                densities = model(x_part, noise_part)
            loss = workers.loss(-counts * objective(densities, kl_weight, config), batch_size)
            loss.backward()
        losses.append(loss.detach())
        terms.append(counts * loss_terms(densities).detach().sum(1))
    return sum(losses), sum(terms)


def parts_of(x: Tensor, noise: Tensor, num_parts: int) -> list[tuple[Tensor, Tensor, int]]:
    """Parts of a share that are passed forward and back one after another, as many on each worker.

    Workers compute batch statistics and add up gradients together. So one that has no image left takes part
    with an image of zeros, which does not count.

    Returns:
        images, noise, and how much they count: 1, or 0.
    """
    parts = list(zip(x.chunk(num_parts), noise.chunk(num_parts, dim=-2), [1] * num_parts)) if len(x) else []
    blank = (x.new_zeros(1, *x.shape[1:]), noise.new_zeros(*noise.shape[:-2], 1, noise.shape[-1]), 0)
    return parts + [blank] * (num_parts - len(parts))


def objective(densities: LogDensities, kl_weight: float, config: TrainingConfig) -> Tensor:
    """What is maximized, in nats per image, shape (batch,)."""
    if config.objective == "importance_weighted":
        return importance_weighted_bound(densities, kl_weight)
    bound = elbo(densities, kl_weight, config.free_nats)
    return bound.mean(0) if bound.dim() > 1 else bound


def sample_shape(config: TrainingConfig) -> tuple[int, ...]:
    """Leading axes of a step's draws: none for one draw per image."""
    return () if config.num_samples == 1 and config.objective == "elbo" else (config.num_samples,)


def clip_gradients(vae: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most max_norm; the norm before, a scalar.

    On a CPU the product is left out where it would be by 1; on a GPU that look would make it wait.
    """
    weights = list(vae.parameters())
    norm = nn.utils.get_total_norm(weight.grad for weight in weights if weight.grad is not None)
    if norm.device.type != "cpu" or norm > max_norm:
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    return norm
