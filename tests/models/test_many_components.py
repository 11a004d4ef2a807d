"""Mixtures of three models and mixture guides of three encoders, against sums written out.

The components are given from alpha = K - 1 down to alpha = 0, and alpha = 0 stands first in every (A, *, N).
"""

import math
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Generator, Tensor, nn
from torch.distributions import kl_divergence

from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.base import SpeechGuide
from avse.guides.mixture import (
    AmortisedResponsibilities,
    BranchGuide,
    MixtureGuide,
    OptimalResponsibilities,
    branches,
)
from avse.guides.visual import VisualGuide
from avse.guides.wrappers import BandLimitedGuide, corrupted
from avse.inference.component_density import log_alpha
from avse.inference.mcmc.log_density import closure, frame_log_joint, sum_out_alpha, traced
from avse.inference.presets import PRESETS
from avse.inference.responsibilities import responsibilities, sample_alpha
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.band_limited import BandLimited
from avse.models.base import ConditionedSpeech, SpeechModel, TracedSpeech
from avse.models.distributions import PowerSpectrum
from avse.models.min_vae import MINVAE
from avse.models.mixture import distribution_of_alpha
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import GaussianEncoder, RawPower, SpectrumDecoder
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, S, Z, frames_plate
from avse.models.vae_mm import VAEMM

L, F, N, C, R, E, D, H = 2, 5, 4, 2, 3, 3, 8, 7
PI = (0.5, 0.3, 0.2)
"""Of the first component, alpha = 2, to the last, alpha = 0."""


def a_vae() -> AVAE:
    return AVAE(StandardNormal(L), SpectrumDecoder(L, [H], F)).double()


def lip_trunk() -> LipTrunk:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    return trunk


def av_vae() -> AVVAE:
    prior = VisualPrior(GaussianEncoder(E, [6], L))
    return AVVAE(lip_trunk(), prior, SpectrumDecoder(L, [H], F, embedding_size=E)).double()


def lips(*batch: int) -> Tensor:
    pixels = 2 * torch.randn(*batch, N, D - 1, dtype=torch.float64)
    valid = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64).expand(*batch, N)
    return torch.cat([pixels, valid[..., None]], -1)


def bad_lips(visual: Tensor | None) -> Tensor:
    """d(v)."""
    assert visual is not None
    return visual[..., 0]


def mixture(doubt: bool = False) -> VAEMM:
    """A-, V- and AV-VAE."""
    model = VAEMM(a_vae(), a_vae(), av_vae(), pi=PI, corruption_classifier=bad_lips if doubt else None)
    return model.double()


def noise(*batch: int) -> NMFNoise:
    W, H = torch.rand(*batch, F, 2, dtype=torch.float64), torch.rand(*batch, 2, N, dtype=torch.float64)
    return NMFNoise(W, H, torch.rand(*batch, N, dtype=torch.float64) + 0.5, 0.0, 1e-6)


def by_hand(model: VAEMM, z: Tensor, visual: Tensor, doubt: bool) -> tuple[list[Tensor], list[Tensor]]:
    """log p(alpha | v) + log p(z | v, alpha) and log sigma^alpha, alpha = 0 first."""
    weights = [torch.full((N,), p, dtype=torch.float64) for p in reversed(PI)]
    if doubt:
        weights[-1] = weights[-1] * bad_lips(visual).exp()
    total = weights[0] + weights[1] + weights[2]
    evaluations = [component.given(visual)(z) for component in model.component_models()]
    priors = [e.log_prior[0] + (w / total).log() for e, w in zip(evaluations, weights, strict=True)]
    return priors, [e.log_variance[0] for e in evaluations]


