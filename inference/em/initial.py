"""Initial values of z: from an encoder, from the prior, or from an encoded first estimate of the speech.

Each function takes the speech model, the guide, the power of the noisy speech, the lips and the initial noise
model, and returns z (*, N, L), or one z for each of several chains (C, *, N, L).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from avse.guides.base import SpeechGuide
from avse.guides.context import guide_of_noisy_speech
from avse.guides.mixture import branches
from avse.inference.location import location
from avse.inference.wiener import average_filter
from avse.models.base import SpeechModel, latent_trace
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

NoiseInit = Callable[[Tensor, Generator], NMFNoise]
"""(power (*, N, F), generator) -> initial noise model."""

LatentInit = Callable[[SpeechModel, SpeechGuide, Tensor, Tensor | None, NMFNoise], Tensor]
"""(speech model, guide, power (*, N, F), visual, initial noise model) -> z (*, N, L) or (C, *, N, L)."""


def init_from_encoder(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the encoder's mean (see `location`) for the noisy power, as in the papers."""
    return location(guide.posterior(power, visual))


def init_from_context(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the mean of the context guide (`avse.guides.context`), of the guide itself if it has none."""
    return location(guide_of_noisy_speech(guide).posterior(power, visual))


def init_from_prior(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the mean of the prior p(z | v), alpha summed out; it does not depend on the noisy speech."""
    mean, log_alpha = _prior_means(speech, guide, power, visual)
    return (log_alpha.exp().unsqueeze(-1) * mean).sum(0)


def init_from_component_priors(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the means of p(z | v, alpha) for every alpha, (A, *, N, L)."""
    return _prior_means(speech, guide, power, visual)[0]


def _prior_means(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Means of p(z | v, alpha), (A, *, N, L), and log p(alpha | v), (A, *, N); A = 1 without alpha."""
    latents = guide.posterior(power, visual).event_shape
    zeros = power.new_zeros(*power.shape[:-1], *latents)
    trace = latent_trace(speech, zeros, visual)
    mean = location(trace.nodes[Z]["fn"])
    if ALPHA not in trace.nodes:
        return mean.expand_as(zeros).unsqueeze(0), torch.zeros_like(zeros[..., 0]).unsqueeze(0)
    trace.compute_log_prob()
    log_alpha = trace.nodes[ALPHA]["log_prob"]
    values = log_alpha.shape[0]
    return mean.expand(values, *zeros.shape), log_alpha.expand(values, *zeros.shape[:-1])


@dataclass(frozen=True)
class InitFromEncodedEstimate:
    """z at the encoder's mean for a first estimate of the speech, which subtracts the initial noise model.

    The first estimate has the amplitude gain max(1 - V_b / P, `smallest_gain`); it is encoded. Then
    z is decoded to a Wiener gain, the gain is applied to the noisy speech and the result is encoded again,
    `rounds` times.

    Args:
        rounds: number of further rounds of decoding and encoding.
        smallest_gain: smallest amplitude gain of the first estimate.
    """

    rounds: int = 2
    smallest_gain: float = 0.05

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """Initial z (*, N, L)."""
        model = NoisySpeech(speech, noise)
        share = noise.variance() / torch.maximum(power, torch.as_tensor(noise.floor))
        gain = (1 - share).clamp_min(self.smallest_gain)
        z = location(guide.posterior(power * gain.square(), visual))
        for _ in range(self.rounds):
            gain = average_filter(model, z.unsqueeze(0), power, visual).gain
            z = location(guide.posterior(power * gain.square(), visual))
        return z


@dataclass(frozen=True)
class InitFromEstimate:
    """z at the encoder's mean for an estimate of the speech that another model has made.

    Args:
        power: |s|^2 of the estimate, (*, N, F).
    """

    power: Tensor

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """Initial z (*, N, L)."""
        return location(guide.posterior(self.power, visual))


@dataclass(frozen=True)
class InitFromNoise:
    """A noise model that was fitted before as the initial one.

    Args:
        noise: that model.
    """

    noise: NMFNoise

    def __call__(self, power: Tensor, generator: Generator) -> NMFNoise:
        """The noise model."""
        return self.noise


@dataclass(frozen=True)
class InitEachComponent:
    """Initial values for every alpha, each from its own branch of a mixture guide: z (A, *, N, L).

    For any other guide these are the values of `init` itself, (1, *, N, L).

    Args:
        init: returns the initial values for a guide.
    """

    init: LatentInit

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """Initial z (A, *, N, L)."""
        return torch.stack([self.init(speech, branch, power, visual, noise) for branch in branches(guide)])


@dataclass(frozen=True)
class InitFromComponent:
    """Initial values from one branch of a mixture guide, (*, N, L); for any other guide those of `init`.

    Args:
        alpha: index of the branch. 0 is the papers' choice for a MIN-VAE: its encoder of lips, which does not
            depend on the noise.
        init: returns the initial values for a guide.
    """

    alpha: int
    init: LatentInit = init_from_encoder

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """Initial z (*, N, L)."""
        found = branches(guide)
        return self.init(speech, found[min(self.alpha, len(found) - 1)], power, visual, noise)
