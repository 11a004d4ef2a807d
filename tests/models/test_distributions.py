"""Densities against their formulas.

Statistical checks are z-scores in float64 with fixed seeds; the bound 4.5 has a false-alarm rate of 7e-6 a
check.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from avse.models.distributions import ComplexNormal, PowerSpectrum, spectrum_cost

DRAWS = 200_000
Z_BOUND = 4.5


def z_score(draws: Tensor, truth: Tensor) -> Tensor:
    return (draws.mean(0) - truth) / (draws.std(0) / math.sqrt(len(draws)))


@pytest.fixture
def log_variance(generator: torch.Generator) -> Tensor:
    return 3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)


@pytest.fixture
def coefficients(log_variance: Tensor, generator: torch.Generator) -> Tensor:
    unit = torch.randn(4, 5, generator=generator, dtype=torch.complex128)
    return unit * (log_variance / 2).exp()


def test_power_spectrum_scores_as_an_exponential(log_variance: Tensor, coefficients: Tensor) -> None:
    power = coefficients.abs().square()
    truth = torch.distributions.Exponential(torch.exp(-log_variance)).log_prob(power)
    torch.testing.assert_close(PowerSpectrum(log_variance).log_prob(power), truth, rtol=1e-6, atol=1e-6)


def test_spectrum_cost_is_the_sum_of_what_power_spectrum_scores(
    log_variance: Tensor, coefficients: Tensor
) -> None:
    """Broadcast over leading dimensions, with and without a gradient, and on silence of any variance."""
    power = coefficients.abs().square()
    many, extreme = torch.stack([log_variance, -log_variance]), torch.tensor([[-1e3, 1e3, 0.0]]).double()
    for logs, powers in ((many, power), (many[:1].expand(2, 4, 5), power), (extreme, torch.zeros(1, 3))):
        before, truth = logs.clone(), -PowerSpectrum(logs).log_prob(powers.double()).sum(-1)
        torch.testing.assert_close(spectrum_cost(powers.double(), logs), truth)
        assert torch.equal(logs, before)  # what the model gave is left as it was
        with_gradient = logs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(spectrum_cost(powers.double(), with_gradient).sum(), with_gradient)
        expected = 1 - powers * torch.exp(-logs.clamp_min(-80))
        torch.testing.assert_close(slope, expected)


def test_power_spectrum_is_the_complex_normal_times_pi(log_variance: Tensor, coefficients: Tensor) -> None:
    power = coefficients.abs().square()
    zero = torch.zeros((), dtype=torch.complex128)
    of_power = PowerSpectrum(log_variance).log_prob(power)
    of_coefficient = ComplexNormal(zero, log_variance).log_prob(coefficients)
    torch.testing.assert_close(of_power - math.log(math.pi), of_coefficient, rtol=1e-6, atol=1e-6)


def test_complex_normal_is_two_real_normals_of_half_the_variance(
    log_variance: Tensor, coefficients: Tensor, generator: torch.Generator
) -> None:
    loc = torch.randn(5, generator=generator, dtype=torch.complex128)
    scale = (log_variance.exp() / 2).sqrt()
    truth = sum(
        torch.distributions.Normal(m, scale).log_prob(s)
        for m, s in ((loc.real, coefficients.real), (loc.imag, coefficients.imag))
    )
    ours = ComplexNormal(loc, log_variance).log_prob(coefficients)
    assert not ours.is_complex()
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-6)


def distributions(log_variance: Tensor) -> list[dist.TorchDistribution]:
    loc = torch.tensor(1.5 - 0.5j, dtype=torch.complex128)
    return [PowerSpectrum(log_variance), ComplexNormal(loc, log_variance)]


@pytest.mark.parametrize("index", [0, 1])
def test_entropy_is_the_mean_of_minus_log_prob(index: int, log_variance: Tensor) -> None:
    distribution = distributions(log_variance)[index]
    minus_log_prob = -distribution.log_prob(distribution.sample((DRAWS,)))
    assert z_score(minus_log_prob, distribution.entropy()).abs().max() < Z_BOUND
    # Negative control: the entropy of the other distribution, log(pi) away.
    wrong = distributions(log_variance)[1 - index].entropy()
    assert z_score(minus_log_prob, wrong).abs().min() > Z_BOUND


def test_moments_of_power_spectrum(log_variance: Tensor) -> None:
    distribution = PowerSpectrum(log_variance)
    draws = distribution.sample((DRAWS,))
    assert z_score(draws, distribution.mean).abs().max() < Z_BOUND
    assert z_score((draws - distribution.mean).square(), distribution.variance).abs().max() < Z_BOUND
    torch.testing.assert_close(distribution.mean, log_variance.exp())
    torch.testing.assert_close(distribution.variance, log_variance.exp().square())


def test_moments_of_complex_normal(log_variance: Tensor) -> None:
    distribution = distributions(log_variance)[1]
    centred = distribution.sample((DRAWS,)) - distribution.mean
    half = log_variance.exp() / 2
    torch.testing.assert_close(distribution.variance, 2 * half)
    zero = torch.zeros_like(half)
    checks = (
        (centred.real, zero),
        (centred.imag, zero),
        (centred.real.square(), half),
        (centred.imag.square(), half),
        (centred.real * centred.imag, zero),  # circular
    )
    for draws, truth in checks:
        assert z_score(draws, truth).abs().max() < Z_BOUND


@pytest.mark.parametrize("index", [0, 1])
def test_gradient_through_samples(index: int) -> None:
    """d E[f] / d log v by reparametrisation: f = power^2 has 4 v^2, f = |s - m|^4 as well."""
    log_variance = torch.full((DRAWS,), 0.7, dtype=torch.float64, requires_grad=True)
    distribution = distributions(log_variance)[index]
    draws = distribution.rsample()
    power = draws if index == 0 else (draws - distribution.mean).abs().square()
    (gradient,) = torch.autograd.grad(power.square().sum(), log_variance)
    truth = torch.tensor(4 * math.exp(1.4), dtype=torch.float64)
    assert z_score(gradient[:, None], truth).abs().max() < Z_BOUND


@pytest.mark.parametrize("index", [0, 1])
def test_shapes(index: int, log_variance: Tensor) -> None:
    distribution = distributions(log_variance)[index]
    expanded = distribution.expand(torch.Size((3, 4, 5)))
    assert type(expanded) is type(distribution)
    assert expanded.batch_shape == (3, 4, 5)
    assert expanded.sample((2,)).shape == (2, 3, 4, 5)
    torch.testing.assert_close(expanded.entropy()[1], distribution.entropy())
    event = expanded.to_event(1)
    assert (event.batch_shape, event.event_shape) == ((3, 4), (5,))
    value = event.sample()
    torch.testing.assert_close(event.log_prob(value), expanded.log_prob(value).sum(-1))
    assert event.log_prob(event.sample((7,))).shape == (7, 3, 4)


def test_inside_an_enumerated_plate() -> None:
    """alpha enumerated on the left chooses the variance; the trace scores each value of alpha."""
    log_variances = torch.tensor([[0.0] * 5, [2.0] * 5], dtype=torch.float64)
    power = torch.rand(4, 5, dtype=torch.float64)

    def model() -> None:
        with pyro.plate("frames", 4, dim=-1):
            alpha = pyro.sample("alpha", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            log_variance = torch.where(alpha.unsqueeze(-1) > 0, log_variances[1], log_variances[0])
            pyro.sample("s", PowerSpectrum(log_variance).to_event(1), obs=power)

    enumerated = poutine.enum(pyro.infer.config_enumerate(model), first_available_dim=-2)
    trace = poutine.trace(enumerated).get_trace()
    trace.compute_log_prob()
    for alpha in (0, 1):
        truth = PowerSpectrum(log_variances[alpha]).log_prob(power).sum(-1)
        torch.testing.assert_close(trace.nodes["s"]["log_prob"][alpha], truth)


def test_complex_power_and_real_mean_are_refused() -> None:
    with pytest.raises(TypeError, match="powers"):
        PowerSpectrum(torch.zeros(3)).log_prob(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="complex mean"):
        ComplexNormal(torch.zeros(3), torch.zeros(3))


def test_validation_refuses_negative_powers_and_nan() -> None:
    with pytest.raises(ValueError, match="support"):
        PowerSpectrum(torch.zeros(2), validate_args=True).log_prob(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="log_variance"):
        PowerSpectrum(torch.tensor([float("nan")]), validate_args=True)


def test_silence_scores_minus_log_v_with_a_finite_gradient() -> None:
    log_variance = torch.linspace(-80.0, 80.0, 9, requires_grad=True)
    score = PowerSpectrum(log_variance).log_prob(torch.zeros(9))
    torch.testing.assert_close(score, -log_variance)
    score.sum().backward()
    assert log_variance.grad is not None
    torch.testing.assert_close(log_variance.grad, -torch.ones(9))
