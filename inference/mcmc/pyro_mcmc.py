"""Enhancement by `pyro.infer.MCMC`: the noise fitted first, then z sampled, alone or together with the noise.

    PyroMCMC(fit, FrameSampler(HMC(0.1, 8)))                      # z; W and H are the estimates of `fit`
    PyroMCMC(fit, AlternatingSampler(HMC(0.1, 8)), GammaNMF.around)         # z, W and H
    PyroMCMC(fit, JointSampler(NUTS, {"max_tree_depth": 6}), GammaNMF.around)      # the same by Pyro's NUTS

The first is empirical Bayes. `fit` is an EM; it also gives the initial values of the chains. alpha is summed
out. The Wiener gain is averaged over all draws, each with its own noise where that is sampled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from pyro.infer import HMC as PyroHMC
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.inference.algorithm import Algorithm, Progress
from avse.inference.mcmc.chain_posterior import ChainDraws, chain_posterior
from avse.inference.mcmc.coupled import ByCoupling
from avse.inference.mcmc.kernels import HMC, Kernel
from avse.inference.mcmc.noise_kernel import NOISE_KERNEL, AlternatingKernel
from avse.inference.mcmc.pyro_kernel import ChainsKernel, FrameMCMCKernel, VectorizedMCMC
from avse.inference.posterior import Posterior, join_channels
from avse.inference.wiener import average_filter, average_filter_of_noise_draws
from avse.models.base import TRACE_LOCK, SpeechModel
from avse.models.bayesian_nmf import GammaNMF
from avse.models.coupling import EVERY_COUPLING, INDEPENDENT_FRAMES, Coupling, check_serves
from avse.models.networks.lips import cached_embeddings
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.parameters import local_parameters
from avse.models.sites import Z

Z_KERNEL = ByCoupling(HMC(0.1, leapfrog_steps=8))

NoisePrior = Callable[[NMFNoise], GammaNMF]
"""Fitted noise of one recording -> prior of its factors."""


class Sampler(Protocol):
    """Draws from the posterior of a model by `pyro.infer.MCMC`."""

    def __call__(
        self,
        model: NoisySpeech,
        start: Mapping[str, Tensor],
        data: Mapping[str, Tensor | None],
        draws: int,
        warmup: int,
        generator: Generator,
        progress: Progress,
    ) -> ChainDraws:
        """Draws of chains that start at `start`, (C, ...) by site."""
        ...


@dataclass(frozen=True)
class FrameSampler:
    """z of every frame by a kernel of this package, all chains in one tensor. The noise is not sampled.

    Args:
        kernel: transition of z.
        target_acceptance: acceptance rate towards which the step sizes of all frames are adapted.
    """

    kernel: Kernel = Z_KERNEL
    target_acceptance: float | None = 0.7

    @property
    def couplings(self) -> frozenset[Coupling]:
        """Those of the kernel."""
        return getattr(self.kernel, "couplings", INDEPENDENT_FRAMES)

    def __call__(
        self,
        model: NoisySpeech,
        start: Mapping[str, Tensor],
        data: Mapping[str, Tensor | None],
        draws: int,
        warmup: int,
        generator: Generator,
        progress: Progress,
    ) -> ChainDraws:
        """As `Sampler.__call__`.

        Raises:
            InputError: the noise is sampled, which couples the frames.
        """
        if set(start) != {Z}:
            raise InputError(
                "a sampler of single frames cannot sample the noise: use AlternatingSampler or JointSampler"
            )
        kernel = FrameMCMCKernel(model, self.kernel, start[Z], _seed(generator), self.target_acceptance)
        return _vectorized(kernel, data, draws, warmup, progress)


@dataclass(frozen=True)
class AlternatingSampler:
    """z frame by frame, then the noise, in turn (`AlternatingKernel`); all chains in one tensor.

    Args:
        kernel: transition of z.
        target_acceptance: acceptance rate towards which the step sizes of all frames are adapted.
        noise_kernel: transition of the noise.
    """

    kernel: Kernel = Z_KERNEL
    target_acceptance: float = 0.7
    noise_kernel: Kernel = NOISE_KERNEL

    @property
    def couplings(self) -> frozenset[Coupling]:
        """Those of the kernel of z."""
        return getattr(self.kernel, "couplings", INDEPENDENT_FRAMES)

    def __call__(
        self,
        model: NoisySpeech,
        start: Mapping[str, Tensor],
        data: Mapping[str, Tensor | None],
        draws: int,
        warmup: int,
        generator: Generator,
        progress: Progress,
    ) -> ChainDraws:
        """As `Sampler.__call__`.

        Raises:
            InputError: the noise is an estimate, which has no sites to sample.
        """
        if set(start) == {Z}:
            raise InputError("the noise has no prior: give noise_prior, such as GammaNMF.around")
        kernel = AlternatingKernel(
            model, self.kernel, start, _seed(generator), self.target_acceptance, self.noise_kernel
        )
        return _vectorized(kernel, data, draws, warmup, progress)


@dataclass(frozen=True)
class JointSampler:
    """All sites together by Pyro's own NUTS or HMC, one chain after the other.

    One step size and one acceptance serve all frames, so that it needs many more gradients than
    `FrameSampler`; it assumes nothing of the model.

    Args:
        kernel: `pyro.infer.NUTS` or `pyro.infer.HMC`.
        options: its arguments, such as {"max_tree_depth": 6}.
    """

    kernel: type[PyroHMC] = NUTS
    options: Mapping[str, Any] | None = None
    couplings: ClassVar = EVERY_COUPLING

    def __call__(
        self,
        model: NoisySpeech,
        start: Mapping[str, Tensor],
        data: Mapping[str, Tensor | None],
        draws: int,
        warmup: int,
        generator: Generator,
        progress: Progress,
    ) -> ChainDraws:
        """As `Sampler.__call__`."""
        collected, diagnostics = [], []
        program = local_parameters()(model)
        for chain in range(len(start[Z])):
            values = {name: own[chain] for name, own in start.items()}
            kernel = self.kernel(program, init_strategy=init_to_value(values=values), **(self.options or {}))
            hook = _hook(_share(progress, chain, len(start[Z])), draws + warmup)
            mcmc = MCMC(kernel, draws, warmup, hook_fn=hook, disable_progbar=True)
            with TRACE_LOCK, torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(_seed(generator))
                mcmc.run(**data)
            collected.append(mcmc.get_samples())
            diagnostics.append(mcmc._diagnostics[0])  # `mcmc.diagnostics` also needs four draws, for R-hat
        sites = {name: torch.stack([own[name] for own in collected]) for name in start}
        frames = sites[Z][..., 0]
        diverged = torch.zeros_like(frames, dtype=torch.bool)
        rates = []
        for chain, own in enumerate(diagnostics):
            diverged[chain, own["divergences"]] = True
            rates.append(torch.full_like(frames[chain, 0], float(own["acceptance rate"])))
        return ChainDraws(sites, torch.stack(rates), None, None, diverged)


def _seed(generator: Generator) -> int:
    """A seed for another generator."""
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))


def _hook(progress: Progress, transitions: int) -> Callable[..., None]:
    """A hook of `pyro.infer.MCMC` that reports the fraction of the transitions that are done."""
    steps = iter(range(1, transitions + 1))
    return lambda *ignored: progress(next(steps) / transitions)


def _vectorized(
    kernel: ChainsKernel,
    data: Mapping[str, Tensor | None],
    draws: int,
    warmup: int,
    progress: Progress,
) -> ChainDraws:
    """Draws of chains in one tensor, with their statistics."""
    mcmc = VectorizedMCMC(kernel, draws, warmup, hook_fn=_hook(progress, draws + warmup))
    with TRACE_LOCK:
        mcmc.run(**data)
    chains, statistics = kernel.chain_diagnostics(), kernel.statistics
    energies = [draw.energy for draw in statistics if draw.energy is not None]
    return ChainDraws(
        sites=mcmc.get_samples(group_by_chain=True),
        acceptance=torch.stack([chain["acceptance rate"] for chain in chains]),
        step_size=torch.stack([chain["step size"] for chain in chains]),
        energy=torch.stack(energies, 1) if energies else None,
        diverged=torch.stack([draw.diverged for draw in statistics], 1),
    )


@dataclass(frozen=True)
class PyroMCMC:
    """An EM fit of the noise, then draws by `pyro.infer.MCMC` and the averaged Wiener gain.

    Args:
        fit: algorithm that fits the noise and gives the initial z of the chains. Its gain floor is kept.
        sampler: draws z, and the noise where it has a prior.
        noise_prior: prior of W and H of one recording around the fitted noise; None keeps the estimates.
        chains: number C of chains, each of which starts at a different draw of `fit`.
        draws: number D of draws kept per chain.
        warmup: number of transitions before them, in which step sizes are adapted.

    Raises:
        InputError: fewer than one chain or draw, or a negative warmup.
    """

    fit: Algorithm
    sampler: Sampler = FrameSampler()
    noise_prior: NoisePrior | None = None
    chains: int = 4
    draws: int = 50
    warmup: int = 50

    def __post_init__(self) -> None:
        if min(self.chains, self.draws) < 1 or self.warmup < 0:
            raise InputError(
                f"{self.chains} chains of {self.draws} draws after a warmup of {self.warmup}: give at least "
                "one chain and one draw, and no negative warmup"
            )

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

        With a noise prior, power is (N, F), or (C, N, F) with W and H of its own for each channel.

        Raises:
            InputError: further dimensions with a noise prior, or a sampler that does not serve the coupling
                of the model's frames.
        """
        check_serves(self.sampler, speech)
        if self.noise_prior is not None and power.dim() > 2:
            if power.dim() > 3:
                raise InputError(
                    f"power of shape {tuple(power.shape)}: noise with a prior is sampled for one recording "
                    "(C, N, F) or (N, F) at a time"
                )
            lips = [visual] * len(power) if visual is None or visual.dim() == 2 else visual
            alone = [
                self(speech, guide, own, face, generator, _share(progress, index, len(power)))
                for index, (own, face) in enumerate(zip(power, lips, strict=True))
            ]
            return join_channels([_as_channel(posterior) for posterior in alone])
        with torch.no_grad(), cached_embeddings():
            fitted = self.fit(speech, guide, power, visual, generator, _share(progress, 0, 3))
            noise: NMFNoise = fitted.noise  # type: ignore[assignment]
            prior = None if self.noise_prior is None else self.noise_prior(noise)
            start = {Z: initial_z(fitted.z, self.chains)}
            if prior is not None:
                values = prior.start(noise)
                start |= {name: own.expand(self.chains, *own.shape).clone() for name, own in values.items()}
            model = NoisySpeech(speech, noise if prior is None else prior)
            data = {"power": power, "visual": visual}
            drawn = self.sampler(
                model, start, data, self.draws, self.warmup, generator, _share(progress, 0.5, 1.5)
            )
            z = drawn.sites[Z]
            if prior is None:
                average = average_filter(model, z.flatten(0, 1), power, visual)
            else:
                flat = {name: own.flatten(0, 1) for name, own in drawn.sites.items() if name != Z}
                models = (
                    NoisySpeech(speech, prior.noise({name: own[index] for name, own in flat.items()}))
                    for index in range(self.chains * self.draws)
                )
                average = average_filter_of_noise_draws(models, z.flatten(0, 1), power, visual)
                noise = prior.noise({name: own.mean(0) for name, own in flat.items()})
            progress(1.0)
        return chain_posterior(
            drawn,
            average,
            noise,
            costs=fitted.costs,
            converged=fitted.converged,
            gain_floor=fitted.gain_floor,
        )


