"""A guide that hears badly while it is trained, and learns to make do with what noise leaves of speech.

The target stays clean: with s~ the corrupted spectrum, q(z | s~, v) is as valid a guide of p(s, z | v) as
any. MIN-VAE (Sadeghi, Alameda-Pineda, TSP 2021) trains its audio encoder so; no recorded noise is needed.
"""

from collections.abc import Callable
from functools import singledispatch

import pyro.distributions as dist
from torch import Tensor

from avse.guides.guide import SpeechGuide

Corruption = Callable[[Tensor], Tensor]
"""Power spectrum |s|^2 (*, N, F) -> that of a worse recording, drawn from the global generator."""


class CorruptedGuide(SpeechGuide):
    """Corrupts the power in training mode, then asks another guide; shares that guide's parameters.

    Args:
        guide: what is trained.
        corruption: of the power.
    """

    def __init__(self, guide: SpeechGuide, corruption: Corruption) -> None:
        super().__init__()
        self.guide = guide
        self.corruption = corruption

    def fit_scales(self, power: Tensor) -> None:
        """As the guide."""
        self.guide.fit_scales(power)

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s~, v) in training mode, else q(z | s, v)."""
        if power is not None and self.training:
            power = self.corruption(power)
        return self.guide.posterior(power, visual)


@singledispatch
def corrupted(guide: SpeechGuide, corruption: Corruption) -> SpeechGuide:
    """A guide that hears badly in training mode wherever it hears, and shares all parameters."""
    return CorruptedGuide(guide, corruption)
