"""Resampling of sound that comes piece by piece, with a short delay.

    y(m) = sum_k h(m r_in / r_out - k) x(k),    h(t) = c sinc(c t) w(t / T),    |t| <= T

with times in samples of the input, c = `PASS` min(1, r_out / r_in), w a Kaiser window and T = `ZEROS` samples
at the lower of both rates. `avse.data.audio.resample` (soxr) is sharper at the upper end of the band, and
holds back a tenth of a second when it is used piece by piece.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import i0

ZEROS = 32
"""Samples at the lower rate that the filter reaches to each side."""
PASS = 0.95
"""End of the pass band, half of the transition to silence, over half the lower rate."""
KAISER = 9.0
"""Parameter of the window: what is outside of the band comes back 90 dB weaker."""


class Resampler:
    """A stream of samples (T, C) at another rate.

    Of T samples that were given, all outputs have come back whose filter ends before T; `last` gives the
    rest, ceil(T rate_out / rate_in) in all. Outputs do not depend on how the samples were cut into pieces.

    Args:
        rate_in: Hz.
        rate_out: Hz.
        channels: C.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        divisor = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // divisor, rate_in // divisor
        self._reach = 0 if rate_in == rate_out else math.ceil(ZEROS * max(1.0, rate_in / rate_out))
        self._filters = _filters(self._up, self._reach, PASS * min(1.0, rate_out / rate_in))
        self._samples = np.zeros((self._reach, channels), np.float32)  # from `_start` on
        self._start = -self._reach
        self._given = self._returned = 0

    @property
    def reach(self) -> int:
        """Samples of the input after the time of an output that it needs."""
        return self._reach

    def __call__(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Take samples (T, C), return those that are ready (T', C)."""
        if self._up == self._down:
            return samples
        self._given += len(samples)
        padding = np.zeros((self._reach + 1 if last else 0, samples.shape[1]), np.float32)
        self._samples = np.concatenate([self._samples, samples, padding])
        if last:
            end = -(-self._given * self._up // self._down)
        else:  # outputs m with floor(m down / up) + reach < given
            end = -(-(self._given - self._reach) * self._up // self._down)
        wanted = np.arange(self._returned, max(end, self._returned), dtype=np.int64) * self._down
        centre, phase = np.divmod(wanted, self._up)
        at = (centre - self._reach + 1 - self._start)[:, None] + np.arange(2 * self._reach)
        found = np.einsum("mkc,mk->mc", self._samples[at], self._filters[phase], optimize=True)
        self._returned += len(wanted)
        drop = max(0, self._returned * self._down // self._up - self._reach + 1 - self._start)
        self._samples, self._start = self._samples[drop:], self._start + drop
        return found.astype(np.float32)


def _filters(phases: int, reach: int, cutoff: float) -> NDArray[np.float32]:
    """h at the distances of an output from the samples around it, for every phase, (phases, 2 reach)."""
    offset = np.arange(phases)[:, None] / phases
    distance = np.arange(2 * reach) - reach + 1 - offset
    inside = np.clip(1 - (distance / max(reach, 1)) ** 2, 0, None)
    values = cutoff * np.sinc(cutoff * distance) * i0(KAISER * np.sqrt(inside)) / i0(KAISER)
    return (values / np.maximum(values.sum(1, keepdims=True), 1e-9)).astype(np.float32)
