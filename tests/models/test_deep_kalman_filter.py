"""Deep Kalman filters: closed form against trace and loop, the bound against sums, what serves them."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import avse
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.guides.audio import AudioGuide
from avse.inference.mcmc.log_density import closure, frame_terms
from avse.inference.presets import PRESETS
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO, MeanOfRecordings
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel, TracedSpeech
from avse.models.coupling import Coupling
from avse.models.deep_kalman_filter import AVDeepKalmanFilter, DeepKalmanFilter
from avse.models.markov_chain import MarkovChain
from avse.models.networks.spectrum import GaussianEncoder, LogPower, SpectrumDecoder
from avse.models.networks.transition import GatedTransition
from avse.models.state_space import LinearGaussianStateSpace, LinearTransition
from avse.models.vae_mm import VAEMM
from avse.zoo.pair import PairConfig, SpeechPair

F, L, N, D = 6, 3, 5, 4


def dkf() -> DeepKalmanFilter:
    torch.manual_seed(0)
    return DeepKalmanFilter(GatedTransition(L, 8), SpectrumDecoder(L, [8], F)).double()


def av_dkf() -> AVDeepKalmanFilter:
    torch.manual_seed(0)
    transition = GatedTransition(L, 8, embedding_size=2)
    return AVDeepKalmanFilter(
        nn.Linear(D, 2), transition, SpectrumDecoder(L, [8], F, embedding_size=2)
    ).double()


def data(*batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """z (*, N, L), power (*, N, F) and lips (*, N, D)."""
    generator = torch.Generator().manual_seed(1)
    z, s, v = (torch.randn(*batch, N, size, generator=generator, dtype=torch.float64) for size in (L, F, D))
    return z, s.square(), v


@pytest.mark.parametrize("make", [dkf, av_dkf])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_closed_form_is_the_trace(make: Callable[[], SpeechModel], batch: tuple[int, ...]) -> None:
    model = make()
    z, _, visual = data(*batch)
    for lips in (visual, visual[0, 0]) if batch else (visual,):  # one face for all channels
        found, traced = model.given(lips)(z), TracedSpeech(model, lips)(z)
        torch.testing.assert_close(found.log_prior, traced.log_prior)
        torch.testing.assert_close(found.log_variance, traced.log_variance)
        assert found.log_prior.shape == (1, *batch, N)


def test_prior_is_that_of_a_loop_over_frames() -> None:
    model = av_dkf()
    z, _, visual = data()

    def loop() -> None:
        embedding, previous = model.lips(visual), torch.zeros(())
        for n in pyro.markov(range(N)):
            p = model.transition(previous, embedding[n]) if n else model.transition.initial(embedding[n])
            previous = pyro.sample(f"z_{n}", dist.Normal(p.mean, p.scale).to_event(1), obs=z[n])

    trace = poutine.trace(loop).get_trace()
    trace.compute_log_prob()
    steps = torch.stack([trace.nodes[f"z_{n}"]["log_prob"] for n in range(N)])
    torch.testing.assert_close(model.given(visual)(z).log_prior[0], steps)


def test_draws_follow_the_transition() -> None:
    """(z_n - mu(z_{n-1})) / sigma(z_{n-1}) of draws of the model is N(0, 1); false alarms below 1e-6."""
    model = dkf()
    torch.manual_seed(2)
    z = MarkovChain(model.transition).expand((4000, N)).rsample()
    p = MarkovChain(model.transition).conditional(z).base_dist
    unit = ((z - p.mean) / p.stddev).detach().flatten(0, 1)
    scores = torch.cat([unit.mean(0), (unit.square() - 1).mean(0) / 2**0.5]) * len(unit) ** 0.5
    assert scores.abs().max() < 5.5
    neighbours = (unit[:-1] * unit[1:]).mean(0) * len(unit) ** 0.5
    assert neighbours.abs().max() < 5.5


def test_bound_with_conditional_divergences_is_the_bound(generator: torch.Generator) -> None:
    """Equal means to within 5 standard errors (false alarms 6e-7), and less variance."""
    model = dkf()
    _, power, _ = data(2)
    guide = AudioGuide(LogPower(F), GaussianEncoder(F, [8], L)).double()
    plain, closed = [], []
    pyro.set_rng_seed(3)
    for _ in range(150):
        plain.append(float(Trace_ELBO().loss(model, guide, power=power)) / 2)
        bound = MeanOfRecordings(AnalyticKLTraceEnumELBO(max_plate_nesting=2))
        closed.append(float(bound.differentiable_loss(model, guide, power=power).detach()))
    first, second = torch.tensor(plain), torch.tensor(closed)
    error = math.sqrt(float(first.var() + second.var()) / 150)
    assert abs(float(first.mean() - second.mean())) < 5 * error
    assert second.std() < first.std()


def test_importance_sampling_finds_the_kalman_evidence() -> None:
    """log E_q p(s, z) / q(z), q the smoothed marginals, is log p(s) within 5 standard errors (6e-7)."""
    pyro.set_rng_seed(4)
    B = 0.6 * torch.eye(2, dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    model = LinearGaussianStateSpace(
        LinearTransition(0 * ones, ones, B, 0.7 * ones), torch.eye(2, dtype=torch.float64), ones, ones[0]
    )
    s = model(frames=4)
    smoothed = model.posterior(s)
    q = dist.MultivariateNormal(smoothed.mean, 1.3 * smoothed.covariance)
    z = q.sample((20_000,))
    log_weight = frame_terms(closure(model, s=s))(z).sum(-1) - q.log_prob(z).sum(-1)
    weight = (log_weight - model.log_evidence(s).sum()).exp()
    assert abs(float(weight.mean() - 1)) < 5 * float(weight.std()) / len(weight) ** 0.5
    assert float(weight.std()) < 3


def test_shuffled_frames_are_less_probable() -> None:
    """A slow transition: z of its own draws in order, against the same frames in another order."""
    slow = LinearTransition(*torch.ones(2, L), 0.95 * torch.eye(L), torch.full((L,), 1 - 0.95**2))
    pyro.set_rng_seed(5)
    z = MarkovChain(slow).expand((200,)).sample()
    order = torch.randperm(200)
    prior = MarkovChain(slow).log_prob
    assert prior(z).sum() > StandardNormal(L).log_prob(z).sum() + 200
    assert prior(z[order]).sum() < StandardNormal(L).log_prob(z).sum() - 200


# Which algorithms serve it ---------------------------------------------------------------------------------


@pytest.fixture
def pair() -> SpeechPair:
    sizes = {"latent_size": 3, "transition_hidden": 4, "encoder": [8], "decoder": [8]}
    return SpeechPair(PairConfig("dkf", sizes, FrontEnd(STFT(64, 32))))


X = np.random.default_rng(0).standard_normal(700).astype(np.float32)

SERVED = {"mcem", "amortised", "fine-tuned", "mcem-lips", "mcem-anchored", "amortised-lips", "mcem-branches"}
SERVED_SLOWLY = {"mcmc", "mcmc-em", "mcmc-full-bayes"}


@pytest.mark.parametrize(
    "name", [*sorted(SERVED), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(SERVED_SLOWLY))]
)
def test_an_algorithm_serves(name: str, pair: SpeechPair) -> None:
    enhancement = avse.enhance(X, 16000, model=pair, algorithm=name)
    assert np.isfinite(enhancement.speech).all()


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - SERVED - SERVED_SLOWLY))
def test_an_algorithm_refuses(name: str, pair: SpeechPair) -> None:
    with pytest.raises(InputError, match="frames of this model are coupled to their neighbours"):
        avse.enhance(X, 16000, model=pair, algorithm=name)


def test_a_mixture_takes_no_coupled_frames() -> None:
    with pytest.raises(InputError, match="DeepKalmanFilter: its frames are coupled"):
        VAEMM(dkf(), AVAE(StandardNormal(L), SpectrumDecoder(L, [8], F)))


@pytest.mark.parametrize("name", ["mcem", "vem", "mcem-mixture", "paper"])
def test_a_function_that_couples_frames_in_secret_is_refused(name: str, pair: SpeechPair) -> None:
    """z is independent, but the decoder mixes neighbours: frames accepted one by one would be wrong."""
    decoder = pair.model.decoder

    def smooth(visual: Tensor | None = None) -> Tensor:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return decoder((z + z.roll(1, -2)) / 2)

    own = avse.Pair(smooth, pair.guide, pair.config.front_end)
    with pytest.raises(InputError, match="states that its frames are independent"):
        avse.enhance(X, 16000, model=own, algorithm=name)


def test_a_function_that_says_so_is_served(pair: SpeechPair) -> None:
    transition, decoder = pair.model.transition, pair.model.decoder

    def walk(visual: Tensor | None = None) -> Tensor:
        return decoder(pyro.sample("z", MarkovChain(transition)))

    walk.coupling = Coupling.MARKOV  # type: ignore[attr-defined]
    own = avse.Pair(walk, pair.guide, pair.config.front_end)
    found = avse.enhance(X, 16000, model=own, algorithm="mcem", seed=1)
    same = avse.enhance(X, 16000, model=pair, algorithm="mcem", seed=1)
    np.testing.assert_allclose(found.speech, same.speech, atol=1e-4)
    with pytest.raises(InputError, match="coupled to their neighbours"):
        avse.enhance(X, 16000, model=own, algorithm="paper")
