"""Components with chains of their own: evidence, r(alpha) over time, and the whole against dense grids.

float64. The seeds are fixed; z-scores have the bound 4.5 (false alarms 7e-6 a score, a dozen scores).
"""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.inference.em.component_mcem import ComponentwiseMCEM
from avse.inference.em.em import EM
from avse.inference.em.initial import init_from_encoder
from avse.inference.em.m_steps import NoiseStep
from avse.inference.em.mcem import MCEM
from avse.inference.importance import Proposal, log_evidence, proposal
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.kernels import MALA
from avse.inference.responsibilities import MarkovSmoothing, Tempered, independent
from avse.models.base import SpeechModel
from avse.models.distributions import PowerSpectrum
from avse.models.nmf import NMFNoise
from avse.models.sites import ALPHA, Z

F, N = 4, 30
Z_BOUND = 4.5


class Lines(SpeechModel):
    """alpha ~ Categorical(pi), z ~ N(0, 1), log sigma_f = slope_f z + offset_f, all but z switched."""

    def __init__(self, pi: Tensor, slopes: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.log_pi, self.slopes, self.offsets = pi.log(), slopes, offsets

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Categorical(logits=self.log_pi), infer={"enumerate": "parallel"})
        zero, one = self.offsets.new_zeros(1), self.offsets.new_ones(1)
        z = pyro.sample(Z, dist.Normal(zero, one).to_event(1))
        return z * self.slopes[alpha] + self.offsets[alpha]


class Centre(SpeechGuide):
    """z = 0 is where to start."""

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        assert power is not None
        mean = power.new_zeros(*power.shape[:-1], 1)
        return dist.Normal(mean, torch.ones_like(mean)).to_event(1)


def problem(values: int = 2) -> tuple[Lines, NMFNoise, Tensor]:
    """A mixture, a noise and a recording of it."""
    torch.manual_seed(0)
    pi = torch.tensor([0.3, 0.7][:values] if values < 3 else [0.2, 0.5, 0.3], dtype=torch.float64)
    model = Lines(pi / pi.sum(), *torch.randn(2, values, F, dtype=torch.float64))
    noise = NMFNoise(
        torch.rand(F, 1, dtype=torch.float64) + 0.2,
        torch.rand(1, N, dtype=torch.float64) + 0.2,
        torch.ones(N, dtype=torch.float64),
        floor=1e-10,
    )
    alpha = torch.multinomial(model.log_pi.exp(), N, replacement=True)
    z = torch.randn(N, 1, dtype=torch.float64)
    variance = (z * model.slopes[alpha] + model.offsets[alpha]).exp() + noise.variance()
    return model, noise, PowerSpectrum(variance.log()).sample()


def on_grid(model: Lines, noise: NMFNoise, power: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, alpha) (A, N) and the posterior mean of the Wiener gain (N, F), by the trapezoidal rule."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None, None]
    joints, filters = [], []
    for a in range(len(model.log_pi)):
        speech = (z * model.slopes[a] + model.offsets[a]).exp()
        variance = speech + noise.variance()
        log_joint = -(variance.log() + power / variance).sum(-1) + model.log_pi[a]
        log_joint = log_joint - z[..., 0].square() / 2 - math.log(2 * math.pi) / 2
        joints.append(log_joint)
        filters.append(speech / variance)
    step = 18 / 4000
    evidence = torch.stack([joint.logsumexp(0) + math.log(step) for joint in joints])
    total = evidence.logsumexp(0)
    gain = sum(
        ((joint - total).exp().unsqueeze(-1) * filter_).sum(0) * step
        for joint, filter_ in zip(joints, filters, strict=True)
    )
    assert isinstance(gain, Tensor)
    return evidence, gain


