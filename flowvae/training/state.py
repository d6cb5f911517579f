"""Everything that changes during a run, and how it is written to a checkpoint and restored."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowvae.model.vae import VAE
from flowvae.training.checkpoint import Checkpoint
from flowvae.training.workers import Workers

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class EpochRecord:
    """One point of the learning curves; losses in nats per image.

    The norm of the gradient is that of all parameters together, before clipping, over the steps of the epoch. `seconds`
    count from the start of training to the end of the epoch, without interruptions; equal runs differ in them, so
    comparisons leave them out.
    """

    epoch: int
    train_negative_elbo: float
    train_reconstruction: float
    train_kl: float
    valid_negative_elbo: float
    valid_reconstruction: float
    valid_kl: float
    learning_rate: float
    kl_weight: float
    halvings: int
    mean_grad_norm: float
    max_grad_norm: float
    seconds: float = field(compare=False)


class TrainingState:
    """Parameters, optimizer, averaged and best parameters, sums over the epoch, and the position in the run.

    Args:
        vae: trained in place.
        optimizer: AdamW over its parameters.
        average_decay: of the exponential moving average of the parameters; 0 for no average. After few steps the decay
            is smaller (`decay_at`), or the parameters at the start would dominate the average for a long time.
        workers: share the work; all of them capture and restore the state together.
    """

    def __init__(self, vae: VAE, optimizer: torch.optim.AdamW, average_decay: float, workers: Workers) -> None:
        self.vae, self.optimizer, self.workers = vae, optimizer, workers
        self.average_decay = average_decay
        self.average = AveragedModel(vae, multi_avg_fn=self._average) if average_decay else None
        # -ELBO, -log p(x|z), KL over this worker's part of the epoch. In float64, sums of float32 values are exact, so
        # they do not depend on how the epoch was split.
        self.sums = torch.zeros(3, device=next(vae.parameters()).device, dtype=torch.float64)
        self.grad_norms = torch.zeros_like(self.sums[:2])  # sum and maximum over the epoch, the same on all workers
        self.best_weights: dict[str, Tensor] = {}
        self.step = self.epochs_since_best = self.halvings = 0
        self.best = math.inf  # validation -ELBO
        self.records: list[EpochRecord] = []
        self.epoch_start: Checkpoint | None = None
        self.started = time.monotonic()

    def _average(self, averages: Tensors, parameters: Tensors, count: Tensor | int) -> None:
        get_ema_multi_avg_fn(decay_at(self.step, self.average_decay))(averages, parameters, count)

    @property
    def seconds(self) -> float:
        """Since the start of training, without interruptions."""
        return time.monotonic() - self.started

    @property
    def evaluated(self) -> VAE:
        """The model that is validated and kept: the one with averaged parameters if there is an average."""
        if self.average is None:
            return self.vae
        assert isinstance(self.average.module, VAE)
        return self.average.module

    def begin_epoch(self, *, save_start: bool) -> None:
        """Set the sums to zero; with `save_start`, save this state for `restart_epoch`."""
        self.sums.zero_()
        self.grad_norms.zero_()
        self.epoch_start = None
        self.epoch_start = self.capture().clone() if save_start else None

    def end_step(self, terms: Tensor, grad_norm: Tensor) -> None:
        """Count a step of the optimizer.

        Args:
            terms: sums of `loss_terms` over this worker's share, shape (3,).
            grad_norm: norm of the gradient, a scalar.
        """
        self.sums += terms
        self.grad_norms[0] += grad_norm
        torch.maximum(self.grad_norms[1], grad_norm, out=self.grad_norms[1])
        self.step += 1
        if self.average:
            self.average.update_parameters(self.vae)

    def end_epoch(self, record: EpochRecord) -> None:
        """Keep the parameters if they are the best so far."""
        for trained, evaluated in zip(self.vae.buffers(), self.evaluated.buffers(), strict=True):
            trained.copy_(evaluated)  # population statistics, which normalise a batch of one image
        self.records.append(record)
        self.epochs_since_best += 1
        if record.valid_negative_elbo < self.best:
            self.best, self.epochs_since_best = record.valid_negative_elbo, 0
            self.best_weights = {name: value.clone() for name, value in self.evaluated.state_dict().items()}

    def restart_epoch(self) -> None:
        """Return to the start of the epoch, and halve the learning rate for the rest of the run."""
        assert self.epoch_start, "begin_epoch did not save the start"
        halvings, started = self.halvings + 1, self.started
        self.restore(self.epoch_start)
        self.halvings, self.started = halvings, started

    def capture(self) -> Checkpoint:
        """The whole state. It refers to the tensors, so serialize or clone it before the next step."""
        scalars: dict[str, Any] = {
            "best": self.best,
            "epochs_since_best": self.epochs_since_best,
            "halvings": self.halvings,
            "records": [asdict(record) for record in self.records],
            "seconds": self.seconds,
        }
        tensors = dict(self._tensors())
        if start := self.epoch_start:
            tensors |= {f"epoch_start/{name}": tensor for name, tensor in start.tensors.items()}
            scalars["epoch_start"] = {"step": start.step, "scalars": start.scalars}
        return Checkpoint(self.step, tensors, scalars)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore a state that was captured, bit for bit."""
        tensors, scalars = checkpoint.tensors, checkpoint.scalars
        self.vae.load_state_dict(group_of(tensors, "weights"))
        if self.average:
            self.average.load_state_dict(group_of(tensors, "average"))
        for i, parameter in enumerate(self.vae.parameters()):
            self.optimizer.state.pop(parameter, None)
            if moments := group_of(tensors, f"optimizer.{i}"):
                self.optimizer.state[parameter] = {
                    name: value.to(parameter.device) if name == "step" else torch.empty_like(parameter).copy_(value)
                    for name, value in moments.items()
                }  # in the memory layout of the parameter, which the fused step assumes
        self.best_weights = {name: value.to(self.sums.device) for name, value in group_of(tensors, "best").items()}
        # The sums in a checkpoint are those over all workers. The worker that would get the only image of a batch of 1
        # continues from them, the others from 0.
        continues_sums = len(range(1)[self.workers.share(1)])
        self.sums.copy_(tensors["sums"] * continues_sums)
        self.grad_norms.copy_(tensors["grad_norms"])
        self.step, self.best = checkpoint.step, scalars["best"]
        self.epochs_since_best, self.halvings = scalars["epochs_since_best"], scalars["halvings"]
        self.records = [EpochRecord(**record) for record in scalars["records"]]
        self.started = time.monotonic() - scalars["seconds"]
        if start := scalars.get("epoch_start"):
            self.epoch_start = Checkpoint(start["step"], group_of(tensors, "epoch_start"), start["scalars"])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        groups = {
            "weights": self.vae.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "best": self.best_weights,
        }
        for i, parameter in enumerate(self.vae.parameters()):
            groups[f"optimizer.{i}"] = self.optimizer.state.get(parameter, {})
        yield "sums", self.workers.sum(self.sums)
        yield "grad_norms", self.grad_norms
        for group, tensors in groups.items():
            yield from ((f"{group}/{name}", tensor.detach()) for name, tensor in tensors.items())


def decay_at(step: int, decay: float) -> float:
    """The decay of a moving average after some steps: it averages over about the last ninth of them, until `decay` is
    reached (`num_updates` of TensorFlow's ExponentialMovingAverage).
    """
    return min(decay, (1 + step) / (10 + step))


def group_of(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors named GROUP/NAME, by NAME."""
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
