"""The latent factor of variational EM, r(z) or r(z | alpha), by Markov chains; and its moments.

    Shared      log r(z) = sum_a r(a) log p(P, z | v, a) + const          r(z, alpha) = r(z) r(alpha)
    Structured  log r(z | a) = log p(P, z | v, a) + const                 r(z, alpha) = r(z | alpha) r(alpha)

at the expected power P of the clean speech. The first is the papers': one z for all alpha, which follows the
geometric mean of the components (not their sum, which logsumexp would be). Where alpha chooses between models
that were trained apart, no z suits both; the second gives each its own, and its bound is never lower.
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
"""E 1 / sigma and its inverse are limited to it: neither may overflow."""


class LatentFactor(Protocol):
    """How z depends on alpha in the approximation. [A] stands for a dimension that `Structured` alone has.

    Attributes:
        particles: importance samples a frame for the entropy of the factor; with 0 it is left at 0.
    """

    @property
    def particles(self) -> int:
        """See above."""
        ...

    def start(self, starts: Sequence[Tensor], values: int, frames: torch.Size) -> Tensor:
        """First z of all chains, (C, [A], *, N, L).

        Args:
            starts: z (*, N, L), or one for each alpha (A, *, N, L).
            values: A.
            frames: (*, N).
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
        """Draws of z whatever alpha, from draws (.., [A], *, N, L): (.., *, N, L)."""
        ...

    def mean(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """Average over z whatever alpha: (.., [A], *, N) -> (.., *, N)."""
        ...


@dataclass(frozen=True)
class Shared:
    """One r(z) for all values of alpha. Starts that give a z for each alpha make as many chains."""

    particles: int = 0

    def start(self, starts: Sequence[Tensor], values: int, frames: torch.Size) -> Tensor:
        """(C, *, N, L)."""
        return torch.cat([z.reshape(-1, *frames, z.shape[-1]) for z in starts])

    def log_joint(self, model: ComponentDensity, power: Tensor) -> LogJoint:
        """z (.., *, N, L), the same for every alpha -> (A, .., *, N)."""
        return model.log_joint(power)

    def evaluate(self, model: ComponentDensity, z: Tensor) -> Evaluation:
        """At z (*, N, L), the same for every alpha."""
        return model.evaluate(z)

    def log_density(self, log_joint: Tensor, responsibilities: Tensor) -> Tensor:
        """sum_a r(a) log p(P, z | v, a), (.., *, N); what has r(a) = 0 counts for nothing, even at -inf."""
        if log_joint.shape[0] == 1:
            return log_joint[0]
        r = aligned(responsibilities, log_joint.dim())
        return (r * log_joint).where(r > 0, 0.0).sum(0)

    def marginal(self, z: Tensor, responsibilities: Tensor, generator: Generator) -> Tensor:
        """All draws."""
        return z

    def mean(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """As they are."""
        return values


@dataclass(frozen=True)
class Structured:
    """One r(z | alpha) for each value of alpha, each with chains of its own.

    r(alpha) then needs the entropies of the factors, by `importance_entropy`.

    Raises:
        InputError: no particles.
    """

    particles: int = 8

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise InputError("r(z | alpha) needs at least 1 particle: without entropies r(alpha) is wrong")

    def start(self, starts: Sequence[Tensor], values: int, frames: torch.Size) -> Tensor:
        """(C, A, *, N, L)."""
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
        """One component a draw and frame, with probability r(alpha)."""
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
    """What the chains sample: z (.., [A], *, N, L) -> log r up to a constant, (.., [A], *, N)."""
    log_joint = factor.log_joint(model, power)
    return lambda z: factor.log_density(log_joint(z), responsibilities)


def moments(factor: LatentFactor, model: ComponentDensity, z: Tensor) -> Moments:
    """Averages over the draws z (R, [A], *, N, L), entropy left at 0; one draw is decoded at a time."""
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
    """Entropy of r(z) proportional to exp(log_density(z)), on average at most the truth: ([A], *, N), nats.

        H = log int exp(log_density) - E log_density
          ~ mean_c log mean_k exp(log_density(z_ck)) / q_c(z_ck) - E log_density,    z_ck ~ q_c = N(m_c, V_c)

    with mean and variances (V_c is diagonal) of the draws of chain c. By Jensen's inequality the expectation
    of the first term is at most its truth, so that the evidence lower bound stays a lower bound. The gap
    closes with the number of particles, and where the factor is near a normal with independent dimensions;
    correlations, several modes and short chains widen it. Components of like shape share the gap, and
    r(alpha) sees but the difference. No factor has more entropy than a normal of its variances, and no
    estimate either: that matters while the chains are still on their way.

    Args:
        log_density: z (C, [A], *, N, L) -> (C, [A], *, N).
        mean_log_density: its mean over the draws and chains, ([A], *, N).
        z: draws of r(z), (R, C, [A], *, N, L).
        step_size: of the chains (C, [A], *, N), a standard deviation: its square stands for the one squared
            deviation that R draws lack about their own mean, so that a single draw will do. None needs R > 1.
        particles: K.
        generator: of the particles.
    """
    q = proposal(z, step_size)
    evidence = log_evidence(log_density, q, particles, generator)
    normal = q.log_volume.mean(0) + z.shape[-1] / 2
    estimate = (evidence.mean(0) - mean_log_density).nan_to_num(neginf=-torch.inf, nan=0.0)
    return torch.minimum(estimate, normal)