@pytest.mark.parametrize("doubt", [False, True])
@pytest.mark.parametrize("shape", [(N, L), (R, N, L), (R, C, N, L)])
def test_enumeration_is_the_sum_written_out(doubt: bool, shape: tuple[int, ...]) -> None:
    """The log joint under noise, alpha summed out, by trace, closed form and hand; and p(alpha | x, z)."""
    speech, visual, batch = mixture(doubt), lips(*shape[1:-2]), shape[1:-2]
    model, power = NoisySpeech(speech, noise(*batch)), torch.rand(*batch, N, F, dtype=torch.float64)
    z = torch.randn(shape, dtype=torch.float64)
    priors, log_variances = by_hand(speech, z, visual, doubt)
    for evaluation in (speech.given(visual)(z), TracedSpeech(speech, visual)(z)):
        torch.testing.assert_close(evaluation.log_prior, torch.stack(priors))
        torch.testing.assert_close(evaluation.log_variance, torch.stack(log_variances))
    joints = []
    for log_prior, log_variance in zip(priors, log_variances, strict=True):
        variance = model.noise.frame_gain[..., None] * log_variance.exp() + model.noise.variance()
        joints.append(log_prior + dist.Exponential(1 / variance).log_prob(power).sum(-1))
    truth = torch.log(joints[0].exp() + joints[1].exp() + joints[2].exp())
    for make in (closure, traced):
        torch.testing.assert_close(make(model, power=power, visual=visual)(z), truth)
    r = responsibilities(model, z, power, visual)
    torch.testing.assert_close(r, torch.stack([(joint - truth).exp() for joint in joints]))
    assert (r.flip(0) - r).abs().max() > 0.01  # negative control: the order of alpha
    clean = speech.given(visual).log_joint_fn(power)(z)
    torch.testing.assert_close(clean, frame_log_joint(speech, z, power=power, visual=visual))


def test_each_component_at_a_z_of_its_own() -> None:
    given, z = mixture().given(lips()), torch.randn(3, R, N, L, dtype=torch.float64)
    for ours, diagonal in zip(given.each(z), ConditionedSpeech.each(given, z), strict=True):
        torch.testing.assert_close(ours, diagonal)


def test_a_component_of_probability_zero_is_as_if_it_were_not_there() -> None:
    first, second, never = a_vae(), av_vae(), a_vae()
    visual, power, z = lips(), torch.rand(N, F).double(), torch.randn(R, N, L).double()
    two = VAEMM(first, second, pi=(0.3, 0.7)).double()
    assert two.pi.dim() == 0
    truth = sum_out_alpha(NoisySpeech(two, own := noise()).log_joint(z, power, visual))
    for parts, pi in (((first, second, never), (0.3, 0.7, 0.0)), ((never, first, second), (0.0, 0.3, 0.7))):
        three = NoisySpeech(VAEMM(*parts, pi=pi).double(), own)
        for log_joint in (
            three.log_joint(z, power, visual),
            frame_log_joint(three, z, power=power, visual=visual),
        ):
            torch.testing.assert_close(sum_out_alpha(log_joint), truth, rtol=1e-6, atol=1e-6)
        r = responsibilities(three, z, power, visual)
        assert not r[parts[::-1].index(never)].any()
        drawn = sample_alpha(three, z, power, visual, Generator().manual_seed(0))
        assert not (drawn == parts[::-1].index(never)).any()


def test_the_order_of_the_components_does_not_matter() -> None:
    parts, visual, z = [a_vae(), a_vae(), av_vae()], lips(), torch.randn(R, N, L).double()
    power, own = torch.rand(N, F).double(), noise()
    values, found = [], []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        model = VAEMM(*(parts[k] for k in order), pi=tuple(PI[k] for k in order)).double()
        assert model.component_models() == [parts[k] for k in reversed(order)]
        log_joint = NoisySpeech(model, own).log_joint(z, power, visual)
        values.append(sum_out_alpha(log_joint))
        found.append({k: log_joint.softmax(0)[2 - place] for place, k in enumerate(order)})
    for value, r in zip(values[1:], found[1:], strict=True):
        torch.testing.assert_close(value, values[0])
        for k in range(3):
            torch.testing.assert_close(r[k], found[0][k])


