"""Kernels for coupled frames on the linear Gaussian state-space model, whose posterior is known.

Statistics are z-scores over independent chains in float64: the means and the second moments of all frames
together, in coordinates in which the posterior is N(0, I). All of a test together pass a true null with
probability 1 - 1e-6: Bonferroni over the statistics, two-sided; that is the false-alarm rate.
"""

import math
from statistics import NormalDist

import pyro
import pytest
import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.em.em import EM
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.coupled import ByCoupling, EvenOdd, WholeSequence
from avse.inference.mcmc.kernels import HMC, MALA, Kernel, RandomWalk, differentiated
from avse.inference.mcmc.log_density import (
    CoupledLogJoint,
    LogJoint,
    check_coupling,
    closure,
    frame_terms,
)
from avse.inference.mcmc.pyro_e_step import PyroChain
from avse.inference.mcmc.pyro_kernel import FrameMCMCKernel, VectorizedMCMC
from avse.models.coupling import Coupling
from avse.models.state_space import LinearGaussianStateSpace, LinearTransition

CHAINS, N, L, F, MOVES = 2000, 5, 2, 3, 8


def bound(statistics: int) -> float:
    """On the largest of so many |z-scores|."""
    return NormalDist().inv_cdf(1 - 1e-6 / (2 * statistics))


class Truth:
    """A small state-space model, data of N frames, and p(z | s) = N(mean, factor factor')."""

    def __init__(self, frames: int = N) -> None:
        generator = Generator().manual_seed(3)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        B = 0.95 * torch.linalg.qr(normal(L, L)).Q
        transition = LinearTransition(normal(L), 1 + normal(L).abs(), B, 0.5 + 0.3 * normal(L).abs())
        self.model = LinearGaussianStateSpace(
            transition, normal(F, L), normal(F), torch.tensor(1.0, dtype=torch.float64)
        )
        pyro.set_rng_seed(4)
        self.s = self.model(frames=frames)
        self.log_joint = closure(self.model, s=self.s)
        # The log joint is quadratic: its Hessian and gradient at 0 give the posterior.
        size = frames * L

        def total(z: Tensor) -> Tensor:
            return frame_terms(self.log_joint)(z.reshape(frames, L)).sum()

        zero = torch.zeros(size, dtype=torch.float64)
        precision = -torch.autograd.functional.hessian(total, zero)
        covariance = torch.linalg.inv(precision)
        self.mean = covariance @ torch.autograd.functional.jacobian(total, zero)
        self.factor = torch.linalg.cholesky(covariance)

    def exact(self, count: int, generator: Generator) -> Tensor:
        """Independent draws (count, N, L)."""
        white = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return (self.mean + white @ self.factor.T).unflatten(-1, (-1, L))

    def scores(self, draws: Tensor) -> Tensor:
        """z-scores of means and second moments, from draws (R, C, N, L) of C chains."""
        white = torch.linalg.solve_triangular(
            self.factor, (draws.flatten(-2) - self.mean).flatten(0, 1).mT, upper=False
        ).mT.unflatten(0, draws.shape[:2])
        rows, columns = torch.triu_indices(len(self.mean), len(self.mean))
        products = white[..., rows] * white[..., columns] - (rows == columns).double()
        averages = torch.cat([white, products], -1).mean(0)
        return averages.mean(0) / (averages.std(0) / math.sqrt(draws.shape[1]))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


def draws(kernel: Kernel, log_joint: LogJoint, z: Tensor, generator: Generator, moves: int) -> Tensor:
    """(moves, C, N, L)."""
    found, _ = Chain(kernel, moves, 0)(log_joint, ChainState(z), generator)
    return found.z


