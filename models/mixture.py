"""Two components that alpha chooses between: the prior of z given alpha, and the log odds of alpha itself.

    alpha_n ~ Bernoulli(pi)
    z_n | alpha_n ~ p_1 where alpha_n = 1, p_0 where alpha_n = 0

z given alpha is Pyro's `MaskedMixture`, whose divergences are registered here, so that a closed-form KL
survives enumeration of alpha. pi may be 0 or 1.
"""

import torch
from pyro.distributions import MaskedMixture, TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.nn.functional import logsigmoid

MAX_LOG_ODDS = 1e30
"""Log odds of probability 1: finite, so that 0 times it is 0 and sums over alpha are not NaN."""


def bounded_logit(pi: Tensor) -> Tensor:
    """log(pi / (1 - pi)) for pi in [0, 1], at most `MAX_LOG_ODDS` in size."""
    return torch.logit(pi).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)


def mixture_log_prior(log_odds: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """log p(alpha) + log p(z | alpha), alpha = 0 first: (2, *, N).

    Args:
        log_odds: log p(alpha = 1) - log p(alpha = 0), () or (*, N).
        first: log p(z | alpha = 1), (*, N).
        second: log p(z | alpha = 0), (*, N).
    """
    return torch.stack([second + logsigmoid(-log_odds), first + logsigmoid(log_odds)])


class ExpandableMixture(MaskedMixture):
    """Pyro's `MaskedMixture`, which stays one when it is expanded: torch looks up divergences by type."""

    @property
    def support(self) -> constraints.Constraint:
        """The support of both components, which samplers use to transform z."""
        return self.component1.support

    def expand(self, batch_shape: torch.Size, _instance: Distribution | None = None) -> "ExpandableMixture":
        """The same distribution over a larger batch."""
        mask, components = self.mask.expand(batch_shape), (self.component0, self.component1)
        return ExpandableMixture(mask, *(component.expand(batch_shape) for component in components))


def given_alpha(alpha: Tensor, first: TorchDistribution, second: TorchDistribution) -> ExpandableMixture:
    """The distribution `first` where alpha = 1, `second` where alpha = 0.

    With alpha enumerated, as (2, 1), both are evaluated: batch shape (2, N).

    Args:
        alpha: 0 or 1, of the batch shape or broadcast with it.
        first: event shape (L,), batch shape (*, N) or fewer dimensions.
        second: likewise.
    """
    return ExpandableMixture(alpha > 0.5, second, first, validate_args=False)


@register_kl(ExpandableMixture, ExpandableMixture)
@register_kl(ExpandableMixture, Distribution)
def _kl_of_mixture(q: ExpandableMixture, p: Distribution) -> Tensor:
    """KL(q_alpha || p), for any other p."""
    return torch.where(q.mask, kl_divergence(q.component1, p), kl_divergence(q.component0, p))


@register_kl(Distribution, ExpandableMixture)
def _kl_to_mixture(q: Distribution, p: ExpandableMixture) -> Tensor:
    """KL(q || p_alpha), for a q that is not a mixture."""
    return torch.where(p.mask, kl_divergence(q, p.component1), kl_divergence(q, p.component0))
