"""How sure the speech is: deviations of bins, credible bands of levels, and sounds drawn from the posterior.

    z_r ~ p(z | x, v),   alpha ~ p(alpha | x, z_r, v),   s | x, z_r, alpha ~ N_c(G x, G V_b)

s is the speech as it sounds in the mixture (sqrt(g) s where the noise model has a gain). Everything counts:
what is unknown of a bin when z is known (G V_b) and what is unknown of z. What the noise model is unsure of
does not: W and H are point estimates.

Bins are drawn independently, as the model has them. Overlapping frames of a real signal are not independent:
synthesis averages what they say, so that a drawn sound varies less than its bins, and its STFT is not the
STFT that was drawn. Levels are therefore taken of the drawn bins and not of the sounds.
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
    """E[s | x] and the root of Var[s | x] of every bin, (*, N, F), complex and real."""

    mean: Tensor
    std: Tensor


class CredibleBand(NamedTuple):
    """Ends and middle of an interval that holds the level with the given probability, dB, each (*, N, B)."""

    lower: Tensor
    median: Tensor
    upper: Tensor


def speech_moments(
    model: NoisySpeech, z: Tensor, spectrum: Tensor, visual: Tensor | None = None
) -> SpeechMoments:
    """Mean and deviation of the speech STFT, E[G V_b] within draws and Var[G] |x|^2 between them.

    Args:
        model: speech and noise.
        z: draws (C, D, *, N, L).
        spectrum: STFT of the mixture, complex (*, N, F), at the model's level.
        visual: lips, where the model has them.
    """
    average = average_filter(model, z.flatten(0, 1), spectrum.abs().square(), visual)
    return SpeechMoments(average.gain * spectrum, average.variance.sqrt())


def draw_speech(
    model: NoisySpeech, z: Tensor, spectrum: Tensor, visual: Tensor | None, generator: Generator
) -> Tensor:
    """A draw of the speech STFT at one draw of z (*, N, L), alpha drawn frame by frame: complex (*, N, F)."""
    given = given_z(model, z, spectrum.abs().square(), visual)
    alpha = draw_component(given.weights, generator)
    gain, spread = (
        torch.take_along_dim(values, alpha[None, ..., None], 0)[0] for values in (given.gain, given.spread)
    )
    noise = torch.randn(spectrum.shape, generator=generator, dtype=spectrum.dtype, device=spectrum.device)
    return gain * spectrum + spread.sqrt() * noise


def level_draws(
    model: NoisySpeech,
    z: Tensor,
    power: Tensor,
    bands: Sequence[slice],
    generator: Generator,
    visual: Tensor | None = None,
) -> Tensor:
    """Levels of the speech in bands of bins, one draw for every draw of z, dB: (C, D, *, N, B).

    The level of a band is the mean of |s|^2 over its bins. No level depends on the phase of the mixture.

    Args:
        model: speech and noise.
        z: draws (C, D, *, N, L).
        power: |x|^2 (*, N, F) at the model's level.
        bands: such as `avse.evaluation.posterior.functionals.octaves`.
        generator: of all that is drawn.
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
    """The central interval of draws (C, D, *): as much probability is left out below as above."""
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
    """Sounds drawn from the posterior, at the rate of the STFT and the level of `spectrum`: (S, *, T).

    Each starts from another draw of z, at random; once all are used, they are used again.

    Args:
        model: speech and noise.
        z: draws (C, D, *, N, L).
        spectrum: STFT of the mixture, complex (*, N, F), at the model's level.
        stft: of the spectrum.
        length: T, samples.
        count: S.
        generator: of all that is drawn.
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
