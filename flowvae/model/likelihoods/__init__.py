"""Likelihoods p(x|z) over images.

A likelihood is one file in this folder and one entry in LIKELIHOODS (see `likelihood` for the contract).
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

from pydantic import SerializeAsAny
from torch import Tensor

from flowvae.config import entry_by
from flowvae.model.likelihoods.bernoulli import Bernoulli, BernoulliConfig
from flowvae.model.likelihoods.likelihood import Likelihood, LikelihoodConfig
from flowvae.model.likelihoods.logistic import DiscretizedLogistic, DiscretizedLogisticConfig
from flowvae.model.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureConfig
from flowvae.model.likelihoods.pixels import as_bytes


class LikelihoodEntry(NamedTuple):
    """A likelihood: its settings and its class."""

    config: type[LikelihoodConfig]
    likelihood: type[Likelihood]


LIKELIHOODS = {
    "bernoulli": LikelihoodEntry(BernoulliConfig, Bernoulli),
    "discretized_logistic": LikelihoodEntry(DiscretizedLogisticConfig, DiscretizedLogistic),
    "logistic_mixture": LikelihoodEntry(LogisticMixtureConfig, LogisticMixture),
}

AnyLikelihoodConfig = Annotated[
    SerializeAsAny[LikelihoodConfig], entry_by("name", lambda name: LIKELIHOODS[name].config, LIKELIHOODS)
]


class Output(NamedTuple):
    """The decoder's output under a likelihood.

    Args:
        initial: its value at the start of training, shape (P,) for P parameters per pixel.
        likelihood: maps the output, shape (*sample_shape, batch, P, H, W), to p(x|z).
        of_bits: whether pixels are bits, not 8-bit values.
    """

    initial: Tensor
    likelihood: Callable[[Tensor], Likelihood]
    of_bits: bool


def build_output(config: LikelihoodConfig, num_channels: int) -> Output:
    """Describe the decoder's output for images of `num_channels` channels under the likelihood that `config` names."""
    settings = config.model_dump(exclude={"name"})
    likelihood = LIKELIHOODS[config.name].likelihood
    return Output(
        likelihood.initial_output(num_channels, **settings),
        partial(likelihood.from_output, num_channels=num_channels, **settings),
        likelihood.of_bits,
    )


__all__ = [
    "LIKELIHOODS",
    "AnyLikelihoodConfig",
    "Bernoulli",
    "BernoulliConfig",
    "DiscretizedLogistic",
    "Likelihood",
    "LikelihoodConfig",
    "LikelihoodEntry",
    "LogisticMixture",
    "Output",
    "as_bytes",
    "build_output",
]