@pytest.mark.parametrize("kind", ["mixture", "min-vae"])
def test_posterior_of_alpha_is_that_of_pyro(kind: str) -> None:
    """`TraceEnum_ELBO.compute_marginals` exactly, and draws of `infer_discrete`: 12 z-scores under 4.5, false
    alarms below 1e-4."""
    speech, visual, draws = mixture(True) if kind == "mixture" else min_vae(), lips(), 4000
    model, power, z = NoisySpeech(speech, noise()), torch.rand(N, F).double(), torch.randn(N, L).double()
    with torch.no_grad():
        r = responsibilities(model, z, power, visual)
        conditioned = poutine.condition(config_enumerate(model), {Z: z})
        marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(
            conditioned, lambda **data: None, power=power, visual=visual
        )
        torch.testing.assert_close(marginals[ALPHA].probs, r.movedim(0, -1))
        many = z.expand(draws, N, L)
        alpha = sample_alpha(model, many, power, visual, Generator().manual_seed(0))
    for value in range(3):
        share, p = (alpha == value).double().mean(0), r[value]
        assert ((share - p) / (p * (1 - p) / draws).sqrt()).abs().max() < 4.5


def test_samples_of_alpha() -> None:
    """Over 20000 frames: three z-scores under 4.5, false alarms 2e-5."""
    pyro.set_rng_seed(0)
    with torch.no_grad():
        trace = poutine.trace(mixture()).get_trace(visual=lips().repeat(5000, 1))
    alpha = trace.nodes[ALPHA]["value"]
    for value, p in enumerate(reversed(PI)):
        share = float((alpha == value).double().mean())
        assert abs(share - p) < 4.5 * (p * (1 - p) / 20_000) ** 0.5


# Mixtures of mixtures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_mixture_of_mixtures_is_one_of_all_components(place: str, wrapped: bool) -> None:
    """With the product of the probabilities; both keep their d(v)."""
    parts, visual, z = [a_vae(), av_vae(), a_vae()], lips(), torch.randn(R, N, L).double()
    chosen = parts[:2] if place == "first" else parts[1:]
    inner: SpeechModel = VAEMM(*chosen, 0.4, lambda visual: 0.5 * bad_lips(visual)).double()
    if wrapped:
        inner, parts = BandLimited(inner, F), [BandLimited(part, F) for part in parts]
    arguments = (inner, parts[2]) if place == "first" else (parts[0], inner)
    model = VAEMM(*arguments, 0.3, bad_lips).double()
    outer_first = torch.sigmoid(math.log(0.3 / 0.7) + bad_lips(visual))
    inner_first = torch.sigmoid(math.log(0.4 / 0.6) + 0.5 * bad_lips(visual))
    if place == "first":
        probabilities = [1 - outer_first, outer_first * (1 - inner_first), outer_first * inner_first]
    else:
        probabilities = [(1 - outer_first) * (1 - inner_first), (1 - outer_first) * inner_first, outer_first]
    truth = torch.stack(
        [
            part.given(visual)(z).log_prior[0] + p.log()
            for part, p in zip(reversed(parts), probabilities, strict=True)
        ]
    )
    for conditioned in (model.given(visual), TracedSpeech(model, visual)):
        torch.testing.assert_close(conditioned(z).log_prior, truth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        model.log_alpha(visual), torch.stack(probabilities).log(), rtol=1e-6, atol=1e-6
    )
    assert model.alpha_logit(visual) is None
    assert len(model.component_models()) == 3


