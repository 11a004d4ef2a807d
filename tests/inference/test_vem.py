"""Variational EM: every step against its formula, fixed points against dense grids, bounds against theorems.

All in float64 unless said. z-scores are over independent frames, bound 4.5: false alarms 7e-6 a score, a few
dozen scores in all. Fixed points are compared at fixed seeds within tolerances that are several times the
Monte Carlo error; a negative control misses each of them by more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.guides.base import SpeechGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.inference.component_density import ComponentDensity, closed, log_alpha, traced
from avse.inference.em.initial import InitEachComponent, init_from_encoder
from avse.inference.mcmc.chain import Chain, ChainState, Draws
from avse.inference.mcmc.kernels import MALA, RandomWalk
from avse.inference.mcmc.log_density import LogJoint
from avse.inference.posterior import Posterior
from avse.inference.presets import default_vem, papers_vem
from avse.inference.responsibilities import normalised
from avse.inference.vem.latent_factor import (
    LatentFactor,
    Shared,
    Structured,
    importance_entropy,
    moments,
    target,
)
from avse.inference.vem.mean_field import (
    MeanField,
    Moments,
    Update,
    UpdateNoise,
    UpdatePi,
    equal,
    free_energy,
    from_model,
    update_alpha,
    update_gain,
    update_pi,
    update_speech,
)
from avse.inference.vem.vem import VEM
from avse.models.band_limited import BandLimited
from avse.models.base import ConditionedSpeech, Evaluation, SpeechModel
from avse.models.distributions import ComplexNormal, exponential_cost
from avse.models.min_vae import MINVAE
from avse.models.networks.lips import LipTrunk
from avse.models.nmf import NMFNoise, RandomInit
from avse.models.noisy import WienerMoments
from avse.models.sites import ALPHA, Z
from avse.models.vae_mm import VAEMM
from avse.zoo.pair import PairConfig, SpeechPair

F, L, N, A, K = 5, 2, 4, 2, 3
Z_BOUND = 4.5


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


class Mixture(SpeechModel):
    """alpha ~ Categorical(pi), z ~ N(means, scales), log sigma = z slopes + offsets, all switched."""

    def __init__(self, pi: Tensor, means: Tensor, scales: Tensor, slopes: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.pi, self.log_pi = pi, pi.log()
        self.means, self.scales, self.slopes, self.offsets = means, scales, slopes, offsets

    def one(self, a: int) -> "Mixture":
        """Component a alone."""
        parts = (self.means, self.scales, self.slopes, self.offsets)
        return Mixture(torch.ones_like(self.pi[:1]), *(part[a : a + 1] for part in parts))

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Categorical(logits=self.log_pi))
        z = pyro.sample(Z, dist.Normal(self.means[alpha], self.scales[alpha]).to_event(1))
        return (z.unsqueeze(-2) @ self.slopes[alpha]).squeeze(-2) + self.offsets[alpha]

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """The trace is two orders slower here."""
        return ClosedMixture(self)

    def by_hand(self, a: int, z: Tensor, power: Tensor) -> tuple[float, list[float], float]:
        """log p(z | a), sigma_f and log p(power | z, a) in one frame, without the library."""
        log_prior = sum(
            -((float(z[i] - self.means[a, i]) / float(self.scales[a, i])) ** 2) / 2
            - math.log(float(self.scales[a, i]))
            - math.log(2 * math.pi) / 2
            for i in range(len(z))
        )
        sigma = [
            math.exp(
                sum(float(z[i] * self.slopes[a, i, f]) for i in range(len(z))) + float(self.offsets[a, f])
            )
            for f in range(F)
        ]
        log_likelihood = sum(-math.log(v) - float(p) / v for v, p in zip(sigma, power, strict=True))
        return log_prior, sigma, log_likelihood


class ClosedMixture(ConditionedSpeech):
    def __init__(self, model: "Mixture") -> None:
        self.model = model

    def __call__(self, z: Tensor) -> Evaluation:
        model, alpha = self.model, torch.arange(len(self.model.pi)).reshape(-1, *[1] * (z.dim() - 1))
        log_prior = dist.Normal(model.means[alpha], model.scales[alpha]).log_prob(z).sum(-1)
        log_variance = (z.unsqueeze(-2) @ model.slopes[alpha]).squeeze(-2) + model.offsets[alpha]
        return Evaluation(log_prior + model.log_pi[alpha], log_variance)


def vae_mm(latents: int = L, values: int = A, spread: float = 1.0) -> Mixture:
    """Prior and decoder switch; offsets of the decoders have this standard deviation."""
    pi = torch.tensor([0.7, 0.3] if values == 2 else [0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    return Mixture(
        pi,
        0.5 * randn(values, latents),
        rand(values, latents) + 0.5,
        0.7 * randn(values, latents, F),
        spread * randn(values, F),
    )


def min_vae(latents: int = L, values: int = A, spread: float = 1.0) -> Mixture:
    """The prior alone switches."""
    model = vae_mm(latents, values, spread)
    model.slopes = model.slopes[:1].expand(values, -1, -1)
    model.offsets = model.offsets[:1].expand(values, -1)
    return model


MODELS = [vae_mm, min_vae]


def fixed_problem(make: Callable, latents: int, frames: int) -> tuple[Mixture, Tensor, NMFNoise]:
    """One model, power and noise for all seeds, the same in all frames: alpha is uncertain, and the sum over
    alpha, the shared and the structured factor give three different answers. Only the draws of the chains
    depend on the seed."""
    means = torch.tensor([[-0.5, 0.6], [0.9, -0.4]], dtype=torch.float64)[:, :latents]
    scales = torch.tensor([[0.6, 1.2], [1.3, 0.8]], dtype=torch.float64)[:, :latents]
    slopes = (2.9 * torch.arange(A * latents * F, dtype=torch.float64)).cos().reshape(A, latents, F)
    offsets = 0.3 * (2.3 * torch.arange(A * F, dtype=torch.float64)).sin().reshape(A, F)
    pi = torch.tensor([0.7, 0.3], dtype=torch.float64)
    if make is min_vae:  # the prior alone switches; its means lie further apart, or alpha would hardly matter
        means, slopes, offsets = 2 * means, slopes[:1].expand(A, -1, -1), offsets[:1].expand(A, -1)
    power = torch.tensor([3.0, 0.4, 1.5, 2.2, 0.8], dtype=torch.float64).expand(frames, F)
    spectrum = torch.tensor([0.3, 0.6, 0.9, 0.2, 0.5], dtype=torch.float64).unsqueeze(-1)
    one = torch.ones(frames, dtype=torch.float64)
    return Mixture(pi, means, scales, slopes, offsets), power, NMFNoise(spectrum, one[None], one)


def noise(frames: int = N, *batch: int, gain: bool = True, smoothness: float = 0.0) -> NMFNoise:
    g = 2 * rand(*batch, frames) + 0.2 if gain else torch.ones(*batch, frames, dtype=torch.float64)
    return NMFNoise(rand(*batch, F, K) + 0.01, rand(*batch, K, frames) + 0.01, g, smoothness, 1e-9)


def given(model: SpeechModel, frames: int = N, latents: int = L, joint: object = closed) -> ComponentDensity:
    return ComponentDensity(joint(model, None), log_alpha(model, randn(frames, latents)))  # type: ignore[arg-type]


def some_field(frames: int = N, *batch: int, values: int = A, smoothness: float = 0.0) -> MeanField:
    return MeanField(
        4 * rand(*batch, frames, F),
        noise(frames, *batch, smoothness=smoothness),
        WienerMoments(rand(*batch, frames, F), rand(*batch, frames, F) + 0.01),
        randn(values, *batch, frames).softmax(0),
        randn(values, *batch, frames).log_softmax(0),
    )


def some_moments(frames: int = N, *batch: int, values: int = A) -> Moments:
    one = (values, *batch, frames)
    return Moments(3 * randn(*one), 5 * randn(*one), randn(*one, F).exp(), randn(*one))


# The steps, written out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("joint", [closed, traced])
def test_the_density_of_z_is_the_weighted_sum_of_the_log_joints(make: Callable, joint: object) -> None:
    """log r(z) = sum_a r(a) [log p(z | a) + log p(P_s / g | z, a)]: the geometric mean, not logsumexp."""
    model, field, z = make(), some_field(), randn(3, N, L)
    story = given(model, joint=joint)
    shared = target(Shared(), story, field.clean_power, field.responsibilities)(z)
    own = target(Structured(), story, field.clean_power, field.responsibilities)(
        z.unsqueeze(1).expand(3, A, N, L)
    )
    assert shared.shape == (3, N)
    assert own.shape == (3, A, N)
    summed = torch.zeros(3, N, dtype=torch.float64)
    for c in range(3):
        for n in range(N):
            gain, variance = field.speech.gain[n], field.speech.variance[n]
            power = (gain**2 * field.power[n] + variance) / field.noise.frame_gain[n]
            parts = []
            for a in range(A):
                log_prior, _, log_likelihood = model.by_hand(a, z[c, n], power)
                parts.append(log_prior + log_likelihood)
                assert float(own[c, a, n]) == pytest.approx(parts[a], rel=1e-9)
            weights = field.responsibilities[:, n].tolist()
            mean = sum(r * part for r, part in zip(weights, parts, strict=True))
            assert float(shared[c, n]) == pytest.approx(mean, rel=1e-9)
            summed[c, n] = torch.tensor(parts).logsumexp(0)
    # Negative control: the sum over alpha, and the geometric mean, differ by more than a constant.
    difference = (shared - summed) - (shared - summed).mean(0)
    assert difference.abs().max() > 0.05


def test_each_component_has_its_own_z() -> None:
    """The structured density of component a does not move with the z of another."""
    model, field, z = vae_mm(), some_field(), randn(3, A, N, L)
    density = target(Structured(), given(model), field.clean_power, field.responsibilities)
    moved = z.clone()
    moved[:, 1] += 1
    before, after = density(z), density(moved)
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().min() > 1e-3


@pytest.mark.parametrize("make", MODELS)
def test_the_step_of_s_written_out(make: Callable) -> None:
    """1 / gamma = sum_a r(a) mean_d 1 / sigma; m = G x, nu = G V_b with the gain inside."""
    model, field, z = make(), some_field(), randn(6, N, L)
    result = update_speech(field, moments(Shared(), given(model), z))
    noise_variance = (field.noise.W @ field.noise.H).T + 1e-9
    for n in range(N):
        precision = [0.0] * F
        for a in range(A):
            for d in range(6):
                _, sigma, _ = model.by_hand(a, z[d, n], field.power[n])
                for f in range(F):
                    precision[f] += float(field.responsibilities[a, n]) / 6 / sigma[f]
        for f in range(F):
            speech, other = float(field.noise.frame_gain[n]) / precision[f], float(noise_variance[n, f])
            gain = speech / (speech + other)
            assert float(result.speech.gain[n, f]) == pytest.approx(gain, rel=1e-9)
            assert float(result.speech.variance[n, f]) == pytest.approx(gain * other, rel=1e-9)
            expected = gain**2 * float(field.power[n, f]) + gain * other
            assert float(result.speech_power[n, f]) == pytest.approx(expected, rel=1e-9)
            left = (1 - gain) ** 2 * float(field.power[n, f]) + gain * other
            assert float(result.noise_power[n, f]) == pytest.approx(left, rel=1e-9)


@pytest.mark.parametrize("make", MODELS)
def test_the_step_of_alpha_written_out(make: Callable) -> None:
    """logit r = mean_d [log p(P_s, z_d | 1) - log p(P_s, z_d | 0)] + logit pi."""
    model, z = make(), randn(6, N, L)
    story = given(model)
    start = MeanField.start(4 * rand(N, F), noise(), story.log_alpha)
    torch.testing.assert_close(start.responsibilities, model.pi[:, None].expand(A, N))
    assert torch.equal(start.speech_power, start.power)  # m = x, nu = 0
    field = replace(start, speech=some_field().speech)
    result = update_alpha(field, moments(Shared(), story, z))
    for n in range(N):
        logit = math.log(0.3 / 0.7)
        for d in range(6):
            joints = []
            for a in range(A):
                log_prior, _, log_likelihood = model.by_hand(a, z[d, n], field.clean_power[n])
                joints.append(log_prior + log_likelihood)
            logit += (joints[1] - joints[0]) / 6
        assert float(result.responsibilities[1, n]) == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-6)
    torch.testing.assert_close(result.responsibilities.sum(0), torch.ones(N, dtype=torch.float64))


def test_min_vae_has_the_ratio_of_its_priors_alone() -> None:
    """Where the decoders are one, log r(1) / r(0) holds squares and 1/2 log of the prior variances."""
    model, z, field = min_vae(), randn(1, N, L), some_field()
    result = update_alpha(field, moments(Shared(), given(model), z))
    white = (z - model.means.unsqueeze(1)) / model.scales.unsqueeze(1)  # (A, N, L)
    log_prior = -white.square().sum(-1) / 2 - model.scales.square().log().sum(-1, keepdim=True) / 2
    logit = log_prior[1] - log_prior[0] + field.log_pi[1] - field.log_pi[0]
    torch.testing.assert_close(result.responsibilities[1], logit.sigmoid())


def test_the_step_of_the_noise_written_out() -> None:
    """W <- W sqrt(((P_b / V^2) H') / ((1 / V) H')), then H likewise, with P_b = |x - m|^2 + nu."""
    field = some_field()
    field = replace(field, noise=replace(field.noise, floor=0.0))
    result = UpdateNoise(rounds=2)(field, some_moments()).noise
    W, H = field.noise.W, field.noise.H
    target_power = ((1 - field.speech.gain) ** 2 * field.power + field.speech.variance).T  # (F, N)
    for _ in range(2):
        V = W @ H
        W = W * torch.sqrt(((target_power / V**2) @ H.T) / ((1 / V) @ H.T))
        V = W @ H
        H = H * torch.sqrt((W.T @ (target_power / V**2)) / (W.T @ (1 / V)))
    torch.testing.assert_close(result.variance(), (W @ H).T)
    torch.testing.assert_close(result.W.sum(-2), torch.ones(K, dtype=torch.float64))
    assert torch.equal(result.frame_gain, field.noise.frame_gain)
    # Negative control: without nu the target is another.
    point = replace(field, speech=WienerMoments(field.speech.gain, torch.zeros_like(field.power)))
    assert (UpdateNoise(rounds=2)(point, some_moments()).noise.variance() - (W @ H).T).abs().max() > 0.01


@pytest.mark.parametrize("values", [1, 2, 4])
def test_the_steps_of_gain_and_pi_written_out(values: int) -> None:
    """g = mean_f P_s sum_a r(a) E 1 / sigma; pi = (1 + sum_n r_n) / (A + N)."""
    field, averages = some_field(values=values), some_moments(values=values)
    gain = update_gain(field, averages).noise.frame_gain
    pi = update_pi(field, averages).log_pi.exp()
    assert pi.shape == (values, N)
    for n in range(N):
        total = 0.0
        for f in range(F):
            precision = sum(
                float(field.responsibilities[a, n] * averages.precision[a, n, f]) for a in range(values)
            )
            total += float(field.speech_power[n, f]) * precision / F
        assert float(gain[n]) == pytest.approx(total, rel=1e-9)
        for a in range(values):
            count = 1 + float(field.responsibilities[a].sum())
            assert float(pi[a, n]) == pytest.approx(count / (values + N), rel=1e-9)


@pytest.mark.parametrize("values", [2, 3])
def test_pi_by_the_formula_of_the_talk(values: int) -> None:
    """pi = mean_n r_n maximises E log p(alpha) over pi; the MAP estimate does not, and neither c < 1."""
    field = some_field(values=values)
    r = field.responsibilities
    pi = UpdatePi(concentration=1.0)(field, some_moments(values=values)).log_pi.exp()
    torch.testing.assert_close(pi[:, 0], r.mean(-1))
    best = (r * pi.log()).sum()
    for other in (update_pi(field, some_moments(values=values)).log_pi.exp(), pi.flip(0)):
        assert (r * other.log()).sum() < best
    with pytest.raises(InputError, match="at least 1"):
        UpdatePi(concentration=0.9)


def test_the_papers_start_at_one_half() -> None:
    """Whatever the prior of the model, except where it is 0."""
    prior = torch.tensor([[0.2, 0.9, 1.0], [0.8, 0.1, 0.0]], dtype=torch.float64).log()
    start = MeanField.start(torch.ones(3, F).double(), some_field().noise, equal(prior.clamp_min(-1e30)))
    assert start.responsibilities.tolist() == [[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]]
    assert torch.equal(start.log_pi.exp(), start.responsibilities)
    third = equal(torch.tensor([0.2, 0.3, 0.5]).double().log()[:, None])
    torch.testing.assert_close(third.exp(), torch.full((3, 1), 1 / 3).double())
    assert from_model(prior) is prior


def test_pi_is_of_each_channel_and_respects_what_cannot_be() -> None:
    field = some_field(N, 2)
    log_pi = field.log_pi.clone()
    log_pi[1] = -torch.inf
    both = update_pi(field, some_moments(N, 2)).log_pi
    for channel in range(2):
        expected = (1 + field.responsibilities[:, channel].sum(-1)) / (A + N)
        torch.testing.assert_close(both[:, channel].exp(), expected[:, None].expand(A, N))
    barred = replace(field, log_pi=log_pi)
    assert torch.equal(update_pi(barred, some_moments(N, 2)).log_pi[0], torch.zeros_like(log_pi[0]))
    barred = update_alpha(barred, some_moments(N, 2))
    assert torch.equal(barred.responsibilities[0], torch.ones(2, N, dtype=torch.float64))


def test_log_odds_are_clipped() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, -torch.inf], [500.0, 3.0, -torch.inf, -torch.inf]]).double()
    expected = torch.tensor([math.exp(-30), 1 / (1 + math.exp(3)), 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(normalised(logits)[0], expected, rtol=1e-9, atol=0)


def test_the_prior_of_alpha_is_read_off_the_model() -> None:
    model = vae_mm(values=4)
    torch.testing.assert_close(log_alpha(model, randn(N, L)).exp(), model.pi[:, None].expand(4, N))
    torch.testing.assert_close(log_alpha(model, randn(3, N, L))[:, 1].exp(), model.pi[:, None].expand(4, N))
    assert torch.equal(log_alpha(StudentT(), randn(N, L)), torch.zeros(1, N, dtype=torch.float64))
    # It is taken out once, and the rest is what was there.
    z, story = randn(3, N, L), given(model)
    evaluation = model.given()(z)
    torch.testing.assert_close(
        story.evaluate(z).log_prior + model.pi.log()[:, None, None], evaluation.log_prior
    )


# The free energy ------------------------------------------------------------------------------------------


def test_the_free_energy_is_the_cost_of_the_mixture_where_r_of_s_is_exact() -> None:
    """With one z and no alpha, r(s) is the exact posterior: E = -log p(x, z) but for log pi a bin."""
    field, z = some_field(values=1, smoothness=2.0), randn(1, N, L)
    one = vae_mm().one(0)
    averages = moments(Shared(), given(one), z)
    field = replace(field, log_pi=torch.zeros(1, N).double(), responsibilities=torch.ones(1, N).double())
    evaluation = one.given()(z[0])
    mixture = field.noise.frame_gain[:, None] * evaluation.log_variance[0].exp() + field.noise.variance()
    exact = (
        exponential_cost(field.power, mixture).sum()
        + field.noise.neg_log_smoothness_prior()
        - evaluation.log_prior.sum()
    )
    torch.testing.assert_close(free_energy(update_speech(field, averages), averages), exact)
    assert free_energy(field, averages) > exact + 0.1  # any other r(s) is worse


def test_the_free_energy_is_the_bound_by_simulation(generator: Generator) -> None:
    """E = E_r [log r(s) + log r(alpha) - log p(x, s, z, alpha)] less the rest, by draws of s: |z| < 4.5."""
    field, draws, count = some_field(smoothness=2.0), randn(7, N, L), 20_000
    model = vae_mm()
    story = given(model)
    field = replace(field, log_pi=story.log_alpha)
    averages = moments(Shared(), story, draws)._replace(entropy=rand(1, N).expand(A, N))
    phase = torch.exp(1j * rand(N, F))
    x = field.power.sqrt() * phase
    r_of_s = ComplexNormal(field.speech.gain * x, field.speech.variance.log())
    s = r_of_s.sample(torch.Size([count]))
    log_noise = ComplexNormal(x, field.noise.variance().log()).log_prob(s).sum(-1)
    log_speech = torch.zeros(A, count, N, dtype=torch.float64)
    log_prior = torch.zeros(A, N, dtype=torch.float64)
    for d in range(7):
        evaluation = model.given()(draws[d])
        for a in range(A):
            log_variance = evaluation.log_variance[a] + field.noise.frame_gain.log()[:, None]
            log_speech[a] += ComplexNormal(torch.zeros_like(x), log_variance).log_prob(s).sum(-1) / 7
        log_prior += evaluation.log_prior / 7
    r = field.responsibilities
    alpha = (r * (r.log() - log_prior)).sum(0) - averages.entropy[0]
    log_r_of_s = r_of_s.log_prob(s).sum(-1)
    sample = (alpha + log_r_of_s - log_noise - (r[:, None] * log_speech).sum(0)).sum(-1)
    sample = sample + field.noise.neg_log_smoothness_prior() - N * F * math.log(math.pi)
    score = (free_energy(field, averages) - sample.mean()) / (sample.std() / count**0.5)
    assert abs(score) < Z_BOUND


def log_beta(field: MeanField) -> Tensor:
    """log Dirichlet(2, .., 2) of pi, up to a constant."""
    return field.log_pi[..., 0].sum(0)


STEPS: list[Update] = [
    update_speech,
    update_alpha,
    UpdateNoise(),
    UpdateNoise((NMFNoise.updated_activations, NMFNoise.updated_spectra), 3),
    update_gain,
    update_pi,
]


def stale_noise(field: MeanField, averages: Moments) -> MeanField:
    """Forgets nu in the target of the noise."""
    point = replace(field, speech=WienerMoments(field.speech.gain, torch.zeros_like(field.power)))
    return replace(field, noise=UpdateNoise()(point, averages).noise)


def averaged_filters(field: MeanField, averages: Moments) -> MeanField:
    """MCEM's filter in the place of the mean field's: arithmetic for harmonic."""
    noise_variance = field.noise.variance()
    speech = field.noise.frame_gain[:, None] / averages.precision
    gain = (field.responsibilities.unsqueeze(-1) * speech / (speech + noise_variance)).sum(0)
    return replace(field, speech=WienerMoments(gain, gain * noise_variance))


def rise(steps: list[Update], problems: int, passes: int) -> float:
    """Largest rise of the free energy (less log Dirichlet of pi) over random problems and orders of steps."""
    worst = -math.inf
    for problem in range(problems):
        field = some_field(smoothness=5.0 * (problem % 2))
        field = replace(field, log_pi=field.log_pi[..., :1].expand(A, N))
        averages = some_moments()
        for _ in range(passes):
            for index in torch.randperm(len(steps)):
                after = steps[int(index)](field, averages)
                change = free_energy(after, averages) - log_beta(after)
                change = change - free_energy(field, averages) + log_beta(field)
                worst, field = max(worst, float(change)), after
    return worst


def test_no_step_raises_the_free_energy() -> None:
    """480 random steps. False alarms: none, the steps are exact up to rounding."""
    assert rise(STEPS, problems=8, passes=10) < 1e-7


@pytest.mark.parametrize("wrong", [stale_noise, averaged_filters])
def test_wrong_steps_raise_it(wrong: Update) -> None:
    """Negative controls of the test above."""
    assert rise([*STEPS, wrong], problems=5, passes=15) > 1e-3


# On a grid ------------------------------------------------------------------------------------------------

GRID = torch.linspace(-8, 8, 401, dtype=torch.float64)


def on_grid(factor: LatentFactor, story: ComponentDensity, field: MeanField, summed: bool = False) -> Moments:
    """Moments of the exact r(z), L = 1; `summed` takes logsumexp over alpha, which is wrong."""
    frames = field.power.shape[0]
    z = GRID[:, None, None].expand(-1, frames, 1)
    log_prior, log_variance = story.evaluate(z)  # (A, G, N), (A, G, N, F)
    log_joint = story.log_joint(field.clean_power)(z)
    if summed:
        density = (log_joint + field.log_pi.unsqueeze(1)).logsumexp(0).expand_as(log_joint)
    elif isinstance(factor, Shared):
        density = (field.responsibilities.unsqueeze(1) * log_joint).sum(0).expand_as(log_joint)
    else:
        density = log_joint
    log_r = density.log_softmax(1)
    r = log_r.exp()
    return Moments(
        (r * log_prior).sum(1),
        (r * log_variance.sum(-1)).sum(1),
        (r.unsqueeze(-1) * (-log_variance).exp()).sum(1),
        -(r * (log_r - (GRID[1] - GRID[0]).log())).sum(1),
    )


def fixed_point(
    factor: LatentFactor, story: ComponentDensity, start: MeanField, passes: int = 150, summed: bool = False
) -> tuple[MeanField, Moments]:
    """Mean field at fixed parameters with exact r(z), and the last moments."""
    field = start
    for _ in range(passes):
        averages = on_grid(factor, story, field, summed)
        field = update_alpha(update_speech(field, averages), averages)
    return field, averages


@pytest.mark.parametrize("factor", [Shared(), Structured()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("make", MODELS)
def test_exact_iterations_never_raise_the_free_energy(make: Callable, factor: LatentFactor) -> None:
    """All steps with r(z) exact on a grid, on random problems."""
    for _ in range(2):
        story = given(make(1), latents=1)
        field = MeanField.start(4 * rand(N, F), noise(), story.log_alpha)
        previous = math.inf
        for _ in range(8):
            averages = on_grid(factor, story, field)
            for step in STEPS:
                field = step(field, averages)
                energy = float(free_energy(field, averages) - log_beta(field))
                assert energy <= previous + 1e-7
                previous = energy


@pytest.mark.parametrize("make", MODELS)
def test_the_structured_bound_is_never_below_the_shared_one(make: Callable) -> None:
    """A theorem at given r(s), and by descent from the shared fixed point; strict when the priors differ."""
    gaps = []
    for _ in range(5):
        story = given(make(1), latents=1)
        start = MeanField.start(4 * rand(N, F), noise(), story.log_alpha)
        shared, averages = fixed_point(Shared(), story, start, 25)
        before = float(free_energy(shared, averages))
        own = on_grid(Structured(), story, shared)
        at_once = float(free_energy(update_alpha(shared, own), own))
        structured, averages = fixed_point(Structured(), story, shared, 10)
        after = float(free_energy(structured, averages))
        assert after <= at_once + 1e-8 <= before + 2e-8
        gaps.append(before - at_once)
    assert max(gaps) > 0.05


def test_the_geometric_mean_is_not_the_sum(generator: Generator) -> None:
    """N(-2, 1) and N(2, 1) with r = 1/2 make N(0, 1); logsumexp would make two modes of variance 5.

    4000 frames, one chain each: z-scores of mean and variance of the last draw.
    """
    frames = 4000
    model = Mixture(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[-2.0], [2.0]]).double(),
        torch.ones(2, 1).double(),
        torch.zeros(2, 1, F).double(),
        torch.zeros(2, F).double(),
    )
    field = some_field(frames)
    even = torch.full((2, frames), 0.5, dtype=torch.float64)
    density = target(Shared(), given(model, frames, 1), field.clean_power, even)
    start = ChainState(randn(frames, 1))
    draws, _ = Chain(MALA(1.0), 30, 29)(density, start, generator)
    z = draws.z[-1, :, 0]
    assert abs(z.mean()) * frames**0.5 < Z_BOUND
    assert abs(z.square().mean() - 1) * (frames / 2) ** 0.5 < Z_BOUND
    summed = model.given()(GRID[:, None, None])
    weights = (summed.log_prior.logsumexp(0)).softmax(0)[:, 0]
    assert (weights * GRID.square()).sum() > 4.9  # negative control


# Fixed points against the algorithm -----------------------------------------------------------------------


class AnyGuide(SpeechGuide):
    """N(0, 1) over so many latents: a start that knows nothing."""

    def __init__(self, latents: int = L) -> None:
        super().__init__()
        self.latents = latents

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        assert power is not None
        zero = power.new_zeros(*power.shape[:-1], self.latents)
        return dist.Normal(zero, 1.0).to_event(1)


def encoded(
    speech: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor | None, noise: NMFNoise
) -> Tensor:
    return guide.posterior(power, visual).mean


def vem_at(noise: NMFNoise, factor: LatentFactor, iterations: int = 15, **changes: object) -> VEM:
    """Fixed noise, one chain a frame."""
    kernel = MALA(0.5)
    algorithm = VEM(
        noise_init=lambda power, generator: noise,
        latent_inits=(encoded,),
        e_step=Chain(kernel, 40, 10, target_acceptance=0.57),
        final=Chain(kernel, 300, 100, target_acceptance=0.57),
        factor=factor,
        updates=(),
        iterations=iterations,
        tolerance=0.0,
    )
    return replace(algorithm, **changes)  # type: ignore[arg-type]


def run(algorithm: VEM, model: SpeechModel, power: Tensor, latents: int = L, seed: int = 0) -> Posterior:
    return algorithm(model, AnyGuide(latents), power, None, Generator().manual_seed(seed))


BIAS = 0.004


def agrees(values: Tensor, truth: Tensor) -> bool:
    """Whether means over independent frames (N, S) are `truth` (S,) within BIAS and 4.5 standard errors."""
    error = values.std(0) / len(values) ** 0.5
    return bool(((values.mean(0) - truth).abs() < BIAS + Z_BOUND * error).all())


@pytest.mark.slow
def test_a_conjugate_mean_field_reaches_its_fixed_point() -> None:
    """Decoders that do not read z: sigma_a known, r(z) normal, so that the fixed point is a scalar recursion.

    r(z) has precision P = sum_a r(a) / s_a^2 and mean sum_a r(a) mu_a / s_a^2 / P in every dimension. Means
    over 300 equal frames lie within BIAS, what the finite chains do to nonlinear steps, and 4.5 standard
    errors: 22 statistics, false alarms 1.5e-4. Control: r(alpha) of the prior is refused.
    """
    frames = 300
    model, power, fixed = fixed_problem(vae_mm, L, frames)
    model.slopes, model.means = torch.zeros_like(model.slopes), model.means / 2
    fixed = replace(fixed, frame_gain=torch.full_like(fixed.frame_gain, 1.3))
    chain = Chain(MALA(0.5), 120, 20, target_acceptance=0.57)
    posterior = run(vem_at(fixed, Shared(), e_step=chain), model, power)
    V = fixed.variance()[0]
    sigma, r = model.offsets.exp(), model.pi.clone()
    P = power[0]
    for _ in range(500):
        inverse = (r[:, None] / model.scales**2).sum(0)
        mean = (r[:, None] * model.means / model.scales**2).sum(0) / inverse
        gamma = 1.3 / (r[:, None] / sigma).sum(0)
        gain = gamma / (gamma + V)
        P = (gain**2 * power[0] + gain * V) / 1.3
        square = ((mean - model.means) ** 2 + 1 / inverse) / model.scales**2
        log_joint = -square.sum(-1) / 2 - model.scales.log().sum(-1) - (sigma.log() + P / sigma).sum(-1)
        r = (model.pi.log() + log_joint).softmax(0)
    assert 0.05 < r[1] < 0.95
    z = posterior.z.flatten(0, 1)
    assert agrees(posterior.responsibilities.T, r)
    assert agrees(posterior.wiener_gain, gain)
    assert agrees(posterior.variance, gain * V)
    assert agrees(z.mean(0), mean)
    assert agrees((z - mean).square().mean(0), 1 / inverse)
    assert not agrees(posterior.responsibilities.T, model.pi)


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (vae_mm, Structured(16)),
        # The quick test of the shared factor is the one with a conjugate fixed point.
        pytest.param(vae_mm, Shared(), marks=pytest.mark.slow),
        pytest.param(min_vae, Shared(), marks=pytest.mark.slow),
        pytest.param(min_vae, Structured(16), marks=pytest.mark.slow),
    ],
    ids=lambda part: getattr(part, "__name__", type(part).__name__),
)
def test_the_algorithm_reaches_the_fixed_point_of_the_grid(make: Callable, factor: LatentFactor) -> None:
    """m, nu and r(alpha) of 300 equal frames, against exact steps on a dense grid.

    Within BIAS and 4.5 standard errors: 12 statistics, false alarms 8e-5. Negative control: what the sum
    over alpha would make of the shared factor, and what the shared factor makes of the structured one.
    """
    frames = 300
    model, power, fixed = fixed_problem(make, 1, frames)
    chain = Chain(MALA(0.5), 120, 20, target_acceptance=0.57)
    posterior = run(vem_at(fixed, factor, e_step=chain), model, power, 1)
    story = given(model, latents=1, frames=1)
    alone = NMFNoise(fixed.W, fixed.H[:, :1], fixed.frame_gain[:1])
    start = MeanField.start(power[:1], alone, story.log_alpha)
    truth, _ = fixed_point(factor, story, start)
    wrong, _ = fixed_point(Shared(), story, start, summed=isinstance(factor, Shared))
    assert 0.05 < truth.responsibilities[1] < 0.95
    assert agrees(posterior.responsibilities.T, truth.responsibilities[:, 0])
    assert agrees(posterior.wiener_gain, truth.speech.gain[0])
    assert agrees(posterior.variance, truth.speech.variance[0])
    assert not agrees(posterior.responsibilities.T, wrong.responsibilities[:, 0])


@pytest.mark.parametrize("factor", [Shared(), Structured()], ids=lambda f: type(f).__name__)
def test_the_chains_draw_the_factor(factor: LatentFactor, generator: Generator) -> None:
    """Last draws of 2000 frames under the moments of the grid: |z| < 4.5 for mean and variance."""
    frames = 2000
    model = vae_mm(1)
    one = some_field(1)
    story, z = given(model, 1, 1), GRID[:, None, None]
    log_joint = story.log_joint(one.clean_power)(z)
    weights = factor.log_density(log_joint, one.responsibilities)
    weights = weights.reshape(len(GRID), -1).softmax(0)
    mean = (weights * GRID[:, None]).sum(0)
    variance = (weights * (GRID[:, None] - mean) ** 2).sum(0)
    fourth = (weights * (GRID[:, None] - mean) ** 4).sum(0)
    many = given(model, frames, 1)
    density = target(factor, many, one.clean_power.expand(frames, F), one.responsibilities.expand(A, frames))
    start = factor.start([randn(frames, 1)], A, torch.Size([frames]))
    draws, _ = Chain(MALA(0.5), 80, 79, target_acceptance=0.57)(density, ChainState(start), generator)
    last = draws.z[-1, 0, ..., 0].reshape(-1, frames)
    means = (last.mean(-1) - mean) / (variance / frames).sqrt()
    spreads = ((last - mean[:, None]).square().mean(-1) - variance) / ((fourth - variance**2) / frames).sqrt()
    assert means.abs().max() < Z_BOUND
    assert spreads.abs().max() < Z_BOUND


@dataclass(frozen=True)
class Standing:
    """An E-step that always has the same draws, (R, C, N, L)."""

    z: Tensor

    def __call__(
        self, log_joint: LogJoint, position: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        assert log_joint(self.z).shape == self.z.shape[:-1]
        return Draws(self.z, torch.ones_like(self.z[0, ..., 0])), position


def test_the_whole_is_its_steps_one_after_the_other() -> None:
    """With standing draws nothing is random: the run is that of the steps by hand, and its costs fall."""
    model, fitted, power = vae_mm(), noise(), 4 * rand(N, F)
    draws = Standing(randn(5, 1, N, L))
    updates = (UpdateNoise(), update_gain, update_pi)
    algorithm = vem_at(fitted, Shared(), 6, e_step=draws, final=draws, updates=updates, rounds=2)
    posterior = run(algorithm, model, power)
    story = given(model)
    field, costs = MeanField.start(power, fitted, story.log_alpha), []
    averages = moments(Shared(), story, draws.z[:, 0])
    for _ in range(6):
        for first in (True, False):
            field = update_alpha(update_speech(field, averages), averages)
            costs += [float(free_energy(field, averages)) / (N * F)] if first else []
            field = update_pi(update_gain(UpdateNoise()(field, averages), averages), averages)
    assert posterior.costs == pytest.approx(costs)
    assert all(after < before for before, after in pairwise(costs))
    for _ in range(2):
        field = update_alpha(update_speech(field, averages), averages)
    torch.testing.assert_close(posterior.responsibilities, field.responsibilities)
    torch.testing.assert_close(posterior.wiener_gain, update_speech(field, averages).speech.gain)
    torch.testing.assert_close(posterior.variance, update_speech(field, averages).speech.variance)
    assert torch.equal(posterior.z, draws.z.transpose(0, 1))


def test_the_gain_reaches_its_maximum_likelihood() -> None:
    """Flat spectra and a decoder that does not read z: g sigma + V_b = mean |x|^2, frame by frame."""
    model = vae_mm()
    model.slopes, model.offsets = torch.zeros_like(model.slopes), torch.full_like(model.offsets, 0.3)
    power = 3 * rand(N, F) + 1
    fixed = NMFNoise(torch.full((F, 1), 0.2).double(), torch.ones(1, N).double(), torch.ones(N).double())
    chain = Chain(RandomWalk(1.0), 2, 1)
    algorithm = vem_at(fixed, Shared(), 40, e_step=chain, final=chain, rounds=25, updates=(update_gain,))
    gain = run(algorithm, model, power).noise.frame_gain
    torch.testing.assert_close(gain, (power.mean(-1) - 0.2) / math.exp(0.3), rtol=1e-6, atol=0)


def test_identical_components_keep_the_prior() -> None:
    model = vae_mm()
    for name in ("means", "scales", "slopes", "offsets"):
        setattr(model, name, getattr(model, name)[:1].expand(2, *[-1] * (getattr(model, name).dim() - 1)))
    power = 4 * rand(200, F)
    shared = run(vem_at(noise(200), Shared(), 3), model, power)
    torch.testing.assert_close(shared.responsibilities, model.pi[:, None].expand(2, 200))
    # Entropies are estimated: each frame is a few percent off, all together are not.
    own = run(vem_at(noise(200), Structured(), 3), model, power)
    assert (own.responsibilities.mean(-1) - model.pi).abs().max() < 0.01


@pytest.mark.parametrize("never", [-torch.inf, -1e30])
@pytest.mark.parametrize(
    "factor",
    [Shared(), pytest.param(Structured(), marks=pytest.mark.slow)],
    ids=lambda f: type(f).__name__,
)
def test_an_impossible_component_is_as_if_it_were_not_there(factor: LatentFactor, never: float) -> None:
    """pi = 0, as -inf or as a very low number; the shared run is that of the other component, to the draw."""
    both = vae_mm()
    both.log_pi = torch.tensor([never, 0.0], dtype=torch.float64)
    one = both.one(1)
    power, fitted = 4 * rand(N, F), noise()
    algorithm = vem_at(fitted, factor, 3, updates=(UpdateNoise(), update_gain, update_pi))
    if isinstance(factor, Structured):  # chains of its own: only averages over many draws are alike
        chain = Chain(MALA(0.5), 1000, 50, target_acceptance=0.57)
        algorithm = replace(algorithm, e_step=chain, final=chain)
    mixed, alone = run(algorithm, both, power), run(replace(algorithm, factor=Shared()), one, power)
    assert torch.equal(mixed.responsibilities[0], torch.zeros(N, dtype=torch.float64))
    assert torch.equal(mixed.responsibilities[1], torch.ones(N, dtype=torch.float64))
    for result in (mixed.wiener_gain, mixed.variance, mixed.z, torch.tensor(mixed.costs)):
        assert result.isfinite().all()
    if isinstance(factor, Shared):
        torch.testing.assert_close(mixed.wiener_gain, alone.wiener_gain)
        torch.testing.assert_close(mixed.z, alone.z)
        assert mixed.costs == pytest.approx(alone.costs)
    else:
        assert (mixed.wiener_gain - alone.wiener_gain).abs().max() < 0.1


@pytest.mark.parametrize("factor", [Shared(4), Structured(4)], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("make", MODELS)
def test_the_trace_and_the_closed_form_run_alike(make: Callable, factor: LatentFactor) -> None:
    model, power, fitted = make(), 4 * rand(2, N, F), noise(N, 2)
    chain = Chain(MALA(0.3), 4, 2, target_acceptance=0.57)
    updates = (UpdateNoise(), update_gain, update_pi)
    algorithm = vem_at(fitted, factor, 3, e_step=chain, final=chain, updates=updates)
    quick = run(algorithm, model, power)
    slow = run(replace(algorithm, conditioning=traced), model, power)
    for one, other in (
        (quick.z, slow.z),
        (quick.wiener_gain, slow.wiener_gain),
        (quick.noise.W, slow.noise.W),
    ):  # type: ignore[attr-defined]
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(quick.responsibilities, slow.responsibilities, rtol=1e-9, atol=1e-12)
    assert quick.costs == pytest.approx(slow.costs, rel=1e-9)
    assert not torch.equal(quick.z, run(algorithm, model, power, seed=1).z)


# The entropy of the factor --------------------------------------------------------------------------------


def entropies(factor: Tensor, count: int, draws: int, particles: int, lift: float = 3.0) -> Tensor:
    """Estimates for N(1, factor factor') from exact draws, one for each of `count` frames."""
    generator = Generator().manual_seed(1)

    def log_density(z: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(factor, (z - 1).mT, upper=False).mT
        return lift - white.square().sum(-1) / 2

    z = 1 + torch.randn(draws, 1, count, L, generator=generator, dtype=torch.float64) @ factor.mT
    mean = log_density(z).mean((0, 1))
    return importance_entropy(log_density, mean, z, None, particles, generator)


def test_the_entropy_of_a_normal() -> None:
    """Independent dimensions: L / 2 log(2 pi e) + sum log scale, within 0.05 nat, never above on average."""
    factor = torch.tensor([[0.3, 0.0], [0.0, 2.0]], dtype=torch.float64)
    truth = L / 2 * math.log(2 * math.pi * math.e) + math.log(0.6)
    estimate = entropies(factor, 1000, 200, 32)
    score = (estimate.mean() - truth) / (estimate.std() / 1000**0.5)
    assert score < Z_BOUND
    assert abs(estimate.mean() - truth) < 0.05
    # The level of the density does not matter.
    torch.testing.assert_close(entropies(factor, 1000, 200, 32, lift=-50.0), estimate)


def test_the_entropy_of_correlated_dimensions_is_a_lower_estimate() -> None:
    """Fewer draws or particles widen the gap; the truth is never exceeded on average."""
    factor = torch.tensor([[1.0, 0.0], [0.9, 0.436]], dtype=torch.float64)
    truth = L / 2 * math.log(2 * math.pi * math.e) + math.log(0.436)
    best, few, short = (entropies(factor, 1000, *sizes) for sizes in ((100, 128), (100, 4), (4, 128)))
    for estimate in (best, few, short):
        assert (estimate.mean() - truth) / (estimate.std() / 1000**0.5) < Z_BOUND
    assert truth - 0.1 < best.mean()
    assert few.mean() < best.mean() - 0.1
    # Negative control: the normal of the same variances has more.
    assert truth + 0.5 < L / 2 * math.log(2 * math.pi * math.e)


def test_one_draw_and_chains_on_their_way(generator: Generator) -> None:
    """A single draw takes the step for its scale; draws far off claim no more than a normal's entropy."""

    def log_density(z: Tensor) -> Tensor:
        return -z.square().sum(-1) / 2

    step = torch.ones(1, 500, dtype=torch.float64)
    z = randn(1, 1, 500, L)
    estimate = importance_entropy(log_density, log_density(z).mean((0, 1)), z, step, 64, generator)
    truth = math.log(2 * math.pi * math.e)
    assert truth - 1 < estimate.mean() < truth
    far = z + 1000.0
    capped = importance_entropy(log_density, log_density(far).mean((0, 1)) - 1e6, far, step, 64, generator)
    assert capped.max() <= truth + 1e-9


def test_structured_draws_follow_the_responsibilities(generator: Generator) -> None:
    """Component a in a share r(a) of 4000 draws of every frame: binomial |z| < 4.5."""
    r = torch.tensor([[0.2, 1.0, 0.5], [0.8, 0.0, 0.5]], dtype=torch.float64)
    z = torch.arange(2.0).double()[:, None, None].expand(4000, 1, 2, 3, 1)
    share = Structured().marginal(z, r, generator).mean((0, 1, 3))
    spread = (r[0] * r[1] / 4000).sqrt().clamp_min(1e-12)
    assert ((share - r[1]) / spread).abs().max() < Z_BOUND
    torch.testing.assert_close(Structured().mean(z[0, 0, ..., 0], r), r[1])
    with pytest.raises(InputError, match="particle"):
        Structured(0)


def test_starts_of_every_component(generator: Generator) -> None:
    """A start may give each alpha its own z: chains of their own, or of their component."""
    one, each = randn(N, L), randn(A, N, L)
    frames = torch.Size([N])
    assert torch.equal(Shared().start([one, each], A, frames), torch.stack([one, each[0], each[1]]))
    expected = torch.stack([one.expand(A, N, L), each])
    assert torch.equal(Structured().start([one, each], A, frames), expected)


# Whole, on models as they come ----------------------------------------------------------------------------


class StudentT(SpeechModel):
    """A user's model that overrides `latent` alone: heavy tails."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        zero = torch.zeros(L, dtype=torch.float64)
        z = pyro.sample(Z, dist.StudentT(3.0, zero, 1.0).to_event(1))
        return 0.3 * z.cumsum(-1)[..., [0, 1, 0, 1, 1]]


class FourNormals(SpeechModel):
    """A user's mixture of four under another name than alpha, one decoder, with chances from the lips."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        logits = torch.zeros(4, dtype=torch.float64) if visual is None else visual
        component = pyro.sample("component", dist.Categorical(logits=logits))
        centre = 3.0 * torch.stack([(component % 2).double(), (component > 1).double()], -1)
        z = pyro.sample(Z, dist.Normal(centre, 0.5).to_event(1))
        return 0.3 * z.cumsum(-1)[..., [0, 1, 0, 1, 1]]


PRESETS = {
    "default": default_vem,
    "papers": papers_vem,
    "structured": lambda: replace(default_vem(), factor=Structured(2)),
    "gain": lambda: replace(papers_vem(), updates=(UpdateNoise(), update_gain, update_pi), factor=Shared(2)),
}


def short(algorithm: VEM) -> VEM:
    return replace(
        algorithm,
        iterations=3,
        e_step=replace(algorithm.e_step, num_steps=4, warmup=2),  # type: ignore[type-var]
        final=replace(algorithm.final, num_steps=5, warmup=2),  # type: ignore[type-var]
    )


SHAPES = [(6,), (1,), (2, 3)]
LATENT_ALONE = [StudentT(), FourNormals(), BandLimited(FourNormals(), F)]


def latin_squares() -> list[Any]:
    """All presets, models and shapes. Every two of the three meet in the quick ones."""
    return [
        pytest.param(
            model,
            name,
            shape,
            marks=() if (i + j + k) % 3 == 0 else pytest.mark.slow,
            id=f"{shape}-{type(model).__name__}-{name}",
        )
        for i, name in enumerate(PRESETS)
        for j, model in enumerate(LATENT_ALONE)
        for k, shape in enumerate(SHAPES)
    ]


@pytest.mark.parametrize(("model", "name", "shape"), latin_squares())
def test_models_that_override_latent_alone(model: SpeechModel, name: str, shape: tuple[int, ...]) -> None:
    algorithm = short(PRESETS[name]())
    power, told = 4 * rand(*shape, F), []
    posterior = algorithm(model, AnyGuide(), power, None, Generator().manual_seed(0), told.append)
    values = 1 if isinstance(model, StudentT) else 4
    chains = len(algorithm.latent_inits)
    assert posterior.z.shape == (chains, 3, *shape, L)
    assert posterior.wiener_gain.shape == posterior.variance.shape == power.shape
    assert posterior.acceptance.shape == shape
    assert posterior.responsibilities.shape == (values, *shape)
    torch.testing.assert_close(posterior.responsibilities.sum(0), torch.ones(shape, dtype=torch.float64))
    assert ((posterior.wiener_gain > 0) & (posterior.wiener_gain < 1)).all()
    assert (posterior.variance > 0).all()
    assert ((posterior.acceptance >= 0) & (posterior.acceptance <= 1 + 1e-9)).all()
    assert len(posterior.costs) == 3
    assert torch.tensor(posterior.costs).isfinite().all()
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) == 4
    again = algorithm(model, AnyGuide(), power, None, Generator().manual_seed(0))
    other = algorithm(model, AnyGuide(), power, None, Generator().manual_seed(1))
    assert torch.equal(again.z, posterior.z)
    assert again.costs == posterior.costs
    assert not torch.equal(other.z, posterior.z)


@pytest.mark.parametrize("name", PRESETS)
def test_silence_is_finite(name: str) -> None:
    """Digital silence in float32, in whole and in one frame, for one frame and more."""
    algorithm = replace(short(PRESETS[name]()), iterations=8)
    model = vae_mm()
    for part in ("log_pi", "means", "scales", "slopes", "offsets"):
        setattr(model, part, getattr(model, part).float())
    partly = torch.rand(4, F)
    partly[0] = 0
    for power in (torch.zeros(1, F), torch.zeros(4, F), partly):
        posterior = algorithm(model, AnyGuide(), power, None, Generator().manual_seed(0))
        for result in (posterior.wiener_gain, posterior.variance, posterior.z, torch.tensor(posterior.costs)):
            assert result.isfinite().all()
        assert posterior.wiener_gain.dtype == posterior.responsibilities.dtype == torch.float32


def test_chances_of_alpha_from_the_lips() -> None:
    """p(alpha | v) differs from frame to frame; lips that are certain decide."""
    visual = torch.zeros(N, 4, dtype=torch.float64)
    visual[0, 2] = 1000.0
    power = 4 * rand(N, F)
    posterior = short(papers_vem())(FourNormals(), AnyGuide(), power, visual, Generator().manual_seed(0))
    fixed = replace(short(papers_vem()), updates=(UpdateNoise(),), alpha_start=from_model)
    certain = fixed(FourNormals(), AnyGuide(), power, visual, Generator().manual_seed(0))
    assert certain.responsibilities[2, 0] > 0.999
    assert certain.responsibilities[2, 1:].max() < 0.999
    assert posterior.responsibilities.isfinite().all()


LIPS = LipFrontEnd(side=4, instants=1)
ARGUMENTS = {"latent_size": L, "encoder": [7], "decoder": [7]}
VISUAL = {"embedding_size": 3, "trunk": "papers", **ARGUMENTS}
PAIRS = {"a-vae": ARGUMENTS, "v-vae": VISUAL, "av-vae": {**VISUAL, "tied": False}}


def pair_of(architecture: str) -> SpeechPair:
    config = PairConfig(
        architecture, PAIRS[architecture], FrontEnd(STFT(16, 8)), LIPS if architecture != "a-vae" else None
    )
    pair = SpeechPair(config)
    pair.modules().eval()
    return pair


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("architecture", PAIRS)
def test_pairs_of_the_zoo(architecture: str, name: str) -> None:
    """Each trunk looks at the lips once; other lips, another answer; without lips, a plain error."""
    seen, pair = architecture != "a-vae", pair_of(architecture)
    algorithm, looks = short(PRESETS[name]()), []
    trunks = [part for part in nn.ModuleList(pair.modules().values()).modules() if isinstance(part, LipTrunk)]
    for trunk in trunks:
        trunk.layers.register_forward_hook(lambda *ignored: looks.append(None))
    power = torch.rand(2, 6, pair.stft.bins)
    visual = torch.cat([torch.randn(6, 16), torch.ones(6, 1)], -1) if seen else None
    posterior = algorithm(pair.model, pair.guide, power, visual, Generator().manual_seed(0))
    assert len(looks) == len(trunks)
    assert ((posterior.wiener_gain > 0) & (posterior.wiener_gain < 1)).all()
    assert posterior.costs[-1] < posterior.costs[0]
    torch.testing.assert_close(posterior.responsibilities, torch.ones(1, 2, 6))
    if visual is not None:
        other = algorithm(pair.model, pair.guide, power, visual.roll(1, 0), Generator().manual_seed(0))
        assert not torch.equal(other.wiener_gain, posterior.wiener_gain)
        with pytest.raises(ValueError, match="give visual"):
            algorithm(pair.model, pair.guide, power, None, Generator().manual_seed(0))


@pytest.mark.parametrize("factor", [Shared(), Structured(2)], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("make", ["vae-mm", "min-vae-v1", "min-vae-v2"])
def test_mixtures_of_the_zoo(make: str, factor: LatentFactor) -> None:
    """Each component starts at its own encoder; at pi = 1 the mixture is its first component alone."""
    heard, looked, seen = (pair_of(name) for name in ("a-vae", "av-vae", "v-vae"))
    power = torch.rand(2, 6, heard.stft.bins)
    visual = torch.cat([torch.randn(6, 16), torch.ones(6, 1)], -1)
    model: SpeechModel
    if make == "vae-mm":
        model, second = VAEMM(heard.model, looked.model), looked.guide
    elif make == "min-vae-v1":
        model, second = MINVAE(L, seen.model.decoder), seen.guide  # type: ignore[arg-type]
    else:
        model, second = MINVAE(L, looked.model.decoder, looked.model.lips), seen.guide  # type: ignore[arg-type]
    guide = MixtureGuide(heard.guide, second, responsibilities=OptimalResponsibilities(model))
    algorithm = replace(
        short(papers_vem()), factor=factor, latent_inits=(InitEachComponent(init_from_encoder),)
    )
    posterior = algorithm(model, guide, power, visual, Generator().manual_seed(0))
    chains = 2 if isinstance(factor, Shared) else 1
    assert posterior.z.shape == (chains, 3, 2, 6, L)
    assert posterior.responsibilities.shape == (2, 2, 6)
    assert torch.tensor(posterior.costs).isfinite().all()
    starts = InitEachComponent(init_from_encoder)(model, guide, power, visual, noise())
    assert torch.equal(starts[0], second.posterior(power, visual).mean)
    assert torch.equal(starts[1], heard.guide.posterior(power).mean)
    if make == "vae-mm" and isinstance(factor, Shared):
        sure = VAEMM(heard.model, looked.model, pi=1.0)
        one = replace(algorithm, latent_inits=(encoded,))
        certain, alone = (
            one(model, heard.guide, power, visual, Generator().manual_seed(0))
            for model in (sure, heard.model)
        )
        assert torch.equal(certain.responsibilities[0], torch.zeros(2, 6))
        torch.testing.assert_close(certain.wiener_gain, alone.wiener_gain)
        assert certain.costs == pytest.approx(alone.costs, rel=1e-5)


def test_a_structured_factor_asks_each_component_for_its_own_z_alone() -> None:
    """Chains, channels and lips: one call of each decoder for all of them, and what the trace says."""
    model = VAEMM(pair_of("a-vae").model, pair_of("av-vae").model).double()
    visual = torch.cat([randn(6, 16), torch.ones(6, 1)], -1)
    power, z = rand(2, 6, 9), randn(3, A, 2, 6, L)
    r = randn(A, 2, 6).softmax(0)
    story = ComponentDensity(model.given(visual), log_alpha(model, z[0, 0], visual))
    slow = replace(story, speech=traced(model, visual))
    calls: list[None] = []
    for component in (model.first, model.second):
        component.decoder.trunk[0].register_forward_hook(lambda *ignored: calls.append(None))  # type: ignore[operator, union-attr]
    density = target(Structured(), story, power, r)(z)
    assert len(calls) == 2
    torch.testing.assert_close(density, target(Structured(), slow, power, r)(z), rtol=1e-10, atol=1e-10)
    calls.clear()
    averages = moments(Structured(), story, z)
    assert len(calls) == 2 * len(z)
    for a in range(A):
        alone = moments(Shared(), story, z[:, a])
        for ours, both in zip(averages, alone, strict=True):
            torch.testing.assert_close(ours[a], both[a], rtol=1e-10, atol=1e-10)


def test_a_run_that_settles_stops() -> None:
    algorithm = replace(vem_at(noise(), Shared(), 100), tolerance=0.05)
    posterior = run(algorithm, vae_mm(), 4 * rand(N, F))
    assert posterior.converged
    assert 1 < len(posterior.costs) < 100
    assert abs(posterior.costs[-1] - posterior.costs[-2]) <= 0.05 * abs(posterior.costs[-2])
    assert not run(replace(algorithm, tolerance=0.0, iterations=3), vae_mm(), 4 * rand(N, F)).converged


def test_the_papers_schedule() -> None:
    """Numbers that the papers state."""
    algorithm = papers_vem()
    assert algorithm.e_step == Chain(RandomWalk(step_size=0.01**0.5), num_steps=40, warmup=30)
    assert (algorithm.iterations, algorithm.tolerance, algorithm.gain_floor) == (100, 1e-5, 0.0)
    assert algorithm.noise_init == RandomInit(rank=10)
    assert algorithm.factor == Shared()
    assert algorithm.updates == (UpdateNoise(), UpdatePi(concentration=1.0))
    assert algorithm.alpha_start is equal


def test_vem_separates_what_the_model_generated() -> None:
    """Speech from the model and noise of rank 1: the estimate is nearer than the mixture, in both modes."""
    frames = 240
    model, _, _ = fixed_problem(vae_mm, L, frames)
    colour = torch.tensor([1.5, -1.0, 0.5, 2.0, -0.5], dtype=torch.float64)
    alpha = torch.distributions.Categorical(model.pi).sample(torch.Size([frames]))
    z = model.means[alpha] + model.scales[alpha] * randn(frames, L)
    log_variance = model.given()(z).log_variance.take_along_dim(alpha[None, :, None], 0)[0]
    speech = ComplexNormal(torch.zeros(frames, F, dtype=torch.complex128), log_variance + 1.5).sample()
    b = ComplexNormal(torch.zeros(frames, F, dtype=torch.complex128), colour.expand(frames, F)).sample()
    x = speech + b
    model.offsets = model.offsets + 1.5
    for factor in (Shared(), Structured()):
        chain = Chain(MALA(0.5), 10, 4, target_acceptance=0.57)
        algorithm = replace(
            default_vem(), factor=factor, e_step=chain, latent_inits=(encoded,), iterations=30
        )
        posterior = run(algorithm, model, x.abs().square())
        error = (posterior.wiener_gain * x - speech).abs().square()
        assert error.sum() < 0.8 * (x - speech).abs().square().sum()
        # The stated variance is of the right size, and says where the errors are.
        assert 0.5 < error.sum() / posterior.variance.sum() < 3
