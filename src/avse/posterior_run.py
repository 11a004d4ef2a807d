"""Posterior analysis of a noisy recording: long Markov chains and their diagnostics.

    samples -> noise fitted by an algorithm -> HMC chains on z given that noise, or its own draws -> summary

Enhancement averages few draws of short chains from several initial values, which have not mixed. Posterior
intervals need longer chains, and a check that they have converged.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from avse.checks import checked_seed
from avse.data.errors import InputError
from avse.data.front_end import SILENCE
from avse.data.lips.files import LipsSource
from avse.data.stft import STFT
from avse.evaluation.posterior.credible import SpeechMoments, sample_waveforms
from avse.evaluation.posterior.diagnosis import diagnose
from avse.evaluation.posterior.functionals import band_names
from avse.evaluation.posterior.predictive import predictive_check
from avse.evaluation.posterior.report import PosteriorSummary
from avse.guides.base import SpeechGuide
from avse.inference.algorithm import Algorithm
from avse.inference.em.anchored import components
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.chain_posterior import ChainDraws, chain_posterior
from avse.inference.mcmc.coupled import ByCoupling
from avse.inference.mcmc.kernels import HMC, Info, Kernel, State
from avse.inference.mcmc.log_density import LogJoint, closure
from avse.inference.mcmc.pyro_mcmc import initial_z
from avse.inference.posterior import Posterior
from avse.inference.presets import algorithm_named
from avse.inference.wiener import average_filter
from avse.models.base import SpeechModel
from avse.models.coupling import INDEPENDENT_FRAMES, Coupling
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech
from avse.recording import SEGMENT, Recording, checked_sample_rate, checked_samples, pair_and_lips
from avse.report import video_report
from avse.version import __version__
from avse.zoo.pair import SpeechPair

MIN_DURATION = 0.25
"""Shortest duration in s to which a noise model can be fitted."""
NUM_WAVEFORMS = 3
"""Number of waveforms drawn from the posterior."""
MIN_CHAINS, MIN_DRAWS = 2, 4
"""R-hat is undefined for fewer chains or draws."""
INITIAL_STEP_SIZE = 0.1
"""Initial leapfrog step size, in units of z."""
DEFAULT_KERNEL = HMC(INITIAL_STEP_SIZE, leapfrog_steps=10)
TARGET_ACCEPTANCE = 0.7
"""Acceptance rate to which step sizes are adapted during warmup; see `HMC`."""


@dataclass(frozen=True)
class ChainSettings:
    """Settings of the Markov chains.

    Args:
        chains: C, the number of chains; each starts at a different draw of the fitted posterior.
        draws: D, the number of draws kept per chain.
        warmup: number of transitions before them, during which step sizes adapt; None means `draws`.
        kernel: transition kernel, used as `ByCoupling` does where the frames of a model are coupled.

    Raises:
        InputError: too few chains or draws to assess convergence, or a negative warmup.
    """

    chains: int = 4
    draws: int = 200
    warmup: int | None = None
    kernel: Kernel = DEFAULT_KERNEL

    def __post_init__(self) -> None:
        if self.chains < MIN_CHAINS:
            raise InputError(
                f"{self.chains} chains: give at least {MIN_CHAINS}, so that they can be compared"
            )
        if self.draws < MIN_DRAWS:
            raise InputError(f"{self.draws} draws: give at least {MIN_DRAWS} per chain")
        if self.warmup is not None and self.warmup < 0:
            raise InputError(f"a warmup of {self.warmup} transitions: give 0 or more")

    @property
    def num_warmup(self) -> int:
        """Number of discarded transitions."""
        return self.draws if self.warmup is None else self.warmup


DEFAULT_SETTINGS = ChainSettings()


@dataclass(frozen=True)
class KernelWithProgress:
    """A kernel that calls `report` after each of its transitions."""

    kernel: Kernel
    report: Callable[[], None]

    @property
    def couplings(self) -> frozenset[Coupling]:
        """Those of the kernel."""
        return getattr(self.kernel, "couplings", INDEPENDENT_FRAMES)

    @property
    def step_size(self) -> float:
        """The initial step size of the kernel."""
        return self.kernel.step_size

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z."""
        return self.kernel.init(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame, which is then reported."""
        result = self.kernel.step(state, log_joint, step_size, generator)
        self.report()
        return result


def draw_chains(
    noisy: NoisySpeech,
    fitted: Posterior,
    power: Tensor,
    visual: Tensor | None,
    settings: ChainSettings,
    generator: Generator,
    progress: Callable[[float], None],
) -> Posterior:
    """Long chains on z given the fitted noise, which start at draws of the fitted posterior, and their gain.

    Args:
        noisy: speech and fitted noise.
        fitted: posterior with that noise.
        power: |x|^2, (N, F).
        visual: lips (N, D), or None.
        settings: of the chains.
        generator: of random numbers.
        progress: called with the completed fraction of the work.
    """
    num_steps = settings.num_warmup + settings.draws
    steps = iter(range(1, num_steps + 1))
    report = lambda: progress(next(steps) / num_steps)  # noqa: E731
    kernel = KernelWithProgress(ByCoupling(settings.kernel), report)
    chain = Chain(kernel, num_steps, settings.num_warmup, target_acceptance=TARGET_ACCEPTANCE)
    with torch.no_grad(), cached_embeddings():
        start = ChainState(initial_z(fitted.z, settings.chains))
        draws, chain_state = chain(closure(noisy, power=power, visual=visual), start, generator)
        average = average_filter(noisy, draws.z.flatten(0, 1), power, visual)
    return chain_posterior(
        ChainDraws.of(draws, chain_state),
        average,
        noisy.noise,
        costs=fitted.costs,
        converged=fitted.converged,
        gain_floor=fitted.gain_floor,
    )


def refuse_other_densities(
    algorithm: Algorithm, name: str, speech: SpeechModel, guide: SpeechGuide, visual: Tensor | None
) -> None:
    """Refuse an algorithm whose draws `own_draws` would refuse whatever it finds, before it runs.

    Args:
        algorithm: of this package; of any other nothing is known before its draws are there.
        name: of the algorithm.
        speech: speech model.
        guide: its guide.
        visual: lips (N, D), or None.

    Raises:
        InputError: it draws from a guide, from a variational factor, from components that are mixed
            afterwards, or from components of which the lips are weighted.
    """
    if not getattr(algorithm, "draws_are_chains", True):
        raise InputError(_NO_CHAINS.format(name))
    weighted = getattr(algorithm, "weights_lips", False) and visual is not None
    if weighted and components(speech, guide) is not None:
        raise InputError(_WEIGHTED_LIPS.format(name))


_NO_CHAINS = (
    "the draws of algorithm {!r} are not Markov chains on p(z | x), as it approximates the posterior or "
    'samples its components apart: use "mcmc", or long chains after the fit'
)
_WEIGHTED_LIPS = (
    "algorithm {!r} weights the lips, so that its draws are not of the model's posterior: "
    'use "mcmc", or long chains after the fit'
)


def own_draws(posterior: Posterior, algorithm: str) -> Posterior:
    """The posterior of an algorithm whose own chains can be assessed.

    Args:
        posterior: of the algorithm.
        algorithm: its name.

    Raises:
        InputError: it has too few chains or draws, draws of another density than p(z | x) of the model (a
            factor r(z) of a variational approximation, or a mixture of weighted components), or draws of the
            noise, where the page describes the speech given one noise.
    """
    chains, draws = posterior.z.shape[:2]
    if posterior.visual_weight is not None:
        raise InputError(_WEIGHTED_LIPS.format(algorithm))
    if posterior.noise_draws is not None:
        raise InputError(
            f"algorithm {algorithm!r} draws the noise with the speech, and the report is of the speech given "
            'one noise: use "mcmc", or Posterior.to_inference_data and ArviZ'
        )
    if posterior.diverged is None:
        raise InputError(_NO_CHAINS.format(algorithm))
    if chains < MIN_CHAINS or draws < MIN_DRAWS:
        raise InputError(
            f"algorithm {algorithm!r} keeps {chains} chains of {draws} draws, and convergence needs at least "
            f'{MIN_CHAINS} of {MIN_DRAWS}: use "mcmc", or long chains after the fit'
        )
    return posterior


@dataclass(frozen=True)
class _BandLimitedSTFT(STFT):
    """An STFT whose synthesis accepts only the lowest bins and sets the others to zero."""

    def synthesis(self, spectrum: Tensor, length: int) -> Tensor:
        missing = spectrum.new_zeros(*spectrum.shape[:-1], self.bins - spectrum.shape[-1])
        return super().synthesis(torch.cat([spectrum, missing], -1), length)


def summarize_posterior(
    x: NDArray[Any],
    sample_rate: int,
    *,
    video: LipsSource | None = None,
    fps: float | None = None,
    video_offset: float = 0.0,
    model: str | Path | SpeechPair = "auto",
    algorithm: str | Algorithm = "auto",
    settings: ChainSettings | None = DEFAULT_SETTINGS,
    seconds: float = 10.0,
    seed: int = 0,
    title: str = "recording",
    progress: Callable[[float], None] = lambda fraction: None,
) -> PosteriorSummary:
    """Fit the noise, sample z given the noise, and diagnose the chains; only the first channel is analysed.

    Args:
        x: samples (T,), (T, C) or (C, T).
        sample_rate: in Hz.
        video: face or lips of the speaker, as for `avse.enhance`.
        fps: video frames per second of lips without time stamps.
        video_offset: delay of the video in s.
        model: name or pair, as for `avse.enhance`.
        algorithm: fits the noise; a name or an object, as for `avse.enhance`.
        settings: of the chains; by default four chains of 200 draws. None takes the draws of the algorithm
            itself, such as "mcmc".
        seconds: duration of the analysed part from the start of the recording, at most one segment.
        seed: seed of all random numbers.
        title: name of the recording in the summary.
        progress: called with the completed fraction of the work.

    Raises:
        InputError: the input is one that `avse.enhance` refuses, the analysed part is silent or shorter than
            `MIN_DURATION`, `seconds` is out of range, or the draws of the algorithm cannot be assessed.
    """
    began = time.perf_counter()
    sample_rate, samples = checked_sample_rate(sample_rate), checked_samples(x)[0]
    part, notes = _part(samples.reshape(len(samples), -1), sample_rate, seconds, title)
    pair, lips = pair_and_lips(model, video, fps, video_offset)
    recording = Recording.prepare(part, sample_rate, pair, lips, video_offset)
    stft, generator = (
        _BandLimitedSTFT(**vars(pair.stft)),
        torch.Generator(pair.device).manual_seed(checked_seed(seed)),
    )
    speech, guide, visual = recording.speech, recording.guide, recording.visual
    signal, scale = recording.signal[0], recording.scale[0] * recording.unit
    spectrum, power = recording.spectrum[0, :, : recording.bins], recording.power[0]
    if recording.track is not None and recording.lips is not None:
        duration = len(samples) / sample_rate
        notes += video_report(recording.lips, recording.track, video_offset, duration)[1]
    elif video is not None:
        notes.append("the video was not used")

    infer, algorithm_name = algorithm_named(algorithm, pair.algorithm)
    if settings is None:
        refuse_other_densities(infer, algorithm_name, speech, guide, visual)
    fitted = infer(speech, guide, power, visual, generator, lambda done: progress(0.1 * done))
    noisy = NoisySpeech(speech, fitted.noise)
    sampling = time.perf_counter()
    if settings is None:
        posterior, kernel = own_draws(fitted, algorithm_name), None
    else:
        kernel = settings.kernel
        posterior = draw_chains(
            noisy, fitted, power, visual, settings, generator, lambda done: progress(0.1 + 0.83 * done)
        )
    sampled = time.perf_counter()
    z = posterior.z
    diagnosis = diagnose(noisy, posterior, power, visual, kernel=kernel)
    progress(0.96)
    stride = (-(-stft.window_length // stft.hop_length), 2)
    check = predictive_check(noisy, z, power, generator, visual, stride=stride)
    progress(0.98)
    gain = posterior.wiener_gain
    enhanced = stft.synthesis(gain.clamp_min(fitted.gain_floor) * spectrum, len(signal)) / scale
    drawn = sample_waveforms(noisy, z, spectrum, stft, len(signal), NUM_WAVEFORMS, generator, visual) / scale
    sounds = {
        "noisy": signal,
        "enhanced": enhanced,
        "removed noise": signal - enhanced,
        **{f"speech, posterior sample {number}": sound for number, sound in enumerate(drawn, start=1)},
    }
    progress(1.0)
    facts = {
        "model": pair.name,
        "algorithm of the noise": algorithm_name,
        "sampler": algorithm_name if kernel is None else repr(kernel),
        "chains": f"{z.shape[0]} chains of {z.shape[1]} draws"
        + ("" if settings is None else f", {settings.num_warmup} warmup steps"),
        "recording": f"{len(samples) / sample_rate:.2f} s at {sample_rate} Hz",
        "analysed": f"{len(part) / sample_rate:.2f} s in {len(spectrum)} frames of {recording.bins} bins",
        "seed": str(seed),
        "time": f"{time.perf_counter() - began:.1f} s, of which sampling {sampled - sampling:.1f} s",
        "versions": f"avse {__version__}, torch {torch.__version__}",
    }
    return PosteriorSummary(
        title=title,
        facts=facts,
        notes=notes,
        sounds={name: sound.numpy() for name, sound in sounds.items()},
        spectrum=spectrum,
        speech=SpeechMoments(gain * spectrum, posterior.variance.sqrt()),
        stft=stft,
        diagnosis=diagnosis,
        check=check,
        inference_data=posterior.to_inference_data(
            speech,
            power,
            visual,
            functionals=diagnosis.functionals,
            coords={"band": band_names(check.bands, stft)},
            stft=stft,
            seed=seed,
        ),
    )


def _part(
    samples: NDArray[Any], sample_rate: int, seconds: float, title: str
) -> tuple[NDArray[Any], list[str]]:
    """The analysed samples (T,), and notes on what was left out."""
    if not 0 < seconds <= SEGMENT:
        raise InputError(f"{seconds} seconds: give more than 0 and at most {SEGMENT:g}")
    part = np.ascontiguousarray(samples[: round(seconds * sample_rate), 0])
    duration, whole = len(part) / sample_rate, len(samples) / sample_rate
    if duration < MIN_DURATION:
        raise InputError(f"{title}: {duration:.3f} s are too short; give at least {MIN_DURATION} s")
    if np.abs(part).max() <= SILENCE:
        raise InputError(f"{title}: the first {duration:.2f} s are digital silence; give a part with sound")
    notes = {
        f"Only the first {duration:g} s of {whole:.1f} s were analysed.": duration < whole,
        f"Only the first of {samples.shape[1]} channels was analysed.": samples.shape[1] > 1,
    }
    return part, [note for note, holds in notes.items() if holds]
