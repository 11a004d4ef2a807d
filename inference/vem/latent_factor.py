"""The latent factor of variational EM, r(z) or r(z | alpha), by Markov chains; and its moments.

    Shared      log r(z) = sum_a r(a) log p(P, z | v, a) + const          r(z, alpha) = r(z) r(alpha)
    Structured  log r(z | a) = log p(P, z | v, a) + const                 r(z, alpha) = r(z | alpha) r(alpha)

at the expected power P of the clean speech. The first is the factor of the papers: one z for all alpha, under
the geometric mean of the components (not their sum, which logsumexp would be). Where the components of a
mixture were trained separately, no z suits both; the second factor has one z per alpha, and its optimal
evidence lower bound is never lower.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.component_density import ComponentDensity, aligned
from avse.inference.importance import log_evidence, proposal
from avse.inference.mcmc.log_density import LogJoint
from avse.inference.responsibilities import draw_component
from avse.inference.vem.mean_field import Moments
from avse.models.base import Evaluation, unexpanded
from avse.models.distributions import MAX_LOG_VARIANCE

MAX_PRECISION = math.exp(MAX_LOG_VARIANCE)
"""E 1 / sigma is clipped to [1 / MAX_PRECISION, MAX_PRECISION], so that neither it nor its inverse
overflows."""


class LatentFactor(Protocol):
    """The factor of z in the approximation. [A] denotes a dimension that only `Structured` has.

    Attributes:
        particles: number of importance samples per frame for the entropy of the factor; with 0 the entropy is
            not estimated and taken as 0.
    """

    @property
    def particles(self) -> int:
        """Number of importance samples per frame for the entropy."""
        ...

    def start(self, starts: Sequence[Tensor], values: int, frames: torch.Size) -> Tensor:
        """Initial z of all chains, (C, [A], *, N, L).

        Args:
            starts: initial z (*, N, L), or one for each alpha (A, *, N, L).
            values: number A of values of alpha.
            frames: batch shape (*, N).
        """
        ...

    def log_joint(self, model: ComponentDensity, power: Tensor) -> LogJoint:
        """z (.., [A], *, N, L) -> log p(power, z | alpha, v) of every alpha at its z, (A, .., *, N)."""
        ...

    def evaluate(self, model: ComponentDensity, z: Tensor) -> Evaluation:
        """log p(z | alpha, v) (A, *, N) and log sigma (A, *, N, F) of every alpha at its z ([A], *, N, L)."""
        ...

    def log_density(self, log_joint: Tensor, responsibilities: Tensor) -> Tensor:
        """log r up to a constant, from E log p(P, z | alpha, v) (A, .., *, N): (.., [A], *, N)."""
        ...

    def marginal(self, z: Tensor, responsibilities: Tensor, generator: Generator) -> Tensor:
        """Draws from the marginal of z, from draws (.., [A], *, N, L): (.., *, N, L)."""
        ...

    def mean(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """Average of values over alpha: (.., [A], *, N) -> (.., *, N)."""
        ...


@dataclass(frozen=True)
class Shared:
    """One r(z) for all values of alpha. Initial values (A, *, N, L), one for each alpha, make A chains."""

    particles: int = 0

    def start(self, starts: Sequence[Tensor], values: int, frames: torch.Size) -> Tensor:
        """Initial z (C, *, N, L)."""
        return torch.cat([z.reshape(-1, *frames, z.shape[-1]) for z in starts])

    def log_joint(self, model: ComponentDensity, power: Tensor) -> LogJoint:
        """z (.., *, N, L), the same for every alpha -> (A, .., *, N)."""
        return model.log_joint(power)

    def evaluate(self, model: ComponentDensity, z: Tensor) -> Evaluation:
        """At z (*, N, L), the same for every alpha."""
        return model.evaluate(z)

    def log_density(self, log_joint: Tensor, responsibilities: Tensor) -> Tensor:
        """sum_a r(a) log p(P, z | v, a), (.., *, N); terms with r(a) = 0 are 0, also at -inf."""
        if log_joint.shape[0] == 1:
            return log_joint[0]
        r = aligned(responsibilities, log_joint.dim())
        return (r * log_joint).where(r > 0, 0.0).sum(0)

    def marginal(self, z: Tensor, responsibilities: Tensor, generator: Generator) -> Tensor:
        """The draws unchanged, since they do not depend on alpha."""
        return z

    def mean(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values unchanged, since they do not depend on alpha."""
        return values


