"""The encoder fine-tuned on a recording: its bound and its posterior against closed forms."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import avse
from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.inference.em.fine_tuned import FineTunedEM, FineTunedPosterior
from avse.inference.location import location
from avse.inference.mcmc.chain import ChainState
from avse.inference.mcmc.log_density import closure
from avse.models.linear_gaussian import LinearGaussian
from avse.models.networks.lips import cached_embeddings
from avse.models.nmf import QuantileInit
from avse.models.noisy import NoisySpeech
from avse.models.recurrent_vae import RecurrentVAE
from avse.models.state_space import LinearGaussianStateSpace, LinearTransition

F, L, N = 4, 2, 6


class Encoder(SpeechGuide):
    """q(z | s) = N(m, diag exp(c)^2), m and c of each frame: any normal with independent latents."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(N, L, dtype=torch.float64))
        self.spread = nn.Parameter(torch.zeros(N, L, dtype=torch.float64))

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        assert power is not None
        return dist.Normal(self.mean, self.spread.exp()).to_event(1).expand(power.shape[:-1])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tuned(model: LinearGaussian | LinearGaussianStateSpace, s: Tensor) -> FineTunedPosterior:
    """Steps on the bound of the model at s, each with 50 draws, the last ones short."""
    step = FineTunedPosterior(Encoder(), s.expand(50, N, F), None, 0.1, steps=60)
    chains, generator = ChainState(s.new_zeros(N, L)), torch.Generator().manual_seed(1)
    assert step.optimiser is not None
    for rate in (0.1, 0.05, 0.01, 0.002):
        step.optimiser.param_groups[0]["lr"] = rate
        step(closure(model, s=s), chains, generator)
    return step


def test_bound_of_independent_frames_becomes_the_evidence() -> None:
    """A has orthogonal columns: the posterior has independent latents, and q can equal it."""
    A = torch.linalg.qr(normal(F, L)).Q * torch.tensor([2.0, 0.7], dtype=torch.float64)
    model = LinearGaussian(A, normal(F, seed=1), torch.tensor(0.5, dtype=torch.float64))
    pyro.set_rng_seed(0)
    s = model(frames=N)
    step, exact = tuned(model, s), model.posterior(s)
    q = step.q().base_dist
    scale = exact.covariance.diag().sqrt()
    assert ((q.mean - exact.mean) / scale).abs().max() < 0.1
    assert (q.stddev / scale).log().abs().max() < 0.1
    # With q equal to p(z | s) the bound is the evidence at every draw.
    torch.testing.assert_close(
        torch.tensor(step.bounds[-60:]).mean(), model.log_evidence(s).mean().float(), rtol=0, atol=0.03
    )
    assert step.bounds[0] < step.bounds[-1] - 1


def test_coupled_frames_get_the_best_independent_approximation() -> None:
    """Of a normal with precision P the best q with independent latents has its mean, variances 1 / P_ii."""
    B = 0.8 * torch.eye(L, dtype=torch.float64)
    ones = torch.ones(L, dtype=torch.float64)
    model = LinearGaussianStateSpace(
        LinearTransition(0 * ones, ones, B, 0.36 * ones), normal(F, L), normal(F, seed=1), ones[0]
    )
    pyro.set_rng_seed(0)
    s = model(frames=N)
    step, exact = tuned(model, s), model.posterior(s)
    last = torch.arange(N) == N - 1
    first = torch.arange(N) == 0
    own = torch.where(first, 1.0, 1 / 0.36) + torch.where(last, 0.0, 0.64 / 0.36)
    precision = own[:, None] + (model.A.T @ model.A).diag() / model.sigma
    q = step.q().base_dist
    assert ((q.mean - exact.mean) * precision.sqrt()).abs().max() < 0.15
    assert (q.stddev * precision.sqrt()).log().abs().max() < 0.1
    gap = float(model.log_evidence(s).mean()) - sum(step.bounds[-60:]) / 60
    assert 0 < gap < 1


def test_the_pair_stays_as_it_is_and_runs_repeat() -> None:
    pair = avse.load("a-vae")
    before = pair.fingerprint()
    power = torch.rand(1, 12, 513, generator=torch.Generator().manual_seed(0))
    run = FineTunedEM(QuantileInit(rank=2), iterations=2, steps=2)
    first, second = (
        run(pair.model, pair.guide, power, None, torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert pair.fingerprint() == before
    assert not any(parameter.requires_grad for parameter in pair.guide.parameters())
    assert torch.equal(first.z, second.z)
    still = FineTunedEM(QuantileInit(rank=2), iterations=2, steps=0)
    other = still(pair.model, pair.guide, power, None, torch.Generator().manual_seed(1))
    assert not torch.allclose(first.z, other.z)


class Lattice(dist.Normal):
    """A normal whose draws cannot be differentiated."""

    has_rsample = False


def test_a_guide_that_cannot_be_differentiated_is_refused() -> None:
    class Rough(Encoder):
        def posterior(self, power=None, visual=None):
            q = super().posterior(power, visual).base_dist
            return Lattice(q.mean, q.stddev).to_event(1)

    step = FineTunedPosterior(Rough(), normal(N, F), None)
    with pytest.raises(InputError, match="cannot be differentiated"):
        step(lambda z: -z.square().sum(-1), ChainState(normal(N, L)), torch.Generator())


def test_recurrent_vae_is_fine_tuned_through_all_frames() -> None:
    """A decoder that reads sums over the past: the gradient of late frames reaches early latents."""
    model = RecurrentVAE(
        lambda: dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1),
        lambda z: torch.cumsum(z, -2).repeat(1, F // L),
    )
    truth = normal(N, L, seed=2)
    power = model.decoder(truth).exp()
    noisy = lambda z: model.given(None).log_joint_fn(power)(z)[0]  # noqa: E731
    step = FineTunedPosterior(Encoder(), power, None, 0.02, steps=300)
    step(noisy, ChainState(normal(N, L)), torch.Generator().manual_seed(0))
    assert sum(step.bounds[-50:]) / 50 > sum(step.bounds[:20]) / 20 + 1
    assert math.isfinite(step.bounds[-1])


def test_embeddings_of_earlier_weights_are_not_used() -> None:
    """EM caches the embedding of the lips for a whole run; the trunk of the guide changes within it."""
    pair = avse.load("av-vae-synthetic")
    generator = torch.Generator().manual_seed(0)
    power = torch.rand(N, pair.stft.bins, generator=generator)
    visual = torch.cat([torch.rand(N, 8640, generator=generator), torch.ones(N, 1)], -1)
    own = copy.deepcopy(pair.guide)
    step = FineTunedPosterior(own, power, visual, learning_rate=0.05, steps=2)
    noisy = NoisySpeech(pair.model, QuantileInit(2)(power, generator))
    with cached_embeddings():
        before = location(step.q())
        step(closure(noisy, power=power, visual=visual), ChainState(torch.zeros(N, 32)), generator)
        inside = location(step.q())
    torch.testing.assert_close(inside, location(own.posterior(power, visual)))
    assert (inside - before).abs().max() > 0.1
