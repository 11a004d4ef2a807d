"""The closed-form steps of variational EM: r(s), r(alpha) and the parameters, given the moments of r(z).

The posterior of a noisy recording is approximated by r(s) r(z, alpha), and the free energy (minus the
evidence lower bound, less log pi a bin)

    E = sum_fn [ log V_b + P_b / V_b - 1 - log nu ] - log p(H) + F sum_n log g_n
        + sum_n sum_a r_n(a) [ log r_n(a) - log pi(a) - E log p(P_s / g, z | v, a) - H_n(a) ]
    P_s = |m|^2 + nu,    P_b = |x - m|^2 + nu,    V_b = W H

is minimised over each factor in turn. Every step below is the exact minimum of E over the quantity that it
updates, except for the noise, which is updated by majorise-minimise steps; none of them increases E. Since
the mean of the speech is 0, the terms of z and alpha equal the clean-speech model at the observed power P_s /
g: the steps depend on r(z) only through the four moments of `Moments`, and do not evaluate the model.

Sadeghi and Alameda-Pineda, ICASSP 2020 (arXiv 1911.03930) and TSP 2021 (arXiv 1912.10647), for two values of
alpha, g = 1 and r(z) the same for both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.inference.em.m_steps import NoiseUpdate
from avse.inference.responsibilities import MIN_LOG_PROB, AlphaStep, independent
from avse.models.nmf import NMFNoise
from avse.models.noisy import WienerMoments, wiener_moments


class Moments(NamedTuple):
    """Expectations over r(z), or over r(z | alpha), for each of the A values of alpha.

    Attributes:
        log_prior: E log p(z | alpha, v), (A, *, N).
        log_volume: E sum_f log sigma_f(z, alpha, v), (A, *, N).
        precision: E 1 / sigma_f(z, alpha, v), (A, *, N, F).
        entropy: entropy of r(z) or r(z | alpha), (A, *, N), nats; 0 where it is not estimated. For a shared
            r(z) it is the same for every alpha and only adds a constant to the free energy.
    """

    log_prior: Tensor
    log_volume: Tensor
    precision: Tensor
    entropy: Tensor

    def log_joint(self, power: Tensor) -> Tensor:
        """E log p(power, z | alpha, v) of clean speech of that power (*, N, F): (A, *, N)."""
        return self.log_prior - self.log_volume - (self.precision * power).sum(-1)


@dataclass(frozen=True)
class MeanField:
    """All factors and parameters of the approximation except r(z).

    Args:
        power: |x|^2 of the noisy speech, (*, N, F).
        noise: W, H and the frame gain g.
        speech: r(s) = N_c(m, nu) of the scaled speech sqrt(g) s: Wiener gain m / x and nu, each (*, N, F).
        responsibilities: r(alpha), (A, *, N).
        log_pi: log prior of alpha, (A, *, N); -inf where the probability is 0.
    """

    power: Tensor
    noise: NMFNoise
    speech: WienerMoments
    responsibilities: Tensor
    log_pi: Tensor

    @classmethod
    def start(cls, power: Tensor, noise: NMFNoise, log_alpha: Tensor) -> "MeanField":
        """m = x, nu = 0, r(alpha) = p(alpha), whose logarithm is `log_alpha` (A, *, N), see `AlphaStart`."""
        speech = WienerMoments(torch.ones_like(power), torch.zeros_like(power))
        log_pi = log_alpha.where(log_alpha > MIN_LOG_PROB, -torch.inf)
        return cls(power, noise, speech, log_pi.exp(), log_pi)

    @property
    def speech_power(self) -> Tensor:
        """P_s = |m|^2 + nu, the expected power of the scaled speech sqrt(g) s, (*, N, F)."""
        return torch.addcmul(self.speech.variance, self.speech.gain.square(), self.power)

    @cached_property
    def clean_power(self) -> Tensor:
        """P_s / g, the expected power of the speech s of the speech model, (*, N, F)."""
        return self.speech_power / self.noise.frame_gain.unsqueeze(-1)

    @cached_property
    def noise_power(self) -> Tensor:
        """P_b = |x - m|^2 + nu, the expected power of the noise, (*, N, F)."""
        return torch.addcmul(self.speech.variance, (1 - self.speech.gain).square_(), self.power)

    def precision(self, moments: Moments) -> Tensor:
        """sum_a r(a) E 1 / sigma_f(z, a, v): 1 / gamma, (*, N, F)."""
        total = torch.zeros_like(self.power)
        for r, precision in zip(self.responsibilities.unsqueeze(-1), moments.precision, strict=True):
            total.addcmul_(r, precision)
        return total


AlphaStart = Callable[[Tensor], Tensor]
"""log p(alpha | v) of the model (A, *, N) -> logarithm of the initial pi and r(alpha), (A, *, N)."""


def from_model(log_alpha: Tensor) -> Tensor:
    """pi and r(alpha) start at the prior of the model."""
    return log_alpha


def equal(log_alpha: Tensor) -> Tensor:
    """pi and r(alpha) start at 1 / A for every alpha that is possible, as in the papers (pi = pi_n = 1/2)."""
    possible = log_alpha > MIN_LOG_PROB
    return torch.where(possible, -possible.sum(0).to(log_alpha).log(), -torch.inf)


Update = Callable[[MeanField, Moments], MeanField]
"""A step that does not increase the free energy."""


def update_speech(field: MeanField, moments: Moments) -> MeanField:
    """Update r(s): m = G x and nu = G V_b with G = g gamma / (g gamma + V_b).

    This is the Wiener filter of the harmonic mean gamma of the variances; MCEM averages Wiener gains instead.
    """
    return replace(field, speech=wiener_moments(field.precision(moments).reciprocal_(), field.noise))


def update_alpha(field: MeanField, moments: Moments, step: AlphaStep = independent) -> MeanField:
    """log r(alpha) = log pi(alpha) + E log p(P_s / g, z | v, alpha) + H(alpha) + const, clipped.

    With `independent` this is the exact step; other steps, such as `Tempered`, may increase E.

    With two values, logit r = E log p(P_s, z | v, 1) - E log p(P_s, z | v, 0) + logit pi.
    """
    if len(field.log_pi) == 1:
        return field
    log_evidence = moments.log_joint(field.clean_power) + moments.entropy
    return replace(field, responsibilities=step(field.log_pi, log_evidence))


@dataclass(frozen=True)
class UpdateNoise:
    """Majorise-minimise steps of sum_fn log V_b + P_b / V_b - log p(H): those of EM at speech variance 0.

    The papers' code uses the square of the factors, which is faster but may increase the cost.

    Args:
        updates: updates of W and H.
        rounds: number of passes over the updates.
    """

    updates: Sequence[NoiseUpdate] = (NMFNoise.updated_spectra, NMFNoise.updated_activations)
    rounds: int = 1

    def __call__(self, field: MeanField, moments: Moments) -> MeanField:
        """The field with updated noise; P_b is computed once, from the current r(s)."""
        noise, power = field.noise, field.noise_power
        for _ in range(self.rounds):
            for update in self.updates:
                noise = update(noise, power, *_no_speech(power))
        return replace(field, noise=noise)


def _no_speech(power: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    """One draw of the speech variance, equal to 0, and its weight 1."""
    return [torch.zeros_like(power)], torch.ones_like(power[..., 0]).unsqueeze(0)


def update_gain(field: MeanField, moments: Moments) -> MeanField:
    """Update the frame gain: g_n = mean_f P_s / gamma."""
    gain = (field.speech_power * field.precision(moments)).mean(-1)
    smallest = torch.finfo(gain.dtype).tiny ** 0.5  # keeps the gain of a silent frame positive
    return replace(field, noise=replace(field.noise, frame_gain=gain.clamp_min(smallest)))


@dataclass(frozen=True)
class UpdatePi:
    """pi(a) = (c - 1 + sum_n r_n(a)) / (A (c - 1) + N) for all frames: MAP under Dirichlet(c, .., c).

    With c = 1 it is the update of the papers and the talk, pi = mean_n r_n, which maximises the likelihood;
    with c = 2 pi stays away from 0 and 1. It replaces the model's prior of alpha, except that values of prior
    probability 0 keep it. The quantity that does not increase is the free energy minus log Dirichlet(pi).

    Args:
        concentration: c, at least 1; Beta(c, c) for A = 2.

    Raises:
        InputError: c is below 1.
    """

    concentration: float = 2.0

    def __post_init__(self) -> None:
        if not self.concentration >= 1:
            raise InputError(f"a Dirichlet concentration of {self.concentration}: it must be at least 1")

    def __call__(self, field: MeanField, moments: Moments) -> MeanField:
        """The field with updated pi."""
        if len(field.log_pi) == 1:
            return field
        count = field.responsibilities.sum(-1, keepdim=True) + self.concentration - 1
        count = count.where(field.log_pi.isfinite().any(-1, keepdim=True), 0.0)
        log_pi = (count / count.sum(0)).log().expand_as(field.log_pi)
        return replace(field, log_pi=log_pi.where(field.log_pi.isfinite(), -torch.inf))


update_pi = UpdatePi()
"""MAP under Dirichlet(2, ..), Beta(2, 2) for A = 2."""


def free_energy(field: MeanField, moments: Moments) -> Tensor:
    """The free energy E above, summed over frames and bins, (*). It needs an r(s) of positive variance."""
    noise = field.noise.cost(field.noise_power, *_no_speech(field.power))
    r = field.responsibilities
    joint = field.log_pi + moments.log_joint(field.clean_power) + moments.entropy - r.log()
    bins = field.power.shape[-1]
    smallest = torch.finfo(field.power.dtype).tiny
    entropy = bins + field.speech.variance.clamp_min(smallest).log().sum(-1)
    frames = bins * field.noise.frame_gain.log() - (r * joint).where(r > 0, 0.0).sum(0) - entropy
    return noise + frames.sum(-1)
