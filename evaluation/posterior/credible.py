"""Posterior uncertainty of the speech: standard deviations, credible intervals, sampled waveforms.

    z_r ~ p(z | x, v),   alpha ~ p(alpha | x, z_r, v),   s | x, z_r, alpha ~ N_c(G x, G V_b)

s is the speech at its level in the recording (sqrt(g) s if the noise model has a frame gain). The uncertainty
includes that of a bin given z (G V_b) and that of z, but not that of the noise: W and H are point estimates.

Bins are drawn independently, as in the model. Synthesis averages overlapping frames, so that a sampled
waveform varies less than its bins, and its STFT differs from the STFT that was drawn. Levels are therefore
computed from the drawn bins and not from the waveforms.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from avse.data.stft import STFT
from avse.evaluation.posterior.functionals import decibels, given_z
from avse.inference.responsibilities import draw_component
from avse.inference.wiener import average_filter
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


class SpeechMoments(NamedTuple):
    """E[s | x], complex, and sqrt(Var[s | x]), real, of every bin: (*, N, F) each."""

    mean: Tensor
    std: Tensor


class CredibleBand(NamedTuple):
    """Limits and median of a credible interval of the level in dB, each (*, N, B)."""

    lower: Tensor
    median: Tensor
    upper: Tensor


def speech_moments(
    model: NoisySpeech, z: Tensor, spectrum: Tensor, visual: Tensor | None = None
) -> SpeechMoments:
    """Mean and standard deviation of the speech STFT; Var[s | x] = E[G V_b] + Var[G] |x|^2.

    Args:
        model: speech and noise models.
        z: draws (C, D, *, N, L).
        spectrum: STFT of the noisy recording, complex (*, N, F), scaled as for the model.
        visual: lips, where the model has them.
    """
    average = average_filter(model, z.flatten(0, 1), spectrum.abs().square(), visual)
    return SpeechMoments(average.gain * spectrum, average.variance.sqrt())


def draw_speech(
    model: NoisySpeech, z: Tensor, spectrum: Tensor, visual: Tensor | None, generator: Generator
) -> Tensor:
    """A draw of the speech STFT given a draw of z (*, N, L), one alpha per frame: complex (*, N, F)."""
    given = given_z(model, z, spectrum.abs().square(), visual)
    alpha = draw_component(given.weights, generator)
    gain, variance = (
        torch.take_along_dim(values, alpha[None, ..., None], 0)[0]
        for values in (given.gain, given.speech_variance)
    )
    noise = torch.randn(spectrum.shape, generator=generator, dtype=spectrum.dtype, device=spectrum.device)
    return gain * spectrum + variance.sqrt() * noise


def level_draws(
    model: NoisySpeech,
    z: Tensor,
    power: Tensor,
    bands: Sequence[slice],
    generator: Generator,
    visual: Tensor | None = None,
) -> Tensor:
    """Speech levels in bands of bins, one draw for every draw of z, in dB: (C, D, *, N, B).

    The level of a band is the mean of |s|^2 over its bins; it does not depend on the phase of the recording.

    Args:
        model: speech and noise models.
        z: draws (C, D, *, N, L).
        power: |x|^2 (*, N, F), scaled as for the model.
        bands: ranges of bins, such as those of `avse.evaluation.posterior.functionals.octaves`.
        generator: source of the random numbers.
        visual: lips, where the model has them.
    """
    amplitude = torch.complex(power.sqrt(), torch.zeros_like(power))

    def levels() -> Iterator[Tensor]:
        for draw in z.flatten(0, 1):
            drawn = draw_speech(model, draw, amplitude, visual, generator).abs().square()
            yield decibels(torch.stack([drawn[..., band].mean(-1) for band in bands], -1))

    with torch.no_grad(), cached_embeddings():
        return torch.stack(list(levels())).unflatten(0, z.shape[:2])


def credible_band(draws: Tensor, probability: float = 0.9) -> CredibleBand:
    """Central credible interval of draws (C, D, *): its two tails have equal probability."""
    tail = (1 - probability) / 2
    ordered = draws.flatten(0, 1).sort(0).values  # torch.quantile refuses more than 2^24 values
    ends = []
    for level in (tail, 0.5, 1 - tail):
        below, share = divmod(level * (len(ordered) - 1), 1)
        after = min(int(below) + 1, len(ordered) - 1)
        ends.append(torch.lerp(ordered[int(below)], ordered[after], share))
    return CredibleBand(*ends)


def sample_waveforms(
    model: NoisySpeech,
    z: Tensor,
    spectrum: Tensor,
    stft: STFT,
    length: int,
    count: int,
    generator: Generator,
    visual: Tensor | None = None,
) -> Tensor:
    """Speech waveforms drawn from the posterior, at the rate and scale of `spectrum`: (S, *, T).

    Each uses a different, randomly chosen draw of z; draws are reused once all have been used.

    Args:
        model: speech and noise models.
        z: draws (C, D, *, N, L).
        spectrum: STFT of the noisy recording, complex (*, N, F), scaled as for the model.
        stft: the transform of `spectrum`.
        length: T, the number of samples.
        count: S, the number of waveforms.
        generator: source of the random numbers.
        visual: lips, where the model has them.
    """
    pooled = z.flatten(0, 1)
    rounds = -(-count // len(pooled))
    shuffles = [
        torch.randperm(len(pooled), generator=generator, device=generator.device) for _ in range(rounds)
    ]
    with torch.no_grad(), cached_embeddings():
        return torch.stack(
            [
                stft.synthesis(draw_speech(model, pooled[index], spectrum, visual, generator), length)
                for index in torch.cat(shuffles)[:count]
            ]
        )
