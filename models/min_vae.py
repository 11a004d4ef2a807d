"""MIN-VAE, mixture of inference networks: one decoder, and a prior of z for each of two encoders.

    alpha_n ~ Bernoulli(pi)
    z_n | alpha_n ~ N(mu_a, sigma_a I) where alpha_n = 1, N(mu_v, sigma_v I) where alpha_n = 0
    s_fn | z_n ~ N_c(0, sigma_f(z_n))                version 1: the decoder depends on z
    s_fn | z_n, v_n ~ N_c(0, sigma_f(z_n, v_n))      version 2: on z and the lips

Its guide is `avse.guides.mixture.MixtureGuide`: q(z | s) for alpha = 1, q(z | v) for alpha = 0. Sadeghi,
Alameda-Pineda, IEEE Transactions on Signal Processing 2021 (arXiv 1912.10647).

Difference from the papers: pi is trained as an unbounded log odds. alpha is summed out exactly, so that the
gradient of pi, sum_n (r_n - pi), is exact, and zero at the papers' update pi = mean r_n. pi
reaches neither 0 nor 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.models.av_vae import Trunk
from avse.models.base import ConditionedSpeech, Evaluation, SpeechModel, decoder_given
from avse.models.mixture import mixture_log_prior
from avse.models.sites import ALPHA, Z


class MINVAE(SpeechModel):
    """MIN-VAE with a replaceable decoder.

    Both priors start as N(0, I), the prior of A- and V-VAEs; to initialise with their weights, as in the
    papers, pass their parts:

        model = MINVAE(32, v_vae.model.decoder)                                      # version 1
        model = MINVAE(32, av_vae.model.decoder, av_vae.model.lips)                  # version 2
        guide = MixtureGuide(a_vae.guide, v_vae.guide, OptimalResponsibilities(model))

    Args:
        latent_size: L.
        decoder: z (*, N, L) -> log variance of the speech (*, N, F); with `lips`, of z and the embedding.
        lips: trunk, visual (*, N, D) -> embedding (*, N, E), for version 2.
        pi: initial probability of alpha = 1, strictly between 0 and 1.

    Attributes:
        audio_mean, visual_mean: mu_a and mu_v, (L,).
        audio_log_variance, visual_log_variance: log sigma_a and log sigma_v, ().
        log_odds: log(pi / (1 - pi)), ().

    Raises:
        InputError: pi is not strictly between 0 and 1.
    """

    def __init__(
        self,
        latent_size: int,
        decoder: Callable[..., Tensor],
        lips: Trunk | None = None,
        pi: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < pi < 1:
            raise InputError(f"pi = {pi}: a trained probability must be initialised strictly between 0 and 1")
        self.decoder = decoder
        self.lips = lips
        self.audio_mean = nn.Parameter(torch.zeros(latent_size))
        self.visual_mean = nn.Parameter(torch.zeros(latent_size))
        self.audio_log_variance = nn.Parameter(torch.zeros(()))
        self.visual_log_variance = nn.Parameter(torch.zeros(()))
        self.log_odds = nn.Parameter(torch.tensor(math.log(pi / (1 - pi))))

    def alpha_logit(self, visual: Tensor | None = None) -> Tensor:
        """log(pi / (1 - pi)), ()."""
        return self.log_odds

    @property
    def pi(self) -> Tensor:
        """Probability of alpha = 1, ()."""
        return self.log_odds.sigmoid()

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """alpha ~ Bernoulli(pi), z ~ N(mu_alpha, sigma_alpha I); returns log sigma(z) or log sigma(z, v)."""
        alpha = pyro.sample(ALPHA, dist.Bernoulli(logits=self.log_odds), infer={"enumerate": "parallel"})
        is_audio = alpha.unsqueeze(-1) > 0.5
        mean = torch.where(is_audio, self.audio_mean, self.visual_mean)
        log_variance = torch.where(is_audio, self.audio_log_variance, self.visual_log_variance)
        z = pyro.sample(Z, _normal(mean, log_variance))
        return self.decoder(z) if self.lips is None else self.decoder(z, self.lips(visual))

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`; both priors and the embedding are computed once."""
        embedding = () if self.lips is None else (self.lips(visual),)
        return SharedDecoder(
            log_odds=self.log_odds,
            audio=_normal(self.audio_mean, self.audio_log_variance),
            visual=_normal(self.visual_mean, self.visual_log_variance),
            decode=decoder_given(self.decoder, *embedding),
        )


@dataclass(frozen=True)
class SharedDecoder(ConditionedSpeech):
    """A prior of z for each of two values of alpha, and one decoder: z is decoded once for both.

    Args:
        log_odds: log(pi / (1 - pi)), ().
        audio: p(z | alpha = 1).
        visual: p(z | alpha = 0).
        decode: z (*, N, L) -> log variance of the speech (*, N, F).
    """

    log_odds: Tensor
    audio: dist.TorchDistribution
    visual: dist.TorchDistribution
    decode: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`: A = 2, alpha = 0 first."""
        log_variance = self.decode(z)
        return Evaluation(self.log_prior(z, z), log_variance.expand(2, *log_variance.shape))

    def each(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.each`: both z (2, *, N, L) are decoded in one call."""
        return Evaluation(self.log_prior(z[1], z[0]), self.decode(z))

    def log_prior(self, first: Tensor, second: Tensor) -> Tensor:
        """log p(alpha) + log p(z | alpha), (2, *, N), at a z (*, N, L) of alpha = 1 and one of alpha = 0."""
        return mixture_log_prior(self.log_odds, self.audio.log_prob(first), self.visual.log_prob(second))


def _normal(mean: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    """N(mean, exp(log_variance) I): mean (*, L), log variance () or (*, 1)."""
    return dist.Normal(mean, torch.exp(log_variance / 2), validate_args=False).to_event(1)
