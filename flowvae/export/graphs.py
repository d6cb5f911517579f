"""The parts of a VAE as modules whose inputs and outputs are plain tensors, without random numbers of their own."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowvae.model.vae import VAE

Shape = tuple[int, ...]


class Graph(nn.Module):
    """A part of a model.

    Attributes:
        inputs, outputs: names of its tensors, each with a first axis of N.
        vae: the model.
    """

    inputs: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    @abstractmethod
    def forward(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Map `inputs` to `outputs`."""

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw inputs, `count` of each."""
        like = next(self.vae.parameters())
        draws = {
            "images": lambda: some_images(self.vae, count, generator),
            "noise": lambda: torch.randn(count, self.vae.latent_dim, generator=generator),
            "z": lambda: torch.randn(count, self.vae.latent_dim, generator=generator),
        }
        return tuple(draws[name]().to(like) for name in self.inputs)


class Encoder(Graph):
    """Images and standard normal noise -> the centre of the posterior, and a draw from it, z ~ q(z|x)."""

    inputs, outputs = ("images", "noise"), ("center", "z")

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        posterior = self.vae.posterior(images)
        return posterior.push_loc(), posterior.rsample_and_log_prob(noise)[0]


class Decoder(Graph):
    """Latents -> expected images, and what the likelihood is made of: the output of the decoder."""

    inputs, outputs = ("z",), ("mean", "parameters")

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        parameters = self.vae.decoder(z).to(z.dtype)
        return self.vae.output_to_likelihood(parameters).mean, parameters


class Sampler(Graph):
    """Standard normal noise -> expected images, and their latents, z ~ p(z). A temperature is a factor on the noise."""

    inputs, outputs = ("noise",), ("mean", "z")

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        z = self.vae.prior.from_noise(noise)
        return self.vae.likelihood(z).mean, z


GRAPHS: dict[str, type[Graph]] = {"encoder": Encoder, "decoder": Decoder, "sampler": Sampler}


def some_images(vae: VAE, count: int, generator: torch.Generator) -> Tensor:
    """Images of random pixels, as the model takes them, shape (count, C, H, W)."""
    levels = torch.randint(0, 2 if vae.of_bits else 256, (count, *vae.config.image_shape), generator=generator)
    return vae.images(levels)
