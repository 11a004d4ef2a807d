"""From a noisy recording to what is known of its speech, and whether the chains that say so can be trusted.

    samples -> noise fitted by the pair's schedule -> HMC chains on z at that noise -> findings

Enhancement needs few draws, of chains that have not mixed: a hedge over several starts. Whoever wants to read
a posterior needs more, and needs to know how far they got.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from avse.evaluation.posterior.predictive import predictive_check
from avse.evaluation.posterior.report import PosteriorSummary
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, Info, Kernel, State
from avse.inference.mcmc.log_density import LogJoint, closure
from avse.inference.presets import algorithm_named
from avse.inference.wiener import average_filter
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech
from avse.recording import SEGMENT, Recording, checked_sample_rate, checked_samples, pair_and_lips
from avse.report import video_report
from avse.version import __version__
from avse.zoo.pair import SpeechPair

SHORTEST = 0.25
"""Seconds of a recording below which there is too little to fit noise to."""
SAMPLES = 3
"""Sounds drawn from the posterior."""
FEWEST_CHAINS, FEWEST_DRAWS = 2, 4
"""Below these, R-hat is no number."""
STEP = 0.1
"""Of the leapfrog steps to begin with, in units of z."""
KERNEL = HMC(STEP, leapfrog_steps=10)
ACCEPTANCE = 0.7
"""That its step sizes are adapted to; see `HMC`."""


@dataclass(frozen=True)
class ChainSettings:
    """How the chains are run.

    Args:
        chains: C; each starts at another draw of the schedule.
        draws: D of each, kept.
        warmup: moves before them, in which step sizes adapt; None takes as many as draws.
        kernel: the transition.

    Raises:
        InputError: fewer chains or draws than convergence can be told from, or a negative warm-up.
    """

    chains: int = 4
    draws: int = 200
    warmup: int | None = None
    kernel: Kernel = KERNEL

    def __post_init__(self) -> None:
        if self.chains < FEWEST_CHAINS:
            raise InputError(f"{self.chains} chains: give at least {FEWEST_CHAINS}, which can be compared")
        if self.draws < FEWEST_DRAWS:
            raise InputError(f"{self.draws} draws: give at least {FEWEST_DRAWS} a chain")
        if self.warmup is not None and self.warmup < 0:
            raise InputError(f"a warm-up of {self.warmup} moves: give 0 or more")

    @property
    def num_warmup(self) -> int:
        """Moves that are thrown away."""
        return self.draws if self.warmup is None else self.warmup


@dataclass(frozen=True)
class KernelWithProgress:
    """A kernel that tells of each of its moves."""

    kernel: Kernel
    tell: Callable[[], None]

    @property
    def step_size(self) -> float:
        """The kernel's."""
        return self.kernel.step_size

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The kernel's."""
        return self.kernel.init(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """The kernel's, and a word about it."""
        moved = self.kernel.step(state, log_joint, step_size, generator)
        self.tell()
        return moved


@dataclass(frozen=True)
class _WithinBand(STFT):
    """An STFT whose synthesis takes spectra of the lowest bins alone; the others are silent."""

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
    long: ChainSettings | None = None,
    seconds: float = 10.0,
    seed: int = 0,
    title: str = "recording",
    progress: Callable[[float], None] = lambda fraction: None,
) -> PosteriorSummary:
    """Fit the noise, sample z at it, and look at the chains; of several channels, the first.

    Args:
        x: samples (T,) or (T, C).
        sample_rate: Hz.
        video: the speaker's face or lips, as for `avse.enhance`.
        fps: video frames a second of lips that come without times.
        video_offset: s by which the video is late.
        model: as for `avse.enhance`.
        long: how the chains are run; four of 200 draws by default.
        seconds: of the recording, from its start, that are looked at; at most one segment.
        seed: of every random draw.
        title: of the recording.
        progress: told the fraction of the work that is done.

    Raises:
        InputError: what `enhance` refuses; a recording that is silent or shorter than `SHORTEST` in the part
            that is looked at; `seconds` out of range.
    """
    began = time.perf_counter()
    long = long or ChainSettings()
    sample_rate, samples = checked_sample_rate(sample_rate), checked_samples(x)
    part, notes = _part(samples.reshape(len(samples), -1), sample_rate, seconds, title)
    pair, lips = pair_and_lips(model, video, fps, video_offset)
    recording = Recording.prepare(part, sample_rate, pair, lips, video_offset)
    stft, generator = (
        _WithinBand(**vars(pair.stft)),
        torch.Generator(pair.device).manual_seed(checked_seed(seed)),
    )
    speech, guide, visual = recording.speech, recording.guide, recording.visual
    heard, scale = recording.signal[0], recording.scale[0] * recording.unit
    spectrum, power = recording.spectrum[0, :, : recording.bins], recording.power[0]
    if recording.track is not None and recording.lips is not None:
        duration = len(samples) / sample_rate
        notes += video_report(recording.lips, recording.track, video_offset, duration)[1]
    elif video is not None:
        notes.append("the video was not used")

    schedule, schedule_name = algorithm_named("auto", pair.config.algorithm)
    fitted = schedule(speech, guide, power, visual, generator, lambda done: progress(0.1 * done))
    noisy = NoisySpeech(speech, fitted.noise)
    moves = iter(range(1, long.num_warmup + long.draws + 1))

    def tell() -> None:
        progress(0.1 + 0.8 * next(moves) / (long.num_warmup + long.draws))

    chain = Chain(
        KernelWithProgress(long.kernel, tell),
        long.num_warmup + long.draws,
        long.num_warmup,
        target_acceptance=ACCEPTANCE,
    )
    sampling = time.perf_counter()
    with torch.no_grad(), cached_embeddings():
        start = ChainState(_starts(fitted.z, long.chains))
        draws, chain_state = chain(closure(noisy, power=power, visual=visual), start, generator)
        sampled = time.perf_counter()
        z = draws.z.transpose(0, 1)
        average = average_filter(noisy, z.flatten(0, 1), power, visual)
    progress(0.93)
    posterior = replace(
        fitted,
        z=z,
        wiener_gain=average.gain,
        variance=average.variance,
        responsibilities=average.responsibilities,
        acceptance=draws.acceptance.mean(0),
        step_size=chain_state.step_size,
        energy=None if draws.energy is None else draws.energy.transpose(0, 1),
        diverged=None if draws.diverged is None else draws.diverged.transpose(0, 1),
    )
    diagnosis = diagnose(noisy, posterior, power, visual)
    progress(0.96)
    stride = (-(-stft.window_length // stft.hop_length), 2)
    check = predictive_check(noisy, z, power, generator, visual, stride=stride)
    progress(0.98)
    enhanced = stft.synthesis(average.gain.clamp_min(fitted.gain_floor) * spectrum, len(heard)) / scale
    drawn = sample_waveforms(noisy, z, spectrum, stft, len(heard), SAMPLES, generator, visual) / scale
    sounds = {
        "noisy": heard,
        "enhanced": enhanced,
        "noise: what was taken away": heard - enhanced,
        **{f"speech, posterior sample {number}": sound for number, sound in enumerate(drawn, start=1)},
    }
    progress(1.0)
    facts = {
        "model": pair.name,
        "schedule of the noise": schedule_name,
        "sampler": repr(long.kernel),
        "chains": f"{long.chains} chains, {long.num_warmup} moves of warm-up and {long.draws} draws each",
        "recording": f"{len(samples) / sample_rate:.2f} s at {sample_rate} Hz",
        "looked at": f"{len(part) / sample_rate:.2f} s in {len(spectrum)} frames of {recording.bins} bins",
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
        speech=SpeechMoments(average.gain * spectrum, average.variance.sqrt()),
        stft=stft,
        diagnosis=diagnosis,
        check=check,
    )


def _part(
    samples: NDArray[Any], sample_rate: int, seconds: float, title: str
) -> tuple[NDArray[Any], list[str]]:
    """The samples (T,) that are looked at, and what is left out."""
    if not 0 < seconds <= SEGMENT:
        raise InputError(f"{seconds} seconds: give more than 0 and at most {SEGMENT:g}")
    part = np.ascontiguousarray(samples[: round(seconds * sample_rate), 0])
    duration, whole = len(part) / sample_rate, len(samples) / sample_rate
    if duration < SHORTEST:
        raise InputError(f"{title}: {duration:.3f} s are too short; give at least {SHORTEST} s")
    if np.abs(part).max() <= SILENCE:
        raise InputError(f"{title}: the first {duration:.2f} s are digital silence; give a part with sound")
    notes = {
        f"Only the first {duration:g} s of {whole:.1f} s were looked at.": duration < whole,
        f"Only the first of {samples.shape[1]} channels was looked at.": samples.shape[1] > 1,
    }
    return part, [note for note, holds in notes.items() if holds]


def _starts(z: Tensor, chains: int) -> Tensor:
    """A start for each chain: last draws (C, D, *, N, L) of all chains of a schedule, then those before."""
    number = torch.arange(chains)
    return z[number % z.shape[0], -1 - (number // z.shape[0]) % z.shape[1]]
