"""The unit of a recording: speech models are trained on, and applied to, recordings of one common level."""

from typing import Literal

import torch
from torch import Tensor

Level = Literal["rms", "peak"]

SILENCE = 1e-10
"""Recordings whose peak is below this are taken for digital silence and left as they are."""


def unit_scale(signal: Tensor, level: Level, window_length: int) -> Tensor:
    """The factor that brings signals (*, T) to the common level, (*, 1).

    "rms":  1 / sqrt(mean x^2 M / 2), so that |X|^2 has mean 1 under the sine window of length M.
    "peak": 1 / max |x|, the papers' choice.

    Digital silence gets the factor 1.
    """
    peak = signal.abs().amax(-1, keepdim=True)
    if level == "peak":
        scale = 1 / peak
    else:
        scale = 1 / (signal.square().mean(-1, keepdim=True) * window_length / 2).sqrt()
    return torch.where(peak > SILENCE, scale, torch.ones_like(scale))
