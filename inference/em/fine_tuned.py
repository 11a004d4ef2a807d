"""Variational EM with the encoder fine-tuned on the recording.

    E-step:  phi <- phi + rate grad E_q [ log p(x, z; noise) - log q_phi(z | x) ],   a few steps of Adam
    M-step:  noise <- noise with a lower mean over draws of q_phi of -log p(x | z; noise)

The E-step of Leglaive, Alameda-Pineda, Girin, Horaud, ICASSP 2020 (arXiv 1910.10942). phi are the weights of
the guide, which begins as it was trained: one network explains all frames of the recording, where chains look
for each by itself. It asks the model for its log joint alone, whatever couples the frames, and the guide for
draws that can be differentiated.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.guides.context import guide_of_noisy_speech
from avse.inference.algorithm import Progress
from avse.inference.em.amortised import FixedPosterior
from avse.inference.em.em import EM
from avse.inference.em.initial import NoiseInit
from avse.inference.em.m_steps import NoiseStep
from avse.inference.em.mcem import MCEM
from avse.inference.location import location
from avse.inference.mcmc.chain import ChainState, Draws
from avse.inference.mcmc.log_density import LogJoint, frame_terms
from avse.inference.posterior import Posterior
from avse.models.base import SpeechModel
from avse.models.coupling import EVERY_COUPLING
from avse.models.networks.lips import cached_embeddings


class FineTunedPosterior:
    """An E-step that improves a guide by steps on the evidence lower bound, and draws from it.

    Args:
        guide: q(z | x, v); its weights change, so give a copy.
        power: |x|^2 (*, N, F).
        visual: lips (*, N, D), or None.
        learning_rate: of Adam.
        steps: of Adam in a call.
        draws: R, of q.
        spread: factor of the standard deviations of q in the draws, see `AmortisedEM`.

    Attributes:
        bounds: the evidence lower bound before every step, nats a frame, by one draw.
    """

    couplings: ClassVar = EVERY_COUPLING

    def __init__(
        self,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        learning_rate: float = 1e-3,
        steps: int = 10,
        draws: int = 2,
        spread: float = 1.0,
    ) -> None:
        self.guide, self.power, self.visual = guide, power, visual
        self.steps, self.draws, self.spread = steps, draws, spread
        self.parameters: Sequence[nn.Parameter] = list(guide.requires_grad_().parameters())
        self.optimiser = torch.optim.Adam(self.parameters, learning_rate) if self.parameters else None
        self.bounds: list[float] = []

    def q(self) -> TorchDistribution:
        """q(z | x, v) of the present weights: embeddings that were computed before a step are not used."""
        with cached_embeddings():
            return self.guide.posterior(self.power, self.visual)

    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """Draws (R, 1, *, N, L) of q after `steps` steps.

        Raises:
            InputError: the draws of q cannot be differentiated.
        """
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
            torch.manual_seed(seed)
            for _ in range(self.steps):
                self._improve(frame_terms(log_joint))
        with torch.no_grad():
            return FixedPosterior(self.q(), self.draws, self.spread)(log_joint, chain_state, generator)

    def _improve(self, terms: LogJoint) -> None:
        """One step of Adam on the bound."""
        if self.optimiser is None:
            return
        q = self.q()
        if not q.has_rsample:
            raise InputError(
                "draws of this guide cannot be differentiated with respect to its weights, as fine-tuning "
                'needs it: use algorithm "mcem" or "amortised"'
            )
        z = q.rsample()
        bound = terms(z).sum() + entropy(q, z).sum()
        if bound.requires_grad:
            self.optimiser.zero_grad()
            (-bound / self.power[..., 0].numel()).backward(inputs=self.parameters)
            self.optimiser.step()
        self.bounds.append(float(bound.detach()) / self.power[..., 0].numel())


def entropy(q: TorchDistribution, z: Tensor) -> Tensor:
    """The entropy of q in every frame, (*, N), or its estimate -log q(z) where it has no closed form."""
    try:
        exact: Tensor = q.entropy()
        return exact
    except NotImplementedError:
        return -q.log_prob(z)


@dataclass(frozen=True)
class FineTunedEM:
    """EM of the noise with z ~ q, q fine-tuned on the recording, then the Wiener gain averaged over q.

    q begins as the guide of noisy speech (`avse.guides.context`) where the pair has one, else as the guide. A
    copy is fine-tuned; the pair stays as it is.

    Args:
        noise_init: returns the initial noise model.
        learning_rate: of Adam.
        steps: of Adam in an iteration.
        draws: of q in every iteration.
        final_draws: of q, over which the gain is averaged.
        spread: factor of the standard deviations of q, see `AmortisedEM`.
        m_step: update of the noise.
        iterations: number of iterations.
        gain_floor: smallest gain that is applied in synthesis.
    """

    draws_are_chains: ClassVar[bool] = False
    noise_init: NoiseInit
    learning_rate: float = 1e-3
    steps: int = 10
    draws: int = 2
    final_draws: int = 6
    spread: float = 1.0
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
        own = copy.deepcopy(guide_of_noisy_speech(guide))
        step = FineTunedPosterior(own, power, visual, self.learning_rate, self.steps, self.draws, self.spread)
        with torch.no_grad():
            start = location(step.q())
        em = EM(step, self.m_step, self.iterations, tolerance=0.0)
        final = _Last(step, self.final_draws)
        run = MCEM(self.noise_init, (lambda *_: start,), em, final, self.gain_floor)
        return run(speech, guide, power, visual, generator, progress)


@dataclass(frozen=True)
class _Last:
    """Draws of q as it is after the last step."""

    tuned: FineTunedPosterior
    draws: int
    couplings: ClassVar = EVERY_COUPLING

    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """As `EStep.__call__`."""
        q = self.tuned.q()
        return FixedPosterior(q, self.draws, self.tuned.spread)(log_joint, chain_state, generator)
