"""The guide that depends on the lips alone: q(z_n | v_n), the encoder of the V-VAE.

Sadeghi, Leglaive, Alameda-Pineda, Girin, Horaud, TASLP 2020 (arXiv 1908.02590).
"""

import pyro.distributions as dist
from torch import Tensor

from avse.guides.base import SpeechGuide
from avse.models.av_vae import ConditionalPrior, Trunk


class VisualGuide(SpeechGuide):
    """q(z | v) from the lips, independent of the sound.

    With the prior of an AV-VAE as `network` it is the guide p(z | v), under which the evidence lower
    bound is E_{p(z|v)} log p(s | z, v).

    Args:
        lips: trunk, visual (*, N, D) -> embedding (*, N, E).
        network: embedding -> distribution of z, event shape (L,), such as `VisualPrior`.
    """

    def __init__(self, lips: Trunk, network: ConditionalPrior) -> None:
        super().__init__()
        self.lips = lips
        self.network = network

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | v). `power` (*, N, F) is not used, besides its shape.

        Raises:
            ValueError: no lips were given.
        """
        posterior = self.network(self.lips(visual))
        return posterior if power is None else posterior.expand(power.shape[:-1])
