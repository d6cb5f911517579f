"""fit(): maximize the ELBO by one plain loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowvae.config import TrainingConfig
from flowvae.data.images import ImageSet
from flowvae.objectives import elbo, kl
from flowvae.randomness import generator
from flowvae.vae import VAE, LogDensities


@dataclass(frozen=True)
class EpochRecord:
    """One point of the learning curves; losses in nats per image."""

    epoch: int
    train_negative_elbo: float
    train_reconstruction: float
    train_kl: float
    valid_negative_elbo: float
    valid_reconstruction: float
    valid_kl: float
    learning_rate: float
    kl_weight: float


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite.

    Attributes:
        dump: where it happened and the norms of weights and gradients per layer, for JSON.
    """

    def __init__(self, epoch: int, step: int, indices: Tensor, vae: nn.Module) -> None:
        super().__init__(f"loss is not finite at epoch {epoch}, step {step}")
        self.dump = {
            "epoch": epoch,
            "step": step,
            "batch_indices": indices.tolist(),
            "weight_norms": {name: norm_of(weight) for name, weight in vae.named_parameters()},
            "gradient_norms": {name: norm_of(weight.grad) for name, weight in vae.named_parameters()},
        }


def fit(
    vae: VAE,
    train: ImageSet,
    valid: ImageSet,
    config: TrainingConfig,
    *,
    seed: int,
    on_step: Callable[[int, int], None] = lambda step, num_steps: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> list[EpochRecord]:
    """Train in place, and leave the weights of the epoch that was best on validation.

    Batch order, binarization and latent noise are functions of (seed, epoch, step), drawn for the
    global batch.

    Args:
        vae: the model, on the device of the images.
        train: training images.
        valid: validation images.
        config: optimizer, schedules and length.
        seed: of everything random here.
        on_step: called after each step with (steps done, steps in all).
        on_epoch: called after each epoch.

    Returns:
        One record per epoch.

    Raises:
        NonFiniteLossError: the loss stopped being finite.
    """
    device, dtype = train.pixels.device, next(vae.parameters()).dtype
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=config.weight_decay, fused=True)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    num_epochs = epochs_for(len(train), config)
    num_steps = num_epochs * steps_per_epoch
    valid = valid.freeze(generator(device, seed, "binarization"))
    check_every = 1 if device.type == "cpu" else STEPS_BETWEEN_CHECKS
    records: list[EpochRecord] = []
    best, best_weights = math.inf, {}
    step = 0
    for epoch in range(num_epochs):
        vae.train()
        sums = torch.zeros(3, device=device, dtype=dtype)  # -ELBO, -log p(x|z), KL over the epoch
        order = torch.randperm(len(train), generator=generator("cpu", seed, "order", epoch)).to(device)
        for indices in order.split(config.batch_size):  # (batch,)
            x = train.batch(indices, dtype, generator(device, seed, "binarization", epoch, step))
            noise = torch.randn(
                len(x),
                vae.latent_dim,
                dtype=dtype,
                device=device,
                generator=generator(device, seed, "latent", epoch, step),
            )  # (batch, D)
            densities = vae(x, noise)
            beta = kl_weight(step, num_steps, config)
            loss = -elbo(densities, beta).mean()
            optimizer.zero_grad()
            loss.backward()
            grad_norm = clip_gradients(vae, config.max_grad_norm)
            if step % check_every == 0 and not (loss + grad_norm).isfinite():
                raise NonFiniteLossError(epoch + 1, step + 1, indices, vae)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps, config)
            optimizer.step()
            with torch.no_grad():
                sums += loss_terms(densities).sum(1)
            step += 1
            on_step(step, num_steps)
        losses = (sums / len(train)).tolist() + validate(vae, valid, seed=seed)
        if not all(map(math.isfinite, losses)):
            raise NonFiniteLossError(epoch + 1, step, indices, vae)
        records.append(EpochRecord(epoch + 1, *losses, learning_rate(step - 1, num_steps, config), beta))
        on_epoch(records[-1])
        if records[-1].valid_negative_elbo < best:
            best = records[-1].valid_negative_elbo
            best_weights = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.load_state_dict(best_weights)
    return records


@torch.inference_mode()
def validate(vae: VAE, images: ImageSet, *, seed: int) -> list[float]:
    """Mean -ELBO, -log p(x|z) and KL in nats per image, one draw each; the same draws at each call."""
    vae.eval()
    device, dtype = images.pixels.device, next(vae.parameters()).dtype
    draws = generator(device, seed, "latent")
    sums = torch.zeros(3, device=device, dtype=dtype)
    for start in range(0, len(images), VALIDATION_BATCH):
        x = images.batch(slice(start, start + VALIDATION_BATCH), dtype, draws)
        noise = torch.randn(len(x), vae.latent_dim, dtype=dtype, device=device, generator=draws)
        sums += loss_terms(vae(x, noise)).sum(1)
    return (sums / len(images)).tolist()


def clip_gradients(vae: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most max_norm; the norm before, a scalar.

    On a CPU the product is left out where it would be by 1; on a GPU that look would make it wait.
    """
    weights = list(vae.parameters())
    norm = nn.utils.get_total_norm(weight.grad for weight in weights if weight.grad is not None)
    if norm.device.type != "cpu" or norm > max_norm:
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    return norm


def loss_terms(densities: LogDensities) -> Tensor:
    """-ELBO, -log p(x|z) and KL in nats, shape (3, batch)."""
    return torch.stack((-elbo(densities), -densities.log_likelihood, kl(densities)))


def epochs_for(num_images: int, config: TrainingConfig) -> int:
    """How many epochs a run on so many images lasts: `epochs`, or more to reach `min_steps`."""
    return max(config.epochs, math.ceil(config.min_steps / math.ceil(num_images / config.batch_size)))


def learning_rate(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, a plateau until `decay_start`, then a cosine to `final_learning_rate`."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    start = config.decay_start * num_steps
    progress = max(0.0, (step - start) / max(1.0, num_steps - start))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine)


def kl_weight(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Linear from near 0 to 1 over the first `kl_warmup_fraction` of the steps."""
    warmup = config.kl_warmup_fraction * num_steps
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def norm_of(tensor: Tensor | None) -> float | None:
    """Euclidean norm; None where there is no gradient."""
    return None if tensor is None else tensor.detach().norm().item()


STEPS_BETWEEN_CHECKS = 100  # of the loss on a GPU, which a look makes wait
VALIDATION_BATCH = 500
