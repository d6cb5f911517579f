"""Arithmetic, memory traffic and gradients of a training step, and what follows for 8 and 64 GPUs: infra/scaling.md.

They are counted operation by operation (every read and write of each, as eager execution does them), not estimated from
layer shapes. `python -m benchmarks.scaling` prints the tables of infra/scaling.md from results.json.

Prediction: the forward pass of the default model takes about 15 MFLOP per image, so a step takes 45, in about 500
operations. All-reduce of its 3.7 MB of gradients takes 5 ms over loopback with two processes. On a GPU, the launches of
operations by the host limit a step, by two orders of magnitude.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Entry, elapsed, entry
from flowvae.model.loading import build_vae
from flowvae.model.settings import VAEConfig
from flowvae.training.config import TrainingConfig
from flowvae.training.gradients import backward, clip_gradients
from flowvae.training.workers import SingleWorker
from pipeline.params.reading import load_params

RESULTS = Path(__file__).with_name("results.json")
BATCH = 512  # images per step and GPU
ROUNDS, WARM_ROUNDS = 9, 3
STEPS_PER_ROUND = 20  # of one image, which are short
NUM_PROCESSES = (2, 4)
PORT = 29541

# NVIDIA H100 SXM (data sheet): FLOP/s of dense bfloat16 matrix products, bytes/s of memory, and of NVLink in one
# direction. DGX H100: one ConnectX-7 of 400 Gb/s per GPU. The latencies of an all-reduce are assumed: NCCL's order of
# magnitude, in seconds.
FLOPS, MEMORY, NVLINK, NETWORK = 989e12, 3.35e12, 450e9, 50e9
NODE_LATENCY, CLUSTER_LATENCY = 20e-6, 50e-6
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Step:
    """One training step on one GPU.

    Args:
        flops: of matrix products and convolutions.
        bytes: read and written by all operations.
        operations: number of launches.
        gradient_bytes: size of the all-reduce.
        host_seconds: time of each operation on the CPU that launches it.
    """

    flops: float
    bytes: float
    operations: int
    gradient_bytes: float
    host_seconds: float

    def seconds(self) -> dict[str, float]:
        """Seconds by resource; the step takes as long as the slowest."""
        return {
            "arithmetic": self.flops / FLOPS,
            "memory": self.bytes / MEMORY,
            "launches": self.operations * self.host_seconds,
        }

    def all_reduce(self, num_gpus: int) -> float:
        """Seconds of a ring in each node, then of one between nodes, where each GPU has its own network card."""
        gpus_in_node = min(num_gpus, GPUS_PER_NODE)
        seconds = 2 * (gpus_in_node - 1) / gpus_in_node * self.gradient_bytes / NVLINK + NODE_LATENCY
        num_nodes = num_gpus // GPUS_PER_NODE
        if num_nodes > 1:
            part = self.gradient_bytes / GPUS_PER_NODE  # after the reduce-scatter in the node
            seconds += 2 * (num_nodes - 1) / num_nodes * part / NETWORK + CLUSTER_LATENCY
        return seconds


def models() -> dict[str, VAEConfig]:
    """The default model, and a model of the size that 32 x 32 colour images need."""
    params = load_params(Path("params.yaml"))
    default = params.vae_config("real-nvp-5", (1, 28, 28))
    large = {
        "latent_shape": [128],
        "encoder": {"name": "conv", "channels": [128, 256], "hidden_features": [1024], "context_features": 128},
        "decoder": {"name": "conv", "channels": [256, 128], "hidden_features": [1024]},
    }
    flow = default.posterior.model_dump(mode="json") | {"num_transforms": 10, "hidden_features": [512, 512]}
    return {
        "default": default,
        "cifar10": VAEConfig.model_validate(
            default.model_dump(mode="json") | large | {"posterior": flow, "image_shape": [3, 32, 32]}
        ),
    }


def measure() -> list[Entry]:
    """Count the operations of both models; time the operations of the default model, and all-reduce over loopback."""
    torch.set_num_threads(1)
    training = load_params(Path("params.yaml")).training
    results = []
    for name, config in models().items():
        train_step = stepper(config, training, BATCH)
        with Counter() as counter, FlopCounterMode(display=False) as flops:
            train_step()
        num_weights = sum(parameter.numel() for parameter in build_vae(config, seed=0).parameters())
        conditions = (
            f"{name} model, real_nvp k = {config.posterior.num_transforms}, one step of {BATCH} images, float32"
        )
        memory_conditions = f"{conditions}; reads and writes of each operation"
        gradients = f"{num_weights:,} weights in float32"
        results += [
            entry(f"flops_per_step_{name}", flops.get_total_flops() / 1e9, "GFLOP", conditions, digits=2),
            entry(f"bytes_per_step_{name}", counter.bytes / 1e6, "MB", memory_conditions, digits=2),
            entry(f"operations_per_step_{name}", counter.operations, "operations", f"{conditions}; views not counted"),
            entry(f"gradient_bytes_{name}", 4 * num_weights / 1e6, "MB", gradients, digits=2),
        ]
        if name == "default":  # the optimizer step of the larger model takes long, even for one image
            results.append(host_time(stepper(config, training, 1), counter.operations))
        results += [all_reduce_time(name, num_weights, num_processes) for num_processes in NUM_PROCESSES]
    return results


def host_time(train_step: Callable[[], None], num_operations: int) -> Entry:
    """Time of each operation in a step of one image, which is mostly the time to launch it."""
    microseconds = 1e6 * median(elapsed(train_step) for _ in range(STEPS_PER_ROUND * ROUNDS)) / num_operations
    conditions = "default model, a step of one image, one thread"
    return entry("host_us_per_operation", microseconds, "us", conditions, digits=2)


def all_reduce_time(name: str, num_weights: int, num_processes: int) -> Entry:
    """Time to sum the gradients of a model over processes on this machine."""
    milliseconds = 1e3 * all_reduce_seconds(num_weights, num_processes)
    conditions = f"{4 * num_weights / 1e6:.1f} MB, gloo, {num_processes} processes on loopback, median of {ROUNDS}"
    return entry(f"all_reduce_ms_{name}_{num_processes}", milliseconds, "ms", conditions, digits=2)


def stepper(config: VAEConfig, training: TrainingConfig, batch_size: int) -> Callable[[], None]:
    """A function that runs one whole training step on random bits, as in `fit`; it has run once."""
    vae = build_vae(config, seed=0)
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    x = torch.bernoulli(torch.full((batch_size, *config.image_shape), 0.1))
    noise = torch.randn(batch_size, vae.latent_dim)

    def train_step() -> None:
        optimizer.zero_grad()
        backward(vae, x, noise, 1.0, training, SingleWorker(), batch_size)
        clip_gradients(vae, training.max_grad_norm)
        optimizer.step()

    train_step()
    return train_step


class Counter(TorchDispatchMode):
    """Counts operations, and the bytes that they read and write; views do neither."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
        return out


