"""Monte Carlo expectation-maximisation of a noisy recording: initial values, EM, final draws, Wiener gain.

It runs with any speech model and guide. `avse.inference.presets` holds the named schedules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from avse.guides.base import SpeechGuide
from avse.inference.algorithm import Progress
from avse.inference.em.em import EM, EMStep
from avse.inference.em.initial import LatentInit, NoiseInit
from avse.inference.mcmc.chain import ChainState, EStep
from avse.inference.mcmc.chain_posterior import ChainDraws, chain_posterior
from avse.inference.mcmc.log_density import check_coupling
from avse.inference.posterior import Posterior
from avse.inference.wiener import average_filter
from avse.models.base import SpeechModel
from avse.models.coupling import check_serves
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


@dataclass(frozen=True)
class MCEM:
    """Monte Carlo EM, then a longer run at the fitted parameters and the averaged Wiener gain.

    Args:
        noise_init: returns the initial noise model.
        latent_inits: initial z of each chain (*, N, L), or of several (C, *, N, L). The chains share the
            noise model, and all their draws have the same weight.
        em: the EM loop.
        final: final draws, all of which enter the estimate.
        gain_floor: smallest gain that is applied in synthesis. Zero gives the posterior mean; a small residue
            of the noisy speech masks artefacts of the Wiener gain and improves the scores.
    """

    noise_init: NoiseInit
    latent_inits: Sequence[LatentInit]
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
        """The posterior given |x|^2 = `power` (*, N, F) and the lips `visual` (*, N, D).

        Raises:
            InputError: E-step or final draws do not serve the coupling of the model's frames, or the model
                states a wrong one.
        """
        check_serves(self.em.e_step, speech)
        check_serves(self.final, speech)
        with torch.no_grad(), cached_embeddings():
            noise = self.noise_init(power, generator)
            initial = [init(speech, guide, power, visual, noise) for init in self.latent_inits]
            z = torch.cat([z.reshape(-1, *power.shape[:-1], z.shape[-1]) for z in initial])

            start = NoisySpeech(speech, noise)
            check_coupling(self.em.joint(start, power=power, visual=visual), z[0])

            def report(step: EMStep) -> None:
                progress(0.9 * (step.iteration + 1) / self.em.iterations)

            fitted = self.em.run(start, ChainState(z), generator, report, power=power, visual=visual)
            log_joint = self.em.joint(fitted.model, power=power, visual=visual)
            draws, chain_state = self.final(log_joint, fitted.chain_state, generator)
            average = average_filter(fitted.model, draws.z.flatten(0, 1), power, visual)
            progress(1.0)
        return chain_posterior(
            ChainDraws.of(draws, chain_state),
            average,
            fitted.model.noise,
            costs=fitted.costs,
            converged=fitted.converged,
            gain_floor=self.gain_floor,
        )
