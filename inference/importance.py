"""The evidence of a frame, log int exp(log_density(z)) dz, by importance sampling around draws of its chains.

    log (1/K) sum_k exp(log_density(z_k)) / q(z_k),    z_k ~ q = N(m, V), V diagonal

with mean and variances of the draws. By Jensen's inequality its expectation is at most the true value; the
gap closes with the number of particles, and where the density is near a normal with independent dimensions.
Correlations, several modes and short chains widen it. Densities of similar shape have similar gaps, so that
their differences, which determine the responsibilities, are more accurate than either estimate.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from avse.inference.mcmc.kernels import normal_like
from avse.inference.mcmc.log_density import LogJoint


class Proposal(NamedTuple):
    """N(centre, diag scale^2) for every chain and frame, each (*, L)."""

    centre: Tensor
    scale: Tensor

    @property
    def log_volume(self) -> Tensor:
        """sum_l log scale + log(2 pi) / 2, (*); L / 2 less than the entropy."""
        return (self.scale.log() + math.log(2 * math.pi) / 2).sum(-1)


def proposal(z: Tensor, step_size: Tensor | None) -> Proposal:
    """The normal with mean and variances of draws z (R, *, L).

    Args:
        z: R draws of the chains.
        step_size: of the chains (*), a standard deviation: its square replaces the one degree of freedom
            that R draws lose to their own mean, so that R = 1 suffices. None needs R > 1.
    """
    centre = z.mean(0)
    squares = (z - centre).square().sum(0)
    added = squares / (len(z) - 1) if step_size is None else step_size.square().unsqueeze(-1)
    return Proposal(centre, ((squares + added) / len(z)).sqrt())


def log_evidence(log_density: LogJoint, q: Proposal, particles: int, generator: Generator) -> Tensor:
    """Estimate of log int exp(log_density(z)) dz, a lower bound on average, (*), nats.

    Args:
        log_density: z (*, L) -> (*).
        q: proposal density.
        particles: number K of importance samples.
        generator: source of the importance samples.
    """
    weights = []
    for _ in range(particles):
        unit = normal_like(q.centre, generator)
        weights.append(log_density(torch.addcmul(q.centre, q.scale, unit)) + unit.square().sum(-1) / 2)
    estimate = torch.stack(weights).logsumexp(0) - math.log(particles) + q.log_volume
    return estimate.nan_to_num(neginf=-torch.inf, nan=-torch.inf)