def all_reduce_seconds(num_values: int, num_processes: int) -> float:
    """Seconds of an all-reduce of float32 values with gloo between processes on this machine."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=all_reduce_worker, args=(rank, num_processes, num_values, queue))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    seconds = queue.get()
    for process in processes:
        process.join()
    return seconds


def all_reduce_worker(rank: int, num_processes: int, num_values: int, queue: "SimpleQueue[float]") -> None:
    """One of the processes; rank zero returns the median seconds through the queue."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(PORT))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=num_processes)
    tensor = torch.zeros(num_values)
    times = []
    for _ in range(WARM_ROUNDS + ROUNDS):
        torch.distributed.barrier()
        times.append(elapsed(lambda: torch.distributed.all_reduce(tensor)))
    if rank == 0:
        queue.put(median(times[WARM_ROUNDS:]))
    torch.distributed.destroy_process_group()


def tables(entries: list[dict[str, Any]]) -> str:
    """The two tables of infra/scaling.md."""
    values = {entry["name"]: entry["value"] for entry in entries}
    steps = {name: step_of(values, name) for name in ("default", "cifar10")}
    lines = [
        f"| one step of {BATCH} images | GFLOP | moved, GB | operations | gradients, MB "
        "| all-reduce of 2 / 4 processes here, ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, step in steps.items():
        lines.append(
            f"| {name} | {step.flops / 1e9:.0f} | {step.bytes / 1e9:.2f} | {step.operations} "
            f"| {step.gradient_bytes / 1e6:.1f} "
            f"| {values[f'all_reduce_ms_{name}_2']:.1f} / {values[f'all_reduce_ms_{name}_4']:.1f} |"
        )
    lines += [
        "",
        "| model | images per GPU | arithmetic, ms | memory, ms | launches, ms | all-reduce of 8 / 64, ms "
        "| efficiency on 8 / 64 | with launches gone: step, ms | efficiency on 8 / 64 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [plan_row(name, step, images) for name, step in steps.items() for images in (64, 512, 4096)]
    return "\n".join(lines)


def step_of(values: dict[str, float], name: str) -> Step:
    """The step of a model, from the values in results.json."""
    return Step(
        flops=values[f"flops_per_step_{name}"] * 1e9,
        bytes=values[f"bytes_per_step_{name}"] * 1e6,
        operations=int(values[f"operations_per_step_{name}"]),
        gradient_bytes=values[f"gradient_bytes_{name}"] * 1e6,
        host_seconds=values["host_us_per_operation"] * 1e-6,
    )


def plan_row(name: str, step: Step, num_images: int) -> str:
    """A row of the second table. Efficiency is the step of one GPU over that of many, with no overlap (worst case)."""
    share = num_images / BATCH
    scaled = Step(step.flops * share, step.bytes * share, step.operations, step.gradient_bytes, step.host_seconds)
    parts = scaled.seconds()
    whole, device = max(parts.values()), max(parts["arithmetic"], parts["memory"])
    all_reduces = [scaled.all_reduce(num_gpus) for num_gpus in (8, 64)]
    cells = [
        *(f"{1e3 * part:.2f}" for part in parts.values()),
        " / ".join(f"{1e3 * seconds:.2f}" for seconds in all_reduces),
        " / ".join(f"{whole / (whole + seconds):.0%}" for seconds in all_reduces),
        f"{1e3 * device:.2f}",
        " / ".join(f"{device / (device + seconds):.0%}" for seconds in all_reduces),
    ]
    return f"| {name} | {num_images} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print(tables(json.loads(RESULTS.read_text())))
