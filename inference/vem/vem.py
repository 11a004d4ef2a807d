"""Variational EM of a noisy recording: initial values, mean-field iterations, final draws, Wiener gain.

    x_fn = sqrt(g_n) s_fn + b_fn,    p(s, z, alpha | x, v) ~ r(s) r(z, alpha)

    r(z)       chains at the expected power of the speech, as if observed            `latent_factor`
    r(s)       the Wiener filter of the expected precision, in closed form           `mean_field`
    r(alpha)   from the expected log joint, in closed form
    W, H       majorise-minimise steps on the expected power of the noise; g and pi in closed form

Sadeghi and Alameda-Pineda, ICASSP 2020 (arXiv 1911.03930, VAE-MM) and TSP 2021 (arXiv 1912.10647, MIN-VAE).
It runs with any `SpeechModel`, with or without alpha, of any number of values.

MCEM integrates the speech out. Here r(s) is a further approximation: the evidence lower bound is looser, and
precisions are averaged where MCEM averages Wiener gains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from avse.guides.base import SpeechGuide
from avse.inference.algorithm import Progress
from avse.inference.component_density import ComponentDensity, Conditioning, closed, log_alpha
from avse.inference.em.initial import (
    LatentInit,
    NoiseInit,
)
from avse.inference.mcmc.chain import ChainState, Draws, EStep
from avse.inference.mcmc.log_density import check_coupling, closure
from avse.inference.posterior import Posterior
from avse.inference.responsibilities import AlphaStep, independent
from avse.inference.vem.latent_factor import LatentFactor, importance_entropy, moments, target
from avse.inference.vem.mean_field import (
    AlphaStart,
    MeanField,
    Moments,
    Update,
    UpdateNoise,
    free_energy,
    from_model,
    update_alpha,
    update_speech,
)
from avse.models.base import SpeechModel
from avse.models.coupling import check_serves
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


class LatentStep(NamedTuple):
    """Draws of r(z), the new chain state, and the moments for the closed-form steps."""

    draws: Draws
    chain_state: ChainState
    moments: Moments


@dataclass(frozen=True)
class VEM:
    """Mean-field iterations, then a longer run of the chains and the Wiener filter of its moments.

    An iteration draws r(z) once and then goes through the closed-form steps `rounds` times, which do not
    evaluate the decoder.

    Args:
        noise_init: returns the initial noise model.
        latent_inits: initial z of each chain, or of each chain and alpha (A, *, N, L).
        e_step: draws of r(z) in an iteration.
        final: final draws, all of which enter the estimate.
        factor: `Shared`, one r(z) for all alpha as in the papers, or `Structured`, r(z | alpha).
        updates: updates of the parameters, after r(s) and r(alpha).
        alpha_step: update of r(alpha), from its prior and the expected log joint of every component.
        alpha_start: initial pi and r(alpha): `from_model`, or `equal` as in the papers.
        rounds: number of passes over the closed-form steps per iteration.
        iterations: maximum number of iterations.
        tolerance: stop when the relative change of the free energy falls below it; 0 runs all iterations.
        conditioning: `component_density.closed`, or `component_density.traced`: every density of r(z) comes
            from a trace of the Pyro model in which z is given, alpha is enumerated and the expected power of
            the speech is observed. `replace(default_vem(), conditioning=traced)` asks for it.
        gain_floor: see `MCEM`.
    """

    draws_are_chains: ClassVar[bool] = False
    noise_init: NoiseInit
    latent_inits: Sequence[LatentInit]
    e_step: EStep
    final: EStep
    factor: LatentFactor
    updates: Sequence[Update] = (UpdateNoise(),)
    alpha_step: AlphaStep = independent
    alpha_start: AlphaStart = from_model
    rounds: int = 1
    iterations: int = 100
    tolerance: float = 1e-5
    conditioning: Conditioning = closed
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

        Its `costs` are free energies in nats per frame and bin, each at the noise model before the iteration;
        they include the entropy of r(z) if the factor has particles.

        Raises:
            InputError: the frames of the model are not independent.
        """
        check_serves(self, speech)
        frames = power.shape[:-1]
        with torch.no_grad(), cached_embeddings():
            noise = self.noise_init(power, generator)
            initial = [init(speech, guide, power, visual, noise) for init in self.latent_inits]
            z = initial[0].reshape(-1, *frames, initial[0].shape[-1])[0]
            check_coupling(closure(NoisySpeech(speech, noise), power=power, visual=visual), z)
            prior = log_alpha(speech, z, visual)
            model = ComponentDensity(self.conditioning(speech, visual), prior)
            field = MeanField.start(power, noise, self.alpha_start(prior))
            chain_state = ChainState(self.factor.start(initial, len(prior), frames))
            costs: list[float] = []
            converged = False
            while len(costs) < self.iterations and not converged:
                step = self._latent_step(self.e_step, model, field, chain_state, generator)
                chain_state = step.chain_state
                field, cost = self._closed_forms(field, step.moments)
                converged = (
                    self.tolerance > 0
                    and bool(costs)
                    and abs(costs[-1] - cost) <= self.tolerance * abs(costs[-1])
                )
                costs.append(cost)
                progress(0.9 * len(costs) / self.iterations)
            step = self._latent_step(self.final, model, field, chain_state, generator)
            for _ in range(self.rounds):
                field = update_alpha(update_speech(field, step.moments), step.moments, self.alpha_step)
            field = update_speech(field, step.moments)
            z = self.factor.marginal(step.draws.z, field.responsibilities, generator)
            acceptance = self.factor.mean(step.draws.acceptance, field.responsibilities)
            progress(1.0)
        return Posterior(
            z=z.transpose(0, 1),
            noise=field.noise,
            wiener_gain=field.speech.gain,
            variance=field.speech.variance,
            responsibilities=field.responsibilities,
            acceptance=acceptance.mean(0),
            costs=costs,
            converged=converged if self.tolerance > 0 else None,
            gain_floor=self.gain_floor,
        )

    def _latent_step(
        self,
        e_step: EStep,
        model: ComponentDensity,
        field: MeanField,
        chain_state: ChainState,
        generator: Generator,
    ) -> LatentStep:
        """Draws and moments of r(z) at the expected power of the speech."""
        power = field.clean_power
        log_density = target(self.factor, model, power, field.responsibilities)
        draws, chain_state = e_step(log_density, chain_state, generator)
        averages = moments(self.factor, model, draws.z.flatten(0, 1))  # over draws and chains
        if self.factor.particles:
            entropy = importance_entropy(
                log_density,
                self.factor.log_density(averages.log_joint(power), field.responsibilities),
                draws.z,
                chain_state.step_size,
                self.factor.particles,
                generator,
            )
            averages = averages._replace(entropy=entropy.expand_as(averages.log_prior))
        return LatentStep(draws, chain_state, averages)

    def _closed_forms(self, field: MeanField, averages: Moments) -> tuple[MeanField, float]:
        """Updated r(s), r(alpha) and parameters, and the free energy before, in nats per frame and bin."""
        costs = []
        for _ in range(self.rounds):
            field = update_alpha(update_speech(field, averages), averages, self.alpha_step)
            costs.append(free_energy(field, averages).sum() / field.power.numel())
            for update in self.updates:
                field = update(field, averages)
        return field, float(costs[0])
