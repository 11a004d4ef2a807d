"""Densities of short-time spectra.

A zero-mean complex normal coefficient s ~ N_c(0, v) has log density -log(pi) - log(v) - |s|^2 / v. Its
power |s|^2 is exponential with mean v and has the same log density up to log(pi), so the models use
powers and log v: no complex numbers, no square roots, and no log(0) on digital silence.
"""

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor
from torch.distributions import constraints

MAX_LOG_VARIANCE = 80.0
"""Log precisions are limited to it, since 0 * inf would be NaN."""


class PowerSpectrum(TorchDistribution):
    """Power |s|^2 of s ~ N_c(0, v), elementwise: log p(power) = -(log v + power exp(-log v)).

    Args:
        log_variance: log v, any shape; v is a power.
    """

    arg_constraints: ClassVar = {"log_variance": constraints.real}
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, log_variance: Tensor, validate_args: bool | None = None) -> None:
        self.log_variance = log_variance
        super().__init__(log_variance.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: "PowerSpectrum | None" = None) -> "PowerSpectrum":
        """The same distribution over a larger batch."""
        new = self._get_checked_instance(PowerSpectrum, _instance)
        new.log_variance = self.log_variance.expand(batch_shape)
        super(PowerSpectrum, new).__init__(new.log_variance.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E |s|^2 = v."""
        return self.log_variance.exp()

    @property
    def variance(self) -> Tensor:
        """Var |s|^2 = v^2."""
        return (2 * self.log_variance).exp()

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """v E with E ~ Exponential(1): differentiable in log v."""
        shape = self._extended_shape(sample_shape)
        return (
            self.mean
            * torch.empty(
                shape, dtype=self.log_variance.dtype, device=self.log_variance.device
            ).exponential_()
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """-(log v + power exp(-log v)), the batch shape of value and parameter together."""
        if value.is_complex():
            raise TypeError("PowerSpectrum scores powers |s|^2, not complex coefficients")
        if self._validate_args:
            self._validate_sample(value)
        negative = -self.log_variance
        return torch.addcmul(negative, value, negative.clamp_max(MAX_LOG_VARIANCE).exp(), value=-1)

    def entropy(self) -> Tensor:
        """1 + log v."""
        return 1 + self.log_variance


class ComplexNormal(TorchDistribution):
    """Circular complex normal, elementwise: log p(s) = -log(pi) - log v - |s - m|^2 exp(-log v).

    Args:
        loc: mean m, complex.
        log_variance: log v with v = E |s - m|^2 (real and imaginary part have variance v / 2 each).
    """

    arg_constraints: ClassVar = {"log_variance": constraints.real}
    has_rsample = True

    def __init__(self, loc: Tensor, log_variance: Tensor, validate_args: bool | None = None) -> None:
        if not loc.is_complex():
            raise TypeError("ComplexNormal needs a complex mean; for real data use pyro.distributions.Normal")
        batch_shape = torch.Size(broadcast_shape(loc.shape, log_variance.shape))
        self.loc = loc.expand(batch_shape)
        self.log_variance = log_variance.expand(batch_shape)
        super().__init__(batch_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The complex plane, for which torch has no constraint: every value is accepted."""
        return _complex_plane

    def expand(self, batch_shape: Size, _instance: "ComplexNormal | None" = None) -> "ComplexNormal":
        """The same distribution over a larger batch."""
        new = self._get_checked_instance(ComplexNormal, _instance)
        new.loc = self.loc.expand(batch_shape)
        new.log_variance = self.log_variance.expand(batch_shape)
        super(ComplexNormal, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean m."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """E |s - m|^2 = v."""
        return self.log_variance.exp()

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """m + sqrt(v) e with e ~ N_c(0, 1): differentiable in m and log v."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.exp(self.log_variance / 2) * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(pi) - log v - |s - m|^2 exp(-log v), real."""
        distance = (value - self.loc).abs().square()
        return -math.log(math.pi) - self.log_variance - distance * torch.exp(-self.log_variance)

    def entropy(self) -> Tensor:
        """log(pi e v)."""
        return math.log(math.pi) + 1 + self.log_variance


class _ComplexPlane(constraints.Constraint):
    """Every complex number."""

    def check(self, value: Tensor) -> Tensor:
        return torch.ones_like(value, dtype=torch.bool)


_complex_plane = _ComplexPlane()


def spectrum_cost(power: Tensor, log_variance: Tensor) -> Tensor:
    """sum_f log v + P / v, minus the log density of `PowerSpectrum`, from log v (*, N, F): (*, N)."""
    if log_variance.requires_grad:
        return -PowerSpectrum(log_variance, validate_args=False).log_prob(power).sum(-1)
    variance = log_variance.clamp_min(-MAX_LOG_VARIANCE).exp_()
    return torch.addcdiv(log_variance, power, variance, out=variance).sum(-1)


def exponential_cost(power: Tensor, variance: Tensor) -> Tensor:
    """sum_f log V + P / V, minus the log density of the powers P (*, N, F): (*, N). May overwrite V."""
    quotient = power / variance
    if variance.requires_grad:
        return (quotient + variance.log()).sum(-1)
    return quotient.add_(variance.log_()).sum(-1)
