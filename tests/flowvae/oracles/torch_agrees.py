"""Log densities against torch.distributions."""

import torch
from torch.distributions import Bernoulli, Independent, Normal

from flowvae.distributions import DiagonalNormal, StandardNormal
from flowvae.likelihoods import Bernoulli as Pixels

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def check_normal():
    loc, scale, noise = torch.randn(4, 3), torch.rand(4, 3) + 0.1, torch.randn(2, 5, 4, 3)
    oracle = Independent(Normal(loc, scale), 1)
    z, log_prob = DiagonalNormal(loc, scale).rsample_and_log_prob(noise)
    torch.testing.assert_close(z, loc + scale * noise)
    torch.testing.assert_close(log_prob, oracle.log_prob(z))
    torch.testing.assert_close(DiagonalNormal(loc, scale).log_prob(z), oracle.log_prob(z))
    torch.testing.assert_close(StandardNormal().log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


def check_bernoulli():
    logits, x = 5 * torch.randn(6, 4, 1, 3, 3), torch.randint(0, 2, (4, 1, 3, 3)).double()
    oracle = Independent(Bernoulli(logits=logits), 3)
    torch.testing.assert_close(Pixels(logits).log_prob(x), oracle.log_prob(x))
    torch.testing.assert_close(Pixels(logits).mean, oracle.mean)


def check_extreme_logits():
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    found = Pixels(torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1, 1)).log_prob(x)
    torch.testing.assert_close(found, torch.tensor([[0.0, -1e4], [-1e4, 0.0]]))


check_normal()
check_bernoulli()
check_extreme_logits()
print("agrees")
