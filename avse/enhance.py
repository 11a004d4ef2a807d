"""One call from a noisy recording to an enhanced one.

    samples -> model rate, common level -> STFT -> segments -> posterior of each -> filter -> samples
    video   -> lips -> pictures for every frame of the STFT ---'

Channels are enhanced independently, as a batch. Recordings longer than a segment are enhanced in overlapping
segments whose filters are cross-faded, so that memory stays bounded and the noise may change over time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avse import zoo
from avse.data.audio import match_length, resample
from avse.data.errors import InputError
from avse.data.lip_front_end import LipTrack
from avse.data.lips import Lips
from avse.data.lips_files import LipsSource, lips_from
from avse.data.stft import STFT
from avse.guides.band_limited import BandLimitedGuide
from avse.guides.guide import SpeechGuide
from avse.inference.mcem import Algorithm, default_mcem, lips_mcem, papers_mcem
from avse.inference.posterior import Posterior
from avse.models.band_limited import BandLimited
from avse.models.speech import SpeechModel
from avse.pair import SpeechPair
from avse.report import audio_report, video_report

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "mcem": default_mcem,
    "mcem-lips": lips_mcem,
    "paper": papers_mcem,
}
SEGMENT = 30.0
"""Longest segment, seconds."""
OVERLAP = 1.0
"""Cross-fade between segments, seconds."""


@dataclass(frozen=True)
class Enhancement:
    """An enhanced recording of T samples and C channels; N frames and F bins inside.

    Attributes:
        speech: shape and rate of the input; gains below the algorithm's floor were lifted to it.
        noise: what was taken away, input minus speech.
        sample_rate: Hz.
        spectrum: STFT of the mixture at the model's rate, complex (C, N, F), in the input's units.
        gain: E[s | x] / x, (C, N, F).
        deviation: posterior standard deviation of the speech STFT, (C, N, F).
        stft: of the three above.
        scale: what the samples were multiplied by before inference, (C, 1): the power that the posteriors
            were given is |scale spectrum|^2.
        posteriors: one for each segment of the recording.
        lips: what the model was shown with each frame, or None.
        report: what was run, with which seeds and versions, and how it went; plain values for JSON.
    """

    speech: NDArray[np.floating[Any]]
    noise: NDArray[np.floating[Any]]
    sample_rate: int
    spectrum: Tensor
    gain: Tensor
    deviation: Tensor
    stft: STFT
    scale: Tensor
    posteriors: tuple[Posterior, ...]
    lips: LipTrack | None
    report: dict[str, Any]

    @property
    def posterior(self) -> Posterior:
        """The posterior of a recording that fits one segment, else of its first segment."""
        return self.posteriors[0]


def enhance(
    x: NDArray[Any],
    sample_rate: int,
    *,
    video: LipsSource | None = None,
    fps: float | None = None,
    video_offset: float = 0.0,
    model: str | Path | SpeechPair = "auto",
    algorithm: str | Algorithm = "auto",
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> Enhancement:
    """Enhance a noisy recording.

    Args:
        x: samples (T,) or (T, C), float (full scale +-1 by custom, any scale works) or integer.
        sample_rate: Hz. Speech above half the model's rate is not modelled and is removed.
        video: the speaker's face: a video file; or lips that are cut out already: a file, an array
            (T_v, 67, 67), or `Lips`. Its clock is that of the samples.
        fps: pictures a second of lips that come without times.
        video_offset: s by which the pictures come late: what is heard at t is seen at t + video_offset.
        model: name in the zoo, folder of a saved pair, or a loaded pair; "auto" takes av-vae where the video
            shows lips, else a-vae.
        algorithm: a name in `ALGORITHMS` or an algorithm object; "auto" takes what suits the model best.
        seed: of every random draw: same seed, same machine, same output.
        device: where to compute, "cpu" or "cuda".
        progress: told the fraction of the work that is done.

    Raises:
        InputError: samples that are empty, not finite or not (T,) or (T, C); an unknown model or algorithm; a
            video without a face, or none for a model that looks at lips.
    """
    start = time.perf_counter()
    samples = checked_samples(x, sample_rate)
    pair, lips = pair_and_lips(model, video, fps, video_offset)
    pair.to(device)
    infer = algorithm_named(pair.config.algorithm if algorithm == "auto" else algorithm)
    stft = pair.stft
    generator = torch.Generator(device).manual_seed(seed)

    columns = samples.reshape(len(samples), -1)
    model_rate = resample(columns, sample_rate, stft.sample_rate)
    signal = torch.from_numpy(np.ascontiguousarray(model_rate.T)).float().to(device)
    spectrum, scale = pair.config.front_end.analysis(signal)

    speech, guide, bins = within_band(pair, sample_rate)
    pieces = segments(spectrum.shape[-2], stft)
    frame_times = stft.frame_times(spectrum.shape[-2])
    view = pair.config.lips
    track = view.track(lips, frame_times, video_offset) if view and lips else None
    gain, variance = torch.zeros(spectrum.shape, device=device), torch.zeros(spectrum.shape, device=device)
    posteriors = []
    for index, (piece, fade) in enumerate(pieces):

        def part(fraction: float, index: int = index) -> None:
            progress((index + fraction) / len(pieces))

        power = spectrum[..., piece, :bins].abs().square()
        visual = (
            pair.config.lips.visual(track.frames(piece)).to(device) if pair.config.lips and track else None
        )
        posterior = infer(speech, guide, power, visual, generator, part)
        weight = fade.to(power)[:, None]
        gain[..., piece, :bins] += weight * posterior.gain
        variance[..., piece, :bins] += weight * posterior.variance
        posteriors.append(posterior)

    heard = gain.clamp_min(posteriors[0].gain_floor).mul(spectrum)
    estimate = stft.synthesis(heard, signal.shape[-1]) / scale
    del heard
    at_rate = resample(estimate.T.cpu().numpy(), stft.sample_rate, sample_rate)
    enhanced = match_length(at_rate, len(samples)).reshape(samples.shape).astype(samples.dtype)
    model_name = pair.config.architecture if isinstance(model, SpeechPair) else str(model)
    report = {
        "model": model_name,
        "algorithm": algorithm if isinstance(algorithm, str) else repr(algorithm),
        "seed": seed,
        **audio_report(samples, sample_rate, pair.config, posteriors, time.perf_counter() - start),
    }
    if lips is not None and track is not None:
        report["video"], notes = video_report(lips, track, video_offset, len(samples) / sample_rate)
        report["notes"] += notes
    elif video is not None:
        why = "no picture shows the lips" if model == "auto" else f"model {model_name} listens only"
        report["notes"].append(f"the video was not used: {why}")
    return Enhancement(
        speech=enhanced,
        noise=samples - enhanced,
        sample_rate=sample_rate,
        spectrum=spectrum.div_(scale[..., None]),
        gain=gain,
        deviation=variance.sqrt_().div_(scale[..., None]),
        stft=stft,
        scale=scale,
        posteriors=tuple(posteriors),
        lips=track,
        report=report,
    )


def segments(frames: int, stft: STFT) -> list[tuple[slice, Tensor]]:
    """Overlapping pieces of a recording and the weight of each of their frames.

    Pieces are as equal as can be, at most `SEGMENT` long; the weights fade linearly over `OVERLAP` and sum to
    1 in every frame.
    """
    longest = round(SEGMENT * stft.frame_rate)
    overlap = max(1, round(OVERLAP * stft.frame_rate))
    count = 1 if frames <= longest else -(-(frames - overlap) // (longest - overlap))
    length = -(-(frames + (count - 1) * overlap) // count)
    pieces = []
    for index in range(count):
        begin = index * (length - overlap)
        end = min(begin + length, frames)
        fade = torch.ones(end - begin)
        ramp = torch.linspace(0, 1, overlap + 2)[1:-1]
        if index > 0:
            fade[:overlap] = ramp
        if index < count - 1:
            fade[-overlap:] = 1 - ramp
        pieces.append((slice(begin, end), fade))
    return pieces


def checked_samples(x: NDArray[Any], sample_rate: int) -> NDArray[np.floating[Any]]:
    """The samples as floats, or an error that names what is wrong with them."""
    samples = np.asarray(x)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InputError(f"samples of shape {samples.shape}: give (T,) or (T, C) with at least one sample")
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise InputError(
            f"samples of shape {samples.shape}: more channels than samples; give (T, C), not (C, T)"
        )
    if sample_rate < 1000:
        raise InputError(f"sample rate {sample_rate} Hz: give at least 1000 Hz")
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / float(np.iinfo(samples.dtype).max)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"samples of type {samples.dtype}: give floats or integers")
    if not np.isfinite(samples).all():
        raise InputError("samples contain NaN or infinite values: repair or cut them out first")
    return samples.astype(np.float32) if samples.dtype == np.float16 else samples


def pair_and_lips(
    model: str | Path | SpeechPair, video: LipsSource | None, fps: float | None, video_offset: float
) -> tuple[SpeechPair, Lips | None]:
    """The pair, and the lips that it will look at; None for a pair that listens only."""
    if not np.isfinite(video_offset):
        raise InputError(f"video offset {video_offset} s: give a number of seconds")
    if model == "auto":
        lips = None if video is None else lips_from(video, fps)
        seen = lips is not None and bool(lips.valid.any())
        return zoo.load("av-vae" if seen else "a-vae"), lips if seen else None
    pair = pair_named(model)
    if pair.config.lips is None:
        return pair, None
    if video is None:
        raise InputError(
            f"model {pair.config.architecture} looks at lips: give a video, or take a model that listens only"
        )
    return pair, lips_from(video, fps)


def pair_named(model: str | Path | SpeechPair) -> SpeechPair:
    """The pair of a name or folder; a loaded pair is returned as it is.

    Raises:
        InputError: unknown name, or a damaged folder.
    """
    return model if isinstance(model, SpeechPair) else zoo.load(model)


def algorithm_named(algorithm: str | Algorithm) -> Algorithm:
    """The algorithm of a preset's name; an algorithm object is returned as it is.

    Raises:
        InputError: unknown name.
    """
    if not isinstance(algorithm, str):
        return algorithm
    if algorithm not in ALGORITHMS:
        raise InputError(f"unknown algorithm {algorithm!r}: use auto, {' or '.join(ALGORITHMS)}")
    return ALGORITHMS[algorithm]()


def within_band(pair: SpeechPair, sample_rate: int) -> tuple[SpeechModel, SpeechGuide, int]:
    """Model and guide over the bins that the recording has; all of them unless its rate is low."""
    bins = min(pair.stft.bins, round(pair.stft.bins * sample_rate / pair.stft.sample_rate))
    if bins == pair.stft.bins:
        return pair.model, pair.guide, bins
    return BandLimited(pair.model, bins), BandLimitedGuide(pair.guide, pair.stft.bins), bins
