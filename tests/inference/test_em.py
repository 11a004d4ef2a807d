"""The E-steps, the EM loop and MCEM, on models whose answers are known."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from pyro.infer import HMC as PyroHMC
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.em.em import EM, EMStep
from avse.inference.em.m_steps import LinearGaussianStep, NoiseStep, weighted_speech_variance
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.chain import Chain, ChainState, EStep
from avse.inference.mcmc.kernels import HMC, MALA, Info, Kernel, RandomWalk, State
from avse.inference.mcmc.log_density import LogJoint, closure, traced
from avse.inference.mcmc.pyro_e_step import PyroChain
from avse.inference.posterior import Posterior
from avse.inference.presets import default_mcem, papers_mcem
from avse.models.linear_gaussian import LinearGaussian
from avse.models.nmf import NMFNoise, RandomInit
from avse.models.noisy import NoisySpeech
from avse.zoo.pair import SpeechPair

F, L, N = 6, 2, 300


@dataclass(frozen=True)
class Counting:
    """Moves every frame by its step size: shows what a chain keeps."""

    step_size: float = 1.0

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        return State(z, log_joint(z))

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        z = state.z + step_size.unsqueeze(-1)
        return State(z, log_joint(z)), Info(torch.ones_like(step_size), torch.ones_like(step_size))


def flat(z: Tensor) -> Tensor:
    return torch.zeros_like(z[..., 0])


def test_a_chain_keeps_every_move_after_burn_in(generator: Generator) -> None:
    draws, position = Chain(Counting(), 7, 3)(flat, ChainState(torch.zeros(5, 1)), generator)
    assert draws.z[:, 0, 0].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert torch.equal(position.z, draws.z[-1])
    again, _ = Chain(Counting(), 2, 0)(flat, position, generator)
    assert again.z[:, 0, 0].tolist() == [8.0, 9.0]
    assert torch.equal(draws.acceptance, torch.ones(5))


def test_step_sizes_adapt_in_burn_in_alone_and_travel_on(generator: Generator) -> None:
    chain = Chain(Counting(), 6, 2, target_acceptance=0.5)
    draws, position = chain(flat, ChainState(torch.zeros(3, 1)), generator)
    moves = draws.z[:, 0, 0].diff()
    assert moves.std() < 1e-6
    assert moves[0] > 1.2
    assert position.step_size is not None
    torch.testing.assert_close(position.step_size[0], moves[0])
    further, _ = Chain(Counting(), 2, 0)(flat, position, generator)
    torch.testing.assert_close(further.z[:, 0, 0].diff()[0], moves[0])


@pytest.mark.parametrize(("moves", "warmup"), [(3, 3), (3, 4), (0, 0), (3, -1)])
def test_a_chain_that_keeps_nothing_is_refused(moves: int, warmup: int) -> None:
    with pytest.raises(InputError, match="keep no draw"):
        Chain(Counting(), moves, warmup)


def linear_gaussian(generator: Generator, sigma: float = 0.5) -> LinearGaussian:
    A = torch.randn(F, L, generator=generator, dtype=torch.float64)
    return LinearGaussian(A, torch.arange(F, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64))


@pytest.mark.parametrize(
    ("joint", "kernel"),
    [
        (closure, MALA(0.5)),
        (traced, RandomWalk(0.5)),
        pytest.param(closure, RandomWalk(0.5), marks=pytest.mark.slow),
        pytest.param(traced, MALA(0.5), marks=pytest.mark.slow),
        pytest.param(closure, HMC(0.3, 3), marks=pytest.mark.slow),
        pytest.param(traced, HMC(0.3, 3), marks=pytest.mark.slow),
    ],
    ids=lambda part: getattr(part, "__name__", type(part).__name__),
)
def test_e_step_agrees_with_the_exact_posterior(kernel: Kernel, joint: object) -> None:
    """Whitened draws averaged over each of 300 independent chains: |z| < 4.5, false alarms 5e-5."""
    generator = Generator().manual_seed(3)
    model = linear_gaussian(generator)
    s = model(frames=N)
    chain = Chain(kernel, 800, 400, target_acceptance=0.4)
    draws, _ = chain(joint(model, s=s), ChainState(torch.zeros(N, L, dtype=torch.float64)), generator)  # type: ignore[operator]
    assert scores(draws.z, model, s).abs().max() < 4.5
    # Negative control: the posterior of a model with another residual variance.
    assert scores(draws.z, LinearGaussian(model.A, model.mu, 1.5 * model.sigma), s).abs().max() > 6


@pytest.mark.slow
def test_e_step_by_pyro_agrees_with_the_exact_posterior() -> None:
    """As above, from two chains of 300 frames each, all with one step size: false alarms 1e-4."""
    generator = Generator().manual_seed(3)
    model = linear_gaussian(generator)
    s = model(frames=N)
    chain = PyroChain(PyroHMC, 110, 30, {"num_steps": 8})
    start = ChainState(torch.zeros(2, N, L, dtype=torch.float64))
    draws, state = chain(closure(model, s=s), start, generator)
    assert draws.z.shape == (80, 2, N, L)
    assert draws.acceptance.shape == state.step_size.shape == (2, N)  # type: ignore[union-attr]
    assert 0.5 < float(draws.acceptance.mean()) <= 1
    assert not draws.diverged.any()  # type: ignore[union-attr]
    for index in range(2):
        assert scores(draws.z[:, index], model, s).abs().max() < 4.5
        wrong = LinearGaussian(model.A, model.mu, 1.5 * model.sigma)
        assert scores(draws.z[:, index], wrong, s).abs().max() > 6
    again, later = replace(chain, num_steps=2, warmup=1)(closure(model, s=s), state, generator)
    assert later.adaptations == 31
    assert (again.z - draws.z[-1]).abs().max() < 3


def scores(z: Tensor, model: LinearGaussian, s: Tensor) -> Tensor:
    """z-scores of the mean and of the second moments of draws (R, N, L), whitened by the exact posterior."""
    mean, covariance = model.posterior(s)
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (z - mean).mT, upper=False).mT
    products = torch.einsum("rnl,rnm->rnlm", white, white) - torch.eye(L, dtype=torch.float64)
    averages = torch.cat([white, products.flatten(-2)], -1).mean(0)  # (N, L + L L), one row a chain
    return averages.mean(0) / (averages.std(0) / N**0.5)


def probabilistic_pca(s: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood log evidence a frame and projector on the subspace (Tipping and Bishop 1999)."""
    centred = s - s.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(s))
    sigma = values[:-L].mean()
    A = vectors[:, -L:] * (values[-L:] - sigma).sqrt()
    return LinearGaussian(A, s.mean(0), sigma).log_evidence(s).mean(), vectors[:, -L:] @ vectors[:, -L:].T


