"""Likelihoods p(x|z) over images.

A likelihood is one file in this folder and one entry in LIKELIHOODS (see `likelihood` for the contract).
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field
from torch import Tensor

from flowvae.model.likelihoods.bernoulli import Bernoulli, BernoulliConfig
from flowvae.model.likelihoods.likelihood import Likelihood, LikelihoodConfig
from flowvae.model.likelihoods.logistic import DiscretizedLogistic, DiscretizedLogisticConfig
from flowvae.model.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureConfig


class LikelihoodEntry(NamedTuple):
    """A likelihood: its settings and its class."""

    config: type[LikelihoodConfig]
    likelihood: type[Likelihood]


LIKELIHOODS = {
    "bernoulli": LikelihoodEntry(BernoulliConfig, Bernoulli),
    "discretized_logistic": LikelihoodEntry(DiscretizedLogisticConfig, DiscretizedLogistic),
    "logistic_mixture": LikelihoodEntry(LogisticMixtureConfig, LogisticMixture),
}

if TYPE_CHECKING:  # a type checker cannot evaluate the union of the table's entries
    AnyLikelihoodConfig = LikelihoodConfig
else:
    AnyLikelihoodConfig = Annotated[
        reduce(or_, (entry.config for entry in LIKELIHOODS.values())), Field(discriminator="name")
    ]


class Output(NamedTuple):
    """The decoder's output under a likelihood.

    Args:
        initial: its value at the start of training, shape (P,) for P parameters per pixel.
        likelihood: maps the output, shape (*sample_shape, batch, P, H, W), to p(x|z).
    """

    initial: Tensor
    likelihood: Callable[[Tensor], Likelihood]


def build_output(config: LikelihoodConfig, num_channels: int) -> Output:
    """Describe the decoder's output for images of `num_channels` channels under the likelihood that `config` names."""
    settings = config.model_dump(exclude={"name"})
    likelihood = LIKELIHOODS[config.name].likelihood
    return Output(
        likelihood.initial_output(num_channels, **settings),
        partial(likelihood.from_output, num_channels=num_channels, **settings),
    )


__all__ = [
    "LIKELIHOODS",
    "AnyLikelihoodConfig",
    "Bernoulli",
    "DiscretizedLogistic",
    "Likelihood",
    "LikelihoodConfig",
    "LikelihoodEntry",
    "LogisticMixture",
    "Output",
    "build_output",
]
