"""Sound that comes piece by piece, enhanced in bounded memory: live, or of any length.

    samples -> model rate -> STFT -> windows of frames: past | block | lookahead -> filter of block -> samples

The noise model of a window starts from that of the window before (`avse.inference.em.carried`), and over the
frames of the lookahead the filter of a window fades into that of the next one, so that there are no seams.
The common level is that of the frames so far, the last `MEMORY` seconds above all. Results do not depend on
how the samples are cut into pieces. A recording that fits the first window is enhanced as by `avse.enhance`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from avse.checks import checked_count, checked_device, checked_seed
from avse.data.errors import InputError
from avse.data.front_end import SILENCE, FrontEnd
from avse.data.resampling import Resampler
from avse.data.stft import STFT
from avse.inference.algorithm import Algorithm
from avse.inference.em.amortised import AmortisedEM
from avse.inference.em.carried import continued, later_frames
from avse.inference.presets import algorithm_named
from avse.inference.wiener import Powers
from avse.models.nmf import NMFNoise
from avse.recording import MAX_PEAK, audio_pair, checked_sample_rate, within_band
from avse.zoo.pair import SpeechPair

MEMORY = 30.0
"""Time constant in s of the mean power that the level comes from, and of the share of clean speech."""


@dataclass(frozen=True)
class Schedule:
    """How a stream is cut into windows.

    Attributes:
        block: STFT frames that a window adds.
        lookahead: frames after them that it hears, too.
        past: frames before them.
        iterations: of the algorithm in every window but the first, at most.
    """

    block: int
    lookahead: int
    past: int
    iterations: int

    def latency(self, stft: STFT) -> float:
        """Most seconds from a sample to the speech at it, computing time and resampling left out."""
        frames = self.block + self.lookahead - 1
        return (frames * stft.hop_length + stft.window_length) / stft.sample_rate


def live(stft: STFT) -> Schedule:
    """For live sound: 0.4 s of latency, windows of 2.4 s."""
    rate = stft.frame_rate
    return Schedule(max(1, int(0.195 * rate)), int(0.165 * rate), round(2.0 * rate), 4)


def long(stft: STFT) -> Schedule:
    """For files: blocks of 10 s, whose windows hold 2 s before and 1 s after them."""
    rate = stft.frame_rate
    return Schedule(round(10.0 * rate), round(rate), round(2.0 * rate), 6)


class Stream:
    """Enhancement of sound that comes piece by piece.

        stream = avse.Stream(16000)
        for speech in stream.enhanced(pieces):  # (T,) or (T, C) each
            play(speech)

    Of T samples that were given, at least those before T / rate - `latency` have come back. Computing takes
    its own time, which must be less than the sound lasts. A change of the noise is followed within the two
    seconds of a window. The first seconds are enhanced less well: the level and the noise are not known yet.

    Args:
        sample_rate: Hz. Speech above half the model's rate is not modelled and is removed.
        channels: C.
        model: name in the zoo, folder or loaded pair, of sound alone.
        algorithm: amortised EM, by name or as an object; "auto" takes the algorithm of the pair.
        seed: of every random draw.
        link_channels: as for `avse.enhance`.
        device: as for `avse.enhance`.
        schedule: how the sound is cut; by default that of live sound.

    Raises:
        InputError: a rate, number of channels, seed or device that cannot be, an unknown model or algorithm,
            a model that needs lips, or another algorithm.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int = 1,
        *,
        model: str | Path | SpeechPair = "auto",
        algorithm: str | Algorithm = "auto",
        seed: int = 0,
        link_channels: bool | None = None,
        device: str | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if device is not None:
            checked_device(device)
        self.sample_rate = checked_sample_rate(sample_rate)
        self.channels = checked_count(channels, "channels")
        self.pair = stream_pair(model).on(device)
        self.infer, self.algorithm = stream_algorithm(algorithm, self.pair)
        self.linked = channels == 2 if link_channels is None else bool(link_channels) and channels > 1
        self.seed = checked_seed(seed)
        stft = self.pair.stft
        self.schedule = live(stft) if schedule is None else schedule
        self._windows = _Windows(self)
        self._down = Resampler(self.sample_rate, stft.sample_rate, self.channels)
        self._up = Resampler(stft.sample_rate, self.sample_rate, self.channels)
        self._given = self._returned = 0
        self._ended = False
        self._flat = True  # whether pieces are (T,)

    @property
    def latency(self) -> float:
        """Most seconds from a sample to the speech at it, without the time that computing takes."""
        resampling = self._down.reach / self.sample_rate + self._up.reach / self.pair.stft.sample_rate
        return self.schedule.latency(self.pair.stft) + resampling

    @property
    def low_frequencies(self) -> list[float]:
        """Share of what lies below the high-pass that is kept now, one number or one a channel."""
        return self._windows.low_frequencies

    def enhanced(self, pieces: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """The speech of pieces as it gets ready, and the rest of it when they end."""
        for piece in pieces:
            speech = self.push(piece)
            if len(speech):
                yield speech
        speech = self.finish()
        if len(speech):
            yield speech

    @torch.inference_mode(False)
    def push(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Take samples, (T,) or (T, C), and return the speech that is ready, (T',) or (T', C), T' >= 0.

        Raises:
            InputError: another shape, no floats, samples that are not finite or beyond 1e4, or the stream has
                ended.
        """
        self._check_open()
        array = np.asarray(samples)
        self._flat = array.ndim == 1
        if array.ndim not in (1, 2) or (array.shape[1] if array.ndim == 2 else 1) != self.channels:
            raise InputError(f"samples of shape {array.shape}: give (T,) or (T, {self.channels})")
        if array.dtype.kind != "f":
            raise InputError(f"samples of type {array.dtype}: give floats, full scale 1")
        columns = array.reshape(len(array), self.channels).astype(np.float32)
        if not (np.abs(columns) <= MAX_PEAK).all():  # NaN, too
            raise InputError(f"samples that are not finite or beyond {MAX_PEAK:g}: divide them by their peak")
        ready = []
        for begin in range(0, len(columns), self.sample_rate):  # so that memory stays bounded
            piece = columns[begin : begin + self.sample_rate]
            self._given += len(piece)
            ready.append(self._ready(self._up(self._windows.push(self._down(piece)))))
        return self._shaped(_joined(ready, self.channels))

    @torch.inference_mode(False)
    def finish(self) -> NDArray[np.float32]:
        """The rest of the speech: as many samples have then come back as were given. No more can be given.

        Raises:
            InputError: the stream has ended before.
        """
        self._check_open()
        self._ended = True
        rest = self._windows.push(self._down(np.zeros((0, self.channels), np.float32), last=True))
        last = np.concatenate([rest, self._windows.finish()])
        speech = self._up(last, last=True)[: self._given - self._returned]
        missing = self._given - self._returned - len(speech)
        return self._shaped(self._ready(np.pad(speech, ((0, missing), (0, 0)))))

    def _check_open(self) -> None:
        if self._ended:
            raise InputError("this stream has ended: make a new one")

    def _ready(self, speech: NDArray[np.float32]) -> NDArray[np.float32]:
        speech = speech[: self._given - self._returned]
        self._returned += len(speech)
        return speech

    def _shaped(self, speech: NDArray[np.float32]) -> NDArray[np.float32]:
        return speech[:, 0] if self._flat and self.channels == 1 else speech


def stream_pair(model: str | Path | SpeechPair) -> SpeechPair:
    """The pair of a stream; "auto" is that of sound alone.

    Raises:
        InputError: unknown, or a model that needs lips.
    """
    pair = audio_pair(model)
    if pair.config.lips is not None:
        raise InputError(f"model {pair.name} needs lips: take a model of sound alone for streams")
    return pair


def stream_algorithm(algorithm: str | Algorithm, pair: SpeechPair) -> tuple[AmortisedEM, str]:
    """The algorithm of a stream and its name.

    Raises:
        InputError: unknown, or one that cannot start from a noise model.
    """
    infer, name = algorithm_named(algorithm, pair.algorithm)
    if not isinstance(infer, AmortisedEM):
        raise InputError(
            f"algorithm {name!r} does not go on from the noise of earlier frames: take amortised"
        )
    return infer, name


class _Level:
    """The scale that brings the frames so far to the level of a pair; "rms" forgets older windows."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._power = self._frames = self._peak = 0.0

    def add(self, power: Tensor, peak: float) -> None:
        """Hear the new frames |x|^2 (N, F) of a window, of samples with that peak."""
        faded = forgotten(len(power), self._front_end.stft)
        self._power = faded * self._power + float(power.mean(-1).double().sum())
        self._frames = faded * self._frames + len(power)
        self._peak = max(self._peak, peak)

    @property
    def scale(self) -> float:
        """What the samples are to be multiplied by; 1 for digital silence."""
        if self._peak <= SILENCE:
            return 1.0
        if self._front_end.level == "peak":
            return 1 / self._peak
        return float((self._power / self._frames) ** -0.5)


def forgotten(frames: int, stft: STFT) -> float:
    """What is left of a sum with time constant `MEMORY` after so many frames."""
    return math.exp(-frames / (MEMORY * stft.frame_rate))


def faded_in(before: Tensor | None, gain: Tensor) -> Tensor:
    """The gain of a block (*, N, F); its first frames fade over from what the window before said of them."""
    if before is None:
        return gain
    count = min(before.shape[-2], gain.shape[-2])
    ramp = torch.linspace(0, 1, count + 2).to(gain)[1:-1, None]
    first = torch.lerp(before[..., :count, :], gain[..., :count, :], ramp)
    return torch.cat([first, gain[..., count:, :]], -2)


class _Fit:
    """What is known of the noise of one channel, or of the mean over linked channels."""

    def __init__(self, front_end: FrontEnd, generator: Generator) -> None:
        self.level = _Level(front_end)
        self.generator = generator
        self.noise: NMFNoise | None = None
        self.scale = 1.0
        self.ahead: Tensor | None = None  # the gain of the frames of the lookahead
        self.powers: Tensor | None = None  # of `clean_share`
        self.share = 0.0

    def low_share(self, powers: Powers, faded: float) -> float:
        """How nearly clean the sound has been, `clean_share`, with the powers of these frames heard, too."""
        new = torch.stack(list(powers)).double()
        self.powers = new if self.powers is None else faded * self.powers + new
        self.share = float(Powers(*self.powers).clean_share())
        return self.share


class _Windows:
    """From samples to speech at the model's rate: STFT, windows, inference, overlap-add.

    Frame n lies at samples n hop - M/2 to n hop + M/2, so that the buffers begin M/2 before the sound.
    """

    def __init__(self, stream: Stream) -> None:
        self._schedule = stream.schedule
        self._infer = stream.infer
        self._pair = stream.pair
        self._stft = stream.pair.stft
        front_end, device = stream.pair.config.front_end, stream.pair.device
        self._speech, self._guide, self._bins = within_band(stream.pair, stream.sample_rate)
        self._linked = stream.linked
        self._fits = [
            _Fit(front_end, Generator(device).manual_seed(stream.seed))
            for _ in range(1 if stream.linked else stream.channels)
        ]
        self._response = front_end.response().to(device)
        self._rejected = front_end.rejected().to(device)
        half = self._stft.window_length // 2
        self._samples = torch.zeros(stream.channels, half, device=device)
        self._spectrum = torch.zeros(
            stream.channels, 0, self._stft.bins, dtype=torch.complex64, device=device
        )
        self._past = 0  # frames of the spectrum that have been enhanced
        self._peaks = torch.zeros(stream.channels, 0, device=device)  # of the samples of every frame
        self._sum = torch.zeros(stream.channels, 0, device=device)
        self._envelope = torch.zeros(0, device=device)
        self._before = half  # samples at the beginning of the sums that lie before the sound
        self._heard = 0

    @property
    def low_frequencies(self) -> list[float]:
        """`_Fit.share` of all fits."""
        return [fit.share for fit in self._fits]

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples (T, C) -> speech (T', C) that is ready."""
        self._heard += len(samples)
        given = torch.from_numpy(np.ascontiguousarray(samples.T)).to(self._samples)
        self._samples = torch.cat([self._samples, given], -1)
        self._analyse()
        ready = []
        whole = self._schedule.block + self._schedule.lookahead
        while self._spectrum.shape[-2] - self._past >= whole:
            ready.append(self._enhance(self._schedule.block))
        return _joined(ready, samples.shape[1])

    def finish(self) -> NDArray[np.float32]:
        """The rest of the speech, (T', C)."""
        channels = len(self._samples)
        if not self._heard:
            return np.zeros((0, channels), np.float32)
        half, hop = self._stft.window_length // 2, self._stft.hop_length
        frames = self._stft.frames(self._heard)
        done = self._done
        length = (frames - 1 - done) * hop + self._stft.window_length
        missing = max(0, length - self._samples.shape[-1])
        self._samples = torch.nn.functional.pad(self._samples, (0, missing))[:, :length]
        self._analyse()
        left = self._spectrum.shape[-2] - self._past
        speech = self._enhance(left) if left else np.zeros((0, channels), np.float32)
        rest = self._take(self._sum.shape[-1])
        whole = np.concatenate([speech, rest])
        return whole[: len(whole) - max(0, (frames - 1) * hop + half - self._heard)]

    _done = 0
    """Frames whose spectrum has been computed."""

    def _analyse(self) -> None:
        length, hop = self._stft.window_length, self._stft.hop_length
        count = (self._samples.shape[-1] - length) // hop + 1
        if count < 1:
            return
        window = self._stft.window(self._samples)
        frames = self._samples[:, : (count - 1) * hop + length].unfold(-1, length, hop)
        spectrum = torch.fft.rfft(frames * window) * self._response
        self._samples = self._samples[:, count * hop :]
        self._done += count
        self._spectrum = torch.cat([self._spectrum, spectrum], -2)
        self._peaks = torch.cat([self._peaks, frames.abs().amax(-1)], -1)

    def _enhance(self, block: int) -> NDArray[np.float32]:
        """Enhance the next `block` frames; the speech that no later frame adds to, (T', C)."""
        window = self._spectrum[:, : self._past + block + self._schedule.lookahead]
        own = slice(self._past, self._past + block)
        gain = torch.zeros(window.shape[0], block, self._stft.bins, device=window.device)
        power = window.abs().square()
        groups = power.mean(0, keepdim=True) if self._linked else power
        new = slice(self._past + self._known, window.shape[1])
        peaks = self._peaks[:, new].amax(-1)
        if self._linked:
            peaks = peaks.square().mean(0, keepdim=True).sqrt()
        for index, (fit, group) in enumerate(zip(self._fits, groups, strict=True)):
            fit.level.add(group[new], float(peaks[index]))
            found, floor = self._posterior_gain(fit, group)
            where = slice(None) if self._linked else slice(index, index + 1)
            gain[where, :, : self._bins] = faded_in(fit.ahead, found[..., own, :])
            fit.ahead = found[..., own.stop :, :]
            faded = forgotten(block, self._stft)
            # For linked channels the powers are summed over them, as in `avse.enhance`.
            heard = power[where, own].flatten(0, 1)
            powers = Powers.of(gain[where].flatten(0, 1), heard, self._rejected)
            share = fit.low_share(powers, faded)
            gain[where] = gain[where].clamp_min(floor) + share * self._rejected
        self._known = max(0, window.shape[1] - self._past - block)
        self._add(gain * window[:, own])
        keep = max(0, self._past + block - self._schedule.past)
        for fit in self._fits:
            assert fit.noise is not None
            fit.noise = later_frames(fit.noise, keep, 1.0)
        self._past += block - keep
        self._spectrum, self._peaks = self._spectrum[:, keep:].clone(), self._peaks[:, keep:].clone()
        return self._take(block * self._stft.hop_length)

    _known = 0
    """Frames of the lookahead, which the level has heard."""

    def _posterior_gain(self, fit: _Fit, power: Tensor) -> tuple[Tensor, float]:
        """The Wiener gain of a window |x|^2 (N, F), (1, N, bins), and the gain floor."""
        scale = fit.level.scale
        infer = self._infer
        if fit.noise is not None:
            noise = later_frames(fit.noise, 0, (scale / fit.scale) ** 2)
            infer = continued(infer, noise, self._schedule.iterations)
        fit.scale = scale
        observed = (scale**2 * power[None, :, : self._bins]).contiguous()
        posterior = infer(self._speech, self._guide, observed, None, fit.generator, lambda fraction: None)
        if not isinstance(posterior.noise, NMFNoise):
            raise TypeError(f"a stream carries NMF noise over, not {type(posterior.noise).__name__}")
        fit.noise = posterior.noise
        return posterior.wiener_gain, posterior.gain_floor

    def _add(self, spectrum: Tensor) -> None:
        """Overlap-add frames X (C, B, F) to the sums of the signal and of the squared windows."""
        length, hop = self._stft.window_length, self._stft.hop_length
        window = self._stft.window(self._sum)
        frames = torch.fft.irfft(spectrum, n=length) * window
        count = frames.shape[1]
        whole = (count - 1) * hop + length
        grow = max(0, whole - self._sum.shape[-1])
        self._sum = torch.nn.functional.pad(self._sum, (0, grow))
        self._envelope = torch.nn.functional.pad(self._envelope, (0, grow))
        for index in range(count):
            at = slice(index * hop, index * hop + length)
            self._sum[:, at] += frames[:, index]
            self._envelope[at] += window.square()

    def _take(self, count: int) -> NDArray[np.float32]:
        """The first `count` samples of the sums, without those before the sound, (T', C)."""
        begin = min(self._before, count)
        self._before -= begin
        signal = self._sum[:, begin:count] / self._envelope[begin:count]
        self._sum, self._envelope = self._sum[:, count:], self._envelope[count:]
        return np.ascontiguousarray(signal.T.cpu().numpy())


def _joined(parts: list[NDArray[np.float32]], channels: int) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.zeros((0, channels), np.float32)
