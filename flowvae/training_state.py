"""All that changes during a run, and how it goes into a checkpoint and comes back."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowvae.checkpoint import Checkpoint
from flowvae.vae import VAE
from flowvae.workers import Workers


@dataclass(frozen=True)
class EpochRecord:
    """One point of the learning curves; losses in nats per image.

    The gradient's norm is that of all parameters together, before clipping, over the steps of the epoch.
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


class TrainingState:
    """Weights, optimizer, average and best weights, sums of the epoch, and how far the run has come.

    Args:
        vae: trained in place.
        optimizer: AdamW over its parameters.
        average_decay: of the exponential moving average of the weights; 0 for none.
        workers: who share the work; all of them capture and restore together.
    """

    def __init__(self, vae: VAE, optimizer: torch.optim.AdamW, average_decay: float, workers: Workers) -> None:
        self.vae, self.optimizer, self.workers = vae, optimizer, workers
        average = get_ema_multi_avg_fn(average_decay)
        self.average = AveragedModel(vae, multi_avg_fn=average) if average_decay else None
        # -ELBO, -log p(x|z), KL over this worker's part of the epoch; in float64, where sums of float32 are exact,
        # so that they do not depend on how they were split and put together again.
        self.sums = torch.zeros(3, device=next(vae.parameters()).device, dtype=torch.float64)
        self.grad_norms = torch.zeros_like(self.sums[:2])  # sum and maximum over the epoch, alike on all workers
        self.best_weights: dict[str, Tensor] = {}
        self.step = self.epochs_since_best = self.halvings = 0
        self.best = math.inf  # of -ELBO on validation
        self.records: list[EpochRecord] = []
        self.epoch_start: Checkpoint | None = None

    @property
    def scored(self) -> VAE:
        """What validation looks at, and what is kept: the average of the weights, or the weights."""
        return self.average.module if self.average else self.vae

    def begin_epoch(self, *, keep: bool) -> None:
        """Zero the sums; with `keep`, remember this point for `go_back`."""
        self.sums.zero_()
        self.grad_norms.zero_()
        self.epoch_start = None
        self.epoch_start = self.capture().clone() if keep else None

    def end_step(self, terms: Tensor, grad_norm: Tensor) -> None:
        """After the optimizer: count the step, and add up its loss terms, shape (3,), and its gradient's norm."""
        self.sums += terms
        self.grad_norms[0] += grad_norm
        torch.maximum(self.grad_norms[1], grad_norm, out=self.grad_norms[1])
        self.step += 1
        if self.average:
            self.average.update_parameters(self.vae)

    def end_epoch(self, record: EpochRecord) -> None:
        """Keep the weights if they are the best so far."""
        for own, measured in zip(self.vae.buffers(), self.scored.buffers(), strict=True):
            own.copy_(measured)  # population statistics, which a batch of one image is normalised by
        self.records.append(record)
        self.epochs_since_best += 1
        if record.valid_negative_elbo < self.best:
            self.best, self.epochs_since_best = record.valid_negative_elbo, 0
            self.best_weights = {name: value.clone() for name, value in self.scored.state_dict().items()}

    def go_back(self) -> None:
        """To the start of the epoch, with half the learning rate from there on."""
        halvings = self.halvings + 1
        self.restore(self.epoch_start)
        self.halvings = halvings

    def capture(self) -> Checkpoint:
        """All of this, by reference: serialize or clone it before the next step."""
        progress = {
            "best": self.best,
            "epochs_since_best": self.epochs_since_best,
            "halvings": self.halvings,
            "records": [asdict(record) for record in self.records],
        }
        tensors = dict(self._tensors())
        if start := self.epoch_start:
            tensors |= {f"epoch_start/{name}": tensor for name, tensor in start.tensors.items()}
            progress["epoch_start"] = {"step": start.step, "progress": start.progress}
        return Checkpoint(self.step, tensors, progress)

    def restore(self, checkpoint: Checkpoint) -> None:
        """The state that `capture` saw, to the bit."""
        tensors, progress = checkpoint.tensors, checkpoint.progress
        self.vae.load_state_dict(part(tensors, "weights"))
        if self.average:
            self.average.load_state_dict(part(tensors, "average"))
        for i, weight in enumerate(self.vae.parameters()):
            self.optimizer.state.pop(weight, None)
            if moments := part(tensors, f"optimizer.{i}"):
                self.optimizer.state[weight] = {
                    name: value.to(weight.device) if name == "step" else torch.empty_like(weight).copy_(value)
                    for name, value in moments.items()
                }  # with the memory layout of the weight, which the fused step takes for granted
        self.best_weights = {name: value.to(self.sums.device) for name, value in part(tensors, "best").items()}
        first = len(range(1)[self.workers.share(1)])  # 1 on the worker that goes on with the sums, 0 on the others
        self.sums.copy_(tensors["sums"] * first)
        self.grad_norms.copy_(tensors["grad_norms"])
        self.step, self.best = checkpoint.step, progress["best"]
        self.epochs_since_best, self.halvings = progress["epochs_since_best"], progress["halvings"]
        self.records = [EpochRecord(**record) for record in progress["records"]]
        if start := progress.get("epoch_start"):
            self.epoch_start = Checkpoint(start["step"], part(tensors, "epoch_start"), start["progress"])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        groups = {
            "weights": self.vae.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "best": self.best_weights,
        }
        for i, weight in enumerate(self.vae.parameters()):
            groups[f"optimizer.{i}"] = self.optimizer.state.get(weight, {})
        yield "sums", self.workers.sum(self.sums)
        yield "grad_norms", self.grad_norms
        for group, tensors in groups.items():
            yield from ((f"{group}/{name}", tensor.detach()) for name, tensor in tensors.items())


def part(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors named GROUP/NAME, by NAME."""
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
