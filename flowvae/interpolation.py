"""Paths through latent space, and the pairs of images that they connect."""

from typing import Literal

import torch
from torch import Tensor

from flowvae.model.vae import VAE

Space = Literal["latent", "base"]

SMALL_ANGLE = 1e-4  # limit on sin(angle) below which the great circle is inaccurate and the path is straight


def linear(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Straight path, (1 - t) start + t end.

    Args:
        start, end: shape (pairs, D).
        t: positions in [0, 1], shape (steps,).

    Returns:
        Shape (steps, pairs, D).
    """
    return torch.lerp(start, end, t[:, None, None])


def spherical(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Great-circle path; arguments and shapes as in `linear`.

        sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end,  a = the angle between them

    Shoemake 1985, "Animating rotation with quaternion curves", section 3.3. The path avoids the neighbourhood of the
    origin, where a high-dimensional normal has almost no mass. It is straight if start and end are parallel.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1).clamp(-1, 1)
    angle = cosine.acos()[None, :, None]  # (1, pairs, 1)
    t = t[:, None, None]
    arc = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle) > SMALL_ANGLE, arc, torch.lerp(start, end, t))


PATHS = {"linear": linear, "spherical": spherical}


@torch.inference_mode()
def interpolate(vae: VAE, start: Tensor, end: Tensor, num_steps: int, path: str, space: Space = "latent") -> Tensor:
    """Decode a path between the posterior means of images, mapped by the posterior's flow.

    Args:
        vae: the model.
        start, end: images, shape (pairs, C, H, W).
        num_steps: number of points on the path, including both ends.
        path: an entry of PATHS.
        space: where the path has its shape: that of the latents, or that of the noise to which the prior's flow maps
            them. Without a flow in the prior they are the same.

    Returns:
        Means of the likelihood, shape (num_steps, pairs, C, H, W).
    """
    z_start, z_end = (vae.posterior(x).push_loc() for x in (start, end))
    t = torch.linspace(0, 1, num_steps, dtype=start.dtype, device=start.device)
    if space == "latent":
        return vae.likelihood(PATHS[path](z_start, z_end, t)).mean
    prior = vae.prior
    noise = PATHS[path](prior.to_noise(z_start), prior.to_noise(z_end), t)
    return vae.likelihood(prior.from_noise(noise)).mean


def random_pairs(num_images: int, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Draw random pairs of images; no image is used twice.

    Args:
        num_images: N.
        num_pairs: maximum number of pairs.
        generator: on the CPU.

    Returns:
        Indices of images, shape (pairs, 2).
    """
    num_pairs = min(num_pairs, num_images // 2)
    return torch.randperm(num_images, generator=generator)[: 2 * num_pairs].view(num_pairs, 2)


def different_label_pairs(labels: Tensor, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Draw random pairs of images whose labels differ; no image is used twice.

    The matching is greedy and finds at least half of the largest possible number of pairs.

    Args:
        labels: shape (N,).
        num_pairs: maximum number of pairs.
        generator: on the CPU.

    Returns:
        Indices of images, shape (pairs, 2).
    """
    order = torch.randperm(len(labels), generator=generator).tolist()
    pairs: list[tuple[int, int]] = []
    unpaired: list[int] = []  # all with the same label
    for i in order:
        if unpaired and labels[unpaired[-1]] != labels[i]:
            pairs.append((unpaired.pop(), i))
        else:
            unpaired.append(i)
        if len(pairs) == num_pairs:
            break
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
