"""The bare loop: train a variant as one would by hand, without checks, progress, records or DVC.

python -m benchmarks.bare_loop VARIANT SEED. Same model, images, batch size, schedule and per-epoch
validation as the stage; noise from torch's global generator.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

from flowvae.objectives import elbo
from flowvae.training import kl_weight, learning_rate
from flowvae.vae import build_vae
from pipeline.params import load_params


def main(variant: str, seed: int) -> None:
    params = load_params(Path("params.yaml"))
    config = params.training
    train, valid = (torch.from_numpy(np.load(f"data/prepared/{split}.npy")) for split in ("train", "valid"))
    vae = build_vae(params.vae_config(variant, tuple(train.shape[1:])), seed=seed)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=config.weight_decay, fused=True)
    num_steps, step, best = config.epochs * math.ceil(len(train) / config.batch_size), 0, math.inf
    for _ in range(config.epochs):
        for indices in torch.randperm(len(train)).split(config.batch_size):
            x = train[indices].float()
            densities = vae(x, torch.randn(len(x), vae.latent_dim))
            loss = -elbo(densities, kl_weight(step, num_steps, config)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), config.max_grad_norm)
            optimizer.param_groups[0]["lr"] = learning_rate(step, num_steps, config)
            optimizer.step()
            step += 1
        with torch.inference_mode():
            losses = [-elbo(vae(x.float(), torch.randn(len(x), vae.latent_dim))).mean() for x in valid.split(500)]
        best = min(best, torch.stack(losses).mean().item())
    print(f"best validation -ELBO {best:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