@pytest.mark.parametrize(
    "e_step",
    [
        Chain(MALA(0.3), 20, 5, target_acceptance=0.57),
        pytest.param(Chain(HMC(0.2, leapfrog_steps=4), 10, 4, target_acceptance=0.8), marks=pytest.mark.slow),
        pytest.param(PyroChain(PyroHMC, 8, 4, {"num_steps": 8}), marks=pytest.mark.slow),
    ],
    ids=["MALA", "HMC", "HMC of Pyro"],
)
@pytest.mark.slow
def test_mcem_reaches_the_maximum_likelihood_of_pca(e_step: EStep) -> None:
    """EM with gradient kernels ends within 0.005 nat a frame of the eigenvalue solution, in its subspace."""
    generator = Generator().manual_seed(5)
    s = linear_gaussian(generator, 0.2)(frames=N)
    best, projector = probabilistic_pca(s)
    start = LinearGaussian(torch.randn(F, L, generator=generator, dtype=torch.float64), s.mean(0), s.var())
    em = EM(e_step, LinearGaussianStep(), iterations=80, tolerance=0.0)
    result = em.run(start, ChainState(torch.zeros(N, L, dtype=torch.float64)), generator, s=s)
    reached = result.model.log_evidence(s).mean()
    assert result.costs[0] > float(-best) + 0.5
    assert float(best) - 0.005 < float(reached) <= float(best) + 1e-9
    basis, _ = torch.linalg.qr(result.model.A)
    assert (basis @ basis.T - projector).abs().max() < 0.02
    assert len(result.costs) == 80
    assert not result.converged


