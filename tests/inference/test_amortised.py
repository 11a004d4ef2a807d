"""Amortised EM: draws of the guide alone, the noise of a known posterior, and both kinds of guides."""

from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch

from avse.guides.base import SpeechGuide
from avse.guides.context import context_guide
from avse.inference.em.amortised import AmortisedEM, FixedPosterior, IfContext
from avse.inference.em.initial import InitFromEstimate, InitFromNoise, init_from_context
from avse.inference.location import sampled
from avse.inference.mcmc.chain import ChainState
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.nmf import QuantileInit

FRAMES, BINS, LATENTS = 60, 40, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Known(SpeechGuide):
    """A guide that knows q(z), whatever it hears."""

    def __init__(self, mean: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def posterior(self, power=None, visual=None):
        return dist.Normal(self.mean, self.scale * torch.ones_like(self.mean)).to_event(1)


def harmonics(z: torch.Tensor) -> torch.Tensor:
    """Log variance: a comb in the first or second half of the bins, as loud as z says."""
    comb = torch.zeros(2, BINS, dtype=z.dtype)
    comb[0, 1 : BINS // 2 : 3] = 1
    comb[1, BINS // 2 :: 3] = 1
    return z @ comb * 2 - 6


@pytest.fixture
def recording():
    """z, speech variance and noise variance of a recording, and its power."""
    draws = generator(3)
    z = 4 + torch.randn(FRAMES, LATENTS, generator=draws, dtype=torch.float64)
    spectrum = torch.linspace(1, 3, BINS, dtype=torch.float64)
    level = torch.where(torch.arange(FRAMES) < FRAMES // 2, 1.0, 4.0).double()
    noise = level[:, None] * spectrum
    total = harmonics(z).exp() + noise
    power = total * -torch.log(torch.rand(FRAMES, BINS, generator=draws, dtype=torch.float64))
    return z, noise, power


def test_draws_have_the_moments_of_the_guide_whatever_the_parameters():
    """20,000 draws, a bound of 5 standard errors on 4 means and 4 variances: false alarms below 1e-5."""
    mean = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    q = dist.Normal(mean, torch.tensor(0.7, dtype=torch.float64).expand(2, 2)).to_event(1)
    count = 20_000
    step = FixedPosterior(q, count, spread=0.5)
    draws, state = step(lambda z: z.sum(), ChainState(torch.zeros(1, 2, 2)), generator(1))
    assert draws.z.shape == (count, 1, 2, 2)
    error = 5 * 0.35 / count**0.5
    torch.testing.assert_close(draws.z.mean(0)[0], mean, atol=error, rtol=0)
    torch.testing.assert_close(
        draws.z.var(0)[0], torch.full_like(mean, 0.35**2), atol=5 * 0.35**2 * (2 / count) ** 0.5, rtol=0
    )
    assert state.z.shape == (1, 2, 2)


def test_the_noise_of_a_known_posterior_is_found(recording):
    z, noise, power = recording
    algorithm = AmortisedEM(QuantileInit(rank=2, smoothness=5.0), iterations=20, spread=1.0)
    found = algorithm(AVAE(StandardNormal(LATENTS), harmonics), Known(z, 1e-6), power, None, generator())
    halves = [
        (half.log().mean(), truth.log().mean())
        for half, truth in zip(found.noise.variance().chunk(2, -2), noise.chunk(2, -2), strict=True)
    ]
    for estimate, truth in halves:  # 1,200 powers a half: standard error of the mean log near .05
        assert abs(float(estimate - truth)) < 0.3
    ideal = harmonics(z).exp() / (harmonics(z).exp() + noise)
    assert float((found.wiener_gain - ideal).abs().mean()) < 0.05


def test_the_cost_of_a_point_posterior_never_rises(recording):
    z, _, power = recording
    algorithm = AmortisedEM(QuantileInit(rank=3), iterations=12)
    costs = algorithm(
        AVAE(StandardNormal(LATENTS), harmonics), Known(z, 1e-9), power, None, generator()
    ).costs
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(costs))
    assert costs[-1] < costs[0] - 0.01


def test_a_wrong_posterior_is_told_by_its_cost(recording):
    z, _, power = recording
    model, algorithm = AVAE(StandardNormal(LATENTS), harmonics), AmortisedEM(QuantileInit(rank=3))
    right = algorithm(model, Known(z, 0.1), power, None, generator()).costs[-1]
    wrong = algorithm(model, Known(z.flip(0), 0.1), power, None, generator()).costs[-1]
    assert wrong > right + 0.02


def test_seeds_and_channels(recording):
    z, _, power = recording
    model, algorithm = AVAE(StandardNormal(LATENTS), harmonics), AmortisedEM(QuantileInit(rank=3))
    one, again, other = (algorithm(model, Known(z, 1.0), power, None, generator(s)) for s in (0, 0, 1))
    torch.testing.assert_close(one.wiener_gain, again.wiener_gain)
    assert not torch.allclose(one.wiener_gain, other.wiener_gain)
    both = algorithm(model, Known(z.expand(2, -1, -1), 1.0), torch.stack([power, power]), None, generator())
    assert both.wiener_gain.shape == (2, FRAMES, BINS)
    assert both.z.shape == (1, 6, 2, FRAMES, LATENTS)


def test_a_guide_without_context_is_its_own(recording):
    z, _, power = recording
    guide = Known(z, 1.0)
    start = init_from_context(AVAE(StandardNormal(LATENTS), harmonics), guide, power, None, None)
    torch.testing.assert_close(start, z)


def test_draws_come_from_the_generator_alone():
    q = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    state = torch.random.get_rng_state()
    first, second = sampled(q, 4, generator(5)), sampled(q, 4, generator(5))
    assert first.shape == (4, 3)
    torch.testing.assert_close(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pairs_without_a_context_guide_get_the_other_algorithm(recording):
    z, _, power = recording
    model = AVAE(StandardNormal(LATENTS), harmonics)
    chosen = IfContext(
        AmortisedEM(QuantileInit(rank=2), iterations=1), AmortisedEM(QuantileInit(rank=2), iterations=3)
    )

    class Both(Known):
        """A guide that brings itself as its context guide."""

    context_guide.register(Both, lambda guide: guide)
    assert len(chosen(model, Both(z, 1.0), power, None, generator()).costs) == 1
    assert len(chosen(model, Known(z, 1.0), power, None, generator()).costs) == 3


def test_starts_from_what_another_model_has_found(recording):
    _, noise, power = recording
    fitted = QuantileInit(rank=2)(power, generator())
    assert InitFromNoise(fitted)(power, generator(9)) is fitted

    class Encodes(SpeechGuide):
        """q(z | s) whose mean is the level of the bins."""

        def posterior(self, power=None, visual=None):
            return dist.Normal(power.mean(-1, keepdim=True).expand(-1, LATENTS), 1.0).to_event(1)

    estimate = power - noise.clamp_max(power)
    start = InitFromEstimate(estimate)(
        AVAE(StandardNormal(LATENTS), harmonics), Encodes(), power, None, fitted
    )
    torch.testing.assert_close(start, estimate.mean(-1, keepdim=True).expand(-1, LATENTS))


def test_draws_of_normals_are_those_of_the_global_generator_at_the_same_seed() -> None:
    """Which other distributions take, so that a number does not depend on the way."""
    q = dist.Normal(torch.randn(2, 5, 3), torch.rand(2, 5, 3)).to_event(1)
    generator = torch.Generator().manual_seed(3)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    found = sampled(q, 4, generator)
    torch.manual_seed(seed)
    torch.testing.assert_close(found, torch.stack([q.sample() for _ in range(4)]))
