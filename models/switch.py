"""What alpha switches: distributions and tensors of a mixture of two components, and the log odds of alpha.

alpha_n ~ Bernoulli(pi)
z_n | alpha_n ~ p_1 where alpha_n = 1, p_0 where alpha_n = 0
"""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, kl_divergence, register_kl
from torch.distributions.constraints import Constraint

from avse.models.speech import Evaluation

NEVER = 1e30
"""-log p of what cannot be: finite, so that 0 times it is 0 and no sum over alpha turns into NaN."""


def log_odds(pi: Tensor) -> Tensor:
    """log(pi / (1 - pi)) for pi in [0, 1], at most `NEVER` in size."""
    return torch.logit(pi).clamp(-NEVER, NEVER)


def chosen(alpha: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`first` where alpha = 1, `second` where alpha = 0: alpha (*, N), the others (*, N, ...) or fewer dims."""
    events = max(first.dim(), second.dim()) - alpha.dim()
    return torch.where(alpha.reshape(*alpha.shape, *[1] * max(events, 0)) > 0.5, first, second)


def mixed(log_odds: Tensor, first: Evaluation, second: Evaluation) -> Evaluation:
    """The evaluation of a mixture from those of its components, A = 2 with alpha = 0 first.

    Args:
        log_odds: log(pi / (1 - pi)), ().
        first: component of alpha = 1, log prior (1, *, N) and log variance (1, *, N, F).
        second: component of alpha = 0, likewise.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    log_prior = [second.log_prior + logsigmoid(-log_odds), first.log_prior + logsigmoid(log_odds)]
    return Evaluation(torch.cat(log_prior), torch.cat([second.log_variance, first.log_variance]))
