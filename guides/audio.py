"""The audio guide: q(z_n | s_n) = N(mu(|s_n|^2), diag sigma(|s_n|^2)), the encoder of the A-VAE.

Bando et al., ICASSP 2018; Leglaive et al., MLSP 2018. The input of the encoder is the power spectrum or
any features of it (see `avse.models.networks`).
"""

import pyro.distributions as dist
from torch import Tensor

from avse.guides.base import SpeechGuide
from avse.models.networks.sequence import SequenceEncoder
from avse.models.networks.spectrum import GaussianEncoder, LogPower, RawPower


class AudioGuide(SpeechGuide):
    """q(z | s).

    Args:
        features: power (*, N, F) -> features (*, N, F).
        encoder: features -> mean and log variance of z, (*, N, L) each; of single frames or of all of them.
        context: guide of noisy recordings for the same model, see `avse.guides.context`; it has no part in
            q(z | s).
    """

    def __init__(
        self,
        features: RawPower | LogPower,
        encoder: GaussianEncoder | SequenceEncoder,
        context: SpeechGuide | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.encoder = encoder
        self.context = context

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of the features from training frames |s|^2 (N, F)."""
        self.features.fit(power)
        if self.context is not None:
            self.context.fit_scales(power)

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s) from the power spectrum |s|^2 (*, N, F). `visual` is not used.

        Raises:
            ValueError: no power was given.
        """
        if power is None:
            raise ValueError("the audio guide needs the power spectrum of the speech")
        z = self.encoder(self.features(power))
        return dist.Normal(z.mean, z.scale).to_event(1)