def test_a_mixture_of_mixtures_without_classifiers_is_flat() -> None:
    a, v, av, visual, z = a_vae(), a_vae(), av_vae(), lips(), torch.randn(R, N, L).double()
    nested = VAEMM(a, VAEMM(v, av, 0.6), pi=0.5).double()
    flat = VAEMM(a, v, av, pi=PI).double()
    for ours, theirs in zip(nested.given(visual)(z), flat.given(visual)(z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_wrong_probabilities_are_named() -> None:
    parts = a_vae(), a_vae(), a_vae()
    for pi in ((0.5, 0.5), (0.5, 0.6, -0.1), (0.5, 0.3, 0.1), 0.5, (0.5, 0.5, math.nan)):
        with pytest.raises(InputError, match="pi ="):
            VAEMM(*parts, pi=pi)
    for wrong in (nn.Linear(1, 1), "abc"):
        with pytest.raises(InputError, match="neither"):
            VAEMM(*parts, wrong)
    with pytest.raises(InputError, match="alone"):
        VAEMM(*parts, PI, None, parts[0])
    torch.testing.assert_close(VAEMM(*parts).pi, torch.full((3,), 1 / 3))


# MIN-VAE -------------------------------------------------------------------------------------------------


def min_vae() -> MINVAE:
    model = MINVAE(
        L,
        SpectrumDecoder(L, [H], F, embedding_size=E),
        lip_trunk(),
        PI,
        encoders=("audio", "visual", "audio_visual"),
    ).double()
    with torch.no_grad():
        for number, name in enumerate(model.encoders):
            getattr(model, f"{name}_mean").normal_()
            getattr(model, f"{name}_log_variance").fill_(0.3 * number - 0.4)
        model.log_odds.copy_(torch.tensor([0.3, 0.5]).double().log() - math.log(0.2))
    return model


def test_min_vae_of_three_encoders() -> None:
    """Prior of z and alpha by hand, from the parameters by their names; pi follows their order."""
    model, visual, z = min_vae(), lips(), torch.randn(R, N, L).double()
    truth = []
    for name, p in zip(("audio_visual", "visual", "audio"), reversed(PI), strict=True):
        scale = torch.exp(getattr(model, f"{name}_log_variance") / 2)
        normal = dist.Normal(getattr(model, f"{name}_mean"), scale).log_prob(z).sum(-1)
        truth.append(normal + math.log(p))
    for conditioned in (model.given(visual), TracedSpeech(model, visual)):
        evaluation = conditioned(z)
        torch.testing.assert_close(evaluation.log_prior, torch.stack(truth))
        assert evaluation.log_variance.shape == (3, R, N, F)
    own = torch.randn(3, R, N, L).double()
    given = model.given(visual)
    for ours, diagonal in zip(given.each(own), ConditionedSpeech.each(given, own), strict=True):
        torch.testing.assert_close(ours, diagonal)
    torch.testing.assert_close(model.pi, torch.tensor(PI).double())
    torch.testing.assert_close(
        MINVAE(L, model.decoder, pi=PI, encoders=("a", "b", "c")).pi, torch.tensor(PI), rtol=1e-6, atol=0
    )
    for wrong in ({"pi": (0.5, 0.5)}, {"pi": (0.5, 0.5, 0.0)}, {"pi": (0.5, 0.3, 0.1)}, {"pi": 0.5}):
        with pytest.raises(InputError, match="pi ="):
            MINVAE(L, model.decoder, encoders=("a", "b", "c"), **wrong)
    with pytest.raises(InputError, match="different names"):
        MINVAE(L, model.decoder, encoders=("a", "a"))


# Guides --------------------------------------------------------------------------------------------------


def encoders() -> list[SpeechGuide]:
    def audio() -> AudioGuide:
        return AudioGuide(RawPower(), GaussianEncoder(F, [H], L))

    return [audio(), VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], L))), audio()]


class LinearGaussianMixture(SpeechModel):
    """z ~ N(0, I), s | z, alpha = k ~ N(A_k z + mu_k, sigma_k I), real: p(s | alpha) is normal."""

    def __init__(self) -> None:
        super().__init__()
        self.A = torch.randn(3, F, L, dtype=torch.float64)
        self.mu = torch.randn(3, F, dtype=torch.float64)
        self.sigma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        self.log_pi = torch.tensor(PI[::-1], dtype=torch.float64).log()

    def forward(self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None):
        with frames_plate(power, visual, frames):
            alpha = pyro.sample(
                ALPHA, distribution_of_alpha(self.log_pi), infer={"enumerate": "parallel"}
            ).long()
            z = pyro.sample(Z, dist.Normal(torch.zeros(L).double(), 1.0).to_event(1))
            mean = (self.A[alpha] @ z.unsqueeze(-1)).squeeze(-1) + self.mu[alpha]
            scale = self.sigma[alpha].sqrt().unsqueeze(-1)
            return pyro.sample(S, dist.Normal(mean, scale).to_event(1), obs=power)

    def log_evidence(self, s: Tensor) -> Tensor:
        """log p(alpha) + log p(s | alpha), (3, N)."""
        covariance = self.A @ self.A.mT + self.sigma[:, None, None] * torch.eye(F).double()
        normal = dist.MultivariateNormal(self.mu[:, None], covariance[:, None])
        return self.log_pi[:, None] + normal.log_prob(s)


