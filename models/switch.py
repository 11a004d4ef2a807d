"""What alpha switches: the prior of z in a mixture of two components, and the log odds of alpha itself.

    alpha_n ~ Bernoulli(pi)
    z_n | alpha_n ~ p_1 where alpha_n = 1, p_0 where alpha_n = 0

Both ends of pi are allowed, and alpha may be enumerated.
"""

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.nn.functional import logsigmoid

NEVER = 1e30
"""-log p of what cannot be: finite, so that 0 times it is 0 and no sum over alpha turns into NaN."""


def log_odds_of(pi: Tensor) -> Tensor:
    """log(pi / (1 - pi)) for pi in [0, 1], at most `NEVER` in size."""
    return torch.logit(pi).clamp(-NEVER, NEVER)


def mixture_log_prior(log_odds: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """log p(alpha) + log p(z | alpha), alpha = 0 first: (2, *, N).

    Args:
        log_odds: log p(alpha = 1) - log p(alpha = 0), () or (*, N).
        first: log p(z | alpha = 1), (*, N).
        second: log p(z | alpha = 0), (*, N).
    """
    return torch.stack([second + logsigmoid(-log_odds), first + logsigmoid(log_odds)])


class Switch(TorchDistribution):
    """The distribution `first` where alpha = 1, `second` where alpha = 0; torch knows its divergences.

    With alpha enumerated, as (2, 1), it is both at once: batch shape (2, N). What a draw takes from either is
    differentiable if both are.

    Args:
        alpha: 0 or 1, of the batch shape or broadcast with it.
        first: event shape (L,), batch shape (*, N) or fewer dimensions.
        second: likewise.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, alpha: Tensor, first: TorchDistribution, second: TorchDistribution) -> None:
        batch_shape = torch.broadcast_shapes(alpha.shape, first.batch_shape, second.batch_shape)
        self.alpha = alpha.expand(batch_shape)
        self.first = first.expand(batch_shape)
        self.second = second.expand(batch_shape)
        super().__init__(batch_shape, first.event_shape, validate_args=False)

    def expand(self, batch_shape: Size, _instance: Distribution | None = None) -> "Switch":
        """The same distribution over a larger batch."""
        return Switch(
            self.alpha.expand(batch_shape), self.first.expand(batch_shape), self.second.expand(batch_shape)
        )

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether both can be differentiated through."""
        return bool(self.first.has_rsample and self.second.has_rsample)

    @property
    def support(self) -> constraints.Constraint:
        """That of `first`."""
        return self.first.support

    @property
    def mean(self) -> Tensor:
        """E[z | alpha], batch and event shape."""
        return self._event(self.first.mean, self.second.mean)

    @property
    def variance(self) -> Tensor:
        """Var[z | alpha], batch and event shape."""
        return self._event(self.first.variance, self.second.variance)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """A draw of the component that alpha chooses."""
        return self._event(self.first.rsample(sample_shape), self.second.rsample(sample_shape))

    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """As `rsample`, without gradient."""
        with torch.no_grad():
            return self._event(self.first.sample(sample_shape), self.second.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p_alpha(value), batch shape."""
        return torch.where(self.alpha > 0.5, self.first.log_prob(value), self.second.log_prob(value))

    def _event(self, first: Tensor, second: Tensor) -> Tensor:
        alpha = self.alpha.reshape(*self.alpha.shape, *[1] * self.event_dim)
        return torch.where(alpha > 0.5, first, second)


@register_kl(Switch, Switch)
@register_kl(Switch, Distribution)
def _from_switch(q: Switch, p: Distribution) -> Tensor:
    """KL(q_alpha || p), of whatever p."""
    return torch.where(q.alpha > 0.5, kl_divergence(q.first, p), kl_divergence(q.second, p))


@register_kl(Distribution, Switch)
def _to_switch(q: Distribution, p: Switch) -> Tensor:
    """KL(q || p_alpha), of q that is no switch."""
    return torch.where(p.alpha > 0.5, kl_divergence(q, p.first), kl_divergence(q, p.second))