def test_em_stops_at_its_tolerance() -> None:
    generator = Generator().manual_seed(5)
    model = linear_gaussian(generator)
    s = model(frames=N)
    em = EM(Chain(MALA(0.5), 10, 5), LinearGaussianStep(), iterations=50, tolerance=0.5)
    result = em.run(model, ChainState(torch.zeros(N, L, dtype=torch.float64)), generator, s=s)
    assert result.converged
    assert len(result.costs) == 2


def test_em_resumes_from_its_callback() -> None:
    """Model, position and generator state of iteration 3 of 6 lead to the same end."""
    generator = Generator().manual_seed(5)
    model = linear_gaussian(generator)
    s = model(frames=N)
    kept: list[tuple[EMStep, Tensor]] = []
    em = EM(
        Chain(MALA(0.5), 10, 5, target_acceptance=0.57), LinearGaussianStep(), iterations=6, tolerance=0.0
    )
    whole = em.run(
        model,
        ChainState(torch.zeros(N, L, dtype=torch.float64)),
        generator,
        lambda step: kept.append((step, generator.get_state())),
        s=s,
    )
    assert [step.iteration for step, _ in kept] == list(range(6))
    assert [step.cost for step, _ in kept] == whole.costs
    step, state = kept[2]
    rest = replace(em, iterations=3).run(step.model, step.chain_state, Generator().set_state(state), s=s)
    assert rest.costs == whole.costs[3:]
    assert torch.equal(rest.model.A, whole.model.A)
    assert torch.equal(rest.chain_state.z, whole.chain_state.z)


# The noise step ------------------------------------------------------------------------------------------


def test_noise_step_lowers_its_cost(tiny_pair: SpeechPair, generator: Generator) -> None:
    power = torch.rand(10, tiny_pair.stft.bins, generator=generator)
    model = NoisySpeech(tiny_pair.model, RandomInit(3)(power, generator))
    z = torch.randn(4, 10, 3, generator=generator)
    updates = (NMFNoise.updated_spectra, NMFNoise.updated_activations, NMFNoise.updated_frame_gain)
    costs = []
    for _ in range(10):
        model, cost = NoiseStep(updates)(model, z, power)
        costs.append(cost)
    assert all(after < before for before, after in pairwise(costs))
    start = NoisySpeech(tiny_pair.model, RandomInit(3)(power, Generator().manual_seed(1)))
    twice, _ = NoiseStep(updates, rounds=2)(start, z, power)
    once, _ = NoiseStep(updates)(NoiseStep(updates)(start, z, power)[0], z, power)
    torch.testing.assert_close(twice.noise.variance(), once.noise.variance())


def test_weights_without_alpha_are_equal(tiny_pair: SpeechPair, generator: Generator) -> None:
    power = torch.rand(10, tiny_pair.stft.bins, generator=generator)
    model = NoisySpeech(tiny_pair.model, RandomInit(3)(power, generator))
    z = torch.randn(4, 10, 3, generator=generator)
    variance, weights = weighted_speech_variance(model, z, power)
    torch.testing.assert_close(weights, torch.full((4, 10), 0.25))
    torch.testing.assert_close(variance, tiny_pair.model.decoder(z).exp())  # type: ignore[operator]


# MCEM, whole ---------------------------------------------------------------------------------------------


def short(algorithm: MCEM) -> MCEM:
    """A few iterations."""
    return replace(algorithm, em=replace(algorithm.em, iterations=3))


def papers_hmc_mcem() -> MCEM:
    """The default with HMC in the place of MALA, one move an iteration."""
    hmc, default = HMC(0.1, leapfrog_steps=4), default_mcem()
    e_step = Chain(hmc, 2, 1, target_acceptance=0.7)
    return replace(default, em=replace(default.em, e_step=e_step), final=replace(e_step, num_steps=6))


PRESETS = [default_mcem, papers_mcem, papers_hmc_mcem]


