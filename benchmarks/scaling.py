"""What a training step computes, moves and adds up, and what that means for 8 and 64 GPUs: infra/scaling.md.

Counted operation by operation (every read and write of each, as eager execution does them), not estimated
from layer shapes. `python -m benchmarks.scaling` prints the tables of infra/scaling.md from results.json.

Prediction: the default model does about 15 MFLOP per image forward, so 45 with the backward pass, in some 500
operations per step; adding up its 3.7 MB of gradients takes 5 ms over loopback with two processes. On a
GPU a step is bound by the host's launches of operations, by two orders of magnitude.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from flowvae.gradients import backward, clip_gradients
from flowvae.vae import VAEConfig, build_vae
from flowvae.workers import Alone
from pipeline.params import load_params

RESULTS = Path(__file__).with_name("results.json")
BATCH = 512  # images per step and GPU
ROUNDS = 9
PORT = 29541

# NVIDIA H100 SXM (data sheet): dense bfloat16 matrix products, memory, NVLink in one direction. DGX H100: one
# ConnectX-7 of 400 Gb/s per GPU. The latencies of an all-reduce are assumed: NCCL's order of magnitude.
FLOPS, MEMORY, NVLINK, NETWORK = 989e12, 3.35e12, 450e9, 50e9
NODE_LATENCY, CLUSTER_LATENCY = 20e-6, 50e-6
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Step:
    """One training step of one GPU.

    Args:
        flops: of matrix products and convolutions.
        bytes: read and written by all operations.
        operations: launches.
        gradient_bytes: to add up.
        host_seconds: of each operation, on the processor that launches it.
    """

    flops: float
    bytes: float
    operations: int
    gradient_bytes: float
    host_seconds: float

    def seconds(self) -> dict[str, float]:
        """What each resource needs; the step takes as long as the slowest."""
        return {
            "arithmetic": self.flops / FLOPS,
            "memory": self.bytes / MEMORY,
            "launches": self.operations * self.host_seconds,
        }

    def all_reduce(self, gpus: int) -> float:
        """Seconds of a ring in each node, then one between nodes in which each GPU has its own network card."""
        in_node = min(gpus, GPUS_PER_NODE)
        seconds = 2 * (in_node - 1) / in_node * self.gradient_bytes / NVLINK + NODE_LATENCY
        nodes = gpus // GPUS_PER_NODE
        if nodes > 1:
            part = self.gradient_bytes / GPUS_PER_NODE  # after the reduce-scatter in the node
            seconds += 2 * (nodes - 1) / nodes * part / NETWORK + CLUSTER_LATENCY
        return seconds


def models() -> dict[str, VAEConfig]:
    """The default model, and one of the size that 32 x 32 colour images need, until they have their own."""
    params = load_params(Path("params.yaml"))
    default = params.vae_config("real-nvp-5", (1, 28, 28))
    large = default.model.model_dump(mode="json") | {
        "latent_shape": [128],
        "encoder": {"name": "conv", "channels": [128, 256], "hidden_features": [1024], "context_features": 128},
        "decoder": {"name": "conv", "channels": [256, 128], "hidden_features": [1024]},
    }
    flow = default.flow.model_dump(mode="json") | {"num_transforms": 10, "hidden_features": [512, 512]}
    return {
        "default": default,
        "cifar10": VAEConfig.model_validate({"model": large, "flow": flow, "image_shape": [3, 32, 32]}),
    }


def measure() -> list[dict[str, object]]:
    """Counts of both models, the host's time per operation, and all-reduce over loopback."""
    torch.set_num_threads(1)
    training = load_params(Path("params.yaml")).training
    found = []
    for name, config in models().items():
        one_step = stepper(config, training, BATCH)
        with Counter() as counter, FlopCounterMode(display=False) as flops:
            one_step()
        weights = sum(weight.numel() for weight in build_vae(config, seed=0).parameters())
        what = f"{name} model, real_nvp k = {config.flow.num_transforms}, one step of {BATCH} images, float32"
        found += [
            entry(f"flops_per_step_{name}", flops.get_total_flops() / 1e9, "GFLOP", what),
            entry(f"bytes_per_step_{name}", counter.bytes / 1e6, "MB", f"{what}; reads and writes of each operation"),
            entry(f"operations_per_step_{name}", counter.operations, "operations", f"{what}; views left out"),
            entry(f"gradient_bytes_{name}", 4 * weights / 1e6, "MB", f"{weights:,} weights in float32"),
        ]
        if name == "default":  # the optimizer of the other is not small, even for one image
            tiny = stepper(config, training, 1)
            each = 1e6 * median(seconds(tiny) for _ in range(20 * ROUNDS)) / counter.operations
            found.append(entry("host_us_per_operation", each, "us", "default model, a step of one image, one thread"))
        for count in (2, 4):
            took = 1e3 * all_reduce_seconds(weights, count)
            what = f"{4 * weights / 1e6:.1f} MB, gloo, {count} processes on loopback, median of {ROUNDS}"
            found.append(entry(f"all_reduce_ms_{name}_{count}", took, "ms", what))
    return found


