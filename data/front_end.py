"""From a recording to the spectra that the models know, and the same way for training and enhancement."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.data.stft import STFT

Level = Literal["rms", "peak"]

SILENCE = 1e-10
"""Recordings whose peak is below this are taken for digital silence and left at their level."""


class Spectrum(NamedTuple):
    """A recording as the models see it.

    Attributes:
        values: complex STFT at the common level, (*, N, F).
        scale: what the samples were multiplied by, (*, 1).
    """

    values: Tensor
    scale: Tensor


@dataclass(frozen=True)
class FrontEnd:
    """STFT, high-pass and the common level of recordings: part of every trained pair.

    Args:
        stft: window, hop and rate.
        level: "rms" brings |X|^2 to mean 1; "peak" divides by max |x|, as the papers do.
        high_pass: Hz. Below it recordings hold hum and rumble rather than speech; X is multiplied by
            1 / sqrt(1 + (high_pass / f)^8) before the level is taken. 0 leaves it as it is.

    Raises:
        InputError: an unknown level or a negative frequency.
    """

    stft: STFT = field(default_factory=STFT)
    level: Level = "rms"
    high_pass: float = 0.0

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise InputError(f"level {self.level!r}: use one of {', '.join(get_args(Level))}")
        if self.high_pass < 0:
            raise InputError(f"high-pass frequency {self.high_pass} Hz: it must not be negative")

    def response(self) -> Tensor:
        """Amplitude of the high-pass in every bin, (F,); a quarter of a bin stands for f = 0."""
        spacing = self.stft.sample_rate / self.stft.window_length
        frequency = (torch.arange(self.stft.bins, dtype=torch.float32) * spacing).clamp_min(spacing / 4)
        return (1 + (self.high_pass / frequency) ** 8).rsqrt()

    def analysis(self, signal: Tensor) -> Spectrum:
        """Spectra of signals (*, T) at the common level. Digital silence gets scale 1."""
        values = self.stft.analysis(signal).mul_(self.response().to(signal))
        peak = signal.abs().amax(-1, keepdim=True)
        scale = 1 / (peak if self.level == "peak" else values.abs().square().mean((-2, -1))[..., None].sqrt())
        scale = torch.where(peak > SILENCE, scale, torch.ones_like(scale))
        return Spectrum(values.mul_(scale.unsqueeze(-1)), scale)

    def rejected(self) -> Tensor:
        """What the high-pass took away over what it let through, 1 / h - 1 with h its response: (F,)."""
        return 1 / self.response() - 1
