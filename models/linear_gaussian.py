"""A linear Gaussian latent variable model, all of whose densities have a closed form.

    z_n ~ N(0, I)                                            (*, N, L)
    s_n | z_n ~ N(A z_n + mu, sigma I)                       (*, N, F), real

It trains by expectation-maximisation and its posterior is normal. It is the ground truth in the tests of the
samplers and of the EM loop. sigma is a variance.
"""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from avse.models.sites import S, Z, frames_plate


class GaussianPosterior(NamedTuple):
    """p(z | s) = N(mean, covariance): mean (*, N, L), covariance (L, L), the same for every frame."""

    mean: Tensor
    covariance: Tensor


class LinearGaussian(PyroModule):
    """p(s, z) above. Args: A (F, L), mu (F,), sigma () the variance of the residual."""

    def __init__(self, A: Tensor, mu: Tensor, sigma: Tensor) -> None:
        super().__init__()
        self.A, self.mu, self.sigma = A, mu, sigma

    def forward(self, s: Tensor | None = None, frames: int | None = None) -> Tensor:
        """The generative model. Returns s (*, N, F), observed or sampled."""
        with frames_plate(s, None, frames):
            z = pyro.sample(Z, dist.Normal(self.A.new_zeros(self.A.shape[1]), 1.0).to_event(1))
            residual = self.sigma.sqrt().expand(self.A.shape[0])
            return pyro.sample(S, dist.Normal(z @ self.A.mT + self.mu, residual).to_event(1), obs=s)

    def posterior(self, s: Tensor) -> GaussianPosterior:
        """p(z | s): covariance C = (I + A'A / sigma)^-1, mean C A'(s - mu) / sigma."""
        size = self.A.shape[1]
        eye = torch.eye(size, dtype=self.A.dtype, device=self.A.device)
        covariance = torch.linalg.inv(eye + self.A.mT @ self.A / self.sigma)
        return GaussianPosterior((s - self.mu) @ self.A @ covariance / self.sigma, covariance)

    def log_evidence(self, s: Tensor) -> Tensor:
        """log p(s_n) = log N(s_n; mu, A A' + sigma I), (*, N)."""
        eye = torch.eye(self.A.shape[0], dtype=self.A.dtype, device=self.A.device)
        return dist.MultivariateNormal(self.mu, self.A @ self.A.mT + self.sigma * eye).log_prob(s)

    def maximised(self, s: Tensor, mean: Tensor, second_moment: Tensor) -> "LinearGaussian":
        """M-step: the A, mu, sigma that maximise E log p(s, z) under the given moments of z.

        Args:
            s: data (N, F).
            mean: E z_n (N, L).
            second_moment: sum_n E z_n z_n' (L, L).
        """
        count, bins = s.shape
        # The normal equations of the regression of s on (z, 1).
        ones = mean.new_ones(count, 1)
        design = torch.cat([mean, ones], dim=-1)
        total = mean.sum(0)
        gram = torch.cat(
            [
                torch.cat([second_moment, total[:, None]], dim=1),
                torch.cat([total[None], total.new_full((1, 1), count)], dim=1),
            ]
        )
        weights = torch.linalg.solve(gram, design.mT @ s)
        residual = s.square().sum() - (weights * (design.mT @ s)).sum()
        return LinearGaussian(weights[:-1].mT, weights[-1], residual / (count * bins))
