"""MIN-VAE, mixture of inference networks: one decoder, and a prior of z for each of two encoders.

    alpha_n ~ Bernoulli(pi)
    z_n | alpha_n ~ N(mu_a, sigma_a I) where alpha_n = 1, N(mu_v, sigma_v I) where alpha_n = 0
    s_fn | z_n ~ N_c(0, sigma_f(z_n))                version 1: the decoder depends on z
    s_fn | z_n, v_n ~ N_c(0, sigma_f(z_n, v_n))      version 2: on z and the lips

Its guide is `avse.guides.mixture.MixtureGuide`: q(z | s) for alpha = 1, q(z | v) for alpha = 0. Sadeghi,
Alameda-Pineda, IEEE Transactions on Signal Processing 2021 (arXiv 1912.10647).

Differences from the papers: any number of encoders, each with a prior of its own. pi is trained as unbounded
log odds. alpha is summed out exactly, so that the gradient of pi, sum_n (r_n - pi), is exact, and zero at the
papers' update pi = mean r_n. pi reaches neither 0 nor 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.models.av_vae import Trunk
from avse.models.base import ConditionedSpeech, Evaluation, SpeechModel, decoder_given
from avse.models.mixture import distribution_of_alpha, mixture_log_prior
from avse.models.sites import ALPHA, Z


class MINVAE(SpeechModel):
    """MIN-VAE with a replaceable decoder.

    All priors start as N(0, I), the prior of A- and V-VAEs; to initialise with their weights, as in the
    papers, pass their parts:

        model = MINVAE(32, v_vae.model.decoder)                                      # version 1
        model = MINVAE(32, av_vae.model.decoder, av_vae.model.lips)                  # version 2
        guide = MixtureGuide(a_vae.guide, v_vae.guide, responsibilities=OptimalResponsibilities(model))

    A third encoder, of sound and lips together, has the smallest alpha here:

        model = MINVAE(32, decoder, encoders=("audio", "visual", "audio_visual"))
        guides = a_vae.guide, v_vae.guide, av_vae.guide
        guide = MixtureGuide(*guides, responsibilities=OptimalResponsibilities(model))

    Args:
        latent_size: L.
        decoder: z (*, N, L) -> log variance of the speech (*, N, F); with `lips`, of z and the embedding.
        lips: trunk, visual (*, N, D) -> embedding (*, N, E), for version 2.
        pi: initial probability of each encoder, in their order, strictly between 0 and 1, or of the first of
            two; all equal by default.
        encoders: names of the K encoders from alpha = K - 1 down to alpha = 0, which name their parameters.

    Attributes:
        audio_mean, visual_mean: mu_a and mu_v, (L,); likewise of other names.
        audio_log_variance, visual_log_variance: log sigma_a and log sigma_v, ().
        log_odds: log(pi / (1 - pi)), () for two encoders; for more, log(pi_k / pi_0) of alpha = 1 to K - 1,
            (K - 1,).

    Raises:
        InputError: pi are no probabilities strictly between 0 and 1 that sum to 1, or names are equal.
    """

    audio_mean: nn.Parameter
    audio_log_variance: nn.Parameter
    visual_mean: nn.Parameter
    visual_log_variance: nn.Parameter

    def __init__(
        self,
        latent_size: int,
        decoder: Callable[..., Tensor],
        lips: Trunk | None = None,
        pi: float | Sequence[float] | None = None,
        encoders: Sequence[str] = ("audio", "visual"),
    ) -> None:
        super().__init__()
        if len(encoders) < 2 or len(set(encoders)) < len(encoders):
            raise InputError(f"encoders {tuple(encoders)}: give two or more, with different names")
        log_pi = _initial_log_pi(pi, len(encoders))
        self.decoder = decoder
        self.lips = lips
        self.encoders = tuple(encoders)
        for name in encoders:
            setattr(self, f"{name}_mean", nn.Parameter(torch.zeros(latent_size)))
        for name in encoders:
            setattr(self, f"{name}_log_variance", nn.Parameter(torch.zeros(())))
        log_odds = torch.tensor([own - log_pi[-1] for own in log_pi[-2::-1]])
        self.log_odds = nn.Parameter(log_odds[0] if len(encoders) == 2 else log_odds)

    def alpha_logits(self) -> Tensor:
        """log p(alpha) up to a constant, alpha = 0 first, (K,)."""
        odds = self.log_odds.reshape(-1)
        return torch.cat([torch.zeros_like(odds[:1]), odds])

    def log_alpha(self, visual: Tensor | None = None) -> Tensor:
        """As `SpeechModel.log_alpha`, (K,)."""
        return self.alpha_logits().log_softmax(0)

    def alpha_logit(self, visual: Tensor | None = None) -> Tensor | None:
        """log(pi / (1 - pi)), (), of two encoders; None for more."""
        return self.log_odds if len(self.encoders) == 2 else None

    @property
    def pi(self) -> Tensor:
        """Probability of alpha = 1, (), of two encoders; of each encoder, in their order, (K,), for more."""
        return self.log_odds.sigmoid() if len(self.encoders) == 2 else self.alpha_logits().softmax(0).flip(0)

    def priors(self) -> tuple[Tensor, Tensor]:
        """Means (K, L) and log variances (K, 1) of p(z | alpha), alpha = 0 first."""
        means, log_variances = (
            torch.stack([getattr(self, f"{name}_{part}") for name in reversed(self.encoders)])
            for part in ("mean", "log_variance")
        )
        return means, log_variances.unsqueeze(-1)

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """alpha ~ p(alpha), z ~ N(mu_alpha, sigma_alpha I); returns log sigma(z) or log sigma(z, v)."""
        alpha = pyro.sample(
            ALPHA, distribution_of_alpha(self.alpha_logits()), infer={"enumerate": "parallel"}
        )
        index = alpha.round().long()
        z = pyro.sample(Z, _normal(*(values[index] for values in self.priors())))
        return self.decoder(z) if self.lips is None else self.decoder(z, self.lips(visual))

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`; all priors and the embedding are computed once."""
        embedding = () if self.lips is None else (self.lips(visual),)
        return SharedDecoder(
            log_alpha=self.log_alpha(),
            priors=[_normal(mean, log_variance) for mean, log_variance in zip(*self.priors(), strict=True)],
            decode=decoder_given(self.decoder, *embedding),
        )