class ExactGuide(SpeechGuide):
    """p(z | s, alpha) of one component: C = (I + A'A / sigma)^-1, N(C A'(s - mu) / sigma, C)."""

    def __init__(self, model: LinearGaussianMixture, alpha: int) -> None:
        super().__init__()
        self.A, self.mu, self.sigma = model.A[alpha], model.mu[alpha], model.sigma[alpha]

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        assert power is not None
        covariance = torch.linalg.inv(torch.eye(L).double() + self.A.mT @ self.A / self.sigma)
        return dist.MultivariateNormal((power - self.mu) @ self.A @ covariance / self.sigma, covariance)


def test_linear_gaussian_components_have_known_responsibilities() -> None:
    """With exact encoders r* = softmax(log pi + log N(s; mu, A A' + sigma I)), and the bound is log p(s)."""
    model, s = LinearGaussianMixture(), 2 * torch.randn(N, F, dtype=torch.float64)
    parts: list[SpeechGuide] = [ExactGuide(model, alpha) for alpha in (2, 1, 0)]
    guide = MixtureGuide(*parts, responsibilities=OptimalResponsibilities(model))
    posteriors = [part.posterior(s) for part in parts]
    found = guide.responsibilities(*posteriors, power=s, visual=None).softmax(0)
    evidence = model.log_evidence(s)
    torch.testing.assert_close(found, evidence.softmax(0), rtol=1e-8, atol=1e-8)
    assert found.std() > 0.1
    for elbo in (TraceEnum_ELBO(max_plate_nesting=1), AnalyticKLTraceEnumELBO(max_plate_nesting=1)):
        assert elbo.loss(model, guide, power=s) == pytest.approx(
            -evidence.logsumexp(0).sum().item(), rel=1e-8
        )
    wrong = MixtureGuide(*parts[::-1], responsibilities=OptimalResponsibilities(model))  # negative control
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(model, wrong, power=s) > -evidence.logsumexp(0).sum() + 1


@pytest.mark.parametrize("kind", ["mixture", "min-vae"])
def test_optimal_responsibilities_are_the_formula(kind: str) -> None:
    """log pi_k - J(k) at the draws made, with the closed-form KL; 30 nats are the largest difference of J."""
    model, visual = mixture() if kind == "mixture" else min_vae(), lips()
    guide = MixtureGuide(*encoders(), responsibilities=OptimalResponsibilities(model)).double()
    power = torch.rand(N, F, dtype=torch.float64)
    parts = [guide.branch(alpha).posterior(power, visual) for alpha in (2, 1, 0)]
    draws: list[Tensor] = []
    for part in parts:
        part.sample = lambda own=part.sample: draws.append(own()) or draws[-1]
    found = guide.responsibilities(*parts, power=power, visual=visual)
    assert found.shape == (3, N)
    assert not found.requires_grad
    costs = []
    for alpha, (q, z) in enumerate(zip(parts[::-1], draws[::-1], strict=True)):
        given = {ALPHA: torch.full((N,), float(alpha)), Z: z}
        trace = poutine.trace(poutine.condition(model, given)).get_trace(power=power, visual=visual)
        likelihood = PowerSpectrum(trace.nodes[S]["fn"].base_dist.log_variance).log_prob(power).sum(-1)
        costs.append(kl_divergence(q, trace.nodes[Z]["fn"]) - likelihood)
    J = torch.stack(costs)
    truth = torch.tensor(PI[::-1]).double()[:, None] * (J.amin(0) - J).exp()
    torch.testing.assert_close(found.softmax(0), truth / truth.sum(0), rtol=1e-6, atol=1e-6)
    if isinstance(model, VAEMM):
        with torch.no_grad():
            model.first.decoder.output.bias.add_(-20)  # type: ignore[union-attr, operator]
        log_odds = guide.responsibilities(*parts, power=power, visual=visual)
        assert (log_odds.amax(0) - log_odds[2]).max() < 30 + 1