@dataclass(frozen=True)
class Structured:
    """One r(z | alpha) for each value of alpha, each with its own chains.

    r(alpha) depends on the entropies of the factors, which `importance_entropy` estimates.

    Raises:
        InputError: `particles` is below 1.
    """

    particles: int = 8

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise InputError("r(z | alpha) needs at least 1 particle: without entropies r(alpha) is wrong")

    def start(self, starts: Sequence[Tensor], values: int, frames: torch.Size) -> Tensor:
        """Initial z (C, A, *, N, L)."""
        return torch.stack([z.expand(values, *frames, z.shape[-1]) for z in starts])

    def log_joint(self, model: ComponentDensity, power: Tensor) -> LogJoint:
        """z (.., A, *, N, L) -> (A, .., *, N)."""
        log_joint, dim = model.log_joint_each(power), -model.log_alpha.dim() - 1
        return lambda z: log_joint(z.movedim(dim, 0))

    def evaluate(self, model: ComponentDensity, z: Tensor) -> Evaluation:
        """At z (A, *, N, L), one for each alpha."""
        return model.evaluate_each(z)

    def log_density(self, log_joint: Tensor, responsibilities: Tensor) -> Tensor:
        """The log joint of every component, (.., A, *, N)."""
        return log_joint.movedim(0, -responsibilities.dim())

    def marginal(self, z: Tensor, responsibilities: Tensor, generator: Generator) -> Tensor:
        """Draws of one component per draw and frame, chosen with probability r(alpha)."""
        draws = z.shape[: z.dim() - responsibilities.dim() - 1]
        dim = len(draws)
        chosen = draw_component(responsibilities, generator, draws).unsqueeze(dim)
        return z.take_along_dim(chosen.unsqueeze(-1), dim).squeeze(dim)

    def mean(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """sum_a r(a) value_a."""
        return (values * responsibilities).sum(-responsibilities.dim())


def target(
    factor: LatentFactor, model: ComponentDensity, power: Tensor, responsibilities: Tensor
) -> LogJoint:
    """The log density of the chains: z (.., [A], *, N, L) -> log r up to a constant, (.., [A], *, N)."""
    log_joint = factor.log_joint(model, power)
    return lambda z: factor.log_density(log_joint(z), responsibilities)


def moments(factor: LatentFactor, model: ComponentDensity, z: Tensor) -> Moments:
    """Averages over the draws z (R, [A], *, N, L), with entropy 0; one draw is decoded at a time."""
    log_prior, log_volume, precision = (z.new_zeros(()) for _ in range(3))
    for draw in z:
        evaluation = factor.evaluate(model, draw)
        log_variance = unexpanded(evaluation.log_variance)
        log_prior = log_prior + evaluation.log_prior
        log_volume = log_volume + log_variance.sum(-1)
        precision = log_variance.neg().exp_().add_(precision)
    count = len(z)
    precision = precision.div_(count).clamp_(1 / MAX_PRECISION, MAX_PRECISION)
    return Moments(
        log_prior / count,
        (log_volume / count).expand_as(log_prior),
        precision.expand(*log_prior.shape, -1),
        torch.zeros_like(log_prior),
    )


def importance_entropy(
    log_density: LogJoint,
    mean_log_density: Tensor,
    z: Tensor,
    step_size: Tensor | None,
    particles: int,
    generator: Generator,
) -> Tensor:
    """Entropy of r(z) proportional to exp(log_density(z)), a lower bound on average: ([A], *, N), nats.

        H = log int exp(log_density) - E log_density
          ~ mean_c log mean_k exp(log_density(z_ck)) / q_c(z_ck) - E log_density,    z_ck ~ q_c = N(m_c, V_c)

    with mean and variances (V_c is diagonal) of the draws of chain c. By Jensen's inequality the expectation
    of the first term is at most its true value, so that the evidence lower bound stays a lower bound. The gap
    closes with the number of particles, and where the factor is near a normal with independent dimensions;
    correlations, several modes and short chains widen it. Components of similar shape have similar gaps, and
    r(alpha) depends only on differences. The estimate is limited to the entropy of a normal with the same
    variances, the maximum for any density; the limit matters while the chains have not yet converged.

    Args:
        log_density: z (C, [A], *, N, L) -> (C, [A], *, N).
        mean_log_density: its mean over the draws and chains, ([A], *, N).
        z: draws of r(z), (R, C, [A], *, N, L).
        step_size: of the chains (C, [A], *, N), a standard deviation: its square replaces the one degree of
            freedom that R draws lose to their own mean, so that R = 1 suffices. None needs R > 1.
        particles: number K of importance samples.
        generator: source of the importance samples.
    """
    q = proposal(z, step_size)
    evidence = log_evidence(log_density, q, particles, generator)
    normal = q.log_volume.mean(0) + z.shape[-1] / 2
    estimate = (evidence.mean(0) - mean_log_density).nan_to_num(neginf=-torch.inf, nan=0.0)
    return torch.minimum(estimate, normal)