def infer(algorithm: MCEM, pair: SpeechPair, power: Tensor, seed: int = 0) -> Posterior:
    return algorithm(
        pair.model, pair.guide, power, None, Generator().manual_seed(seed), lambda fraction: None
    )


@pytest.mark.parametrize("make", PRESETS)
@pytest.mark.parametrize("shape", [(12,), (1,), (2, 5)])
def test_mcem_shapes_and_seeds(make: object, shape: tuple[int, ...], tiny_pair: SpeechPair) -> None:
    algorithm = short(make())  # type: ignore[operator]
    power = torch.rand(*shape, tiny_pair.stft.bins)
    first, again, other = (infer(algorithm, tiny_pair, power, seed) for seed in (1, 1, 2))
    assert torch.equal(first.wiener_gain, again.wiener_gain)
    assert torch.equal(first.z, again.z)
    assert first.costs == again.costs
    assert not torch.equal(first.wiener_gain, other.wiener_gain)
    assert first.wiener_gain.shape == first.variance.shape == power.shape
    assert first.z.shape[2:] == (*shape, 3)
    assert first.diverged is not None
    assert first.diverged.shape == first.z.shape[:-1]
    assert (first.energy is None) == (make is papers_mcem)  # a random walk has none
    if first.energy is not None:
        assert first.energy.shape == first.z.shape[:-1]
    assert first.acceptance.shape == shape
    torch.testing.assert_close(first.responsibilities, torch.ones(1, *shape))
    assert ((first.wiener_gain >= 0) & (first.wiener_gain <= 1 + 1e-5)).all()
    assert (first.variance >= 0).all()
    assert len(first.costs) == 3
    assert first.costs[-1] < first.costs[0]


@pytest.mark.parametrize("make", PRESETS)
@pytest.mark.parametrize("frames", [1, 6])
def test_mcem_of_silence_is_finite(make: object, frames: int, tiny_pair: SpeechPair) -> None:
    """Digital silence, in whole and in one frame."""
    algorithm = make()  # type: ignore[operator]
    algorithm = replace(algorithm, em=replace(algorithm.em, iterations=8))
    silence = torch.zeros(frames, tiny_pair.stft.bins)
    partly = torch.rand(frames + 1, tiny_pair.stft.bins)
    partly[0] = 0
    for power in (silence, partly):
        posterior = infer(algorithm, tiny_pair, power)
        for result in (posterior.wiener_gain, posterior.variance, posterior.z, torch.tensor(posterior.costs)):
            assert result.isfinite().all()


def test_mcem_tells_its_progress(tiny_pair: SpeechPair) -> None:
    told: list[float] = []
    power = torch.rand(4, tiny_pair.stft.bins)
    short(default_mcem())(
        tiny_pair.model, tiny_pair.guide, power, None, Generator().manual_seed(0), told.append
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 2


def test_the_papers_schedule() -> None:
    """Numbers that the papers state."""
    algorithm = papers_mcem()
    em, final = algorithm.em, algorithm.final
    assert isinstance(em.e_step, Chain)
    assert isinstance(final, Chain)
    assert (em.e_step.num_steps, em.e_step.warmup, em.iterations, em.tolerance) == (40, 30, 100, 1e-5)
    assert (final.num_steps, final.warmup) == (100, 75)
    assert em.e_step.kernel == RandomWalk(step_size=0.01**0.5)
    assert em.e_step.target_acceptance is None


def test_posterior_as_xarray(tiny_pair: SpeechPair) -> None:
    pytest.importorskip("arviz")
    power = torch.rand(2, 5, tiny_pair.stft.bins)
    posterior = infer(short(default_mcem()), tiny_pair, power)
    for channel in (0, 1):
        data = posterior.to_xarray(channel)
        assert data["z"].dims == ("chain", "draw", "frame", "latent")
        assert torch.equal(torch.from_numpy(data["z"].values), posterior.z[:, :, channel])
        assert torch.equal(torch.from_numpy(data["wiener_gain"].values), posterior.wiener_gain[channel])
        assert data["acceptance"].dims == ("frame",)