def test_enumerated_bound_is_the_sum_over_branches() -> None:
    """sum_a r(a) [log p(a) - log r(a) - J(a)] at the draws that were made, r told beforehand."""
    model, visual, power = mixture(), lips(), torch.rand(N, F, dtype=torch.float64)
    logits = torch.randn(3, N, dtype=torch.float64)
    guide = MixtureGuide(*encoders(), responsibilities=lambda *parts, power, visual: logits).double()
    pyro.set_rng_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, power=power, visual=visual)
    pyro.set_rng_seed(1)
    trace = poutine.trace(poutine.enum(guide, first_available_dim=-2)).get_trace(power=power, visual=visual)
    z = trace.nodes[Z]["value"]
    assert z.shape == (3, N, L)
    log_joint = model.given(visual).each_log_joint_fn(power)(z)
    log_q = torch.stack([guide.branch(a).posterior(power, visual).log_prob(z[a]) for a in range(3)])
    r = logits.softmax(0)
    assert loss == pytest.approx(-(r * (log_joint - log_q - r.log())).sum().item(), rel=1e-9)


def test_branches_start_and_wrappers() -> None:
    model, visual, power = mixture(), lips(), torch.rand(N, F, dtype=torch.float64)
    parts = encoders()
    for start in range(3):
        guide = MixtureGuide(*parts, responsibilities=OptimalResponsibilities(model), start=start).double()
        assert branches(guide) == parts[::-1]
        for own in (guide, BandLimitedGuide(guide, F), BranchGuide(guide, start)):
            mean = own.posterior(power, visual).mean
            assert torch.equal(mean, parts[2 - start].posterior(power, visual).mean)
        worse = corrupted(guide, lambda power: 2 * power)
        assert isinstance(worse, MixtureGuide)
        assert worse.start == start
        assert len(branches(worse)) == 3
    two = VAEMM(a_vae(), av_vae())
    inner = MixtureGuide(parts[1], parts[2], responsibilities=OptimalResponsibilities(two))
    nested = MixtureGuide(parts[0], inner, responsibilities=OptimalResponsibilities(model))
    assert branches(nested) == parts[::-1]
    with pytest.raises(InputError, match="start = 3"):
        MixtureGuide(*parts, responsibilities=OptimalResponsibilities(model), start=3)
    with pytest.raises(InputError, match="2 guides for a mixture of 3 models"):
        MixtureGuide(*parts[:2], responsibilities=OptimalResponsibilities(model))
    with pytest.raises(InputError, match="two or more"):
        MixtureGuide(*parts[:1], responsibilities=OptimalResponsibilities(model))
    with pytest.raises(InputError, match="give"):
        MixtureGuide(*parts, responsibilities=lambda *parts, power, visual: power[:2, 0])(power, visual)


def test_amortised_responsibilities_of_three_branches() -> None:
    layers, power, visual = nn.Linear(F, 3), torch.rand(C, N, F, dtype=torch.float64), lips()
    guide = MixtureGuide(*encoders(), responsibilities=AmortisedResponsibilities(RawPower(), layers)).double()
    trace = poutine.trace(guide).get_trace(power=power, visual=visual)
    torch.testing.assert_close(trace.nodes[ALPHA]["fn"].probs, layers(power).softmax(-1))
    assert trace.nodes[Z]["value"].shape == (C, N, L)
    loss = AnalyticKLTraceEnumELBO(max_plate_nesting=2).differentiable_loss(
        mixture(), guide, power=power, visual=visual
    )
    loss.backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())


