"""The short-time Fourier transform that every model is trained and used with.

Frame n is centred at sample n * hop of the signal:

    X_{nf} = sum_t w(t) x(n hop + t - M/2) exp(-2i pi f t / M),    w(t) = sin(pi (t + 1/2) / M),

with M the window length and F = M // 2 + 1 bins. The papers use M = 1024 and hop = 533 at 16 kHz, one frame
per video frame at 30 images a second; later work uses hop = 256.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from avse.data.errors import InputError


@dataclass(frozen=True)
class STFT:
    """Analysis and synthesis with one sine window; the settings travel with every trained model.

    Args:
        window_length: M, samples.
        hop_length: samples between frames, at least 1 and less than `window_length`.
        sample_rate: Hz.

    Raises:
        InputError: a window or hop that cannot reconstruct the signal.
    """

    window_length: int = 1024
    hop_length: int = 533
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        if self.window_length < 2 or not 1 <= self.hop_length < self.window_length:
            raise InputError(
                f"STFT window {self.window_length} and hop {self.hop_length}: "
                "the hop must be at least 1 and shorter than the window"
            )
        if self.sample_rate < 1:
            raise InputError(f"STFT sample rate {self.sample_rate} Hz: it must be positive")

    @property
    def bins(self) -> int:
        """F, the number of frequency bins."""
        return self.window_length // 2 + 1

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    def frames(self, length: int) -> int:
        """N, the number of frames that cover `length` samples: ceil(length / hop) + 1."""
        return -(-length // self.hop_length) + 1

    def frame_times(self, frames: int) -> Tensor:
        """Centre of each frame in seconds, (N,)."""
        return torch.arange(frames, dtype=torch.float64) / self.frame_rate

    def window(self, like: Tensor) -> Tensor:
        """The sine window (M,), in the precision and on the device of `like`."""
        t = torch.arange(self.window_length, dtype=torch.float64)
        window = torch.sin(torch.pi * (t + 0.5) / self.window_length)
        return window.to(device=like.device, dtype=like.real.dtype)

    def analysis(self, x: Tensor) -> Tensor:
        """Complex spectrum X (*, N, F) of real signals x (*, T), zero outside their ends."""
        length = x.shape[-1]
        left = self.window_length // 2
        right = self.window_length - left + (self.frames(length) - 1) * self.hop_length - length
        flat = torch.nn.functional.pad(x.reshape(-1, length), (left, right))
        spectrum = torch.stft(
            flat,
            self.window_length,
            self.hop_length,
            window=self.window(x),
            center=False,
            return_complex=True,
        )
        return spectrum.mT.reshape(*x.shape[:-1], -1, self.bins)

    def synthesis(self, spectrum: Tensor, length: int) -> Tensor:
        """Signals (*, T) of T = `length` samples from X (*, N, F): least-squares inverse of `analysis`."""
        frames = spectrum.shape[-2]
        if frames != self.frames(length):
            raise InputError(f"{frames} frames do not cover {length} samples: {self.frames(length)} would")
        flat = spectrum.reshape(-1, frames, self.bins).mT
        signal = torch.istft(
            flat, self.window_length, self.hop_length, window=self.window(spectrum), center=False
        )
        left = self.window_length // 2
        return signal[:, left : left + length].reshape(*spectrum.shape[:-2], length)
