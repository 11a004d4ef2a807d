"""Recurrent VAE: independent latents, and a decoder that reads those of all frames.

    z_n ~ N(0, I)
    s_fn | z_1, .., z_N ~ N_c(0, sigma_fn(z_1, .., z_N))

Leglaive, Alameda-Pineda, Girin, Horaud, ICASSP 2020 (arXiv 1910.10942), the bidirectional model. Differences
from the paper: the network may be dilated convolutions; the guide is q(z_n | s_1, .., s_N), all frames alike,
where the paper's also reads z_1, .., z_{n-1}. As there, the encoder is fine-tuned on a noisy recording, by
`avse.inference.em.fine_tuned`.
"""

from torch import Tensor

from avse.models.a_vae import AVAE
from avse.models.coupling import Coupling
from avse.models.networks.sequence import SequenceDecoder


class RecurrentVAE(AVAE):
    """The A-VAE with a decoder over frames.

    Args:
        prior: returns p(z) of a frame, event shape (L,).
        decoder: z (*, N, L) -> log variance of the speech (*, N, F), of all frames together.
    """

    @property
    def coupling(self) -> Coupling:
        """Over the whole sequence."""
        return Coupling.SEQUENCE

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of a `SequenceDecoder` from training frames |s|^2 (N, F)."""
        if isinstance(self.decoder, SequenceDecoder):
            self.decoder.fit(power)
