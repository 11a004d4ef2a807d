"""Wrappers of a guide: for recordings without the highest bins, and for training on corrupted sound.

With s~ a corrupted spectrum, q(z | s~, v) is a valid guide of p(s, z | v): the target is the clean speech.
MIN-VAE (Sadeghi, Alameda-Pineda, TSP 2021) trains its audio encoder so; no recorded noise is needed.
"""

from collections.abc import Callable
from functools import singledispatch

import pyro.distributions as dist
import torch
from torch import Tensor

from avse.guides.base import SpeechGuide

Corruption = Callable[[Tensor], Tensor]
"""Power spectrum |s|^2 (*, N, F) -> corrupted power spectrum, drawn from the global generator."""


class BandLimitedGuide(SpeechGuide):
    """Completes the power spectrum with its last observed bin, then calls another guide.

    Args:
        guide: guide that reads all bins.
        bins: number of bins that it reads.
    """

    def __init__(self, guide: SpeechGuide, bins: int) -> None:
        super().__init__()
        self.guide = guide
        self.bins = bins

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s, v) from power (*, N, fewer bins)."""
        if power is not None:
            missing = self.bins - power.shape[-1]
            power = torch.cat([power, power[..., -1:].expand(*power.shape[:-1], missing)], dim=-1)
        return self.guide.posterior(power, visual)


class CorruptedGuide(SpeechGuide):
    """Corrupts the power in training mode, then calls another guide; shares that guide's parameters.

    Args:
        guide: the guide that is trained.
        corruption: corruption of the power.
    """

    def __init__(self, guide: SpeechGuide, corruption: Corruption) -> None:
        super().__init__()
        self.guide = guide
        self.corruption = corruption

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of the wrapped guide from training frames |s|^2 (N, F)."""
        self.guide.fit_scales(power)

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s~, v) in training mode, else q(z | s, v)."""
        if power is not None and self.training:
            power = self.corruption(power)
        return self.guide.posterior(power, visual)


@singledispatch
def corrupted(guide: SpeechGuide, corruption: Corruption) -> SpeechGuide:
    """A guide whose power is corrupted in training mode, and which shares all parameters with `guide`."""
    return CorruptedGuide(guide, corruption)
