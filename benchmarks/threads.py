"""How threads should wait for each other: without other load, and beside a process that keeps one core busy.

Prediction: a training step consists of hundreds of operations of 10 to 500 us. So threads that sleep at once
(OMP_WAIT_POLICY=PASSIVE) must be woken for each operation, and lose most in deep coupling flows. Threads that spin
without end (ACTIVE) win without other load, and starve when another process takes a core. A spin of a few microseconds
(GOMP_SPINCOUNT, which the pipeline sets) should be close to the better of the two in both cases.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.measuring import Entry, entry

VARIANTS = ("vae", "real-nvp-20")
WAIT_SETTINGS = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short_spin": {"GOMP_SPINCOUNT": "2000"},
    "active": {"OMP_WAIT_POLICY": "ACTIVE"},
    "one_thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"alone": "without other load", "contended": "beside a process that keeps one core busy"}  # by ending of names
ROUNDS, STEPS = 3, 40


def measure() -> list[Entry]:
    """Median images/s of training steps with each setting, each time in a new process, interleaved."""
    speeds = {"alone": all_speeds()}
    busy_process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        speeds["contended"] = all_speeds()
    finally:
        busy_process.kill()
        busy_process.wait()
    results = []
    for load, medians in speeds.items():
        for (variant, wait), speed in medians.items():
            settings = ", ".join(f"{name}={value}" for name, value in WAIT_SETTINGS[wait].items())
            conditions = (
                f"training steps of {variant} at the default batch size, {settings}, {LOADS[load]}, median of {ROUNDS}"
            )
            results.append(entry(f"threads_{variant}_{wait}_{load}", speed, "images/s", conditions))
    return results


def all_speeds() -> dict[tuple[str, str], float]:
    """Median images/s by variant and setting."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for variant in VARIANTS:
            for wait, settings in WAIT_SETTINGS.items():
                speeds.setdefault((variant, wait), []).append(images_per_second(variant, settings))
    return {key: median(values) for key, values in speeds.items()}


def images_per_second(variant: str, settings: dict[str, str], batch_size: int | None = None) -> float:
    """Images/s of training steps in a new process.

    Args:
        variant: a key of `variants` in params.yaml.
        settings: environment variables; they replace all of OpenMP.
        batch_size: None for that of params.yaml.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", variant, *([str(batch_size)] if batch_size else [])]
    return float(subprocess.run(command, env=inherited | settings, check=True, capture_output=True, text=True).stdout)


def train_here(variant: str, batch_size: str | None = None) -> float:
    """Images/s of training steps in this process; the median of STEPS."""
    import torch

    from flowvae.datasets.registry import image_shape
    from flowvae.model.loading import build_vae
    from flowvae.model.objectives import elbo
    from pipeline.params.reading import load_params

    params = load_params(Path("params.yaml"))
    vae = build_vae(params.vae_config(variant, image_shape(params.data)), seed=0)
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    num_images = int(batch_size or params.training.batch_size)
    x = (torch.rand(num_images, *image_shape(params.data)) < 0.2).float()
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        (-elbo(vae(x, torch.randn(len(x), vae.latent_dim))).mean()).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return len(x) / median(times)


if __name__ == "__main__":
    print(train_here(*sys.argv[1:]))