@dataclass(frozen=True)
class SharedDecoder(ConditionedSpeech):
    """A prior of z for each of K values of alpha, and one decoder: z is decoded once for all.

    Args:
        log_alpha: log p(alpha), alpha = 0 first, (K,).
        priors: p(z | alpha), alpha = 0 first.
        decode: z (*, N, L) -> log variance of the speech (*, N, F).
    """

    log_alpha: Tensor
    priors: Sequence[dist.TorchDistribution]
    decode: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`: A = K."""
        log_variance = self.decode(z)
        values = len(self.priors)
        return Evaluation(self.log_prior([z] * values), log_variance.expand(values, *log_variance.shape))

    def each(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.each`: all z (K, *, N, L) are decoded in one call."""
        return Evaluation(self.log_prior(z), self.decode(z))

    def log_prior(self, z: Sequence[Tensor] | Tensor) -> Tensor:
        """log p(alpha) + log p(z | alpha), (K, *, N), at a z (*, N, L) of every alpha."""
        log_priors = [prior.log_prob(own) for prior, own in zip(self.priors, z, strict=True)]
        return mixture_log_prior(self.log_alpha, log_priors)


def _initial_log_pi(pi: float | Sequence[float] | None, encoders: int) -> list[float]:
    """log pi of every encoder, in their order.

    Raises:
        InputError: not one for each encoder, not strictly between 0 and 1, or their sum is not 1.
    """
    if pi is None:
        pi = [1 / encoders] * encoders
    if isinstance(pi, int | float):
        pi = [pi, 1 - pi]
    if len(pi) != encoders:
        raise InputError(f"pi = {pi}: give one probability for each of the {encoders} encoders")
    if not all(0 < each < 1 for each in pi):
        raise InputError(f"pi = {pi}: a trained probability must be initialised strictly between 0 and 1")
    if not math.isclose(sum(pi), 1, abs_tol=1e-4):
        raise InputError(f"pi = {pi}: the probabilities of the encoders sum to {sum(pi):g}, not to 1")
    return [math.log(each) for each in pi]


def _normal(mean: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    """N(mean, exp(log_variance) I): mean (*, L), log variance () or (*, 1)."""
    return dist.Normal(mean, torch.exp(log_variance / 2), validate_args=False).to_event(1)
