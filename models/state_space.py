"""A linear Gaussian state-space model: the Markov relative of `avse.models.linear_gaussian`.

    z_1 ~ N(m, diag p)
    z_n | z_{n-1} ~ N(B z_{n-1}, diag q)                     (*, N, L)
    s_n | z_n ~ N(A z_n + mu, sigma I)                       (*, N, F), real

Its posterior is known by the Kalman filter and the smoother of Rauch, Tung and Striebel (AIAA Journal 1965):
the truth in the tests of samplers for coupled frames. m, p and q are vectors of means and variances, sigma is
a variance.
"""

from dataclasses import dataclass
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from avse.models.coupling import Coupling
from avse.models.markov_chain import MarkovChain
from avse.models.networks.spectrum import Gaussian
from avse.models.sites import S, Z, frames_plate


class StatePosterior(NamedTuple):
    """N(mean_n, covariance_n) of every frame: (*, N, L) and (N, L, L), the latter whatever the data."""

    mean: Tensor
    covariance: Tensor


class Filtered(NamedTuple):
    """The result of the Kalman filter.

    Attributes:
        predicted: p(z_n | s_1, .., s_{n-1}).
        filtered: p(z_n | s_1, .., s_n).
        log_evidence: log p(s_n | s_1, .., s_{n-1}), (*, N).
    """

    predicted: StatePosterior
    filtered: StatePosterior
    log_evidence: Tensor


@dataclass(frozen=True)
class LinearTransition:
    """z_1 ~ N(m, diag p), z_n | z_{n-1} ~ N(B z_{n-1}, diag q)."""

    m: Tensor
    p: Tensor
    B: Tensor
    q: Tensor

    def initial(self, context: Tensor | None = None) -> Gaussian:
        """As `Transition.initial`."""
        return Gaussian(self.m, self.p.log())

    def __call__(self, previous: Tensor, context: Tensor | None = None) -> Gaussian:
        """As `Transition.__call__`."""
        mean = previous @ self.B.mT
        return Gaussian(mean, self.q.log().expand_as(mean))


class LinearGaussianStateSpace(PyroModule):
    """p(s, z) above.

    Args:
        transition: of the states.
        A: (F, L).
        mu: (F,).
        sigma: (), the variance of the residual.
    """

    coupling = Coupling.MARKOV

    def __init__(self, transition: LinearTransition, A: Tensor, mu: Tensor, sigma: Tensor) -> None:
        super().__init__()
        self.transition = transition
        self.A, self.mu, self.sigma = A, mu, sigma

    def forward(self, s: Tensor | None = None, frames: int | None = None) -> Tensor:
        """The generative model. Returns s (*, N, F), observed or sampled."""
        with frames_plate(s, None, frames):
            z = pyro.sample(Z, MarkovChain(self.transition))
            residual = self.sigma.sqrt().expand(self.A.shape[0])
            return pyro.sample(S, dist.Normal(z @ self.A.mT + self.mu, residual).to_event(1), obs=s)

    def filtered(self, s: Tensor) -> Filtered:
        """The Kalman filter on s (*, N, F)."""
        B, A = self.transition.B, self.A
        noise = self.sigma * torch.eye(len(A), dtype=A.dtype, device=A.device)
        mean, covariance = self.transition.m.expand(*s.shape[:-2], -1), self.transition.p.diag()
        found = []
        for own in s.unbind(-2):
            total = A @ covariance @ A.mT + noise
            gain = torch.linalg.solve(total, A @ covariance).mT  # P A' (A P A' + sigma I)^-1
            centre = mean @ A.mT + self.mu
            evidence = dist.MultivariateNormal(centre, total).log_prob(own)
            after, spread = mean + (own - centre) @ gain.mT, covariance - gain @ A @ covariance
            found.append((mean, covariance, after, spread, evidence))
            mean, covariance = after @ B.mT, B @ spread @ B.mT + self.transition.q.diag()
        means, covariances, afters, spreads, evidences = zip(*found, strict=True)
        return Filtered(
            StatePosterior(torch.stack(means, -2), torch.stack(covariances)),
            StatePosterior(torch.stack(afters, -2), torch.stack(spreads)),
            torch.stack(evidences, -1),
        )

    def posterior(self, s: Tensor) -> StatePosterior:
        """p(z_n | s_1, .., s_N) by the Rauch-Tung-Striebel smoother."""
        predicted, filtered, _ = self.filtered(s)
        mean, covariance = filtered.mean[..., -1, :], filtered.covariance[-1]
        found = [(mean, covariance)]
        for n in range(s.shape[-2] - 2, -1, -1):
            ahead, spread = predicted.covariance[n + 1], filtered.covariance[n]
            gain = torch.linalg.solve(ahead, self.transition.B @ spread).mT
            mean = filtered.mean[..., n, :] + (mean - predicted.mean[..., n + 1, :]) @ gain.mT
            covariance = spread + gain @ (covariance - ahead) @ gain.mT
            found.append((mean, covariance))
        means, covariances = zip(*reversed(found), strict=True)
        return StatePosterior(torch.stack(means, -2), torch.stack(covariances))

    def log_evidence(self, s: Tensor) -> Tensor:
        """log p(s_n | s_1, .., s_{n-1}), (*, N), summing to log p(s)."""
        return self.filtered(s).log_evidence
