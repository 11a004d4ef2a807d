"""The front half of every use of a pair: a recording as the models see it.

    samples -> model rate, common level -> STFT -> segments ----> power    (C, N, F)
    video   -> lips -> video frames around every STFT frame ----> visual   (N, D)

`Recording.prepare` does all of it; enhancement, posterior analysis, examples and benchmarks start from there.
"""

import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import avse.zoo as zoo
from avse.data.audio import checked_rate, resample
from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.data.lips.files import LipsSource, lips_from
from avse.data.lips.front_end import LipTrack
from avse.data.stft import STFT
from avse.guides.base import SpeechGuide
from avse.guides.programs import speech_guide
from avse.guides.wrappers import BandLimitedGuide
from avse.models.band_limited import BandLimited
from avse.models.base import SpeechModel
from avse.zoo.pair import SpeechPair

Loader = Callable[[str | Path], SpeechPair]
"""Name or folder -> the pair."""
SEGMENT = 30.0
"""Longest segment, seconds."""
OVERLAP = 1.0
"""Cross-fade between segments, seconds."""
MIN_SAMPLE_RATE = 1000
"""Hz."""
MAX_SAMPLE = 1e30
"""Samples past it have no spectrum in single precision."""
MAX_PEAK = 1e4
"""Samples past it are divided by their peak before their squares are taken in single precision."""
SAMPLE_TYPES = (np.int16, np.int32)
"""Integer types whose full scale is known by custom."""


class Segment(NamedTuple):
    """A part of a recording that is enhanced at once.

    Attributes:
        frames: its STFT frames.
        weight: of each of its frames in the cross-fade, (frames,); the weights of all segments sum to 1.
    """

    frames: slice
    weight: Tensor


@dataclass(frozen=True)
class Recording:
    """A recording as a pair sees it: T samples at the model's rate, C channels, N frames, F observed bins.

    Attributes:
        pair: the model and guide that it was prepared for.
        samples: as floats, at their own rate, (T_in,) or (T_in, C).
        sample_rate: of the samples, Hz.
        signal: at the model's rate, (C, T), in units of `unit`.
        unit: of the signal, in those of the samples: 1, or their peak where that is past `MAX_PEAK`.
        spectrum: STFT at the level that the pair was trained with, complex (C, N, all bins).
        scale: what the samples were multiplied by to reach that level, (C, 1).
        channels_first: whether the samples were given as (C, T_in).
        speech: the speech model, over the F observed bins.
        guide: its guide, over the same.
        bins: F; all bins unless the sample rate is low.
        lips: found in the video, or None.
        track: the lips at every frame, or None for a pair that uses the sound alone.
        visual: what the model is given of them, (N, D), or None.
    """

    pair: SpeechPair
    samples: NDArray[np.floating[Any]]
    sample_rate: int
    channels_first: bool
    signal: Tensor
    unit: float
    spectrum: Tensor
    scale: Tensor
    speech: SpeechModel
    guide: SpeechGuide
    bins: int
    lips: Lips | None
    track: LipTrack | None
    visual: Tensor | None

    @classmethod
    def prepare(
        cls,
        x: NDArray[Any] | Tensor,
        sample_rate: float,
        pair: SpeechPair,
        lips: Lips | None = None,
        video_offset: float = 0.0,
    ) -> "Recording":
        """Bring samples and lips to the form that the models of `pair` were trained with.

        Args:
            x: samples (T_in,), (T_in, C) or (C, T_in), float or integer.
            sample_rate: Hz.
            pair: model and guide; computations run on their device.
            lips: of the speaker, for a pair that uses them.
            video_offset: s by which the video is late: what is heard at t is seen at t + video_offset.

        Raises:
            InputError: samples that are empty, not finite or of another shape.
        """
        sample_rate = checked_sample_rate(sample_rate)
        samples, channels_first = checked_samples(x)
        columns = samples.reshape(len(samples), -1)
        peak = float(np.abs(samples).max())
        unit = peak if peak > MAX_PEAK else 1.0
        at_model_rate = resample(columns / unit if unit != 1 else columns, sample_rate, pair.stft.sample_rate)
        signal = torch.from_numpy(np.ascontiguousarray(at_model_rate.T)).float().to(pair.device)
        spectrum, scale = pair.config.front_end.analysis(signal)
        speech, guide, bins = within_band(pair, sample_rate)
        front_end, track, visual = pair.config.lips, None, None
        if front_end is not None and lips is not None:
            track = front_end.track(lips, pair.stft.frame_times(spectrum.shape[-2]), video_offset)
            visual = front_end.visual(track).to(pair.device)
        return cls(
            pair=pair,
            samples=samples,
            sample_rate=sample_rate,
            channels_first=channels_first,
            signal=signal,
            unit=unit,
            spectrum=spectrum,
            scale=scale / unit,
            speech=speech,
            guide=guide,
            bins=bins,
            lips=lips,
            track=track,
            visual=visual,
        )

    @property
    def stft(self) -> STFT:
        """The pair's short-time Fourier transform."""
        return self.pair.stft

    @cached_property
    def power(self) -> Tensor:
        """|x|^2 of the observed bins at the pair's level, (C, N, F)."""
        return self.spectrum[..., : self.bins].abs().square()

    @cached_property
    def linked_scale(self) -> Tensor:
        """What brings the mean power of the channels to the level of the pair, (1, 1)."""
        return self.scale.square().reciprocal().mean(0, keepdim=True).rsqrt()

    def segment_powers(self, segment: Segment, linked: bool) -> list[Tensor]:
        """|x|^2 of the observed bins in a segment, each (1, frames, F), at the pair's level.

        Args:
            segment: which frames.
            linked: one power, the mean over channels; else one for every channel.
        """
        power = self.spectrum[..., segment.frames, : self.bins].abs().square()
        if not linked:
            return list(power.split(1))
        relative = (self.linked_scale / self.scale).square().unsqueeze(-1)
        return [(relative * power).mean(0, keepdim=True)]

    @property
    def segments(self) -> list[Segment]:
        """Overlapping segments of at most `SEGMENT` seconds."""
        return segments(self.spectrum.shape[-2], self.stft)

    def segment_visual(self, segment: Segment) -> Tensor | None:
        """What the model is given of the lips in a segment, (frames, D), or None."""
        return None if self.visual is None else self.visual[segment.frames]


