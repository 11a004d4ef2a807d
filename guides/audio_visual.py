"""The audio-visual guide: q(z_n | s_n, v_n), the encoder of the AV-VAE.

Sadeghi, Leglaive, Alameda-Pineda, Girin, Horaud, TASLP 2020 (arXiv 1908.02590). Audio features and lips are
combined before the first activation, as the sum of two linear maps.
"""

import pyro.distributions as dist
from torch import Tensor

from avse.guides.base import SpeechGuide
from avse.models.av_vae import Trunk
from avse.models.networks.spectrum import GaussianEncoder, LogPower, RawPower


class AudioVisualGuide(SpeechGuide):
    """q(z | s, v).

    Args:
        features: power (*, N, F) -> features (*, N, F).
        lips: trunk, visual (*, N, D) -> embedding (*, N, E).
        encoder: features and embedding -> mean and log variance of z, (*, N, L) each.
    """

    def __init__(self, features: RawPower | LogPower, lips: Trunk, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.features = features
        self.lips = lips
        self.encoder = encoder

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of the features from training frames |s|^2 (N, F)."""
        self.features.fit(power)

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s, v) from the power spectrum |s|^2 (*, N, F) and the lips (*, N, D).

        Raises:
            ValueError: power or lips are missing.
        """
        if power is None:
            raise ValueError("the audio-visual guide needs the power spectrum of the speech")
        z = self.encoder(self.features(power), self.lips(visual))
        return dist.Normal(z.mean, z.scale).to_event(1)
