"""Monte Carlo expectation-maximisation of a noisy recording, whole: start, EM, final draws, filter.

Any speech model with any guide. `MCEM` is the frame; `default_mcem`, `lips_mcem` and `papers_mcem` fill it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from avse.guides.guide import SpeechGuide
from avse.guides.mixture import branches
from avse.inference.e_steps import Chain, EStep, Position
from avse.inference.em import EM, EMStep
from avse.inference.kernels import HMC, MALA, RandomWalk
from avse.inference.m_steps import NoiseStep
from avse.inference.posterior import Posterior
from avse.inference.wiener import average_filter
from avse.models.lips import one_look
from avse.models.nmf import NMFNoise, QuantileStart, RandomStart
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z
from avse.models.speech import SpeechModel, latent_trace

Progress = Callable[[float], None]
"""Told the fraction of the work that is done, in [0, 1]."""

NoiseStart = Callable[[Tensor, Generator], NMFNoise]
"""(power (*, N, F), generator) -> first noise model."""

LatentStart = Callable[[SpeechModel, SpeechGuide, Tensor, Tensor | None, NMFNoise], Tensor]
"""(speech model, guide, power (*, N, F), visual, first noise model) -> first z (*, N, L), or several."""


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


def encoded_mixture(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the encoder's mean for the noisy power, as in the papers."""
    return guide.posterior(power, visual).mean


