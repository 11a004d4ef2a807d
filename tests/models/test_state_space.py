"""The linear Gaussian state-space model against the joint normal; its chain against a loop over frames."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from avse.inference.mcmc.log_density import frame_log_joint
from avse.models.markov_chain import MarkovChain
from avse.models.state_space import LinearGaussianStateSpace, LinearTransition

F, L, N = 3, 2, 7


def state_space(generator: torch.Generator, size: int = L) -> LinearGaussianStateSpace:
    """Slowly changing states, seen through noise that is as loud as they are."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    B = 0.9 * torch.linalg.qr(normal(size, size)).Q
    transition = LinearTransition(normal(size), 0.5 + normal(size).exp(), B, 0.1 + 0.2 * normal(size).exp())
    return LinearGaussianStateSpace(transition, normal(F, size), normal(F), normal(()).exp())


@pytest.fixture
def model(generator: torch.Generator) -> LinearGaussianStateSpace:
    return state_space(generator)


@pytest.fixture
def s(model: LinearGaussianStateSpace) -> Tensor:
    pyro.set_rng_seed(1)
    return model(frames=N)


def joint_normal(model: LinearGaussianStateSpace, frames: int = N) -> tuple[Tensor, Tensor]:
    """Mean (N L,) and covariance (N L, N L) of z_1 .. z_N, from the solution z = (I - S)^-1 (m, w_2, ..)."""
    t, size = model.transition, model.A.shape[1]
    shift = torch.block_diag(*[t.B] * frames).roll(size, 0)
    shift[:size] = 0
    solved = torch.linalg.inv(torch.eye(frames * size, dtype=torch.float64) - shift)
    spread = torch.cat([t.p, *[t.q] * (frames - 1)]).diag()
    start = torch.cat([t.m, t.m.new_zeros((frames - 1) * size)])
    return solved @ start, solved @ spread @ solved.T


def exact_posterior(model: LinearGaussianStateSpace, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N L,) and covariance (N L, N L) of z given s (N, F)."""
    mean, covariance = joint_normal(model, len(s))
    A = torch.block_diag(*[model.A] * len(s))
    total = A @ covariance @ A.T + model.sigma * torch.eye(len(A), dtype=torch.float64)
    gain = torch.linalg.solve(total, A @ covariance).T
    residual = (s - model.mu).flatten() - A @ mean
    return mean + gain @ residual, covariance - gain @ A @ covariance


def test_smoother_is_the_conditional_of_the_joint_normal(model: LinearGaussianStateSpace, s: Tensor) -> None:
    mean, covariance = exact_posterior(model, s)
    found = model.posterior(s)
    torch.testing.assert_close(found.mean.flatten(), mean)
    blocks = torch.stack([covariance[n : n + L, n : n + L] for n in range(0, N * L, L)])
    torch.testing.assert_close(found.covariance, blocks)


def test_evidence_is_the_density_of_the_joint_normal(model: LinearGaussianStateSpace, s: Tensor) -> None:
    mean, covariance = joint_normal(model)
    A = torch.block_diag(*[model.A] * N)
    total = A @ covariance @ A.T + model.sigma * torch.eye(N * F, dtype=torch.float64)
    density = dist.MultivariateNormal(A @ mean + model.mu.repeat(N), total).log_prob(s.flatten())
    torch.testing.assert_close(model.log_evidence(s).sum(), density)


def test_recordings_are_filtered_apart(model: LinearGaussianStateSpace, s: Tensor) -> None:
    both = torch.stack([s, 2 * s])
    torch.testing.assert_close(model.posterior(both).mean[1], model.posterior(2 * s).mean)
    torch.testing.assert_close(model.log_evidence(both)[1], model.log_evidence(2 * s))


def test_trace_is_the_joint_normal(model: LinearGaussianStateSpace, s: Tensor) -> None:
    """log p(s, z) = log p(z | s) + log p(s), at any z, and for a batch of them."""
    mean, covariance = exact_posterior(model, s)
    z = torch.randn(4, N, L, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    posterior = dist.MultivariateNormal(mean, covariance).log_prob(z.flatten(1))
    joint = frame_log_joint(model, z, s=s)[0].sum(-1)
    torch.testing.assert_close(joint, posterior + model.log_evidence(s).sum())


def sequential(model: LinearGaussianStateSpace, s: Tensor) -> None:
    """The model as a loop over frames, as in Pyro's tutorials."""
    t, z = model.transition, torch.zeros(())
    for n in pyro.markov(range(len(s))):
        mean, log_variance = t(z, None) if n else t.initial(None)
        z = pyro.sample(f"z_{n}", dist.Normal(mean, (log_variance / 2).exp()).to_event(1))
        residual = model.sigma.sqrt().expand(F)
        pyro.sample(f"s_{n}", dist.Normal(z @ model.A.mT + model.mu, residual).to_event(1), obs=s[n])


def test_trace_of_the_sequential_program_is_the_same(model: LinearGaussianStateSpace, s: Tensor) -> None:
    trace = poutine.trace(sequential).get_trace(model, s)
    z = torch.stack([trace.nodes[f"z_{n}"]["value"] for n in range(N)])
    torch.testing.assert_close(trace.log_prob_sum(), frame_log_joint(model, z, s=s).sum())


def test_draws_of_the_chain_have_its_moments(model: LinearGaussianStateSpace) -> None:
    """Means and second moments of 20,000 draws; false alarms 1e-6 over all 119 scores."""
    mean, covariance = joint_normal(model)
    chain = MarkovChain(model.transition).expand((20_000, N))
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (chain.sample().flatten(1) - mean).mT, upper=False
    ).mT
    rows, columns = torch.triu_indices(N * L, N * L)
    products = white[:, rows] * white[:, columns] - (rows == columns).double()
    values = torch.cat([white, products], -1)
    scores = values.mean(0) / (values.std(0) / len(values) ** 0.5)
    assert scores.abs().max() < 5.8
    torch.testing.assert_close(MarkovChain(model.transition).expand((N,)).mean.flatten(), mean)
