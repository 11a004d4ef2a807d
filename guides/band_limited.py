"""A guide for a recording that lacks the highest bins."""

import pyro.distributions as dist
import torch
from torch import Tensor

from avse.guides.guide import SpeechGuide


class BandLimitedGuide(SpeechGuide):
    """Completes the power spectrum with its last observed bin, then asks another guide.

    Args:
        guide: guide that reads all bins.
        bins: how many it reads.
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
