"""Monte Carlo expectation-maximisation of a noisy recording, whole: start, EM, final draws, filter.

Any speech model with any guide. `MCEM` is the frame; `default_mcem` and `papers_mcem` fill it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from avse.guides.guide import SpeechGuide
from avse.inference.e_steps import Chain, EStep, Position
from avse.inference.em import EM, EMStep
from avse.inference.kernels import MALA, RandomWalk
from avse.inference.m_steps import NoiseStep
from avse.inference.posterior import Posterior
from avse.inference.wiener import average_filter
from avse.models.nmf import NMFNoise, QuantileStart, RandomStart
from avse.models.noisy import NoisySpeech
from avse.models.speech import SpeechModel

Progress = Callable[[float], None]
"""Told the fraction of the work that is done, in [0, 1]."""

NoiseStart = Callable[[Tensor, Generator], NMFNoise]
"""(power (*, N, F), generator) -> first noise model."""

LatentStart = Callable[[SpeechGuide, Tensor, Tensor | None, NMFNoise], Tensor]
"""(guide, power (*, N, F), visual, first noise model) -> first z (*, N, L)."""


class Algorithm(Protocol):
    """Posterior inference in a recording, for any speech model."""

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and lips."""
        ...


def encoded_mixture(guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise) -> Tensor:
    """z at the encoder's mean for the noisy power, as in the papers."""
    return guide.posterior(power, visual).mean


def encoded_estimate(guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise) -> Tensor:
    """z at the encoder's mean for a first estimate of the speech: power subtraction of the first noise.

    The amplitude gain max(1 - V_b / P, 0.05) takes most of the noise out of what the encoder reads.
    """
    gain = (1 - noise.variance() / power.clamp_min(1e-30)).clamp_min(0.05)
    return guide.posterior(power * gain.square(), visual).mean


@dataclass(frozen=True)
class MCEM:
    """EM with draws, then a longer run at the fitted parameters and the averaged filter.

    Args:
        noise_start: first noise model.
        latent_start: first z.
        em: the loop.
        final: draws for the estimate; all that it keeps are used.
    """

    noise_start: NoiseStart
    latent_start: LatentStart
    em: EM[NoisySpeech]
    final: EStep

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress = lambda fraction: None,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and lips."""
        with torch.no_grad():
            noise = self.noise_start(power, generator)
            z = self.latent_start(guide, power, visual, noise)

            def report(step: EMStep) -> None:
                progress(0.9 * (step.iteration + 1) / self.em.iterations)

            fitted = self.em.run(
                NoisySpeech(speech, noise), Position(z), generator, report, power=power, visual=visual
            )
            log_joint = self.em.joint(fitted.model, power=power, visual=visual)
            draws, _ = self.final(log_joint, fitted.position, generator)
            average = average_filter(fitted.model, draws.z, power, visual)
            progress(1.0)
        return Posterior(
            z=draws.z.unsqueeze(0),
            noise=fitted.model.noise,
            gain=average.gain,
            variance=average.variance,
            responsibilities=average.responsibilities,
            acceptance=draws.acceptance,
            costs=fitted.costs,
            converged=fitted.converged,
        )


def papers_mcem() -> MCEM:
    """The schedule of Leglaive et al. 2018 and Sadeghi et al. 2020.

    Random W and H of rank 10, gain updated, z from the encoder on the noisy power; 100 iterations of 40
    random-walk moves (variance 0.01), 10 kept; 100 final moves, 25 kept, all of which are used.
    """
    walk = RandomWalk(step_size=0.1)
    updates = (NMFNoise.updated_spectra, NMFNoise.updated_activations, NMFNoise.updated_gain)
    return MCEM(
        noise_start=RandomStart(rank=10),
        latent_start=encoded_mixture,
        em=EM(Chain(walk, moves=40, burn_in=30), NoiseStep(updates), iterations=100, tolerance=1e-5),
        final=Chain(walk, moves=100, burn_in=75),
    )


def default_mcem() -> MCEM:
    """The schedule that enhanced validation speech best: see docs/decisions.md for what was compared.

    Quantile start and smooth activations (`avse.models.nmf`), Langevin moves with a step size a frame, z from
    the encoder on a first estimate of the speech, no gain (the speech model knows levels).
    """
    langevin = MALA(step_size=0.1)
    return MCEM(
        noise_start=QuantileStart(),
        latent_start=encoded_estimate,
        em=EM(
            Chain(langevin, 4, 2, target_acceptance=0.57), NoiseStep(rounds=2), iterations=30, tolerance=0.0
        ),
        final=Chain(langevin, 25, 10, target_acceptance=0.57),
    )
