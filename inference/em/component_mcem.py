"""Monte Carlo EM of a mixture model with separate chains and an evidence estimate for every alpha.

    p(z, alpha | x, v) = p(z | x, v, alpha) p(alpha | x, v)
    p(alpha | x, v) prop. to p(alpha | v) int p(x | z, v, alpha) p(z | v, alpha) dz

`MCEM` sums alpha out at every z, which is exact if its chains move between the components. They do not where
the components were trained separately and have different latent spaces: a chain stays in the component that
it was initialised in. Here every component is sampled separately, and p(alpha | x, v) comes from estimates of
the evidence (`avse.inference.importance`). In contrast to `VEM` with `Structured`, the speech is integrated
out, and Wiener gains are averaged instead of precisions.

It runs with any speech model; for a model without alpha it equals `MCEM`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.inference.algorithm import Progress
from avse.inference.component_density import log_alpha, possible
from avse.inference.em.initial import (
    LatentInit,
    NoiseInit,
)
from avse.inference.em.m_steps import NoiseStep
from avse.inference.importance import log_evidence, proposal
from avse.inference.mcmc.chain import ChainState, Draws, EStep
from avse.inference.mcmc.log_density import check_coupling, closure
from avse.inference.posterior import Posterior
from avse.inference.responsibilities import AlphaStep, draw_component, independent, with_chain
from avse.inference.wiener import averaged
from avse.models.base import SpeechModel
from avse.models.coupling import BY_ALPHA, check_serves
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


@dataclass(frozen=True)
class ComponentwiseMCEM:
    """EM with draws of every component, then a longer run, and the Wiener gain averaged over all its draws.

    Args:
        noise_init: returns the initial noise model.
        latent_inits: initial z of each of C chains, (*, N, L) or one for each alpha (A, *, N, L).
        e_step: draws of every component in an iteration.
        m_step: M-step of the noise.
        final: final draws, all of which enter the estimate.
        alpha_step: prior and evidence -> r(alpha). Of a model with a chain of alpha over time the chain takes
            its place, with the evidence tempered alike.
        iterations: number of EM iterations.
        particles: number of importance samples of the evidence for every chain and frame.
        gain_floor: see `MCEM`.
    """

    draws_are_chains: ClassVar[bool] = False
    noise_init: NoiseInit
    latent_inits: Sequence[LatentInit]
    e_step: EStep
    m_step: NoiseStep
    final: EStep
    alpha_step: AlphaStep = independent
    iterations: int = 12
    particles: int = 4
    gain_floor: float = 0.0
    couplings: ClassVar = BY_ALPHA

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress = lambda fraction: None,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and the lips `visual` (*, N, D).

        Raises:
            InputError: the guide has neither one branch nor one for each alpha, or the model's frames are
                coupled.
        """
        check_serves(self, speech)
        costs: list[float] = []
        with torch.no_grad(), cached_embeddings():
            noise = self.noise_init(power, generator)
            model = NoisySpeech(speech, noise)
            initial = [init(speech, guide, power, visual, noise) for init in self.latent_inits]
            frames = power.shape[:-1]
            prior = log_alpha(speech, initial[0].reshape(-1, *frames, initial[0].shape[-1])[0], visual)
            for z in initial:
                if z.dim() > len(frames) + 1 and len(z) not in (1, len(prior)):
                    raise InputError(
                        f"{len(z)} initial z for {len(prior)} values of alpha: the guide needs a branch for "
                        "each"
                    )
            chains = [z.expand(len(prior), *frames, z.shape[-1]) for z in initial]
            chain_state = ChainState(torch.stack(chains, dim=1))  # (A, C, *, N, L)
            check_coupling(closure(model, power=power, visual=visual), chains[0][0])
            for _ in range(self.iterations):
                draws, chain_state, r = self._draw(
                    self.e_step, model, chain_state, prior, power, visual, generator
                )
                variances, weights = _weighted(model, draws.z, r, visual)
                noise, cost = self.m_step.updated(model.noise, power, variances, weights)
                model = NoisySpeech(speech, noise)
                costs.append(cost)
                progress(0.9 * len(costs) / self.iterations)
            draws, _, r = self._draw(self.final, model, chain_state, prior, power, visual, generator)
            gains = (
                pair
                for draw in draws.z
                for pair in zip(*_weighted(model, draw.unsqueeze(0), r / len(draws.z), visual), strict=True)
            )
            average = averaged(model.noise, power, gains)
            progress(1.0)
        return Posterior(
            z=_marginal(draws.z, r, generator).transpose(0, 1),
            noise=model.noise,
            wiener_gain=average.gain,
            variance=average.variance,
            responsibilities=r,
            acceptance=(draws.acceptance.mean(1) * r).sum(0),
            costs=costs,
            converged=None,
            gain_floor=self.gain_floor,
        )

    def _draw(
        self,
        e_step: EStep,
        model: NoisySpeech,
        chain_state: ChainState,
        log_prior: Tensor,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
    ) -> tuple[Draws, ChainState, Tensor]:
        """Draws (R, A, C, *, N, L) of every component, the new chain state, and r(alpha) (A, *, N)."""
        log_joint = model.each_log_joint_fn(power, visual)
        draws, chain_state = e_step(log_joint, chain_state, generator)
        if len(chain_state.z) == 1:
            return draws, chain_state, torch.ones_like(draws.acceptance[:, 0])
        q = proposal(draws.z, chain_state.step_size)
        evidence = log_evidence(log_joint, q, self.particles, generator).logsumexp(1)
        alpha_step = with_chain(self.alpha_step, model.speech.alpha_chain(visual))
        return draws, chain_state, alpha_step(log_prior, evidence - possible(log_prior))


def _weighted(model: NoisySpeech, z: Tensor, r: Tensor, visual: Tensor | None) -> tuple[Tensor, Tensor]:
    """Speech variance at every draw, and its weight.

    Args:
        model: speech and noise.
        z: draws (R, A, C, *, N, L).
        r: responsibilities (A, *, N).
        visual: lips, where the model has them.

    Returns:
        (R A C, *, N, F), and r(a) / (R C), (R A C, *, N).
    """
    given = model.speech.given(visual)
    log_variance = torch.stack([given.each(draw).log_variance for draw in z])
    share = (r.unsqueeze(1) / (z.shape[0] * z.shape[2])).expand(log_variance.shape[:-1])
    return log_variance.exp_().flatten(0, 2), share.flatten(0, 2)


def _marginal(z: Tensor, r: Tensor, generator: Generator) -> Tensor:
    """Draws from the marginal of z: (R, A, C, *, N, L) -> (R, C, *, N, L), alpha drawn per draw and frame."""
    chosen = draw_component(r, generator, (z.shape[0], z.shape[2]))
    return z.take_along_dim(chosen[:, None, ..., None], 1).squeeze(1)
