"""AV-VAE: a conditional VAE of speech given the lips.

    z_n | v_n ~ N(mu(v_n), diag sigma(v_n))        from a prior network, or N(0, I)
    s_fn | z_n, v_n ~ N_c(0, sigma_f(z_n, v_n))

Sadeghi, Leglaive, Alameda-Pineda, Girin, Horaud, TASLP 2020 (arXiv 1908.02590), equations 8 to 12.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from avse.models.base import ConditionedSpeech, SingleComponent, SpeechModel, decoder_given
from avse.models.networks.spectrum import GaussianEncoder
from avse.models.sites import Z

Trunk = Callable[[Tensor | None], Tensor]
"""Lips, visual (*, N, D) -> embedding (*, N, E)."""

ConditionalPrior = Callable[[Tensor], dist.TorchDistribution]
"""Embedding (*, N, E) -> distribution of z in a frame, event shape (L,)."""

ConditionalDecoder = Callable[[Tensor, Tensor], Tensor]
"""z (*, N, L), embedding (*, N, E) -> log variance of the speech (*, N, F)."""


class VisualPrior(nn.Module):
    """z | v ~ N(mu(v), diag sigma(v)): the prior network.

    Args:
        network: embedding (*, N, E) -> mean and log variance of z.
    """

    def __init__(self, network: GaussianEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, embedding: Tensor) -> dist.TorchDistribution:
        """p(z | v), batch shape (*, N), event shape (L,)."""
        z = self.network(embedding)
        return dist.Normal(z.mean, z.scale, validate_args=False).to_event(1)


class AVVAE(SpeechModel):
    """AV-VAE with replaceable parts.

    Args:
        lips: trunk, visual (*, N, D) -> embedding (*, N, E).
        prior: embedding -> p(z | v); `StandardNormal` for the variant with z ~ N(0, I).
        decoder: z and embedding -> log variance of the speech (*, N, F).
    """

    def __init__(self, lips: Trunk, prior: ConditionalPrior, decoder: ConditionalDecoder) -> None:
        super().__init__()
        self.lips = lips
        self.prior = prior
        self.decoder = decoder

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """z ~ p(z | v); returns log sigma(z, v)."""
        embedding = self.lips(visual)
        z = pyro.sample(Z, self.prior(embedding))
        return self.decoder(z, embedding)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`; the embedding and p(z | v) are computed once."""
        embedding = self.lips(visual)
        return SingleComponent(self.prior(embedding), decoder_given(self.decoder, embedding))
