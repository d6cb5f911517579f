"""Log densities: the results of torch.distributions for the same numbers."""

import torch
from tolerances import assert_agrees, assert_close
from torch.distributions import Bernoulli, Independent, Normal

from flowvae.model.distributions import DiagonalNormal, log_standard_normal
from flowvae.model.likelihoods import Bernoulli as Pixels

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def check_normal():
    loc, scale, noise = torch.randn(4, 3), torch.rand(4, 3) + 0.1, torch.randn(2, 5, 4, 3)
    oracle = Independent(Normal(loc, scale), 1)
    z = loc + scale * noise
    expected = z, oracle.log_prob(z)
    assert_agrees(expected, lambda: DiagonalNormal(loc, scale).rsample_and_log_prob(noise), [loc, scale, noise])
    assert_agrees(oracle.log_prob(z), lambda: DiagonalNormal(loc, scale).log_prob(z), [loc, scale, z])
    assert_agrees(Normal(0.0, 1.0).log_prob(z).sum(-1), lambda: log_standard_normal(z), [z])


def check_bernoulli():
    logits, x = 5 * torch.randn(6, 4, 1, 3, 3), torch.randint(0, 2, (4, 1, 3, 3)).double()
    oracle = Independent(Bernoulli(logits=logits), 3)
    assert_agrees(
        (oracle.log_prob(x), oracle.mean), lambda: (Pixels(logits).log_prob(x), Pixels(logits).mean), [logits]
    )


def check_extreme_logits():
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    log_prob = Pixels(torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1, 1)).log_prob(x)
    assert_close(log_prob, torch.tensor([[0.0, -1e4], [-1e4, 0.0]]))


check_normal()
check_bernoulli()
check_extreme_logits()
print("agrees")
