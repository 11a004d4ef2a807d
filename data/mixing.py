"""Noisy mixtures at a stated level: x = s + g b."""

import math

import numpy as np
import numpy.typing as npt

from avse.data.audio import Samples
from avse.data.errors import InputError
from avse.data.speech_level import active_speech_level

CROSSFADE = 256  # samples, 16 ms at 16 kHz


def mix(speech: Samples, noise: Samples, level_db: float) -> tuple[Samples, Samples]:
    """Add noise to speech at a signal-to-noise level.

    With s the speech and b the noise, the mixture is x = s + g b, where g > 0 solves

        level_db = 10 log10( sum_t s_t^2 / sum_t (g b_t)^2 ),

    broadband and over the whole clip, pauses included. The speech is untouched; only the noise is scaled.

    Args:
        speech: (T,), finite, not silent.
        noise: (T,), finite, not silent.
        level_db: dB.

    Returns:
        The mixture x (T,) and the scaled noise g b (T,), in the speech's dtype (float32 at least).

    Raises:
        InputError: shapes differ or are not (T,), a signal is silent or not finite, or the level is not
            finite or so extreme that the noise overflows or vanishes.
    """
    if speech.ndim != 1 or speech.shape != noise.shape:
        raise InputError(
            f"speech {speech.shape} and noise {noise.shape} must both have shape (T,); cut a piece of the "
            "noise with noise_excerpt"
        )
    if not np.isfinite(level_db):
        raise InputError(f"a level of {level_db} dB cannot be mixed; give a finite one")
    speech_energy = _energy(speech, "speech")
    noise_energy = _energy(noise, "noise")
    dtype = np.result_type(speech.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        gain = np.sqrt(speech_energy / noise_energy) * np.power(10.0, -level_db / 20)
        scaled = (gain * noise.astype(np.float64)).astype(dtype)
        mixture = speech.astype(dtype) + scaled
    if not np.isfinite(mixture).all() or not scaled.any():
        raise InputError(f"a level of {level_db} dB is beyond {dtype}; give a level nearer to 0")
    return mixture, scaled


def mix_active(speech: Samples, noise: Samples, level_db: float, sample_rate: int) -> tuple[Samples, Samples]:
    """As `mix`, with the power of the speech taken over its active time, ITU-T P.56.

    With a the activity of the speech, in (0, 1], the broadband level of the mixture is
    level_db + 10 log10(a): pauses in a clip do not make its noise weaker.

    Args:
        speech: (T,), finite, not silent.
        noise: (T,), finite, not silent.
        level_db: active level of the speech minus level of the noise, dB.
        sample_rate: Hz.

    Raises:
        InputError: as `mix`.
    """
    _energy(speech, "speech")
    activity = active_speech_level(speech, sample_rate).activity
    return mix(speech, noise, level_db + 10 * math.log10(activity))


def noise_excerpt(noise: Samples, length: int, generator: np.random.Generator) -> Samples:
    """Cut `length` samples from a noise recording at a random place.

    A long enough recording, T_b >= length, is cut at an offset uniform on 0..T_b - length. A shorter one
    is closed into a loop: its last K = min(256, T_b // 2) samples are faded out over its first K, fading
    in, with equal power (cos, sin), so that uncorrelated noise keeps its power at the joins; the loop then
    starts at a uniform point. To keep a part of a recording for another use, slice it first.

    Args:
        noise: (T_b,), T_b >= 1.
        length: samples to return, >= 1.
        generator: source of the offset.

    Returns:
        (length,), a copy. It may be silent where the recording is: `mix` then says so.

    Raises:
        InputError: `noise` has another shape or no samples, or `length` is below 1.
    """
    if noise.ndim != 1 or noise.size == 0:
        raise InputError(f"noise of shape {noise.shape} cannot be cut; give (T,) with samples")
    if length < 1:
        raise InputError(f"an excerpt of {length} samples cannot be cut; ask for 1 or more")
    if noise.size >= length:
        offset = int(generator.integers(noise.size - length + 1))
        return noise[offset : offset + length].copy()
    loop = _close(noise)
    offset = int(generator.integers(loop.size))
    return loop[(offset + np.arange(length)) % loop.size]


def white_noise(length: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Gaussian white noise (length,) of unit power."""
    return generator.standard_normal(length, dtype=np.float32)


def pink_noise(length: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise (T,) of unit power, its power density falling as 1 / f: nearer to fans and traffic than white."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))
    pink = np.fft.irfft(spectrum, length)
    return (pink / np.sqrt(np.mean(pink**2))).astype(np.float32)


def _close(noise: Samples) -> Samples:
    """Loop of T_b - K samples whose end runs into its beginning."""
    fade = min(CROSSFADE, noise.size // 2)
    angle = (np.arange(fade) + 0.5) / max(fade, 1) * np.pi / 2
    loop = noise[: noise.size - fade].copy()
    loop[:fade] = np.sin(angle) * noise[:fade] + np.cos(angle) * noise[noise.size - fade :]
    return loop


def _energy(signal: Samples, name: str) -> float:
    with np.errstate(over="ignore"):
        energy = float(np.sum(np.square(signal, dtype=np.float64)))
    if not np.isfinite(energy):
        raise InputError(f"the {name} holds NaN, infinite or huge samples; read it again from its source")
    if energy == 0:
        raise InputError(f"the {name} is silent, so that no level can be set; choose another clip")
    return energy