def initial_z(z: Tensor, chains: int) -> Tensor:
    """Initial values of C chains from draws (C', D, *, N, L): the last of every chain, then earlier ones."""
    number = torch.arange(chains)
    return z[number % z.shape[0], -1 - (number // z.shape[0]) % z.shape[1]]


def _share(progress: Progress, index: float, parts: float) -> Progress:
    """The progress of one of several parts of the work."""
    return lambda fraction: progress((index + fraction) / parts)


def _as_channel(posterior: Posterior) -> Posterior:
    """The posterior of one recording (N, F) as one of a single channel, (1, N, F)."""
    noise: NMFNoise = posterior.noise  # type: ignore[assignment]
    draws = posterior.noise_draws

    def channel(values: Tensor | None, dim: int) -> Tensor | None:
        return None if values is None else values.unsqueeze(dim)

    return replace(
        posterior,
        z=posterior.z.unsqueeze(2),
        noise=replace(
            noise, W=noise.W.unsqueeze(0), H=noise.H.unsqueeze(0), frame_gain=noise.frame_gain.unsqueeze(0)
        ),
        wiener_gain=posterior.wiener_gain.unsqueeze(0),
        variance=posterior.variance.unsqueeze(0),
        responsibilities=posterior.responsibilities.unsqueeze(1),
        acceptance=posterior.acceptance.unsqueeze(0),
        step_size=channel(posterior.step_size, 1),
        energy=channel(posterior.energy, 2),
        diverged=channel(posterior.diverged, 2),
        noise_draws=None if draws is None else {name: own.unsqueeze(2) for name, own in draws.items()},
    )
