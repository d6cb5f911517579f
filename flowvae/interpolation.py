"""Paths through latent space."""

import torch
from torch import Tensor

from flowvae.vae import VAE

SMALL_ANGLE = 1e-4  # radians; below it sin(angle) cancels, and the path is straight


def linear(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """(1 - t) start + t end.

    Args:
        start, end: shape (pairs, D).
        t: positions in [0, 1], shape (steps,).

    Returns:
        shape (steps, pairs, D).
    """
    return torch.lerp(start, end, t[:, None, None])


def spherical(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Great-circle path of the directions; shapes as in `linear`.

        sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end,  a = the angle between them

    Shoemake 1985, "Animating rotation with quaternion curves", section 3.3. It keeps away from the
    origin, where a high-dimensional normal has no mass. Straight where the two are parallel.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1).clamp(-1, 1)
    angle = cosine.acos()[None, :, None]  # (1, pairs, 1)
    t = t[:, None, None]
    arc = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle) > SMALL_ANGLE, arc, torch.lerp(start, end, t))


PATHS = {"linear": linear, "spherical": spherical}


@torch.inference_mode()
def interpolate(vae: VAE, start: Tensor, end: Tensor, num_steps: int, path: str) -> Tensor:
    """Decode a path between the posterior means of images, pushed through the flow.

    Args:
        vae: the model.
        start, end: images, shape (pairs, C, H, W).
        num_steps: points on the path, ends included.
        path: an entry of PATHS.

    Returns:
        means of the likelihood, shape (num_steps, pairs, C, H, W).
    """
    ends = (vae.posterior(x).push_loc() for x in (start, end))
    t = torch.linspace(0, 1, num_steps, dtype=start.dtype, device=start.device)
    return vae.likelihood(PATHS[path](*ends, t)).mean


def random_pairs(num_images: int, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Random pairs of images, no image twice.

    Args:
        num_images: N.
        num_pairs: at most so many pairs.
        generator: on the CPU.

    Returns:
        indices, shape (pairs, 2).
    """
    num_pairs = min(num_pairs, num_images // 2)
    return torch.randperm(num_images, generator=generator)[: 2 * num_pairs].view(num_pairs, 2)


def different_label_pairs(labels: Tensor, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Random pairs of images whose labels differ, no image twice.

    Matching is greedy, so it finds at least half of the pairs that the labels could give.

    Args:
        labels: shape (N,).
        num_pairs: at most so many pairs.
        generator: on the CPU.

    Returns:
        indices, shape (pairs, 2).
    """
    order = torch.randperm(len(labels), generator=generator).tolist()
    pairs: list[tuple[int, int]] = []
    waiting: list[int] = []  # all of one label
    for i in order:
        if waiting and labels[waiting[-1]] != labels[i]:
            pairs.append((waiting.pop(), i))
        else:
            waiting.append(i)
        if len(pairs) == num_pairs:
            break
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
