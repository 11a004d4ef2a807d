"""Components that alpha chooses between: alpha itself, and the distribution of z given alpha.

    alpha_n ~ Bernoulli(pi) for two components, Categorical(pi_0, .., pi_{K-1}) for more
    z_n | alpha_n = k ~ p_k

The components stand in the order of alpha in every list and tensor here, alpha = 0 first. The divergences of
z given alpha are registered, so that a closed-form KL survives enumeration of alpha. Probabilities may be 0.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

MAX_LOG_ODDS = 1e30
"""Log odds of probability 1: finite, so that 0 times it is 0 and sums over alpha are not NaN."""

NO_SHAPE = torch.Size()
"""Of a single draw."""


def bounded_logit(pi: Tensor) -> Tensor:
    """log(pi / (1 - pi)) for pi in [0, 1], at most `MAX_LOG_ODDS` in size."""
    return torch.logit(pi).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)


def bounded_log(pi: Tensor) -> Tensor:
    """log pi for pi in [0, 1], at least -`MAX_LOG_ODDS`."""
    return pi.log().clamp_min(-MAX_LOG_ODDS)


def distribution_of_alpha(logits: Tensor) -> TorchDistribution:
    """p(alpha) from log probabilities up to a constant, (K,) or (K, *, N), alpha = 0 first.

    Bernoulli for K = 2, so that alpha is 0.0 or 1.0 as in the papers; Categorical for more, 0 to K - 1.
    """
    if len(logits) == 2:
        return dist.Bernoulli(logits=logits[1] - logits[0])
    return dist.Categorical(logits=logits.movedim(0, -1))


def mixture_log_prior(log_alpha: Sequence[Tensor] | Tensor, log_priors: Sequence[Tensor]) -> Tensor:
    """log p(alpha) + log p(z | alpha), (K, *, N).

    Args:
        log_alpha: log p(alpha), K tensors () or (*, N).
        log_priors: log p(z | alpha), K tensors (*, N).
    """
    return torch.stack([z + own for z, own in zip(log_priors, log_alpha, strict=True)])


def selected(alpha: Tensor, values: Sequence[Tensor], event_dim: int = 0) -> Tensor:
    """The values of the component that alpha names, (*, N, ..).

    Args:
        alpha: 0 to K - 1, (*, N), of the batch shape of the values or broadcast with it.
        values: of every component, with `event_dim` dimensions right of the batch.
        event_dim: their number.
    """
    index = alpha.round().reshape((*alpha.shape, *[1] * event_dim))
    found = values[0]
    for number, own in enumerate(values[1:], 1):
        found = torch.where(index == number, own, found)
    return found


class SelectedDistribution(TorchDistribution):
    """The distribution that alpha names in a list. With alpha enumerated, as (K, 1), all are evaluated.

    Args:
        alpha: 0 to K - 1, of the batch shape or broadcast with it.
        components: K distributions of the same event shape, batch shape (*, N) or fewer dimensions.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, alpha: Tensor, components: Sequence[TorchDistribution]) -> None:
        batch = torch.Size(broadcast_shape(alpha.shape, *(component.batch_shape for component in components)))
        self.alpha = alpha.expand(batch)
        # New ones, even where the batch is the same: those of the caller go on to check their values.
        self.components = [component.expand(batch) for component in components]
        for component in self.components:
            component._validate_args = False  # a value is in the support of the selected one alone
        super().__init__(batch, components[0].event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether every component has."""
        return all(component.has_rsample for component in self.components)

    @property
    def support(self) -> constraints.Constraint:
        """That of the last component; samplers, which use it to transform z, need one that all share."""
        return self.components[-1].support

    def expand(
        self, batch_shape: torch.Size, _instance: Distribution | None = None
    ) -> "SelectedDistribution":
        """The same distribution over a larger batch."""
        parts = [component.expand(batch_shape) for component in self.components]
        return SelectedDistribution(self.alpha.expand(batch_shape), parts)

    def _selected(self, values: Sequence[Tensor]) -> Tensor:
        return selected(self.alpha, values, values[0].dim() - self.alpha.dim())

    def _drawn(self, draw: Callable[[TorchDistribution], Tensor], sample_shape: torch.Size) -> Tensor:
        drawn = [draw(component) for component in reversed(self.components)][::-1]
        return selected(self.alpha.expand((*sample_shape, *self.batch_shape)), drawn, len(self.event_shape))

    def sample(self, sample_shape: torch.Size = NO_SHAPE) -> Tensor:
        """A draw (*sample_shape, *, L), without gradient."""
        return self._drawn(lambda component: component.sample(sample_shape), sample_shape)

    def rsample(self, sample_shape: torch.Size = NO_SHAPE) -> Tensor:
        """A draw (*sample_shape, *, L) with the gradient of the selected component."""
        return self._drawn(lambda component: component.rsample(sample_shape), sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the selected component, (*, N)."""
        value = value.expand(broadcast_shape(value.shape, self.shape()))
        return selected(self.alpha, [component.log_prob(value) for component in self.components])

    @property
    def mean(self) -> Tensor:
        """Mean of the selected component, (*, N, L)."""
        return self._selected([component.mean for component in self.components])

    @property
    def variance(self) -> Tensor:
        """Variance of the selected component, (*, N, L)."""
        return self._selected([component.variance for component in self.components])


@register_kl(SelectedDistribution, SelectedDistribution)
@register_kl(SelectedDistribution, Distribution)
def _kl_of_selected(q: SelectedDistribution, p: Distribution) -> Tensor:
    """KL(q_alpha || p), for any p."""
    return selected(q.alpha, [kl_divergence(component, p) for component in q.components])


@register_kl(Distribution, SelectedDistribution)
def _kl_to_selected(q: Distribution, p: SelectedDistribution) -> Tensor:
    """KL(q || p_alpha), for a q without alpha."""
    return selected(p.alpha, [kl_divergence(q, component) for component in p.components])