def expected_unheard(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the mean of the prior p(z | v), alpha summed out: what the lips suggest, whatever the noise."""
    mean, log_alpha = _prior_means(speech, guide, power, visual)
    return (log_alpha.exp().unsqueeze(-1) * mean).sum(0)


def each_unheard(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    """z at the means of p(z | v, alpha) for every alpha, (A, *, N, L)."""
    return _prior_means(speech, guide, power, visual)[0]


def _prior_means(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Means of p(z | v, alpha), (A, *, N, L), and log p(alpha | v), (A, *, N); A = 1 without alpha."""
    anywhere = torch.zeros_like(guide.posterior(power, visual).mean)
    trace = latent_trace(speech, anywhere, visual)
    mean: Tensor = trace.nodes[Z]["fn"].mean
    if ALPHA not in trace.nodes:
        return mean.expand_as(anywhere).unsqueeze(0), torch.zeros_like(anywhere[..., 0]).unsqueeze(0)
    trace.compute_log_prob()
    log_alpha = trace.nodes[ALPHA]["log_prob"]
    values = log_alpha.shape[0]
    return mean.expand(values, *anywhere.shape), log_alpha.expand(values, *anywhere.shape[:-1])


@dataclass(frozen=True)
class EncodedEstimate:
    """z at the encoder's mean for a first estimate of the speech: what the first noise model leaves over.

    The first estimate has the amplitude gain max(1 - V_b / P, `smallest_gain`); it is encoded, decoded into
    a Wiener filter, applied to the mixture and encoded again, `rounds` times.

    Args:
        rounds: how often to encode again.
        smallest_gain: of the first estimate.
    """

    rounds: int = 2
    smallest_gain: float = 0.05

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """z (*, N, L)."""
        model = NoisySpeech(speech, noise)
        share = noise.variance() / torch.maximum(power, torch.as_tensor(noise.floor))
        gain = (1 - share).clamp_min(self.smallest_gain)
        z = guide.posterior(power * gain.square(), visual).mean
        for _ in range(self.rounds):
            gain = average_filter(model, z.unsqueeze(0), power, visual).gain
            z = guide.posterior(power * gain.square(), visual).mean
        return z


@dataclass(frozen=True)
class EachBranch:
    """A start for every value of alpha, each from its own branch of a mixture guide: z (A, *, N, L).

    Of a guide that is no mixture it is the start itself, (1, *, N, L).

    Args:
        start: asks a guide.
    """

    start: LatentStart

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """z (A, *, N, L)."""
        return torch.stack([self.start(speech, each, power, visual, noise) for each in branches(guide)])


@dataclass(frozen=True)
class OneBranch:
    """A start from one branch of a mixture guide, (*, N, L); of a guide that is no mixture, the start itself.

    Args:
        alpha: of the branch. 0 is the papers' choice for a MIN-VAE: its encoder of lips, which no noise
            misleads.
        start: asks a guide.
    """

    alpha: int
    start: LatentStart = encoded_mixture

    def __call__(
        self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
    ) -> Tensor:
        """z (*, N, L)."""
        found = branches(guide)
        return self.start(speech, found[min(self.alpha, len(found) - 1)], power, visual, noise)


@dataclass(frozen=True)
class MCEM:
    """EM with draws, then a longer run at the fitted parameters and the averaged filter.

    Args:
        noise_start: first noise model.
        latent_starts: first z of each chain (*, N, L), or of several (C, *, N, L); chains share the noise
            model, and all their draws count alike.
        em: the loop.
        final: draws for the estimate; all that it keeps are used.
        gain_floor: smallest gain to apply when the speech is heard. Zero gives the posterior mean; a little
            of the mixture left in place masks what the filter does to it, and sounds and scores better.
    """

    noise_start: NoiseStart
    latent_starts: Sequence[LatentStart]
    em: EM[NoisySpeech]
    final: EStep
    gain_floor: float = 0.0

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
        with torch.no_grad(), one_look(speech, guide):
            noise = self.noise_start(power, generator)
            starts = [start(speech, guide, power, visual, noise) for start in self.latent_starts]
            z = torch.cat([start.reshape(-1, *power.shape[:-1], start.shape[-1]) for start in starts])

            def report(step: EMStep) -> None:
                progress(0.9 * (step.iteration + 1) / self.em.iterations)

            fitted = self.em.run(
                NoisySpeech(speech, noise), Position(z), generator, report, power=power, visual=visual
            )
            log_joint = self.em.joint(fitted.model, power=power, visual=visual)
            draws, position = self.final(log_joint, fitted.position, generator)
            average = average_filter(fitted.model, draws.z.flatten(0, 1), power, visual)
            progress(1.0)
        return Posterior(
            z=draws.z.transpose(0, 1),
            noise=fitted.model.noise,
            gain=average.gain,
            variance=average.variance,
            responsibilities=average.responsibilities,
            acceptance=draws.acceptance.mean(0),
            costs=fitted.costs,
            converged=fitted.converged,
            gain_floor=self.gain_floor,
            step_size=position.step_size,
            energy=_by_chain(draws.energy),
            diverged=_by_chain(draws.diverged),
        )


def _by_chain(values: Tensor | None) -> Tensor | None:
    """(D, C, *, N) -> (C, D, *, N)."""
    return None if values is None else values.transpose(0, 1)


def papers_mcem(frame_gain: bool = True) -> MCEM:
    """The schedule of Leglaive et al. 2018 and Sadeghi et al. 2020.

    Random W and H of rank 10, gain updated, z from the encoder on the noisy power; 100 iterations of 40
    random-walk moves (variance 0.01), 10 kept; 100 final moves, 25 kept, all of which are used.

    Args:
        frame_gain: fit a gain g_n of the speech in every frame; else g = 1, as in the papers' variational EM.
    """
    walk = RandomWalk(step_size=0.1)
    gain = (NMFNoise.updated_gain,) if frame_gain else ()
    updates = (NMFNoise.updated_spectra, NMFNoise.updated_activations, *gain)
    return MCEM(
        noise_start=RandomStart(rank=10),
        latent_starts=(encoded_mixture,),
        em=EM(Chain(walk, moves=40, burn_in=30), NoiseStep(updates), iterations=100, tolerance=1e-5),
        final=Chain(walk, moves=100, burn_in=75),
    )


def hamiltonian_mcem() -> MCEM:
    """The papers' schedule with Hamiltonian moves for its random walk: 2 an iteration in place of 40.

    HMC of 3 leapfrog steps, the step size of every frame adapted towards an acceptance of 0.7; 1 draw an
    iteration, 8 final ones.
    """
    paper, hmc = papers_mcem(), HMC(step_size=0.1, leapfrog_steps=3)
    return replace(
        paper,
        em=replace(paper.em, e_step=Chain(hmc, 2, 1, target_acceptance=0.7)),
        final=Chain(hmc, 16, 8, target_acceptance=0.7),
    )


def default_mcem() -> MCEM:
    """The schedule that enhanced validation speech best: docs/decisions.md says what was compared.

    Quantile start and smooth activations (`avse.models.nmf`), no gain (the speech model knows levels). Two
    chains a frame, one from the encoder on a first estimate of the speech and one from the encoder on the
    mixture: where they disagree, neither is believed alone. Langevin moves with a step size a frame.
    """
    langevin = MALA(step_size=0.1)
    return MCEM(
        noise_start=QuantileStart(rank=8, quantile=0.2, factor=4.0, smoothness=20.0),
        latent_starts=(EncodedEstimate(), encoded_mixture),
        em=EM(
            Chain(langevin, 2, 1, target_acceptance=0.57), NoiseStep(rounds=2), iterations=12, tolerance=0.0
        ),
        final=Chain(langevin, 10, 3, target_acceptance=0.57),
        gain_floor=0.05,
    )


def lips_mcem() -> MCEM:
    """The schedule that suited a model with a prior from the lips best on validation speech.

    As `default_mcem`, with a third chain from what the lips alone suggest, and nothing of the mixture left in
    place: a model that sees a closed mouth can be trusted with silence.
    """
    heard = default_mcem()
    return replace(heard, latent_starts=(*heard.latent_starts, expected_unheard), gain_floor=0.0)


def branches_mcem() -> MCEM:
    """The schedule for a mixture of encoders whose components share their latents, such as MIN-VAE.

    As `lips_mcem`, the third chain from the encoder of lips instead of a prior.
    """
    return replace(lips_mcem(), latent_starts=(EncodedEstimate(), EachBranch(encoded_mixture)))
