"""The Wiener-like estimate of the speech: the Wiener gain averaged over the draws of the posterior.

    E[s | x] = E_{p(z | x)} [ G(z) ] x,    G(z) = g sigma(z) / (g sigma(z) + V_b)
    Var[s | x] = E[ G V_b ] + Var[ G ] |x|^2

over all draws of the final run (Sadeghi et al., TASLP 2020, after Leglaive et al., MLSP 2018). If the
model has an alpha, the average over it uses its exact posterior given each z.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from avse.inference.em.m_steps import weighted_speech_variance
from avse.models.noisy import NoiseModel, NoisySpeech, WienerMoments, wiener_moments


class AverageFilter(NamedTuple):
    """Posterior means over all draws.

    Attributes:
        gain: mean Wiener gain E[G], (*, N, F).
        variance: Var[s | x], (*, N, F).
        responsibilities: p(alpha | x), (A, *, N).
    """

    gain: Tensor
    variance: Tensor
    responsibilities: Tensor


def average_filter(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None
) -> AverageFilter:
    """The Wiener gain averaged over draws of z and over alpha.

    Args:
        model: speech and noise.
        z: draws (R, *, N, L); one is decoded at a time, so that memory does not grow with R.
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
    """
    responsibilities = torch.zeros((), dtype=power.dtype)

    def filters() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal responsibilities
        for draw in z.split(1):
            variances, weights = weighted_speech_variance(model, draw, power, visual)
            weights = weights / z.shape[0]
            responsibilities = responsibilities + weights
            yield from zip(variances, weights, strict=True)

    with torch.no_grad():
        moments = averaged(model.noise, power, filters())
    return AverageFilter(moments.gain, moments.variance, responsibilities)


def average_filter_of_noise_draws(
    models: Iterable[NoisySpeech], z: Tensor, power: Tensor, visual: Tensor | None = None
) -> AverageFilter:
    """As `average_filter`, where each of R draws has a noise model of its own.

    Args:
        models: speech and noise of every draw.
        z: draws (R, *, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
    """
    responsibilities = torch.zeros((), dtype=power.dtype)

    def filters() -> Iterator[tuple[WienerMoments, Tensor]]:
        nonlocal responsibilities
        for model, draw in zip(models, z.split(1), strict=True):
            variances, weights = weighted_speech_variance(model, draw, power, visual)
            weights = weights / z.shape[0]
            responsibilities = responsibilities + weights
            for variance, weight in zip(variances, weights, strict=True):
                yield wiener_moments(variance, model.noise), weight

    with torch.no_grad():
        moments = mean_moments(power, filters())
    return AverageFilter(moments.gain, moments.variance, responsibilities)


def averaged(noise: NoiseModel, power: Tensor, draws: Iterable[tuple[Tensor, Tensor]]) -> WienerMoments:
    """Posterior mean of the Wiener gain, and variance of the speech, each (*, N, F).

    Args:
        noise: frame gain and noise variance.
        power: |x|^2 (*, N, F).
        draws: pairs of the speech variance of a draw, without the frame gain (*, N, F), and its weight (*,
            N).
    """
    return mean_moments(power, ((wiener_moments(variance, noise), weight) for variance, weight in draws))


def mean_moments(power: Tensor, draws: Iterable[tuple[WienerMoments, Tensor]]) -> WienerMoments:
    """Posterior mean of the Wiener gain, and variance of the speech, from those of every draw.

    Args:
        power: |x|^2 (*, N, F).
        draws: pairs of the moments of a draw, each (*, N, F), and its weight (*, N).
    """
    mean, square, within = (torch.zeros_like(power) for _ in range(3))
    for moments, weight in draws:
        share = weight.unsqueeze(-1)
        mean += share * moments.gain
        square += share * moments.gain.square()
        within += share * moments.variance
    between = (square - mean.square()).clamp_min(0) * power
    return WienerMoments(mean, within + between)


NEARLY_CLEAN = 8e-4
"""Power that a filter takes away over power that it lets through, -31 dB, at which `clean_share` is 1/2."""
LOUD_RUMBLE = 0.025
"""Power below the high-pass over that of the speech, -16 dB, at which `clean_share` is at most 1/2."""


class Powers(NamedTuple):
    """What `clean_share` depends on, (*) each; those of parts of a recording add up.

    Attributes:
        removed: R, the power that a filter takes away.
        below: B, the power of what the high-pass took away.
        kept: S, the power of the estimated speech.
    """

    removed: Tensor
    below: Tensor
    kept: Tensor

    @classmethod
    def of(cls, gain: Tensor, power: Tensor, rejected: Tensor) -> "Powers":
        """The powers of a recording or a part of it; see `clean_share`."""
        return cls(
            removed=((1 - gain).square() * power).sum((-2, -1)),
            below=(rejected.square() * power).sum((-2, -1)),
            kept=(gain.square() * power).sum((-2, -1)),
        )

    def clean_share(self) -> Tensor:
        """See `clean_share`, (*)."""
        kept = self.kept.clamp_min(torch.finfo(self.kept.dtype).tiny / LOUD_RUMBLE)
        noise, rumble = self.removed / (NEARLY_CLEAN * kept), self.below / (LOUD_RUMBLE * kept)
        return 1 / (1 + noise**4) / (1 + rumble**4)


def clean_share(gain: Tensor, power: Tensor, rejected: Tensor) -> Tensor:
    """How nearly clean a recording is, from 0 to 1, (*).

    1 / (1 + (R / (0.0008 S))^4) / (1 + (B / (0.025 S))^4) with R = sum_nf (1 - G)^2 P the power that was
    taken away, S = sum_nf G^2 P that of the estimated speech, and B that of what the high-pass took away. The
    last factor is for noise that is low above all, such as that of a car, of which a filter of the bins
    above the high-pass sees little.

    Args:
        gain: Wiener gain G, (*, N, F).
        power: |x|^2 above the high-pass (*, N, F).
        rejected: amplitude that the high-pass took away over that which it let through, (F,).
    """
    return Powers.of(gain, power, rejected).clean_share()