def still(noise: NMFNoise, **changes: object) -> ComponentwiseMCEM:
    """The noise is known and stays; a long final run."""
    chain = Chain(MALA(1.0), num_steps=40, warmup=20, target_acceptance=0.57)
    parts = {
        "noise_init": lambda power, generator: noise,
        "latent_inits": (init_from_encoder,) * 10,
        "e_step": chain,
        "m_step": NoiseStep(updates=()),
        "final": Chain(MALA(1.0), num_steps=160, warmup=60, target_acceptance=0.57),
        "iterations": 1,
        "particles": 100,
    }
    return ComponentwiseMCEM(**{**parts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_responsibilities_and_filter_are_those_of_the_grid(values: int) -> None:
    model, noise, power = problem(values)
    posterior = still(noise)(model, Centre(), power, None, Generator().manual_seed(0))
    evidence, gain = on_grid(model, noise, power)
    exact = evidence.softmax(0)
    assert exact.amin() < 0.1 < 0.9 < exact.amax()
    assert (posterior.responsibilities - exact).abs().max() < 0.03
    assert (posterior.wiener_gain - gain).abs().max() < 0.03
    wrong = (exact.flip(0) - exact).abs().max()  # negative control: the components exchanged
    assert wrong > 0.2


@pytest.mark.slow
def test_draws_of_z_are_of_the_marginal_posterior() -> None:
    """E[z | x] whatever alpha, from draws that choose a component by r(alpha)."""
    model, noise, power = problem()
    posterior = still(noise)(model, Centre(), power, None, Generator().manual_seed(0))
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None, None]
    log_joint = torch.stack(
        [
            -(((z * s + o).exp() + noise.variance()).log()).sum(-1)
            - (power / ((z * s + o).exp() + noise.variance())).sum(-1)
            + p
            - z[..., 0].square() / 2
            for s, o, p in zip(model.slopes, model.offsets, model.log_pi, strict=True)
        ]
    )
    weights = log_joint.logsumexp(0).softmax(0)
    expected = (weights * z[..., 0]).sum(0)
    assert posterior.z.shape == (10, 100, N, 1)
    assert (posterior.z.mean((0, 1)).squeeze(-1) - expected).abs().max() < 0.12


def test_without_alpha_it_is_mcem() -> None:
    """Same draws, same noise, same filter."""
    model, noise, power = problem(1)
    chain, m_step = Chain(MALA(0.5), num_steps=3, warmup=1, target_acceptance=0.57), NoiseStep(rounds=2)
    parts = {
        "noise_init": lambda power, generator: noise,
        "latent_inits": (init_from_encoder, init_from_encoder),
        "final": chain,
    }
    structured = ComponentwiseMCEM(e_step=chain, m_step=m_step, iterations=4, **parts)  # type: ignore[arg-type]
    plain = MCEM(em=EM(chain, m_step, iterations=4, tolerance=0.0), **parts)  # type: ignore[arg-type]
    a, b = (
        algorithm(model, Centre(), power, None, Generator().manual_seed(3))
        for algorithm in (structured, plain)
    )
    torch.testing.assert_close(a.wiener_gain, b.wiener_gain)
    torch.testing.assert_close(a.variance, b.variance)
    torch.testing.assert_close(a.z, b.z)
    torch.testing.assert_close(a.noise.variance(), b.noise.variance())
    assert a.costs == pytest.approx(b.costs)


@pytest.mark.slow
def test_channels_are_independent() -> None:
    """Two channels at once: shapes, and the same posterior as each alone within its Monte Carlo error."""
    model, noise, power = problem()
    both = still(noise)(model, Centre(), torch.stack([power, power]), None, Generator().manual_seed(1))
    exact = on_grid(model, noise, power)[0].softmax(0)
    assert both.responsibilities.shape == (2, 2, N)
    assert (both.responsibilities - exact.unsqueeze(1)).abs().max() < 0.03


def test_evidence_of_a_normal_is_exact() -> None:
    """The proposal is the density itself: every weight is the evidence."""
    q = Proposal(torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.5)

    def density(z: Tensor) -> Tensor:
        return dist.Normal(q.centre, q.scale).log_prob(z).sum(-1) + 7.0

    found = log_evidence(density, q, 1, Generator().manual_seed(0))
    torch.testing.assert_close(found, torch.full_like(found, 7.0))


def test_evidence_is_a_lower_estimate_that_closes_with_particles() -> None:
    """A proposal too narrow: the mean is below the truth, 0, and rises with the particles."""
    count = 4000
    q = Proposal(
        torch.zeros(count, 2, dtype=torch.float64), torch.full((count, 2), 0.75, dtype=torch.float64)
    )

    def density(z: Tensor) -> Tensor:
        return dist.Normal(z.new_zeros(()), z.new_ones(())).log_prob(z).sum(-1)

    few, many = (log_evidence(density, q, k, Generator().manual_seed(0)) for k in (1, 30))
    for estimate in (few, many):
        assert estimate.mean() < Z_BOUND * estimate.std() / count**0.5
    assert few.mean() < -0.1 < -0.05 < many.mean()


def test_the_proposal_has_the_moments_of_the_draws() -> None:
    z = torch.randn(20_000, 3, 2, dtype=torch.float64) * 2 + 1
    q = proposal(z, None)
    assert (q.centre - 1).abs().max() < Z_BOUND * 2 / 20_000**0.5
    assert (q.scale - 2).abs().max() < Z_BOUND * 2 / (2 * 20_000) ** 0.5
    one = proposal(z[:1], torch.full((3,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(one.scale, torch.full((3, 2), 0.3, dtype=torch.float64))


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_persistence_is_the_explicit_sum_over_paths(values: int, frames: int) -> None:
    torch.manual_seed(0)
    log_evidence = 2 * torch.randn(values, frames, dtype=torch.float64)
    stay = 4.0
    change = torch.full((values, values), 1 / (stay * (values - 1)), dtype=torch.float64)
    change.fill_diagonal_(1 - 1 / stay)
    sums = torch.zeros(values, frames, dtype=torch.float64)
    for path in itertools.product(range(values), repeat=frames):
        weight = math.exp(sum(float(log_evidence[a, n]) for n, a in enumerate(path)))
        weight *= math.prod(float(change[i, j]) for i, j in itertools.pairwise(path))
        for n, a in enumerate(path):
            sums[a, n] += weight
    torch.testing.assert_close(
        MarkovSmoothing(stay)(torch.zeros_like(log_evidence), log_evidence),
        sums / sums.sum(0),
        rtol=1e-10,
        atol=1e-12,
    )


def test_persistence_bridges_a_doubtful_frame_and_bows_to_a_sure_one() -> None:
    evidence = torch.zeros(2, 9, dtype=torch.float64)
    evidence[1] = 5.0
    evidence[1, 4] = -1.0
    prior = torch.zeros_like(evidence)
    assert independent(prior, evidence)[1, 4] < 0.5 < 0.9 < MarkovSmoothing(30.0)(prior, evidence)[1, 4]
    evidence[1, 4] = -torch.inf
    assert MarkovSmoothing(30.0)(prior, evidence)[1, 4] < 1e-6
    assert MarkovSmoothing(30.0)(prior, evidence).isfinite().all()
    even = MarkovSmoothing(2.0)(prior, evidence)  # T says nothing
    torch.testing.assert_close(even, independent(prior, evidence), atol=1e-6, rtol=0)


def test_tempered_evidence_by_hand_and_at_its_ends() -> None:
    torch.manual_seed(0)
    prior, evidence = torch.randn(2, 2, 7, dtype=torch.float64)
    weighted = prior.exp() * evidence.exp() ** 0.3
    torch.testing.assert_close(Tempered(0.3)(prior, evidence), weighted / weighted.sum(0))
    torch.testing.assert_close(Tempered(1.0)(prior, evidence), independent(prior, evidence))
    torch.testing.assert_close(Tempered(0.0)(prior, evidence), prior.softmax(0))
    evidence[0, 3] = -torch.inf
    assert Tempered(0.3)(prior, evidence)[0, 3] < 1e-9
    torch.testing.assert_close(Tempered(0.0)(prior, evidence), prior.softmax(0))
    with pytest.raises(InputError, match="between 0 and 1"):
        Tempered(1.5)


def test_a_run_of_one_frame_is_refused() -> None:
    with pytest.raises(InputError, match="more than 1"):
        MarkovSmoothing(1.0)
