"""The bare loop: train a variant as one would by hand, without checks, progress, records, checkpoints or DVC.

python -m benchmarks.bare_loop VARIANT SEED. Same model, images, batch size, schedule and per-epoch
validation as the stage; noise from torch's global generator.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.objectives import elbo
from flowvae.schedules import learning_rate
from flowvae.training_config import TrainingConfig
from flowvae.vae import VAE, build_vae
from pipeline.params import load_params


def bare_fit(vae: VAE, train: Tensor, valid: Tensor, config: TrainingConfig) -> float:
    """Train on uint8 images, shape (N, C, H, W); the best validation -ELBO in nats."""
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=config.weight_decay, fused=True)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    num_steps, step, best = config.epochs * steps_per_epoch, 0, math.inf
    for _ in range(config.epochs):
        for indices in torch.randperm(len(train)).split(config.batch_size):
            x = train[indices].float()
            densities = vae(x, torch.randn(len(x), vae.latent_dim))
            loss = -elbo(densities, config.kl_warmup.weight(step, num_steps, steps_per_epoch)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), config.max_grad_norm)
            optimizer.param_groups[0]["lr"] = learning_rate(
                step, num_steps, config.schedule, config.learning_rate, config.final_learning_rate
            )
            optimizer.step()
            step += 1
        with torch.inference_mode():
            losses = [-elbo(vae(x.float(), torch.randn(len(x), vae.latent_dim))).mean() for x in valid.split(500)]
        best = min(best, torch.stack(losses).mean().item())
    return best


def main(variant: str, seed: int) -> None:
    params = load_params(Path("params.yaml"))
    train, valid = (torch.from_numpy(np.load(f"data/prepared/{split}.npy")) for split in ("train", "valid"))
    vae = build_vae(params.vae_config(variant, tuple(train.shape[1:])), seed=seed)
    print(f"best validation -ELBO {bare_fit(vae, train, valid, params.training):.2f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
