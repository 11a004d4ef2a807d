"""Amortised variational EM: the guide is the posterior, and the noise is fitted to its draws.

    repeat:  draws of z ~ q(z | x)                                               (E-step: q stays as it is)
             noise <- noise with a lower mean over the draws of -log p(x | z; noise)             (M-step)

As Pariente, Deleforge, Vincent (Interspeech 2019), whose q is the encoder of clean speech at the noisy power;
here it is the context guide (`avse.guides.context`) where the pair has one. q is not refined on the
recording, which makes this the fastest of the algorithms, and it cannot follow a noise model that takes
speech for noise.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Generator, Tensor

from avse.guides.base import SpeechGuide
from avse.guides.context import context_guide, guide_of_noisy_speech
from avse.inference.algorithm import Algorithm, Progress
from avse.inference.em.em import EM
from avse.inference.em.initial import NoiseInit
from avse.inference.em.m_steps import NoiseStep
from avse.inference.em.mcem import MCEM
from avse.inference.location import location, sampled
from avse.inference.mcmc.chain import ChainState, Draws
from avse.inference.mcmc.log_density import LogJoint
from avse.inference.posterior import Posterior
from avse.models.base import SpeechModel
from avse.models.coupling import EVERY_COUPLING


@dataclass(frozen=True)
class FixedPosterior:
    """An E-step with independent draws of one distribution, whatever the parameters.

        z = m + spread (z' - m),    z' ~ q,    m the location of q

    Args:
        distribution: q of z, batch shape (*, N), event shape (L,).
        draws: R.
        spread: factor of the standard deviations of q.
    """

    distribution: TorchDistribution
    draws: int
    spread: float = 1.0
    couplings: ClassVar = EVERY_COUPLING

    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """Draws (R, 1, *, N, L), all of which are accepted."""
        centre = location(self.distribution)
        z = (centre + self.spread * (sampled(self.distribution, self.draws, generator) - centre)).unsqueeze(1)
        return Draws(z, torch.ones_like(z[0, ..., 0])), ChainState(z[-1])


@dataclass(frozen=True)
class AmortisedEM:
    """EM of the noise with z ~ q(z | x) of the guide, then the Wiener gain averaged over q.

    Args:
        noise_init: returns the initial noise model.
        draws: of q in every iteration.
        final_draws: of q, over which the gain is averaged.
        spread: factor of the standard deviations of q. A guide with independent latents is wider than the
            posterior is along most directions, and decoding is not linear, so that values below 1 give better
            estimates; 1 for the uncertainty that q states.
        m_step: update of the noise.
        iterations: number of iterations.
        gain_floor: smallest gain that is applied in synthesis.
    """

    draws_are_chains: ClassVar[bool] = False
    noise_init: NoiseInit
    draws: int = 2
    final_draws: int = 6
    spread: float = 0.5
    m_step: NoiseStep = field(default_factory=lambda: NoiseStep(rounds=2))
    iterations: int = 12
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
        """The posterior given |x|^2 = `power` (*, N, F) and lips; its draws are those of q."""
        with torch.no_grad():
            q = guide_of_noisy_speech(guide).posterior(power, visual)
            start = location(q)
        em = EM(FixedPosterior(q, self.draws, self.spread), self.m_step, self.iterations, tolerance=0.0)
        final = FixedPosterior(q, self.final_draws, self.spread)
        run = MCEM(self.noise_init, (lambda *_: start,), em, final, self.gain_floor)
        return run(speech, guide, power, visual, generator, progress)


@dataclass(frozen=True)
class IfContext:
    """One algorithm for guides that bring a context guide, and another one for all others.

    Args:
        amortised: for the former.
        otherwise: for the latter.
    """

    amortised: Algorithm
    otherwise: Algorithm

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
        chosen = self.otherwise if context_guide(guide) is None else self.amortised
        return chosen(speech, guide, power, visual, generator, progress)
