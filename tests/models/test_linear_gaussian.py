"""The linear Gaussian model against conditioning of the joint normal and against quadrature."""

import pytest
import torch
from torch import Tensor

from avse.models.linear_gaussian import LinearGaussian

F, L, N = 4, 2, 50


@pytest.fixture
def model(generator: torch.Generator) -> LinearGaussian:
    A = torch.randn(F, L, generator=generator, dtype=torch.float64)
    mu = torch.randn(F, generator=generator, dtype=torch.float64)
    return LinearGaussian(A, mu, torch.tensor(0.3, dtype=torch.float64))


@pytest.fixture
def s(model: LinearGaussian) -> Tensor:
    return model(frames=N)


def test_posterior_is_the_conditional_of_the_joint_normal(model: LinearGaussian, s: Tensor) -> None:
    """Sigma_zz - Sigma_zs Sigma_ss^-1 Sigma_sz, from the covariance of (z, s)."""
    cross = model.A.T
    total = model.A @ model.A.T + model.sigma * torch.eye(F, dtype=torch.float64)
    regression = torch.linalg.solve(total, cross.T).T
    mean, covariance = model.posterior(s)
    torch.testing.assert_close(mean, (s - model.mu) @ regression.T)
    torch.testing.assert_close(covariance, torch.eye(L, dtype=torch.float64) - regression @ cross.T)


def test_evidence_and_posterior_by_quadrature(model: LinearGaussian, s: Tensor) -> None:
    """The joint, as its trace scores it, summed over a grid of z."""
    from avse.inference.mcmc.log_density import frame_log_joint

    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, None]  # (G, 1, L)
    some = s[:3]
    joint = frame_log_joint(model, grid.expand(-1, 3, -1), s=some)[0]
    cell = (axis[1] - axis[0]).square().log()
    torch.testing.assert_close(joint.logsumexp(0) + cell, model.log_evidence(some), rtol=1e-9, atol=1e-9)
    weights = joint.softmax(0)
    mean = torch.einsum("gn,gl->nl", weights, grid[:, 0])
    second = torch.einsum("gn,gl,gm->nlm", weights, grid[:, 0], grid[:, 0])
    posterior = model.posterior(some)
    torch.testing.assert_close(mean, posterior.mean, rtol=1e-9, atol=1e-9)
    spread = second - mean[:, :, None] * mean[:, None]
    torch.testing.assert_close(spread, posterior.covariance.expand(3, L, L), rtol=1e-8, atol=1e-8)


def test_sampling_matches_the_evidence(model: LinearGaussian) -> None:
    """Mean of log p(s) over draws is minus the entropy; |z| < 4.5, false alarms 7e-6."""
    log_evidence = model.log_evidence(model(frames=100_000))
    total = model.A @ model.A.T + model.sigma * torch.eye(F, dtype=torch.float64)
    entropy = torch.distributions.MultivariateNormal(model.mu, total).entropy()
    z = (log_evidence.mean() + entropy) / (log_evidence.std() / 100_000**0.5)
    assert abs(float(z)) < 4.5


def expected_joint(model: LinearGaussian, s: Tensor, mean: Tensor, second: Tensor) -> Tensor:
    """E sum_n log p(s_n, z_n) up to a constant, written out."""
    residual = s - model.mu
    square = (
        residual.square().sum()
        - 2 * (residual * (mean @ model.A.T)).sum()
        + torch.trace(model.A @ second @ model.A.T)
    )
    return -(s.numel() * model.sigma.log() + square / model.sigma) / 2


def moments(model: LinearGaussian, s: Tensor) -> tuple[Tensor, Tensor]:
    mean, covariance = model.posterior(s)
    return mean, mean.T @ mean + len(s) * covariance


def test_maximised_is_a_maximum(model: LinearGaussian, s: Tensor, generator: torch.Generator) -> None:
    mean, second = moments(model, s)
    best = model.maximised(s, mean, second)
    highest = expected_joint(best, s, mean, second)
    assert highest > expected_joint(model, s, mean, second)
    for _ in range(50):
        shifts = [
            0.01 * torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in ((F, L), (F,), ())
        ]
        near = LinearGaussian(best.A + shifts[0], best.mu + shifts[1], best.sigma * shifts[2].exp())
        assert expected_joint(near, s, mean, second) < highest
    parts = [t.clone().requires_grad_() for t in (best.A, best.mu, best.sigma)]
    gradients = torch.autograd.grad(expected_joint(LinearGaussian(*parts), s, mean, second), parts)
    assert max(float(g.abs().max()) for g in gradients) < 1e-8


def test_exact_em_never_lowers_the_evidence(s: Tensor, generator: torch.Generator) -> None:
    start = torch.randn(F, L, generator=generator, dtype=torch.float64)
    model = LinearGaussian(start, torch.zeros(F, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    evidence = [model.log_evidence(s).sum()]
    for _ in range(200):
        model = model.maximised(s, *moments(model, s))
        evidence.append(model.log_evidence(s).sum())
    steps = torch.stack(evidence).diff()
    assert steps.min() > -1e-9
    assert steps[0] > 1
    assert abs(float(steps[-1])) < 1e-3


def test_a_wrong_e_step_lowers_the_evidence(s: Tensor, model: LinearGaussian) -> None:
    """Negative control: without the posterior covariance it is not EM, and the same check sees it."""
    for _ in range(200):
        model = model.maximised(s, *moments(model, s))
    mean, _ = model.posterior(s)
    wrong = model.maximised(s, mean, mean.T @ mean)
    assert wrong.log_evidence(s).sum() < model.log_evidence(s).sum() - 1e-3