def segments(frames: int, stft: STFT) -> list[Segment]:
    """Overlapping segments of a recording with the weights of their frames.

    Segments are of nearly equal length, at most `SEGMENT` seconds; the weights fade linearly over `OVERLAP`
    seconds and sum to 1 in every frame.
    """
    longest = round(SEGMENT * stft.frame_rate)
    overlap = max(1, round(OVERLAP * stft.frame_rate))
    count = 1 if frames <= longest else -(-(frames - overlap) // (longest - overlap))
    length = -(-(frames + (count - 1) * overlap) // count)
    pieces = []
    for index in range(count):
        begin = index * (length - overlap)
        end = min(begin + length, frames)
        fade = torch.ones(end - begin, dtype=torch.float32)
        ramp = torch.linspace(0, 1, overlap + 2, dtype=torch.float32)[1:-1]
        if index > 0:
            fade[:overlap] = ramp
        if index < count - 1:
            fade[-overlap:] = 1 - ramp
        pieces.append(Segment(slice(begin, end), fade))
    return pieces


def checked_sample_rate(sample_rate: Any) -> int:
    """The sample rate as a Python int; NumPy scalars and whole floats are accepted.

    Raises:
        InputError: not a whole number of Hz, or less than 1000.
    """
    message = f"sample rate {sample_rate} Hz: give a whole number, at least {MIN_SAMPLE_RATE} Hz"
    try:
        rate = checked_rate(sample_rate)
    except InputError as error:
        raise InputError(message) from error
    if rate < MIN_SAMPLE_RATE:
        raise InputError(message)
    return rate


def checked_samples(x: Any) -> tuple[NDArray[np.floating[Any]], bool]:
    """The samples as floats, (T,) or (T, C), or an error that names what is wrong with them.

    Of a matrix, the longer dimension is time.

    Returns:
        The samples, and whether they were given as (C, T), as librosa and torch libraries have them.

    Raises:
        InputError: see `avse.enhance`.
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no such type
    try:
        samples = np.asarray(x)
    except ValueError as error:  # a ragged list
        raise InputError(f"samples that form no array ({error}): give (T,), (T, C) or (C, T)") from error
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InputError(
            f"samples of shape {samples.shape}: give (T,), (T, C) or (C, T) with at least one sample"
        )
    channels_first = samples.ndim == 2 and samples.shape[0] < samples.shape[1]
    samples = samples.T if channels_first else samples
    if samples.dtype in SAMPLE_TYPES:
        samples = samples.astype(np.float32) / float(np.iinfo(samples.dtype).max)
    elif np.issubdtype(samples.dtype, np.integer):
        raise InputError(
            f"samples of type {samples.dtype}, whose full scale is not known: divide by it and give floats, "
            "or give int16 or int32"
        )
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"samples of type {samples.dtype}: give floats, int16 or int32")
    if not np.isfinite(samples).all():
        raise InputError("samples contain NaN or infinite values: repair or cut them out first")
    if np.abs(samples).max() > MAX_SAMPLE:
        raise InputError(f"samples beyond {MAX_SAMPLE:g}: divide them by their peak first")
    return samples.astype(np.float32) if samples.dtype == np.float16 else samples, channels_first


def pair_and_lips(
    model: str | Path | SpeechPair,
    video: LipsSource | None,
    fps: float | None,
    video_offset: float,
    load: Loader | None = None,
) -> tuple[SpeechPair, Lips | None]:
    """The pair, and the lips that it will be given; None for a pair that uses the sound alone.

    Args:
        model: see `avse.enhance`.
        video: see `avse.enhance`.
        fps: see `avse.enhance`.
        video_offset: see `avse.enhance`.
        load: returns the pair of a name or folder; by default `avse.zoo.load`, which reads the files.

    Raises:
        InputError: an offset that is no finite number, a model or a video that cannot be used, or a model
            that needs a video and has none.
    """
    if video is not None and not isinstance(video, str | os.PathLike | np.ndarray | Lips):
        raise InputError(f"video of type {type(video).__name__}: give a file, a NumPy array of lips, or Lips")
    if not np.isfinite(video_offset):
        raise InputError(f"video offset {video_offset} s: give a number of seconds")
    if model == "auto":
        lips = None if video is None else lips_from(video, fps)
        seen = lips is not None and bool(lips.valid.any())
        return (pair_named("vae-mm", load), lips) if seen else (audio_pair(model, load), None)
    pair = pair_named(model, load)
    if pair.config.lips is None:
        return pair, None
    if video is None:
        raise InputError(
            f"model {pair.config.architecture} needs lips: give a video, or take a model of sound alone"
        )
    return pair, lips_from(video, fps)


def pair_named(model: str | Path | SpeechPair, load: Loader | None = None) -> SpeechPair:
    """The pair of a name or folder, by `load` or `avse.zoo.load`; a loaded pair is returned as it is.

    Raises:
        InputError: unknown name, a damaged folder, or none of the three.
    """
    if not isinstance(model, str | os.PathLike | SpeechPair):
        raise InputError(f"model {reprlib.repr(model)}: give a name, a folder or a loaded pair")
    return model if isinstance(model, SpeechPair) else (load or zoo.load)(model)


def audio_pair(model: str | Path | SpeechPair, load: Loader | None = None) -> SpeechPair:
    """As `pair_named`, where there are no lips: "auto" stands for the A-VAE."""
    return pair_named("a-vae" if isinstance(model, str) and model == "auto" else model, load)


def within_band(pair: SpeechPair, sample_rate: int) -> tuple[SpeechModel, SpeechGuide, int]:
    """Model and guide over the bins that the recording has; all of them unless its rate is low."""
    bins = min(pair.stft.bins, round(pair.stft.bins * sample_rate / pair.stft.sample_rate))
    guide = speech_guide(pair.guide, pair.model)
    if bins == pair.stft.bins:
        return pair.model, guide, bins
    return BandLimited(pair.model, bins), BandLimitedGuide(guide, pair.stft.bins), bins
