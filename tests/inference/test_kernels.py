"""Theorems of the Markov kernels: detailed balance, invariance, convergence. Broken kernels fail the checks.

The statistics are z-scores over independent chains in float64, each with a false-alarm rate of 7e-6 at the
bound 4.5; about 40 of them are looked at for a kernel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor

from avse.inference import kernels
from avse.inference.e_steps import Chain, Position
from avse.inference.joint import LogJoint
from avse.inference.kernels import MALA, Info, Kernel, RandomWalk, State, adapted, metropolis, normal_like

CHAINS, FRAMES, L = 8000, 3, 2
Z_BOUND = 4.5

# A correlated normal for every frame, with scales from 0.2 to 5.
MEANS = torch.tensor([[0.0, 0.0], [3.0, -1.0], [-2.0, 10.0]], dtype=torch.float64)
FACTORS = torch.tensor(
    [[[1.0, 0.0], [0.8, 0.6]], [[0.2, 0.0], [-0.1, 0.3]], [[5.0, 0.0], [2.0, 1.0]]], dtype=torch.float64
)
STEPS = torch.tensor([0.9, 0.25, 1.5], dtype=torch.float64)


def whiten(z: Tensor) -> Tensor:
    """Standard normal under the target, (*, FRAMES, L)."""
    return torch.linalg.solve_triangular(FACTORS, (z - MEANS).unsqueeze(-1), upper=False).squeeze(-1)


def target(z: Tensor) -> Tensor:
    return -whiten(z).square().sum(-1) / 2


def exact(generator: Generator) -> Tensor:
    unit = torch.randn(CHAINS, FRAMES, L, generator=generator, dtype=torch.float64)
    return MEANS + (FACTORS @ unit.unsqueeze(-1)).squeeze(-1)


def worst_moment(z: Tensor) -> float:
    """Largest |z-score| of means, variances and cross-covariances, of and between all frames."""
    white = whiten(z).flatten(-2)  # (CHAINS, FRAMES L)
    products = white.unsqueeze(-1) * white.unsqueeze(-2) - torch.eye(FRAMES * L, dtype=torch.float64)
    statistics = torch.cat([white, products.flatten(-2)], dim=-1)
    scores = statistics.mean(0) / (statistics.std(0) / math.sqrt(len(z)))
    return float(scores.abs().max())


def run(kernel: Kernel, z: Tensor, generator: Generator, moves: int) -> State:
    state = kernel.init(z, target)
    for _ in range(moves):
        state, _ = kernel.step(state, target, STEPS.expand(len(z), FRAMES), generator)
    return state


# Broken kernels ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriftedWalk(RandomWalk):
    """The proposal leans to one side; the ratio of the proposals is left out."""

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        step = step_size.unsqueeze(-1)
        proposal = state.z + step * (normal_like(state.z, generator) + 0.3)
        return metropolis(state, self.init(proposal, log_joint), None, generator)


@dataclass(frozen=True)
class ScalingWalk(RandomWalk):
    """z' = z exp(step e), whose density needs the Jacobian |z' / z|; it is left out."""

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        proposal = state.z * torch.exp(0.5 * normal_like(state.z, generator))
        return metropolis(state, self.init(proposal, log_joint), None, generator)


@dataclass(frozen=True)
class UncorrectedMALA(MALA):
    """Langevin moves that are all accepted."""

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        assert state.gradient is not None
        step = step_size.unsqueeze(-1)
        noise = normal_like(state.z, generator)
        moved = self.init(state.z + step**2 / 2 * state.gradient + step * noise, log_joint)
        return moved, Info(torch.ones_like(step_size), torch.ones_like(step_size))


@dataclass(frozen=True)
class UnbalancedMALA(MALA):
    """Accepts by the density alone, as if the proposal were symmetric."""

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        assert state.gradient is not None
        step = step_size.unsqueeze(-1)
        noise = normal_like(state.z, generator)
        moved = self.init(state.z + step**2 / 2 * state.gradient + step * noise, log_joint)
        return metropolis(state, moved, None, generator)


def together(rule: Callable[[Tensor], Tensor]) -> type[RandomWalk]:
    """A random walk that moves all frames of a chain or none, by `rule`(accepted (*, N)) -> (*, 1)."""

    @dataclass(frozen=True)
    class Together(RandomWalk):
        def step(
            self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
        ) -> tuple[State, Info]:
            proposal = state.z + step_size.unsqueeze(-1) * normal_like(state.z, generator)
            proposed = self.init(proposal, log_joint)
            _, info = metropolis(state, proposed, None, generator)
            chosen = rule(info.accepted).expand_as(info.accepted)
            moved = State(
                torch.where(chosen.unsqueeze(-1), proposed.z, state.z),
                torch.where(chosen, proposed.log_joint, state.log_joint),
            )
            return moved, Info(chosen, info.log_ratio)

    return Together


IfAny = together(lambda accepted: accepted.any(-1, keepdim=True))
IfAll = together(lambda accepted: accepted.all(-1, keepdim=True))
BROKEN = [DriftedWalk(), ScalingWalk(), UncorrectedMALA(), UnbalancedMALA(), IfAny()]


# Theorems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [RandomWalk(), MALA(), IfAll()], ids=lambda k: type(k).__name__)
def test_target_is_invariant(kernel: Kernel, generator: Generator) -> None:
    """Chains that start in the target stay in it. (To accept all frames or none is slow, but valid.)"""
    start = exact(generator)
    assert worst_moment(start) < Z_BOUND
    state = run(kernel, start, generator, 12)
    assert worst_moment(state.z) < Z_BOUND
    assert (state.z != start).any(-1).double().mean(0).min() > 0.5
    torch.testing.assert_close(state.log_joint, target(state.z))
    if state.gradient is not None:
        torch.testing.assert_close(state.gradient, kernel.init(state.z, target).gradient)


@pytest.mark.parametrize("kernel", BROKEN, ids=lambda k: type(k).__name__)
def test_broken_kernels_leave_the_target(kernel: Kernel, generator: Generator) -> None:
    """Negative controls of the test above, by the same statistic."""
    assert worst_moment(run(kernel, exact(generator), generator, 12).z) > 2 * Z_BOUND


@pytest.mark.parametrize("kernel", [RandomWalk(), MALA()], ids=lambda k: type(k).__name__)
def test_converges_from_a_wrong_start(kernel: Kernel, generator: Generator) -> None:
    """1000 chains from 3 units off, adapted in burn-in: moments by averages of each chain.

    The chains are independent, so that the spread of their averages is the standard error, autocorrelation
    included; the mean effective sample size of the draws follows from it.
    """
    start = (MEANS + 3.0).expand(1000, FRAMES, L)
    chain = Chain(kernel, moves=500, burn_in=250, target_acceptance=0.4)
    draws, position = chain(target, Position(start), generator)
    white = whiten(draws.z)  # (R, CHAINS, FRAMES, L)
    statistics = torch.stack([white[..., 0], white[..., 1], *(white.square() - 1).unbind(-1)])
    statistics = torch.cat([statistics, (white[..., 0] * white[..., 1])[None]])
    averages = statistics.mean(1)  # of each chain: (5, CHAINS, FRAMES)
    scores = averages.mean(1) / (averages.std(1) / math.sqrt(averages.shape[1]))
    assert scores.abs().max() < Z_BOUND
    effective = 1 / averages[:2].var(1)  # draws of a chain that are worth an independent one
    assert (effective > 4).all()
    assert (effective < 250).all()
    # Every frame has found a step for its own scale.
    assert position.step_size is not None
    steps = position.step_size.mean(0)
    assert steps[1] < steps[0] < steps[2]
    assert (draws.acceptance.mean(0) - 0.4).abs().max() < 0.1
    # Negative control: the start is far off.
    assert worst_moment(start + torch.zeros(1)) > 100


def log_density(z: Tensor) -> Tensor:
    """A skew mixture of two normals on the line, unnormalised; z (*, N, 1)."""
    first, second = -(z + 1).square() / 2, -(z - 1.5).square() / (2 * 0.3)
    return torch.logaddexp(first, second + 0.7).sum(-1)


@pytest.mark.parametrize("step", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("kernel", [RandomWalk(), MALA(), DriftedWalk(), UnbalancedMALA()])
def test_detailed_balance(
    kernel: Kernel, step: float, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p(z) q(z' | z) a(z, z') is symmetric, with the acceptance probability that the kernel itself states.

    The kernel is made to propose z' by handing it the noise that leads there.
    """
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)
    here = grid.repeat_interleave(len(grid))[:, None]  # (N, 1)
    there = grid.repeat(len(grid))[:, None]
    state = kernel.init(here, log_density)
    drift = step**2 / 2 * state.gradient if state.gradient is not None else torch.zeros_like(here)
    lean = 0.3 * step if isinstance(kernel, DriftedWalk) else 0.0
    noise = (there - here - drift - lean) / step
    for module in (kernels, __import__("sys").modules[__name__]):
        monkeypatch.setattr(module, "normal_like", lambda z, generator: noise)
    sizes = torch.full_like(here[:, 0], step)
    _, info = kernel.step(state, log_density, sizes, generator)
    flow = (state.log_joint - noise.square().sum(-1) / 2).exp() * info.probability
    flow = flow.reshape(len(grid), len(grid))
    asymmetry = float((flow - flow.T).abs().max() / flow.max())
    if isinstance(kernel, DriftedWalk | UnbalancedMALA):
        assert asymmetry > 1e-3  # negative controls
    else:
        assert asymmetry < 1e-12