# Inference -----------------------------------------------------------------------------------------------


def shortened(name: str):
    """A preset with few iterations."""
    algorithm = PRESETS[name]()
    if hasattr(algorithm, "iterations"):
        return replace(algorithm, iterations=2)
    if name == "mcmc-em":  # its final run alone takes seconds
        return replace(algorithm, em=replace(algorithm.em, iterations=2), final=algorithm.em.e_step)
    if hasattr(algorithm, "em"):
        return replace(algorithm, em=replace(algorithm.em, iterations=2))
    if hasattr(algorithm, "draws"):
        fit = replace(algorithm.fit, em=replace(algorithm.fit.em, iterations=2))
        return replace(algorithm, fit=fit, draws=4, warmup=4)
    return algorithm


KINDS = ["mixture", "nested", "min-vae"]


def combinations() -> list[Any]:
    """Every preset with every kind of mixture; the quick ones have each preset once.

    MCEM of each component and VEM, which weight components, have all kinds."""
    return [
        pytest.param(
            name,
            kind,
            marks=() if name in ("mcem-mixture", "vem") or (i + j) % 3 == 2 else pytest.mark.slow,
        )
        for i, name in enumerate(PRESETS)
        for j, kind in enumerate(KINDS)
    ]


@pytest.mark.parametrize(("name", "kind"), combinations())
def test_every_algorithm_runs_with_three_components(name: str, kind: str) -> None:
    models = {
        "mixture": mixture,
        "nested": lambda: VAEMM(a_vae(), VAEMM(a_vae(), av_vae())),
        "min-vae": min_vae,
    }
    model = models[kind]().float().eval().requires_grad_(False)
    guide = (
        MixtureGuide(*encoders(), responsibilities=OptimalResponsibilities(model))
        .eval()
        .requires_grad_(False)
    )
    power, visual = torch.rand(1, N, F), lips().float()
    algorithm = shortened(name)
    if name in ("mcem-anchored", "amortised-lips") and kind != "min-vae":
        with pytest.raises(InputError, match="mixture has 3: use mcem-mixture"):
            algorithm(model, guide, power, visual, Generator().manual_seed(0))
        return
    posterior = algorithm(model, guide, power, visual, Generator().manual_seed(0))
    assert posterior.responsibilities.shape == (3, 1, N)
    torch.testing.assert_close(posterior.responsibilities.sum(0), torch.ones(1, N))
    assert posterior.wiener_gain.isfinite().all()
    torch.testing.assert_close(log_alpha(model, torch.zeros(1, N, L), visual).exp().sum(0), torch.ones(1, N))


def test_separate_chains_need_an_encoder_for_each_component_or_one_for_all() -> None:
    model = mixture().float().eval().requires_grad_(False)
    two = MixtureGuide(*encoders()[:2], responsibilities=lambda *parts, power, visual: power[..., 0]).eval()
    for guide in (two, encoders()[0].eval()):
        run = shortened("mcem-mixture")
        told = (model, guide, torch.rand(1, N, F), lips().float(), Generator().manual_seed(0))
        if guide is two:
            with pytest.raises(InputError, match="2 initial z for 3 values of alpha"):
                run(*told)
        else:
            assert run(*told).responsibilities.shape == (3, 1, N)


def test_impossible_components_are_left_out_by_separate_chains() -> None:
    """As the mixture of the two that are possible, whose draws come from the same generator."""
    model = VAEMM(a_vae(), a_vae(), av_vae(), pi=(0.5, 0.0, 0.5)).float().eval().requires_grad_(False)
    guide = MixtureGuide(*encoders(), responsibilities=OptimalResponsibilities(model)).eval()
    power, visual = torch.rand(1, N, F), lips().float()
    for name in ("mcem-mixture", "vem", "paper-vem"):
        posterior = shortened(name)(model, guide, power, visual, Generator().manual_seed(0))
        assert not posterior.responsibilities[1].any()
        assert posterior.responsibilities[[0, 2]].min() > 0
