"""Likelihoods p(x|z) over images.

A likelihood is one file here and one entry in LIKELIHOODS. It is built from the decoder's output, and says
where that output should start.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor

from flowvae.config import Config
from flowvae.likelihoods.bernoulli import Bernoulli, BernoulliConfig
from flowvae.likelihoods.likelihood import Likelihood
from flowvae.likelihoods.logistic import DiscretizedLogistic, DiscretizedLogisticConfig
from flowvae.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureConfig


class Kind(NamedTuple):
    """A likelihood's settings and its class, whose `initial_output` and `from_output` take (C, **settings) last."""

    config: type[Config]
    likelihood: type[Likelihood]


LIKELIHOODS = {
    "bernoulli": Kind(BernoulliConfig, Bernoulli),
    "discretized_logistic": Kind(DiscretizedLogisticConfig, DiscretizedLogistic),
    "logistic_mixture": Kind(LogisticMixtureConfig, LogisticMixture),
}

AnyLikelihoodConfig = Annotated[
    reduce(or_, (kind.config for kind in LIKELIHOODS.values())), Field(discriminator="name")
]


class Output(NamedTuple):
    """What the decoder's output means.

    Args:
        initial: where it starts, shape (P,) for P parameters per pixel.
        likelihood: output, shape (*sample_shape, batch, P, H, W) -> p(x|z).
    """

    initial: Tensor
    likelihood: Callable[[Tensor], Likelihood]


def build_output(config: Config, num_channels: int) -> Output:
    """What the decoder must give for images of `num_channels` channels under the likelihood that `config` names."""
    settings = config.model_dump(exclude={"name"})
    kind = LIKELIHOODS[config.name].likelihood
    return Output(
        kind.initial_output(num_channels, **settings),
        partial(kind.from_output, num_channels=num_channels, **settings),
    )


__all__ = [
    "LIKELIHOODS",
    "AnyLikelihoodConfig",
    "Bernoulli",
    "DiscretizedLogistic",
    "Kind",
    "Likelihood",
    "LogisticMixture",
    "Output",
    "build_output",
]
