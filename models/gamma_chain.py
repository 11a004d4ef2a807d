"""A positive Markov chain: Gamma increments around the previous value."""

from typing import ClassVar

import torch
from pyro.distributions import Gamma, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class GammaChain(TorchDistribution):
    """h_1 ~ Gamma(c, c / m), h_n | h_n-1 ~ Gamma(k, k / h_n-1): E h_n = m, event shape (N,).

    The chains of Févotte, Bertin, Durrieu (Neural Computation 2009) put their mode at the previous value;
    here it is the mean, so that all frames have the same mean.

    Args:
        shape: c, 1 over the relative variance of h_1.
        level: m, (*).
        coupling: k, 1 over the relative variance of h_n around h_n-1.
        length: N.
    """

    arg_constraints: ClassVar = {"level": constraints.positive}
    support = constraints.independent(constraints.positive, 1)
    has_rsample = True

    def __init__(
        self, shape: float, level: Tensor, coupling: float, length: int, validate_args: bool | None = None
    ) -> None:
        self.shape_parameter, self.level, self.coupling, self.length = shape, level, coupling, length
        super().__init__(level.shape, Size([length]), validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: "GammaChain | None" = None) -> "GammaChain":
        """The same distribution over a larger batch."""
        new = self._get_checked_instance(GammaChain, _instance)
        new.shape_parameter, new.coupling, new.length = self.shape_parameter, self.coupling, self.length
        new.level = self.level.expand(batch_shape)
        super(GammaChain, new).__init__(new.level.shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E h_n = m, (*, N)."""
        return self.level.unsqueeze(-1).expand(*self.batch_shape, self.length)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """m e_1 .. e_n with e_1 ~ Gamma(c, c) and the other e_n ~ Gamma(k, k)."""
        shapes = self.level.new_full((self.length,), self.coupling)
        shapes[0] = self.shape_parameter
        steps = Gamma(shapes, shapes).expand(self._extended_shape(sample_shape)).rsample()
        smallest = torch.finfo(steps.dtype).tiny
        return (self.level.unsqueeze(-1) * steps.cumprod(-1)).clamp_min(smallest)

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum of the log densities of the N steps, (*)."""
        if self._validate_args:
            self._validate_sample(value)
        first = self.level.new_tensor(self.shape_parameter)
        step = self.level.new_tensor(self.coupling)
        start = Gamma(first, first / self.level, validate_args=False).log_prob(value[..., 0])
        steps = Gamma(step, step / value[..., :-1], validate_args=False).log_prob(value[..., 1:])
        return start + steps.sum(-1)
