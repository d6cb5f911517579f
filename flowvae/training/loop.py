"""fit(): maximize a bound on log p(x) with one plain loop."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.data.images import ImageSet
from flowvae.model.vae import VAE
from flowvae.randomness import generator
from flowvae.training.batches import gather_batches
from flowvae.training.checkpoint import Checkpoint, Checkpoints, NoCheckpoints
from flowvae.training.config import TrainingConfig
from flowvae.training.gradients import backward, clip_gradients, initialize_layers, sample_shape
from flowvae.training.population import recompute_statistics
from flowvae.training.schedules import learning_rate
from flowvae.training.state import EpochRecord, TrainingState
from flowvae.training.validation import validate
from flowvae.training.workers import SingleWorker, Workers


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite.

    Args:
        dump: epoch, step, images of the batch, and the norms of all parameters and gradients, as JSON values.
    """

    def __init__(self, dump: dict[str, Any]) -> None:
        super().__init__(dump)
        self.dump = dump

    def __str__(self) -> str:
        return f"loss is not finite at epoch {self.dump['epoch']}, step {self.dump['step']}"

    @classmethod
    def at(cls, epoch: int, step: int, indices: Tensor, vae: nn.Module) -> "NonFiniteLossError":
        """The error at an epoch and a step, both counted from 1.

        Args:
            epoch, step: position in the run.
            indices: the images of the batch, shape (batch,).
            vae: the model, whose norms are dumped.
        """
        return cls(
            {
                "epoch": epoch,
                "step": step,
                "batch_indices": indices.tolist(),
                "weight_norms": {name: norm_of(parameter) for name, parameter in vae.named_parameters()},
                "gradient_norms": {name: norm_of(parameter.grad) for name, parameter in vae.named_parameters()},
            }
        )


def fit(
    vae: VAE,
    train: ImageSet,
    valid: ImageSet,
    config: TrainingConfig,
    *,
    seed: int,
    workers: Workers = SingleWorker(),  # noqa: B008
    checkpoints: Checkpoints = NoCheckpoints(),  # noqa: B008
    on_step: Callable[[int, int], None] = lambda step, num_steps: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_halving: Callable[[NonFiniteLossError], None] = lambda error: None,
) -> list[EpochRecord]:
    """Train a model in place. Afterwards it has the parameters of the epoch with the best validation loss, and is in
    evaluation mode.

    Batch order, binarization and latent noise are functions of (seed, epoch, step), drawn for the global batch.
    Therefore a resumed run produces the same bits without any saved generator state, and a run does not depend on the
    number of workers. Batch statistics in training are those of the global batch, or of each of its
    `accumulation_steps` parts; the model that is validated and kept has those of the training set.

    Args:
        vae: the model, on the device of the images.
        train: training images.
        valid: validation images.
        config: objective, optimizer, schedules and length.
        seed: of all random numbers.
        workers: share the work of each batch.
        checkpoints: the run resumes from the latest one and stores new ones.
        on_step: called after each step with (number of finished steps, number of all steps).
        on_epoch: called after each epoch.
        on_halving: called when the run returns to the start of an epoch with half the learning rate.

    Returns:
        One record per epoch.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite more than `config.max_halvings` times.
    """
    device, dtype = train.device, next(vae.parameters()).dtype
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    num_steps = epochs_for(len(train), config) * steps_per_epoch
    valid = valid.freeze(generator(device, seed, "binarization"))
    check_every = steps_between_checks(device)
    replica = model = workers.replicate(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=config.weight_decay, fused=True)
    state = TrainingState(vae, optimizer, config.average_decay, workers)
    if checkpoint := checkpoints.latest():
        state.restore(checkpoint)
    if config.compile:
        model = compiled(replica)

    while state.step < num_steps and not 0 < config.patience <= state.epochs_since_best:
        epoch, step_in_epoch = divmod(state.step, steps_per_epoch)
        if step_in_epoch == 0:
            state.begin_epoch(save_start=config.max_halvings > 0)
        order = torch.randperm(len(train), generator=generator("cpu", seed, "order", epoch))  # (len(train),)
        vae.train()
        try:
            batches = order.to(train.pixels.device).split(config.batch_size)[step_in_epoch:]  # (batch,) each
            for indices, pixels in gather_batches(train, batches, workers.share):  # (batch,), uint8 (share, C, H, W)
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
                if config.compile:
                    initialize_layers(replica, x, noise, config, len(indices))
                optimizer.zero_grad()
                loss, terms = backward(model, x, noise, beta, config, workers, len(indices))  # (), (3,)
                grad_norm = clip_gradients(vae, config.max_grad_norm)  # ()
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
            train_losses = (workers.sum(state.sums) / len(train)).tolist()  # -ELBO, -log p(x|z), KL
            recompute_statistics(state.evaluated, train, seed=seed, precision=config.precision, workers=workers)
            valid_losses = validate(state.evaluated, valid, seed=seed, precision=config.precision, workers=workers)
            if not all(map(math.isfinite, (*train_losses, *valid_losses))):
                raise NonFiniteLossError.at(epoch + 1, state.step, indices, vae)
            sum_grad_norm, max_grad_norm = state.grad_norms.tolist()
            record = EpochRecord(
                epoch=epoch + 1,
                train_negative_elbo=train_losses[0],
                train_reconstruction=train_losses[1],
                train_kl=train_losses[2],
                valid_negative_elbo=valid_losses[0],
                valid_reconstruction=valid_losses[1],
                valid_kl=valid_losses[2],
                learning_rate=rate,
                kl_weight=beta,
                halvings=state.halvings,
                mean_grad_norm=sum_grad_norm / steps_per_epoch,
                max_grad_norm=max_grad_norm,
                seconds=state.seconds,
            )
            state.end_epoch(record)
            on_epoch(record)
        except NonFiniteLossError as error:
            if state.halvings == config.max_halvings:
                raise
            state.restart_epoch()
            on_halving(error)
    vae.load_state_dict(state.best_weights)
    vae.eval()
    return state.records


def capture_finite(state: TrainingState, epoch: int, indices: Tensor) -> Checkpoint:
    """Capture a state from which a run can resume. On a GPU the loss is checked only once in a while.

    Raises:
        NonFiniteLossError: a parameter is NaN or infinite.
    """
    if not all(parameter.isfinite().all() for parameter in state.vae.parameters()):
        raise NonFiniteLossError.at(epoch, state.step, indices, state.vae)
    return state.capture()


def compiled(model: nn.Module) -> nn.Module:
    """The model, compiled when it is first called; it shares its parameters with `model`."""
    compiled_model = torch.compile(model)
    assert isinstance(compiled_model, nn.Module)  # declared as a function
    return compiled_model


def epochs_for(num_images: int, config: TrainingConfig) -> int:
    """Number of epochs of a run: `config.epochs`, or more to reach `config.min_steps`.

    Args:
        num_images: number of training images.
        config: length of the run and batch size.
    """
    return max(config.epochs, math.ceil(config.min_steps / math.ceil(num_images / config.batch_size)))


def steps_between_checks(device: torch.device) -> int:
    """Number of steps between checks of the loss. Each check makes the CPU wait for a GPU."""
    return 1 if device.type == "cpu" else 100


def norm_of(tensor: Tensor | None) -> float | None:
    """Euclidean norm; None without a tensor."""
    return None if tensor is None else tensor.detach().norm().item()
