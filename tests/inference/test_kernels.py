"""Theorems of the Markov kernels: detailed balance, invariance, convergence. Broken kernels fail the checks.

Statistics are z-scores over independent chains in float64. All of a test together pass a true null with
probability 1 - ALARM: Bonferroni over the statistics of the test, two-sided.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import pytest
import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.mcmc import kernels
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import (
    HMC,
    MALA,
    Info,
    Kernel,
    RandomWalk,
    State,
    adapted,
    differentiated,
    leapfrog,
    metropolis,
    normal_like,
)
from avse.inference.mcmc.log_density import LogJoint, traced
from avse.models.linear_gaussian import LinearGaussian

CHAINS, FRAMES, L, MOVES = 4000, 3, 2, 12
ALARM = 1e-6


def bound(statistics: int) -> float:
    """On the largest of so many |z-scores|."""
    return NormalDist().inv_cdf(1 - ALARM / (2 * statistics))


@dataclass(frozen=True)
class Target:
    """z = m + A (u_1, u_2 + bend (u_1^2 - 1)) in every frame, u ~ N(0, I): normal, or bent like a banana.

    Both maps have a constant Jacobian, so that the log density is -|u(z)|^2 / 2, and every moment is known:
    mean m, covariance A diag(1, 1 + 2 bend^2) A'.
    """

    bend: float = 0.0
    mean = torch.tensor([[0.0, 0.0], [3.0, -1.0], [-2.0, 10.0]], dtype=torch.float64)
    factor = torch.tensor(  # scales from 0.2 to 5
        [[[1.0, 0.0], [0.8, 0.6]], [[0.2, 0.0], [-0.1, 0.3]], [[5.0, 0.0], [2.0, 1.0]]], dtype=torch.float64
    )
    scale = torch.tensor([0.9, 0.25, 1.5], dtype=torch.float64)
    """Of a good step in each frame."""

    def whiten(self, z: Tensor) -> Tensor:
        """u, standard normal under the target, (*, FRAMES, L)."""
        bent = torch.linalg.solve_triangular(self.factor, (z - self.mean).unsqueeze(-1), upper=False)
        first, second = bent.squeeze(-1).unbind(-1)
        return torch.stack([first, second - self.bend * (first.square() - 1)], -1)

    def __call__(self, z: Tensor) -> Tensor:
        """Log density, (*, FRAMES)."""
        return -self.whiten(z).square().sum(-1) / 2

    def exact(self, count: int, generator: Generator) -> Tensor:
        """Independent draws, (count, FRAMES, L)."""
        first, second = torch.randn(2, count, FRAMES, generator=generator, dtype=torch.float64)
        bent = torch.stack([first, second + self.bend * (first.square() - 1)], -1)
        return self.mean + (self.factor @ bent.unsqueeze(-1)).squeeze(-1)

    def scores(self, draws: Tensor) -> Tensor:
        """z-scores of the means, variances and cross-covariances of u, within and between frames.

        A score is mean x sqrt(ESS) / deviation. The chains being independent, the spread of their averages is
        deviation / sqrt(ESS of one chain), autocorrelation and all.

        Args:
            draws: (R, C, FRAMES, L) of C chains.
        """
        white = self.whiten(draws).flatten(-2)
        rows, columns = torch.triu_indices(FRAMES * L, FRAMES * L)
        products = white[..., rows] * white[..., columns] - (rows == columns).double()
        averages = torch.cat([white, products], -1).mean(0)
        return averages.mean(0) / (averages.std(0) / math.sqrt(draws.shape[1]))


NORMAL, BANANA = Target(), Target(bend=0.6)
SCORES = FRAMES * L + FRAMES * L * (FRAMES * L + 1) // 2


def run(kernel: Kernel, target: Target, z: Tensor, generator: Generator, moves: int) -> tuple[State, Tensor]:
    """The last state and all draws, (moves, C, FRAMES, L); steps are in units of the scale of each frame."""
    state = kernel.init(z, target)
    steps = (kernel.step_size * target.scale).expand(len(z), FRAMES)
    draws = []
    for _ in range(moves):
        state, _ = kernel.step(state, target, steps, generator)
        draws.append(state.z)
    return state, torch.stack(draws)


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


def euler(
    state: State, momentum: Tensor, log_joint: LogJoint, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    """A leapfrog with whole kicks for half ones: keeps volumes, but does not undo itself."""
    step = step_size.unsqueeze(-1)
    for _ in range(steps):
        assert state.gradient is not None
        momentum = momentum + step * state.gradient
        state = differentiated(state.z + step * momentum, log_joint)
    return state, momentum


def one_sided(z: Tensor, generator: Generator) -> Tensor:
    """A momentum that never points to the left."""
    return normal_like(z, generator).abs()


def by_energy(
    state: State, momentum: Tensor, proposed: State, after: Tensor, generator: Generator
) -> tuple[State, Info]:
    log_ratio = (momentum.square() - after.square()).sum(-1) / 2
    return metropolis(state, proposed, log_ratio, generator)


def by_density(
    state: State, momentum: Tensor, proposed: State, after: Tensor, generator: Generator
) -> tuple[State, Info]:
    return metropolis(state, proposed, None, generator)


def always(
    state: State, momentum: Tensor, proposed: State, after: Tensor, generator: Generator
) -> tuple[State, Info]:
    return proposed, Info(torch.ones_like(state.log_joint), torch.ones_like(state.log_joint))


@dataclass(frozen=True)
class PartsHMC(HMC):
    """HMC put together from parts, any of which may be broken."""

    refresh: Callable[..., Tensor] = normal_like
    integrate: Callable[..., tuple[State, Tensor]] = leapfrog
    accept: Callable[..., tuple[State, Info]] = by_energy

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        momentum = self.refresh(state.z, generator)
        proposed, after = self.integrate(state, momentum, log_joint, step_size, self.leapfrog_steps)
        return self.accept(state, momentum, proposed, after, generator)


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
SOUND = {
    "random walk": RandomWalk(1.0),
    "mala": MALA(1.0),
    "hmc": HMC(0.4),
    "hmc without jitter": HMC(0.7, leapfrog_steps=3, jitter=0.0),
    "hmc from parts": PartsHMC(0.7, leapfrog_steps=3),
    "all frames or none": IfAll(1.0),  # slow, but valid
}
BROKEN = {
    "drifted walk": DriftedWalk(1.0),
    "scaling walk": ScalingWalk(1.0),
    "uncorrected mala": UncorrectedMALA(1.0),
    "unbalanced mala": UnbalancedMALA(1.0),
    "uncorrected hmc": PartsHMC(0.7, 3, accept=always),
    "unbalanced hmc": PartsHMC(0.7, 3, accept=by_density),
    "hmc that moves one way": PartsHMC(0.7, 3, refresh=one_sided),
    "hmc with whole kicks": PartsHMC(0.7, 3, integrate=euler),
    "hmc with whole kicks, uncorrected": PartsHMC(0.7, 3, integrate=euler, accept=always),
    "any frame moves all": IfAny(1.0),
}


# Theorems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [NORMAL, BANANA], ids=["normal", "banana"])
@pytest.mark.parametrize("name", SOUND)
def test_target_is_invariant(name: str, target: Target, generator: Generator) -> None:
    """Chains that start in the target stay in it: 27 moments, |z| < 5.5; false alarms 1e-6 a kernel."""
    kernel = SOUND[name]
    start = target.exact(CHAINS, generator)
    assert target.scores(start[None]).abs().max() < bound(SCORES)
    state, draws = run(kernel, target, start, generator, MOVES)
    assert len(target.scores(draws)) == SCORES
    assert target.scores(draws).abs().max() < bound(SCORES)
    assert (state.z != start).any(-1).double().mean(0).min() > 0.5
    torch.testing.assert_close(state.log_joint, target(state.z))
    if state.gradient is not None:
        torch.testing.assert_close(state.gradient, kernel.init(state.z, target).gradient)


@pytest.mark.parametrize("target", [NORMAL, BANANA], ids=["normal", "banana"])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_kernels_leave_the_target(name: str, target: Target, generator: Generator) -> None:
    """Negative controls of the test above, by the same statistic, at twice the bound (or lost altogether)."""
    _, draws = run(BROKEN[name], target, target.exact(CHAINS, generator), generator, MOVES)
    assert target.scores(draws).abs().nan_to_num(math.inf).max() > 2 * bound(SCORES)


@pytest.mark.parametrize(
    ("kernel", "acceptance", "moves"), [(RandomWalk(), 0.4, 500), (MALA(), 0.57, 500), (HMC(0.5), 0.7, 150)]
)
def test_converges_from_a_wrong_start(
    kernel: Kernel, acceptance: float, moves: int, generator: Generator
) -> None:
    """1000 chains from 3 units off, adapted in burn-in, reach the moments of the target (false alarms 1e-6).

    The effective sample size of the draws of a chain follows from the spread of the chains' averages.
    """
    start = (NORMAL.mean + 3.0).expand(1000, FRAMES, L)
    chain = Chain(kernel, moves, moves // 2, target_acceptance=acceptance)
    draws, position = chain(NORMAL, ChainState(start), generator)
    assert NORMAL.scores(draws.z).abs().max() < bound(SCORES)
    effective = 1 / NORMAL.whiten(draws.z).mean(0).var(0)
    assert (effective > 4).all()
    # Every frame has found a step for its own scale.
    assert position.step_size is not None
    steps = position.step_size.mean(0)
    assert steps[1] < steps[0] < steps[2]
    assert (draws.acceptance.mean(0) - acceptance).abs().max() < 0.1
    # Negative control: the first few draws are still on their way.
    early, _ = Chain(kernel, num_steps=5, warmup=0)(NORMAL, ChainState(start), generator)
    assert NORMAL.scores(early.z).abs().max() > 2 * bound(SCORES)


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
    """Binomial z-scores at five ratios."""
    log_ratio = torch.tensor([-3.0, -1.0, -0.1, 0.0, 2.0], dtype=torch.float64)
    count = 100_000
    zero = torch.zeros(count, 5, 1, dtype=torch.float64)
    current = State(zero, torch.zeros(count, 5, dtype=torch.float64))
    proposed = State(zero + 1, log_ratio.expand(count, 5) - 0.5)
    state, info = metropolis(current, proposed, torch.tensor(0.5), generator)
    truth = log_ratio.exp().clamp_max(1)
    torch.testing.assert_close(info.probability[0], truth)
    spread = (truth * (1 - truth) / count).sqrt().clamp_min(1e-12)
    assert ((info.accepted.double().mean(0) - truth) / spread).abs().max() < bound(5)
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


@pytest.mark.parametrize("kernel", [RandomWalk(), MALA(), HMC()])
def test_same_seed_same_chain(kernel: Kernel) -> None:
    start = NORMAL.exact(10, Generator().manual_seed(9))
    one, again, other = (run(kernel, NORMAL, start, Generator().manual_seed(s), 5)[1] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# Hamiltonian moves ---------------------------------------------------------------------------------------


def phase_space(generator: Generator, count: int = 50) -> tuple[State, Tensor, Tensor]:
    """States in the banana, momenta, and steps."""
    state = differentiated(BANANA.exact(count, generator), BANANA)
    return state, normal_like(state.z, generator), 0.3 * BANANA.scale.expand(count, FRAMES)


@pytest.mark.parametrize(("integrator", "undoes"), [(leapfrog, True), (euler, False)])
def test_leapfrog_undoes_itself(
    integrator: Callable[..., tuple[State, Tensor]], undoes: bool, generator: Generator
) -> None:
    """With the momentum turned round, the trajectory leads back to its start."""
    state, momentum, step = phase_space(generator)
    there, after = integrator(state, momentum, BANANA, step, 10)
    back, before = integrator(there, -after, BANANA, step, 10)
    assert (there.z - state.z).abs().max() > 1
    error = torch.stack([back.z - state.z, before + momentum]).abs().max()
    assert (error < 1e-9) if undoes else (error > 0.1)


def damped(
    state: State, momentum: Tensor, log_joint: LogJoint, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    """Loses volume: a hundredth of the momentum."""
    state, momentum = leapfrog(state, momentum, log_joint, step_size, steps)
    return state, 0.99 * momentum


@pytest.mark.parametrize(("integrator", "keeps"), [(leapfrog, True), (euler, True), (damped, False)])
def test_leapfrog_keeps_volumes(
    integrator: Callable[..., tuple[State, Tensor]], keeps: bool, generator: Generator
) -> None:
    """The Jacobian of (z, r) -> (z', r'), by central differences, has determinant 1 in every frame."""
    state, momentum, step = phase_space(generator, count=1)
    point = torch.cat([state.z, momentum], -1)  # (1, FRAMES, 2 L)
    shifts = 1e-5 * torch.eye(2 * L, dtype=torch.float64).unsqueeze(1)  # one direction a chain

    def mapped(points: Tensor) -> Tensor:
        start = differentiated(points[..., :L], BANANA)
        end, after = integrator(start, points[..., L:], BANANA, step.expand(len(points), FRAMES), 10)
        return torch.cat([end.z, after], -1)

    jacobian = (mapped(point + shifts) - mapped(point - shifts)) / 2e-5  # (2 L, FRAMES, 2 L)
    error = (torch.linalg.det(jacobian.transpose(0, 1)).abs() - 1).abs()
    assert (error.max() < 1e-6) if keeps else (error.min() > 0.01)


@pytest.mark.parametrize(("integrator", "order"), [(leapfrog, 2), (euler, 1)])
def test_energy_error_is_of_second_order(
    integrator: Callable[..., tuple[State, Tensor]], order: int, generator: Generator
) -> None:
    """Half the step over the same time, a quarter of the error of the energy."""
    state, momentum, step = phase_space(generator)

    def error(halvings: int) -> Tensor:
        end, after = integrator(state, momentum, BANANA, step / 2**halvings, 5 * 2**halvings)
        kinetic = (after.square() - momentum.square()).sum(-1) / 2
        return (kinetic - end.log_joint + state.log_joint).square().mean().sqrt()

    orders = torch.stack([error(halvings) for halvings in (3, 4, 5, 6)]).log2().diff().neg()
    torch.testing.assert_close(orders, torch.full_like(orders, order), atol=0.05, rtol=0)


def test_one_leapfrog_step_is_a_langevin_move(generator: Generator) -> None:
    """HMC of one step and MALA, proved apart, make the same chain, decision for decision."""
    start = BANANA.exact(100, generator)
    one, other = (
        run(kernel, BANANA, start, Generator().manual_seed(1), 10)[1]
        for kernel in (HMC(0.8, leapfrog_steps=1, jitter=0.0), MALA(0.8))
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kernel", "cost"), [(RandomWalk(), 1), (MALA(), 1), (HMC(), 8), (HMC(0.1, 3), 3)])
def test_evaluations_of_a_move(kernel: Kernel, cost: int, generator: Generator) -> None:
    calls = []

    def counted(z: Tensor) -> Tensor:
        calls.append(z)
        return NORMAL(z)

    Chain(kernel, num_steps=5, warmup=2)(counted, ChainState(NORMAL.exact(2, generator)), generator)
    assert len(calls) == 1 + 5 * cost


@pytest.mark.parametrize("kernel", [MALA(1.0), HMC(0.4)])
def test_energy_of_the_draws(kernel: Kernel, generator: Generator) -> None:
    """2 H = |u|^2 + |r|^2 is chi-squared of 2 L degrees: mean L of H, variance L. Six scores, |z| < 5.2."""
    chain = Chain(kernel, num_steps=10, warmup=2)
    start = ChainState(
        NORMAL.exact(CHAINS, generator), kernel.step_size * NORMAL.scale.expand(CHAINS, FRAMES)
    )
    draws, _ = chain(NORMAL, start, generator)
    assert draws.energy is not None
    assert draws.log_joint is not None
    assert (draws.energy + draws.log_joint >= 0).all()
    torch.testing.assert_close(draws.log_joint, NORMAL(draws.z))
    averages = torch.stack([draws.energy - L, (draws.energy - L).square() - L]).mean(1)  # (2, C, FRAMES)
    scores = averages.mean(1) / (averages.std(1) / math.sqrt(CHAINS))
    assert scores.abs().max() < bound(6)
    # Negative control: a potential energy alone has half of it.
    assert (draws.log_joint.mean((0, 1)) + L).min() > 0.4 * L


def test_a_walk_has_no_energy(generator: Generator) -> None:
    draws, _ = Chain(RandomWalk(), 3, 1)(NORMAL, ChainState(NORMAL.exact(5, generator)), generator)
    assert draws.energy is None
    assert draws.log_joint is not None
    assert draws.log_joint.shape == (2, 5, FRAMES)


def test_divergences_are_rejected_and_told(generator: Generator) -> None:
    """Steps that throw every other frame to infinity, on a model that would refuse to be asked about it."""
    model = LinearGaussian(torch.eye(2), torch.zeros(2), torch.tensor(1e-4))
    log_joint = traced(model, s=torch.ones(6, 2))
    start = torch.ones(6, 2)
    with pytest.raises(ValueError, match="invalid values"):
        log_joint(start / 0)
    step_size = torch.tensor([1e-3, 1e9] * 3)
    draws, position = Chain(HMC(), num_steps=20, warmup=5)(log_joint, ChainState(start, step_size), generator)
    assert draws.diverged is not None
    assert torch.equal(draws.diverged, torch.tensor([False, True] * 3).expand(15, 6))
    assert torch.equal(position.z[1::2], start[1::2])
    assert (position.z[::2] != start[::2]).any(-1).all()
    assert (draws.acceptance[1::2] == 0).all()


def test_jitter_breaks_periods(generator: Generator) -> None:
    """Eight steps of 2 sin(pi / 8) take a standard normal exactly back to where it was; jitter does not."""
    start = torch.randn(500, 1, 4, generator=generator, dtype=torch.float64)
    step = 2 * math.sin(math.pi / 8)

    def moved(jitter: float) -> Tensor:
        kernel = HMC(step, leapfrog_steps=8, jitter=jitter)
        draws, _ = Chain(kernel, 20, 0)(lambda z: -z.square().sum(-1) / 2, ChainState(start), generator)
        return (draws.z[-1] - start).square().mean()

    assert moved(0.0) < 1e-20
    assert 1.7 < moved(0.2) < 2.3  # 2 for independent draws


@pytest.mark.parametrize(("steps", "jitter"), [(0, 0.0), (8, 1.0), (8, -0.1)])
def test_hmc_without_steps_or_with_wild_jitter_is_refused(steps: int, jitter: float) -> None:
    with pytest.raises(InputError, match="leapfrog steps"):
        HMC(leapfrog_steps=steps, jitter=jitter)


# Adaptation ----------------------------------------------------------------------------------------------


def test_adaptation_goes_the_right_way() -> None:
    step = torch.full((3,), 0.5)
    info = Info(torch.ones(3), torch.tensor([0.0, 0.57, 1.0]).log())
    after, later = adapted(step, info, 0.57, 0), adapted(step, info, 0.57, 99)
    assert after[0] < later[0] < 0.5 < later[2] < after[2]
    assert after[1] == later[1] == 0.5
    # The changes die out like 1 / sqrt(moves).
    ratio = (after / step).log()[0] / (later / step).log()[0]
    assert ratio.item() == pytest.approx(10, rel=1e-4)
