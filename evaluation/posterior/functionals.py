"""Functionals of the posterior: quantities of a recording as functions of one draw of z.

    G = g sigma(z) / (g sigma(z) + V_b)                      Wiener gain
    E |sqrt(g) s|^2 = |G x|^2 + G V_b                        expected power of the speech, given x and z

In a mixture model, alpha is summed out with its exact posterior given z. `over_draws` evaluates one draw at a
time, so that the memory for spectra does not grow with the number of draws.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from avse.data.stft import STFT
from avse.inference.mcmc.log_density import sum_out_alpha
from avse.models.coupling import check_alpha
from avse.models.distributions import exponential_cost
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


class GivenZ(NamedTuple):
    """Densities and Wiener gains at one z; A is the number of values of alpha, 1 without alpha.

    Attributes:
        power: |x|^2 of the recording, (*, N, F).
        log_joint: log p(x, z, alpha | v), (A, *, N).
        weights: p(alpha | x, z, v), (A, *, N).
        variance: of the noisy recording, g sigma + V_b, (A, *, N, F).
        gain: the Wiener gain G, (A, *, N, F).
        speech_variance: variance of the speech given x, z and alpha, G V_b, (A, *, N, F).
    """

    power: Tensor
    log_joint: Tensor
    weights: Tensor
    variance: Tensor
    gain: Tensor
    speech_variance: Tensor


Functional = Callable[[GivenZ], Tensor]
"""One value per frame, (*, N), or K values per frame, (*, N, K)."""


def given_z(model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None) -> GivenZ:
    """Densities and Wiener gains of a recording |x|^2 = `power` (*, N, F) at z (*, N, L)."""
    check_alpha(model)
    log_prior, log_variance = model.speech.given(visual)(z)
    noise_variance = model.noise.variance()
    prior_variance = (log_variance + model.noise.frame_gain.log().unsqueeze(-1)).exp()
    variance = prior_variance + noise_variance
    gain = prior_variance / variance
    log_joint = log_prior - exponential_cost(power, variance.clone())
    weights = log_joint.softmax(0)
    return GivenZ(power, log_joint, weights, variance, gain, gain * noise_variance)


def over_draws(
    functionals: Mapping[str, Functional],
    model: NoisySpeech,
    z: Tensor,
    power: Tensor,
    visual: Tensor | None = None,
) -> dict[str, Tensor]:
    """Values of functionals at every draw, each (C, D, *, N) or (C, D, *, N, K).

    Args:
        functionals: functionals by name.
        model: speech and noise models.
        z: draws (C, D, *, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in functionals}
    with torch.no_grad(), cached_embeddings():
        for draw in z.flatten(0, 1):
            given = given_z(model, draw, power, visual)
            for name, functional in functionals.items():
                values[name].append(functional(given))
    return {name: torch.stack(own).unflatten(0, z.shape[:2]) for name, own in values.items()}


def log_joint(given: GivenZ) -> Tensor:
    """log p(x, z | v) of every frame, in nats: (*, N)."""
    return sum_out_alpha(given.log_joint)


def mean_gain(given: GivenZ) -> Tensor:
    """Mean Wiener gain over the bins of every frame, in [0, 1]: (*, N)."""
    return (given.weights * given.gain.mean(-1)).sum(0)


def responsibilities(given: GivenZ) -> Tensor:
    """p(alpha | x, z, v): (*, N, A)."""
    return given.weights.movedim(0, -1)


def octaves(bins: int, count: int = 5) -> list[slice]:
    """Octave bands of bins, lowest first; the lowest band also contains all bins below its octave.

    Of 513 bins at 16 kHz, five bands end at 0.5, 1, 2, 4 and 8 kHz.
    """
    edges = [0, *(round((bins - 1) / 2**octave) for octave in range(count - 1, 0, -1)), bins]
    return [slice(low, high) for low, high in pairwise(edges) if high > low]


def band_names(bands: Sequence[slice], stft: STFT) -> list[str]:
    """Bands of bins by the frequencies of their first and last bin, such as "0 to 484 Hz"."""
    spacing = stft.sample_rate / stft.window_length
    return [f"{spacing * band.start:.0f} to {spacing * (band.stop - 1):.0f} Hz" for band in bands]


def decibels(power: Tensor) -> Tensor:
    """10 log10 of a power."""
    return 10 * power.clamp_min(torch.finfo(power.dtype).tiny).log10()


def band_level(bands: Sequence[slice]) -> Functional:
    """Functional: speech level in dB of each band, the mean expected power of its bins, (*, N, B)."""

    def level(given: GivenZ) -> Tensor:
        expected = given.gain.square() * given.power + given.speech_variance
        expected = (given.weights.unsqueeze(-1) * expected).sum(0)
        return decibels(torch.stack([expected[..., band].mean(-1) for band in bands], -1))

    return level


def default_functionals(bands: Sequence[slice]) -> dict[str, Functional]:
    """Log joint, mean Wiener gain, speech levels in bands and responsibilities of alpha."""
    return {
        "log_joint": log_joint,
        "mean_gain": mean_gain,
        "level": band_level(bands),
        "alpha": responsibilities,
    }
