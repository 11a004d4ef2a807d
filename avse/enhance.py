"""One call from a noisy recording to an enhanced one.

    samples -> model rate, common level -> STFT -> segments -> posterior of each -> filter -> samples

Channels are enhanced independently, as a batch. Recordings longer than a segment are enhanced in overlapping
segments whose filters are cross-faded, so that memory stays bounded and the noise may change over time.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from avse import zoo
from avse.data.audio import clipped_fraction, match_length, resample
from avse.data.errors import InputError
from avse.data.front_end import SILENCE
from avse.data.stft import STFT
from avse.guides.band_limited import BandLimitedGuide
from avse.guides.guide import SpeechGuide
from avse.inference.mcem import Algorithm, default_mcem, papers_mcem
from avse.inference.posterior import Posterior
from avse.models.band_limited import BandLimited
from avse.models.speech import SpeechModel
from avse.pair import SpeechPair
from avse.version import __version__

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {"mcem": default_mcem, "paper": papers_mcem}
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
        posteriors: one for each segment of the recording.
        report: what was run, with which seeds and versions, and how it went; plain values for JSON.
    """

    speech: NDArray[np.floating[Any]]
    noise: NDArray[np.floating[Any]]
    sample_rate: int
    spectrum: Tensor
    gain: Tensor
    deviation: Tensor
    stft: STFT
    posteriors: tuple[Posterior, ...]
    report: dict[str, Any]

    @property
    def posterior(self) -> Posterior:
        """The posterior of a recording that fits one segment, else of its first segment."""
        return self.posteriors[0]


def enhance(
    x: NDArray[Any],
    sample_rate: int,
    *,
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
        model: name in the zoo, folder of a saved pair, or a loaded pair; "auto" takes the best that fits.
        algorithm: "mcem" (the default), "paper", or an algorithm object; "auto" takes the default.
        seed: of every random draw: same seed, same machine, same output.
        device: where to compute, "cpu" or "cuda".
        progress: told the fraction of the work that is done.

    Raises:
        InputError: samples that are empty, not finite or not (T,) or (T, C); an unknown model or algorithm.
    """
    start = time.perf_counter()
    samples = _checked(x, sample_rate)
    pair = pair_named(model).to(device)
    infer = algorithm_named(algorithm)
    stft = pair.stft
    generator = torch.Generator(device).manual_seed(seed)

    columns = samples.reshape(len(samples), -1)
    model_rate = resample(columns, sample_rate, stft.sample_rate)
    signal = torch.from_numpy(np.ascontiguousarray(model_rate.T)).float().to(device)
    spectrum, scale = pair.config.front_end.analysis(signal)

    speech, guide, bins = _within_band(pair, sample_rate)
    pieces = segments(spectrum.shape[-2], stft)
    gain, variance = torch.zeros(spectrum.shape, device=device), torch.zeros(spectrum.shape, device=device)
    posteriors = []
    for index, (piece, fade) in enumerate(pieces):

        def part(fraction: float, index: int = index) -> None:
            progress((index + fraction) / len(pieces))

        power = spectrum[..., piece, :bins].abs().square()
        posterior = infer(speech, guide, power, None, generator, part)
        weight = fade.to(power)[:, None]
        gain[..., piece, :bins] += weight * posterior.gain
        variance[..., piece, :bins] += weight * posterior.variance
        posteriors.append(posterior)

    heard = gain.clamp_min(posteriors[0].gain_floor).mul(spectrum)
    estimate = stft.synthesis(heard, signal.shape[-1]) / scale
    del heard
    at_rate = resample(estimate.T.cpu().numpy(), stft.sample_rate, sample_rate)
    enhanced = match_length(at_rate, len(samples)).reshape(samples.shape).astype(samples.dtype)
    seconds = time.perf_counter() - start
    return Enhancement(
        speech=enhanced,
        noise=samples - enhanced,
        sample_rate=sample_rate,
        spectrum=spectrum.div_(scale[..., None]),
        gain=gain,
        deviation=variance.sqrt_().div_(scale[..., None]),
        stft=stft,
        posteriors=tuple(posteriors),
        report=_report(samples, sample_rate, pair, model, algorithm, seed, posteriors, seconds),
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


def _checked(x: NDArray[Any], sample_rate: int) -> NDArray[np.floating[Any]]:
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


def pair_named(model: str | Path | SpeechPair) -> SpeechPair:
    """The pair of a name or folder, "auto" the best that fits; a loaded pair is returned as it is.

    Raises:
        InputError: unknown name, or a damaged folder.
    """
    if isinstance(model, SpeechPair):
        return model
    return zoo.load("a-vae" if model == "auto" else model)


def algorithm_named(algorithm: str | Algorithm) -> Algorithm:
    """The algorithm of a preset's name; an algorithm object is returned as it is.

    Raises:
        InputError: unknown name.
    """
    if not isinstance(algorithm, str):
        return algorithm
    name = "mcem" if algorithm == "auto" else algorithm
    if name not in ALGORITHMS:
        raise InputError(f"unknown algorithm {algorithm!r}: use one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]()


def _within_band(pair: SpeechPair, sample_rate: int) -> tuple[SpeechModel, SpeechGuide, int]:
    """Model and guide over the bins that the recording has; all of them unless its rate is low."""
    bins = min(pair.stft.bins, round(pair.stft.bins * sample_rate / pair.stft.sample_rate))
    if bins == pair.stft.bins:
        return pair.model, pair.guide, bins
    return BandLimited(pair.model, bins), BandLimitedGuide(pair.guide, pair.stft.bins), bins


def _report(
    samples: NDArray[Any],
    sample_rate: int,
    pair: SpeechPair,
    model: str | Path | SpeechPair,
    algorithm: str | Algorithm,
    seed: int,
    posteriors: list[Posterior],
    seconds: float,
) -> dict[str, Any]:
    duration = len(samples) / sample_rate
    silent = float(np.abs(samples).max()) <= SILENCE
    clipped = clipped_fraction(samples)
    notes = [
        *(["the recording is digital silence"] if silent else []),
        *([f"{clipped:.1%} of the samples are clipped: expect distortion"] if clipped > 0.001 else []),
        *(
            [f"speech above {pair.stft.sample_rate / 2:g} Hz is not modelled and was removed"]
            if sample_rate > pair.stft.sample_rate
            else []
        ),
    ]
    return {
        "model": str(model) if not isinstance(model, SpeechPair) else pair.config.architecture,
        "architecture": asdict(pair.config),
        "algorithm": algorithm if isinstance(algorithm, str) else repr(algorithm),
        "seed": seed,
        "input": {
            "seconds": duration,
            "sample_rate": sample_rate,
            "channels": 1 if samples.ndim == 1 else samples.shape[1],
            "peak": float(np.abs(samples).max()),
            "clipped_fraction": clipped,
        },
        "segments": [
            {
                "iterations": len(posterior.costs),
                "converged": posterior.converged,
                "cost": posterior.costs,
                "acceptance": float(posterior.acceptance.mean()),
            }
            for posterior in posteriors
        ],
        "notes": notes,
        "seconds": seconds,
        "real_time_factor": seconds / duration,
        "versions": {
            "avse": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "numpy": np.__version__,
        },
    }
