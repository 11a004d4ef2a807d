"""Other priors of z in a trained model: its decoder and its guide stay, p(z) is replaced.

z_n ~ p(z)        one of `avse.serve.choices.PRIORS`, the same in every frame, whatever the lips
s_fn | z_n, v_n   as trained
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.models.a_vae import AVAE, Decoder
from avse.models.av_vae import AVVAE
from avse.models.base import SpeechModel
from avse.models.sites import ALPHA, Z
from avse.serve.choices import OWN, PRIORS
from avse.zoo.pair import SpeechPair

Make = Callable[[], dist.TorchDistribution]
"""Returns the distribution of one entry of z."""


def _normal(scale: float) -> dist.TorchDistribution:
    return dist.Normal(torch.tensor(0.0), torch.tensor(scale))


INDEPENDENT: dict[str, Make] = {
    "standard": lambda: _normal(1.0),
    "narrow": lambda: _normal(0.5),
    "wide": lambda: _normal(2.0),
    "student-t": lambda: dist.StudentT(torch.tensor(5.0)),
    "laplace": lambda: dist.Laplace(torch.tensor(0.0), torch.tensor(1 / math.sqrt(2))),
}
"""Priors of independent entries."""


@dataclass(frozen=True)
class FixedPrior:
    """L independent entries of one distribution, whatever is known of the lips.

    Args:
        entry: returns the distribution of an entry.
        latent_size: L.
    """

    entry: Make
    latent_size: int

    def __call__(self, embedding: Tensor | None = None) -> dist.TorchDistribution:
        """p(z), event shape (L,)."""
        return self.entry().expand([self.latent_size]).to_event(1)


class TwoNormals(SpeechModel):
    """alpha_n ~ Bernoulli(1/2), z_n | alpha_n ~ N(0, 0.5^2 I) or N(0, 1.5^2 I), and the decoder of an A-VAE.

    Args:
        decoder: z (*, N, L) -> log variance of the speech (*, N, F).
        latent_size: L.
    """

    def __init__(self, decoder: Decoder, latent_size: int) -> None:
        super().__init__()
        self.decoder, self.latent_size = decoder, latent_size

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """Sample alpha and z; returns log sigma(z). `visual` is not used."""
        alpha = pyro.sample(ALPHA, dist.Categorical(torch.tensor([0.5, 0.5])))
        std = torch.tensor([0.5, 1.5])[alpha].unsqueeze(-1)
        z = pyro.sample(Z, dist.Normal(torch.zeros(self.latent_size), std).to_event(1))
        return self.decoder(z)


def with_prior(pair: SpeechPair, name: str) -> SpeechPair:
    """The pair with another prior of z, as a new object that shares all networks; the pair itself for "own".

    Raises:
        InputError: an unknown name, or a model whose prior cannot be replaced.
    """
    if name == OWN:
        return pair
    if name not in PRIORS:
        raise InputError(f"unknown prior: choose one of {', '.join(PRIORS)}")
    changed = copy.copy(pair)
    changed.model = _with_prior(pair.model, name, pair.config.completed().arguments["latent_size"])
    return changed


def _with_prior(model: SpeechModel, name: str, latent_size: int) -> SpeechModel:
    if isinstance(model, AVAE):
        if name == "two-normals":
            return TwoNormals(model.decoder, latent_size)
        return AVAE(FixedPrior(INDEPENDENT[name], latent_size), model.decoder)
    if isinstance(model, AVVAE) and name in INDEPENDENT:
        return AVVAE(model.lips, FixedPrior(INDEPENDENT[name], latent_size), model.decoder)
    raise InputError("the prior of this model cannot be replaced: choose a-vae or av-vae")
