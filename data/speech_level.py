"""Active speech level, ITU-T P.56, method B: the power of speech without its pauses.

The envelope is |x| smoothed twice with a time constant of 30 ms. For a threshold c, the speech is active
while the envelope is at least c and 0.2 s longer; A(c) is the energy of all samples over the active time, in
dB. The active level is A(c) for the lowest threshold that lies 15.9 dB below A(c), interpolated between
thresholds 6 dB apart.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

from avse.data.audio import Samples
from avse.data.errors import InputError

TIME_CONSTANT = 0.03  # s, of the envelope
HANGOVER = 0.2  # s that speech stays active under the threshold
MARGIN = 15.9  # dB between the active level and the threshold
THRESHOLDS = 16  # each twice the one before, up to the maximum of the envelope


class SpeechLevel(NamedTuple):
    """The active level of a recording.

    Attributes:
        level: mean power in the active time, dB re 1 (the square of full scale).
        activity: active time as a fraction of the recording, in (0, 1].
    """

    level: float
    activity: float


def active_speech_level(speech: Samples, sample_rate: int) -> SpeechLevel:
    """The active level of speech and how much of the time it is active, by ITU-T P.56.

    Scaling the speech by g adds 20 log10(g) to the level and leaves the activity as it is.

    Args:
        speech: (T,), finite, not silent.
        sample_rate: Hz.

    Raises:
        InputError: the speech has another shape, no samples, is silent or not finite.
    """
    x = np.asarray(speech, np.float64)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all() or not x.any():
        raise InputError(f"speech of shape {x.shape} has no active level; give (T,), finite and not silent")
    peak = np.abs(x).max()
    x = x / peak
    decay = math.exp(-1 / (sample_rate * TIME_CONSTANT))
    smoothing = ([1 - decay], [1, -decay])
    envelope = lfilter(*smoothing, lfilter(*smoothing, np.abs(x)))
    energy, hangover = float(x @ x), math.ceil(HANGOVER * sample_rate)
    thresholds = envelope.max() * 2.0 ** np.arange(1 - THRESHOLDS, 1)
    counts = np.array([_active_samples(envelope >= c, hangover) for c in thresholds])
    active = 10 * np.log10(energy / counts)
    margins = active - 20 * np.log10(thresholds)
    low = np.flatnonzero(margins <= MARGIN)
    upper = max(1, low[0]) if len(low) else THRESHOLDS - 1  # of a click, every margin is larger
    step = slice(upper, upper - 2, -1)  # from the smaller margin to the larger
    level = float(np.interp(MARGIN, margins[step], active[step]))
    mean = 10 * math.log10(energy / len(x))
    return SpeechLevel(level + 20 * math.log10(peak), min(1.0, 10 ** ((mean - level) / 10)))


def _active_samples(above: np.ndarray, hangover: int) -> int:
    """How many samples are above the threshold, or at most `hangover` samples after one that is."""
    places = np.arange(len(above))
    last = np.maximum.accumulate(np.where(above, places, -hangover - 1))
    return int((places - last <= hangover).sum())
