"""The bare loop: train a variant with a minimal hand-written loop: no checks, progress, logs, checkpoints or DVC.

python -m benchmarks.bare_loop VARIANT SEED. Model, images, batch size, schedule and the validation after each epoch
are those of the stage `train`. Noise comes from torch's global generator.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.data.images import shape_of_images
from flowvae.model.loading import build_vae
from flowvae.model.objectives import elbo
from flowvae.model.vae import VAE
from flowvae.training.config import TrainingConfig
from flowvae.training.schedules import learning_rate
from pipeline.params.reading import load_params

VALID_BATCH_SIZE = 500


def bare_fit(vae: VAE, train: Tensor, valid: Tensor, config: TrainingConfig) -> float:
    """Train a model in place.

    Args:
        vae: the model.
        train: training images, uint8 bits, shape (N, C, H, W).
        valid: validation images, of the same form.
        config: optimizer, schedules and length.

    Returns:
        The best validation -ELBO, in nats.
    """
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
            losses = [
                -elbo(vae(x.float(), torch.randn(len(x), vae.latent_dim))).mean() for x in valid.split(VALID_BATCH_SIZE)
            ]
        best = min(best, torch.stack(losses).mean().item())
    return best


def main(variant: str, seed: int) -> None:
    """Train on the prepared images of the current folder, and print the best validation loss."""
    params = load_params(Path("params.yaml"))
    train, valid = (torch.from_numpy(np.load(f"data/prepared/{split}.npy")) for split in ("train", "valid"))
    vae = build_vae(params.vae_config(variant, shape_of_images(train.shape)), seed=seed)
    print(f"best validation -ELBO {bare_fit(vae, train, valid, params.training):.2f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
