"""A-VAE: a speech model without lips.

    z_n ~ N(0, I)
    s_fn | z_n ~ N_c(0, sigma_f(z_n))

Bando et al., ICASSP 2018; Leglaive, Girin, Horaud, MLSP 2018; Sadeghi et al., TASLP 2020 (arXiv 1908.02590).
The prior and the decoder are arguments of the constructor; other models override `latent`.
"""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from avse.models.base import ConditionedSpeech, SingleComponent, SpeechModel, decoder_given
from avse.models.sites import Z

Prior = Callable[[], dist.TorchDistribution]
"""Returns the distribution of z in a frame, event shape (L,)."""

Decoder = Callable[[Tensor], Tensor]
"""z (*, N, L) -> log variance of the speech (*, N, F)."""


class StandardNormal(nn.Module):
    """z ~ N(0, I)."""

    zero: Tensor

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_size), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """-|z|^2 / 2 - L / 2 log(2 pi): (*, N, L) -> (*, N), without making the distribution."""
        return z.square().sum(-1).mul_(-0.5).sub_(z.shape[-1] / 2 * math.log(2 * math.pi))

    def forward(self, embedding: Tensor | None = None) -> dist.TorchDistribution:
        """N(0, I) over L dimensions, independent of the lips."""
        return dist.Normal(self.zero, torch.ones_like(self.zero), validate_args=False).to_event(1)


class AVAE(SpeechModel):
    """A-VAE with a replaceable prior and decoder.

    Args:
        prior: returns p(z), event shape (L,).
        decoder: z (*, N, L) -> log variance of the speech (*, N, F).
    """

    def __init__(self, prior: Prior, decoder: Decoder) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """z ~ p(z); returns log sigma(z). `visual` is not used."""
        z = pyro.sample(Z, self.prior())
        return self.decoder(z)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`; p(z) is computed once."""
        return SingleComponent(self._density(), decoder_given(self.decoder))

    def _density(self) -> StandardNormal | dist.TorchDistribution:
        """The density p(z)."""
        return self.prior if isinstance(self.prior, StandardNormal) else self.prior()
