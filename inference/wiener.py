"""The Wiener-like estimate: the filter of every draw, averaged over the posterior.

    E[s | x] = E_{p(z | x)} [ G(z) ] x,    G(z) = g sigma(z) / (g sigma(z) + V_b)
    Var[s | x] = E[ G V_b ] + Var[ G ] |x|^2

over all draws of the final run (Sadeghi et al., TASLP 2020, after Leglaive et al., MLSP 2018). alpha, where a
model has it, is averaged with its exact posterior given each z.
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
        gain: E[G], (*, N, F).
        variance: Var[s | x], (*, N, F).
        responsibilities: p(alpha | x), (A, *, N).
    """

    gain: Tensor
    variance: Tensor
    responsibilities: Tensor


def average_filter(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None
) -> AverageFilter:
    """The filter averaged over draws of z and over alpha.

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


def averaged(noise: NoiseModel, power: Tensor, draws: Iterable[tuple[Tensor, Tensor]]) -> WienerMoments:
    """Posterior mean of the gain, and variance of the speech, each (*, N, F).

    Args:
        noise: gain and noise variance.
        power: |x|^2 (*, N, F).
        draws: of the speech variance, without the gain (*, N, F), each with its weight (*, N).
    """
    mean, square, within = (torch.zeros_like(power) for _ in range(3))
    for speech_variance, weight in draws:
        share, moments = weight.unsqueeze(-1), wiener_moments(speech_variance, noise)
        mean += share * moments.gain
        square += share * moments.gain.square()
        within += share * moments.variance
    between = (square - mean.square()).clamp_min(0) * power
    return WienerMoments(mean, within + between)