def entry(name: str, value: float, unit: str, conditions: str) -> dict[str, object]:
    return {"name": name, "value": round(value, 2), "unit": unit, "conditions": conditions}


def stepper(config: VAEConfig, training: Any, batch: int) -> Any:
    """A call that takes one whole step, as `fit` does, on random bits."""
    vae = build_vae(config, seed=0)
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    x = torch.bernoulli(torch.full((batch, *config.image_shape), 0.1))
    noise = torch.randn(batch, vae.latent_dim)

    def one_step() -> None:
        optimizer.zero_grad()
        backward(vae, x, noise, 1.0, training, Alone(), batch)
        clip_gradients(vae, training.max_grad_norm)
        optimizer.step()

    one_step()
    return one_step


class Counter(TorchDispatchMode):
    """Counts operations and the bytes that they read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
        return out


def all_reduce_seconds(numbers: int, count: int) -> float:
    """Of so many float32 numbers, by gloo between processes here."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    others = [context.Process(target=all_reduce_worker, args=(rank, count, numbers, queue)) for rank in range(count)]
    for process in others:
        process.start()
    took = queue.get()
    for process in others:
        process.join()
    return took


def all_reduce_worker(rank: int, count: int, numbers: int, queue: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(PORT))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=count)
    tensor = torch.zeros(numbers)
    times = []
    for _ in range(ROUNDS + 3):
        torch.distributed.barrier()
        times.append(seconds(lambda: torch.distributed.all_reduce(tensor)))
    if rank == 0:
        queue.put(median(times[3:]))
    torch.distributed.destroy_process_group()


def seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


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
    return Step(
        flops=values[f"flops_per_step_{name}"] * 1e9,
        bytes=values[f"bytes_per_step_{name}"] * 1e6,
        operations=int(values[f"operations_per_step_{name}"]),
        gradient_bytes=values[f"gradient_bytes_{name}"] * 1e6,
        host_seconds=values["host_us_per_operation"] * 1e-6,
    )


def plan_row(name: str, step: Step, images: int) -> str:
    """Efficiency is one GPU's step over that of many, nothing overlapped: the worst case."""
    share = images / BATCH
    needs = Step(step.flops * share, step.bytes * share, step.operations, step.gradient_bytes, step.host_seconds)
    parts = needs.seconds()
    whole, device = max(parts.values()), max(parts["arithmetic"], parts["memory"])
    added = [needs.all_reduce(gpus) for gpus in (8, 64)]
    cells = [
        *(f"{1e3 * part:.2f}" for part in parts.values()),
        " / ".join(f"{1e3 * seconds:.2f}" for seconds in added),
        " / ".join(f"{whole / (whole + seconds):.0%}" for seconds in added),
        f"{1e3 * device:.2f}",
        " / ".join(f"{device / (device + seconds):.0%}" for seconds in added),
    ]
    return f"| {name} | {images} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print(tables(json.loads(RESULTS.read_text())))
