"""fit(): maximize a bound on log p(x) by one plain loop."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.checkpoint import Checkpoint, Checkpoints, NoCheckpoints
from flowvae.data.batches import gathered
from flowvae.data.images import ImageSet
from flowvae.gradients import backward, clip_gradients, sample_shape
from flowvae.population import recompute_statistics
from flowvae.randomness import generator
from flowvae.schedules import learning_rate
from flowvae.training_config import TrainingConfig
from flowvae.training_state import EpochRecord, TrainingState
from flowvae.vae import VAE
from flowvae.validation import validate
from flowvae.workers import Alone, Workers


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite.

    Args:
        dump: where it happened and the norms of weights and gradients per layer, for JSON.
    """

    def __init__(self, dump: dict[str, Any]) -> None:
        super().__init__(dump)
        self.dump = dump

    def __str__(self) -> str:
        return f"loss is not finite at epoch {self.dump['epoch']}, step {self.dump['step']}"

    @classmethod
    def at(cls, epoch: int, step: int, indices: Tensor, vae: nn.Module) -> "NonFiniteLossError":
        """With the images of the batch and the norms of all layers."""
        return cls(
            {
                "epoch": epoch,
                "step": step,
                "batch_indices": indices.tolist(),
                "weight_norms": {name: norm_of(weight) for name, weight in vae.named_parameters()},
                "gradient_norms": {name: norm_of(weight.grad) for name, weight in vae.named_parameters()},
            }
        )


def fit(
    vae: VAE,
    train: ImageSet,
    valid: ImageSet,
    config: TrainingConfig,
    *,
    seed: int,
    workers: Workers = Alone(),  # noqa: B008
    checkpoints: Checkpoints = NoCheckpoints(),  # noqa: B008
    on_step: Callable[[int, int], None] = lambda step, num_steps: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_halving: Callable[[NonFiniteLossError], None] = lambda error: None,
) -> list[EpochRecord]:
    """Train in place, and leave the weights of the epoch that was best on validation.

    Batch order, binarization and latent noise are functions of (seed, epoch, step), drawn for the
    global batch. So a run resumes to the very bits without the state of any generator, and does not
    depend on how many workers share it. Batch statistics in training are those of the global batch, or
    of each of its `accumulation_steps` parts; what is validated and kept has those of the training set.

    Args:
        vae: the model, on the device of the images.
        train: training images.
        valid: validation images.
        config: objective, optimizer, schedules and length.
        seed: of everything random here.
        workers: who shares the work of each batch.
        checkpoints: where the run resumes from, and where it leaves its state on the way.
        on_step: called after each step with (steps done, steps in all).
        on_epoch: called after each epoch.
        on_halving: called when the run goes back to the start of an epoch with half the learning rate.

    Returns:
        One record per epoch.

    Raises:
        NonFiniteLossError: the loss stopped being finite, once more often than `config.max_halvings`.
    """
    device, dtype = train.device, next(vae.parameters()).dtype
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    num_epochs = epochs_for(len(train), config)
    num_steps = num_epochs * steps_per_epoch
    valid = valid.freeze(generator(device, seed, "binarization"))
    check_every = steps_between_checks(device)
    model = workers.replicate(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=config.weight_decay, fused=True)
    state = TrainingState(vae, optimizer, config.average_decay, workers)
    if checkpoint := checkpoints.latest():
        state.restore(checkpoint)
    if config.compile:
        model = torch.compile(model)

    while state.step < num_steps and not 0 < config.patience <= state.epochs_since_best:
        epoch, step_in_epoch = divmod(state.step, steps_per_epoch)
        if step_in_epoch == 0:
            state.begin_epoch(keep=config.max_halvings > 0)
        order = torch.randperm(len(train), generator=generator("cpu", seed, "order", epoch))
        vae.train()
        try:
            batches = order.to(train.pixels.device).split(config.batch_size)[step_in_epoch:]
            for indices, pixels in gathered(train, batches, workers.share):  # (batch,), uint8 (share, C, H, W)
                checkpoints.offer(state.step, partial(capture_finite, state, epoch + 1, indices))
                position = (epoch, state.step)
                share = workers.share(len(indices))
                draws = generator(device, seed, "binarization", *position)
                x = train.read(pixels, len(indices), dtype, draws, share)  # (share, C, H, W)
                noise = torch.randn(
                    *sample_shape(config),
                    len(indices),
                    vae.latent_dim,
                    dtype=dtype,
                    device=device,
                    generator=generator(device, seed, "latent", *position),
                )[..., share, :]  # (*sample_shape, share, D)
                beta = config.kl_warmup.weight(state.step, num_steps, steps_per_epoch)
                optimizer.zero_grad()
                loss, terms = backward(model, x, noise, beta, config, workers, len(indices))
                grad_norm = clip_gradients(vae, config.max_grad_norm)
                if state.step % check_every == 0 and not workers.sum(loss + grad_norm).isfinite():
                    raise NonFiniteLossError.at(epoch + 1, state.step + 1, indices, vae)
                rate = learning_rate(
                    state.step, num_steps, config.schedule, config.learning_rate, config.final_learning_rate
                )
                rate *= 0.5**state.halvings
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                state.end_step(terms, grad_norm)
                on_step(state.step, num_steps)
            losses = (workers.sum(state.sums) / len(train)).tolist()
            here = {"seed": seed, "precision": config.precision, "workers": workers}
            recompute_statistics(state.scored, train, **here)
            losses += validate(state.scored, valid, **here)
            if not all(map(math.isfinite, losses)):
                raise NonFiniteLossError.at(epoch + 1, state.step, indices, vae)
            grad_norms = (state.grad_norms / state.grad_norms.new_tensor((steps_per_epoch, 1))).tolist()
            state.end_epoch(EpochRecord(epoch + 1, *losses, rate, beta, state.halvings, *grad_norms))
            on_epoch(state.records[-1])
        except NonFiniteLossError as error:
            if state.halvings == config.max_halvings:
                raise
            state.go_back()
            on_halving(error)
    vae.load_state_dict(state.best_weights)
    return state.records


def capture_finite(state: TrainingState, epoch: int, indices: Tensor) -> Checkpoint:
    """A state that is worth going on from; on a GPU the loss is looked at only now and then.

    Raises:
        NonFiniteLossError: a weight is NaN or infinite.
    """
    if not all(weight.isfinite().all() for weight in state.vae.parameters()):
        raise NonFiniteLossError.at(epoch, state.step, indices, state.vae)
    return state.capture()


def epochs_for(num_images: int, config: TrainingConfig) -> int:
    """How many epochs a run on so many images lasts: `epochs`, or more to reach `min_steps`."""
    return max(config.epochs, math.ceil(config.min_steps / math.ceil(num_images / config.batch_size)))


def steps_between_checks(device: torch.device) -> int:
    """How often the loss is looked at: a look makes a GPU wait."""
    return 1 if device.type == "cpu" else 100


def norm_of(tensor: Tensor | None) -> float | None:
    """Euclidean norm; None where there is no gradient."""
    return None if tensor is None else tensor.detach().norm().item()