KERNELS: list[Kernel] = [
    EvenOdd(RandomWalk(0.5)),
    EvenOdd(MALA(0.4)),
    EvenOdd(HMC(0.3, 3)),
    WholeSequence(RandomWalk(0.2)),
    WholeSequence(MALA(0.3)),
    WholeSequence(HMC(0.25, 3)),
    ByCoupling(MALA(0.4)),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_posterior_is_left_invariant(kernel: Kernel, truth: Truth, generator: Generator) -> None:
    scores = truth.scores(draws(kernel, truth.log_joint, truth.exact(CHAINS, generator), generator, MOVES))
    assert scores.abs().max() < bound(len(scores))


@pytest.mark.parametrize("kernel", [RandomWalk(0.5), MALA(0.4), HMC(0.3, 3)], ids=repr)
def test_frames_accepted_one_by_one_miss_the_posterior(
    kernel: Kernel, truth: Truth, generator: Generator
) -> None:
    """The control: the terms are given as if they were densities of independent frames."""
    terms = frame_terms(truth.log_joint)
    start = ChainState(truth.exact(CHAINS, generator))
    found, _ = Chain(kernel, 50, 40)(terms, start, generator)
    scores = truth.scores(found.z)
    assert scores.abs().max() > 2 * bound(len(scores))


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("wrapper", [EvenOdd, WholeSequence])
def test_chains_from_afar_find_the_smoother(wrapper: type, frames: int, generator: Generator) -> None:
    """Means and covariances of the last draws, steps adapted before; for any number of frames."""
    truth = Truth(frames)
    start = ChainState(truth.exact(400, generator) + 3)
    _, warm = Chain(wrapper(MALA(0.3)), 60, 59, target_acceptance=0.6)(truth.log_joint, start, generator)
    assert warm.step_size is not None
    fixed = ChainState(warm.z, warm.step_size.mean(0).expand_as(warm.step_size))
    found, _ = Chain(wrapper(MALA(0.3)), 30, 20)(truth.log_joint, fixed, generator)
    scores = truth.scores(found.z)
    assert scores.abs().max() < bound(len(scores))
    smoothed = truth.model.posterior(truth.s)
    torch.testing.assert_close(smoothed.mean.flatten(), truth.mean)


@pytest.mark.parametrize("wrapper", [EvenOdd, WholeSequence])
def test_states_and_statistics_are_those_of_the_draws(
    wrapper: type, truth: Truth, generator: Generator
) -> None:
    kernel = wrapper(HMC(0.3, 3))
    z = truth.exact(6, generator).unflatten(0, (2, 3))
    state = kernel.init(z, truth.log_joint)
    moved, info = kernel.step(state, truth.log_joint, torch.full_like(state.log_joint, 0.3), generator)
    terms = frame_terms(truth.log_joint)
    torch.testing.assert_close(moved.log_joint.sum(-1), terms(moved.z).sum(-1))
    torch.testing.assert_close(state.gradient, differentiated(z, terms).gradient)
    for values in (*info, info.probability, info.diverged):
        assert values.shape == (2, 3, N)
    stayed = (moved.z == z).all(-1)
    assert torch.equal(stayed, ~info.accepted)
    if wrapper is WholeSequence:
        assert (info.accepted == info.accepted[..., :1]).all()


def test_independent_frames_are_served_as_before(generator: Generator) -> None:
    """On a density of independent frames both wrappers are valid, and `ByCoupling` is the kernel itself."""
    target: LogJoint = lambda z: -(z.square().sum(-1)) / 2  # noqa: E731
    z = torch.randn(CHAINS, 3, 2, generator=generator, dtype=torch.float64)
    for kernel in (EvenOdd(MALA(0.8)), WholeSequence(MALA(0.6))):
        found = draws(kernel, target, z, generator, 8).flatten(-2)
        averages = torch.cat([found, found.square() - 1], -1).mean(0)
        scores = averages.mean(0) / (averages.std(0) / math.sqrt(CHAINS))
        assert scores.abs().max() < bound(len(scores))
    same = [
        draws(kernel, target, z, Generator().manual_seed(1), 3)
        for kernel in (MALA(0.5), ByCoupling(MALA(0.5)))
    ]
    assert torch.equal(*same)


# Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [RandomWalk(), MALA(), HMC()], ids=repr)
def test_kernels_of_independent_frames_are_refused(
    kernel: Kernel, truth: Truth, generator: Generator
) -> None:
    z = torch.zeros(N, L, dtype=torch.float64)
    with pytest.raises(InputError, match="coupled to their neighbours"):
        Chain(kernel)(truth.log_joint, ChainState(z), generator)
    with pytest.raises(InputError, match="no log density of one frame"):
        kernel.init(z, truth.log_joint)  # nor can it be called past the chain
    em: EM = EM(Chain(kernel), lambda model, z, **data: (model, 0.0), iterations=1)
    with pytest.raises(InputError, match="coupled"):
        em.run(truth.model, ChainState(z), generator, s=truth.s)
    mcmc = VectorizedMCMC(FrameMCMCKernel(truth.model, kernel, z[None], seed=0), 2, 2)
    with pytest.raises(InputError, match="coupled"):
        mcmc.run(s=truth.s)


def test_every_second_frame_is_refused_where_all_are_coupled(truth: Truth, generator: Generator) -> None:
    whole = CoupledLogJoint(frame_terms(truth.log_joint), Coupling.SEQUENCE)
    z = torch.zeros(N, L, dtype=torch.float64)
    with pytest.raises(InputError, match="over the whole recording"):
        Chain(EvenOdd(MALA()))(whole, ChainState(z), generator)
    Chain(WholeSequence(MALA()), 2, 1)(whole, ChainState(z), generator)
    assert isinstance(ByCoupling(MALA()).chosen(whole), WholeSequence)
    assert isinstance(ByCoupling(MALA()).chosen(truth.log_joint), EvenOdd)


def test_a_wrong_statement_of_the_coupling_is_found(truth: Truth) -> None:
    terms = frame_terms(truth.log_joint)
    z = torch.zeros(N, L, dtype=torch.float64)
    check_coupling(truth.log_joint, z)
    with pytest.raises(InputError, match="states that its frames are independent"):
        check_coupling(terms, z)
    smooth: LogJoint = lambda z: terms(z + z.flip(-2))  # noqa: E731
    with pytest.raises(InputError, match="states that its frames are coupled to their neighbours"):
        check_coupling(CoupledLogJoint(smooth, Coupling.MARKOV), z)
    check_coupling(CoupledLogJoint(smooth, Coupling.SEQUENCE), z)


@pytest.mark.slow
def test_pyro_samples_coupled_frames_together(truth: Truth, generator: Generator) -> None:
    """NUTS in an E-step: means within 6 standard errors at 40 effective draws (false alarms below 1e-6)."""
    z = torch.zeros(N, L, dtype=torch.float64)
    found, _ = PyroChain(num_steps=160, warmup=60)(truth.log_joint, ChainState(z), generator)
    deviation = (truth.factor @ truth.factor.T).diag().sqrt()
    error = (found.z.mean(0).flatten() - truth.mean) / deviation
    assert error.abs().max() < 6 / math.sqrt(40)