def test_accepts_with_the_probability_it_states(generator: Generator) -> None:
    """Binomial z-score at five ratios, |z| < 4.5."""
    log_ratio = torch.tensor([-3.0, -1.0, -0.1, 0.0, 2.0], dtype=torch.float64)
    count = 100_000
    zero = torch.zeros(count, 5, 1, dtype=torch.float64)
    current = State(zero, torch.zeros(count, 5, dtype=torch.float64))
    proposed = State(zero + 1, log_ratio.expand(count, 5) - 0.5)
    state, info = metropolis(current, proposed, torch.tensor(0.5), generator)
    truth = log_ratio.exp().clamp_max(1)
    torch.testing.assert_close(info.probability[0], truth)
    spread = (truth * (1 - truth) / count).sqrt().clamp_min(1e-12)
    assert ((info.accepted.double().mean(0) - truth) / spread).abs().max() < Z_BOUND
    assert torch.equal(state.z.squeeze(-1) == 1, info.accepted)
    torch.testing.assert_close(state.log_joint, torch.where(info.accepted, proposed.log_joint, 0.0))


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_impossible_proposals_are_rejected(bad: float, generator: Generator) -> None:
    z = torch.zeros(100, 2, 1)
    current, proposed = State(z, torch.zeros(100, 2)), State(z + 1, torch.full((100, 2), bad))
    state, info = metropolis(current, proposed, None, generator)
    assert not info.accepted.any()
    assert (info.probability == 0).all()
    assert torch.equal(state.z, z)


def test_leaves_an_impossible_start(generator: Generator) -> None:
    z = torch.zeros(5, 1)
    current, proposed = State(z, torch.full((5,), -float("inf"))), State(z + 1, torch.zeros(5))
    assert metropolis(current, proposed, None, generator)[1].accepted.all()


@pytest.mark.parametrize("kernel", [RandomWalk(), MALA()])
def test_same_seed_same_chain(kernel: Kernel) -> None:
    start = exact(Generator().manual_seed(9))[:10]
    one, again, other = (run(kernel, start, Generator().manual_seed(s), 5).z for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_adaptation_goes_the_right_way() -> None:
    step = torch.full((3,), 0.5)
    info = Info(torch.ones(3), torch.tensor([0.0, 0.57, 1.0]).log())
    after, later = adapted(step, info, 0.57, 0), adapted(step, info, 0.57, 99)
    assert after[0] < later[0] < 0.5 < later[2] < after[2]
    assert after[1] == later[1] == 0.5
    # The changes die out like 1 / sqrt(moves).
    ratio = (after / step).log()[0] / (later / step).log()[0]
    assert ratio.item() == pytest.approx(10, rel=1e-4)
