"""How threads should wait for one another: alone on the machine, and beside a busy process.

Prediction: a training step is hundreds of operations of 10 to 500 us, so threads that sleep at once
(OMP_WAIT_POLICY=PASSIVE) pay a wake-up for each and lose most in deep coupling flows; threads that
spin without end (ACTIVE) win alone, and starve when another process takes a core; a spin of some
microseconds (GOMP_SPINCOUNT, what the pipeline sets) should be near the better one in both.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

VARIANTS = ("vae", "real-nvp-20")
WAITS = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short_spin": {"GOMP_SPINCOUNT": "2000"},
    "active": {"OMP_WAIT_POLICY": "ACTIVE"},
    "one_thread": {"OMP_NUM_THREADS": "1"},
}
ROUNDS, STEPS = 3, 40


def measure() -> list[dict[str, object]]:
    """Median images/s of training steps in a process of its own for each way to wait, interleaved."""
    alone = speeds()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside = speeds()
    finally:
        busy.kill()
        busy.wait()
    results = []
    for neighbour, found in (("alone", alone), ("beside a process that keeps one core busy", beside)):
        for (variant, wait), speed in found.items():
            settings = ", ".join(f"{name}={value}" for name, value in WAITS[wait].items())
            name = f"threads_{variant}_{wait}_{'alone' if neighbour == 'alone' else 'contended'}"
            conditions = f"training steps of {variant} at the default batch size, {settings}, {neighbour}"
            results.append(
                {"name": name, "value": round(speed), "unit": "images/s", "conditions": f"{conditions}, median of 3"}
            )
    return results


def speeds() -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for variant in VARIANTS:
            for wait, settings in WAITS.items():
                found.setdefault((variant, wait), []).append(run(variant, settings))
    return {key: median(values) for key, values in found.items()}


def run(variant: str, settings: dict[str, str], batch_size: int | None = None) -> float:
    """Images/s of training steps in a process of its own, at the default batch size if none is given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", variant, *([str(batch_size)] if batch_size else [])]
    return float(subprocess.run(command, env=inherited | settings, check=True, capture_output=True, text=True).stdout)


def steps(variant: str, batch_size: str | None = None) -> float:
    """Images/s of training steps in this process."""
    import torch

    from flowvae.data.datasets import image_shape
    from flowvae.objectives import elbo
    from flowvae.vae import build_vae
    from pipeline.params import load_params

    params = load_params(Path("params.yaml"))
    vae = build_vae(params.vae_config(variant, image_shape(params.data)), seed=0)
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    count = int(batch_size or params.training.batch_size)
    x = (torch.rand(count, *image_shape(params.data)) < 0.2).float()
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        (-elbo(vae(x, torch.randn(len(x), vae.latent_dim))).mean()).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return len(x) / median(times)


if __name__ == "__main__":
    print(steps(*sys.argv[1:]))
