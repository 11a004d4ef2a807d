"""What people want to know of a recording, as functions of one draw of z.

    G = g sigma(z) / (g sigma(z) + V_b)                      filter
    E |sqrt(g) s|^2 = |G x|^2 + G V_b                        expected power of the speech, given x and z

alpha, where a model has it, is summed out with its exact posterior given each z. `over_draws` looks at one
draw at a time, so that memory does not grow with their number.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from avse.inference.mcmc.log_density import sum_out_alpha
from avse.models.distributions import exponential_cost
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


class GivenZ(NamedTuple):
    """A recording at one z. A is the number of values of alpha, 1 where there is none.

    Attributes:
        power: |x|^2, (*, N, F).
        log_joint: log p(x, z, alpha | v), (A, *, N).
        weights: p(alpha | x, z, v), (A, *, N).
        variance: of the mixture, g sigma + V_b, (A, *, N, F).
        gain: the filter G, (A, *, N, F).
        spread: variance of the speech given x, z and alpha, G V_b, (A, *, N, F).
    """

    power: Tensor
    log_joint: Tensor
    weights: Tensor
    variance: Tensor
    gain: Tensor
    spread: Tensor


Functional = Callable[[GivenZ], Tensor]
"""One number of every frame, (*, N), or K of them, (*, N, K)."""


def given_z(model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None) -> GivenZ:
    """The recording of |x|^2 = `power` (*, N, F) at z (*, N, L)."""
    log_prior, log_variance = model.speech.given(visual)(z)
    noise_variance = model.noise.variance()
    speech_variance = (log_variance + model.noise.frame_gain.log().unsqueeze(-1)).exp()
    variance = speech_variance + noise_variance
    gain = speech_variance / variance
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
    """Every functional of every draw, each (C, D, *, N) or (C, D, *, N, K).

    Args:
        functionals: by name.
        model: speech and noise.
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
    """log p(x, z | v) of every frame, nats, (*, N)."""
    return sum_out_alpha(given.log_joint)


def mean_gain(given: GivenZ) -> Tensor:
    """Mean of the filter over the bins of every frame, in [0, 1], (*, N)."""
    return (given.weights * given.gain.mean(-1)).sum(0)


def responsibilities(given: GivenZ) -> Tensor:
    """p(alpha | x, z, v), (*, N, A)."""
    return given.weights.movedim(0, -1)


def octaves(bins: int, count: int = 5) -> list[slice]:
    """Bands of bins from the highest octave down, lowest band first; it takes all that is left.

    Of 513 bins at 16 kHz, five bands end at 0.5, 1, 2, 4 and 8 kHz.
    """
    edges = [0, *(round((bins - 1) / 2**octave) for octave in range(count - 1, 0, -1)), bins]
    return [slice(low, high) for low, high in pairwise(edges) if high > low]


def decibels(power: Tensor) -> Tensor:
    """10 log10 of a power."""
    return 10 * power.clamp_min(torch.finfo(power.dtype).tiny).log10()


def band_level(bands: Sequence[slice]) -> Functional:
    """Level of the speech in each band, dB: mean over its bins of the expected power, (*, N, B)."""

    def level(given: GivenZ) -> Tensor:
        expected = given.gain.square() * given.power + given.spread
        expected = (given.weights.unsqueeze(-1) * expected).sum(0)
        return decibels(torch.stack([expected[..., band].mean(-1) for band in bands], -1))

    return level


def usual_functionals(bands: Sequence[slice]) -> dict[str, Functional]:
    """Log joint, mean filter, levels in bands and responsibilities of alpha."""
    return {
        "log_joint": log_joint,
        "mean_gain": mean_gain,
        "level": band_level(bands),
        "alpha": responsibilities,
    }
