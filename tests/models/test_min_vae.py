"""MIN-VAE, both versions: formula, trace and explicit sum agree; what is learnt, and what stays legal.

Version 1 decodes z alone, version 2 z and the lips.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pyro import poutine
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.guides.visual import VisualGuide
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.log_density import closure, frame_log_joint, sum_out_alpha, traced
from avse.inference.presets import default_mcem, papers_mcem
from avse.inference.responsibilities import responsibilities, sample_alpha
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.band_limited import BandLimited
from avse.models.base import ConditionedSpeech, TracedSpeech
from avse.models.min_vae import MINVAE
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import POWER_FLOOR, GaussianEncoder, RawPower, SpectrumDecoder
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

L, F, N, C, R, E, D, H = 2, 5, 4, 2, 6, 3, 8, 7
SHAPES = [(N, L), (R, N, L), (R, C, N, L)]
VERSIONS = [1, 2]


def lip_trunk() -> LipTrunk:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    return trunk


def min_vae(version: int, kind: type[MINVAE] = MINVAE) -> MINVAE:
    """With priors that differ, and pi = 0.25."""
    if version == 1:
        model = kind(L, SpectrumDecoder(L, [H], F), pi=0.25)
    else:
        model = kind(L, SpectrumDecoder(L, [H], F, embedding_size=E), lip_trunk(), pi=0.25)
    model.double()
    with torch.no_grad():
        model.log_odds.fill_(math.log(0.25 / 0.75))
        model.audio_mean.copy_(torch.tensor([1.0, -0.5]))
        model.visual_mean.copy_(torch.tensor([-1.5, 2.0]))
        model.audio_log_variance.fill_(-1.0)
        model.visual_log_variance.fill_(0.7)
    return model


def lips(*batch: int, seen: tuple[float, ...] = (1.0, 1.0, 0.0, 1.0)) -> Tensor:
    valid = torch.tensor(seen, dtype=torch.float64)
    pixels = 2 * torch.randn(*batch, len(seen), D - 1, dtype=torch.float64)
    return torch.cat([pixels, valid.expand(*batch, len(seen))[..., None]], -1)


def noise(*batch: int) -> NMFNoise:
    return NMFNoise(
        torch.rand(*batch, F, 2, dtype=torch.float64),
        torch.rand(*batch, 2, N, dtype=torch.float64),
        torch.rand(*batch, N, dtype=torch.float64) + 0.5,
        0.0,
        1e-6,
    )


def by_hand(model: MINVAE, z: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    """log p(alpha) + log p(z | alpha), alpha = 0 first, and log sigma, layer by layer."""
    priors = []
    parts = (
        (model.visual_mean, model.visual_log_variance, 0.75),
        (model.audio_mean, model.audio_log_variance, 0.25),
    )
    for mean, log_variance, probability in parts:
        square = (z - mean).square().sum(-1) / log_variance.exp()
        normal = -(square + L * log_variance + L * math.log(2 * math.pi)) / 2
        priors.append(normal + math.log(probability))
    decoder = model.decoder
    hidden = z @ decoder.trunk[0].weight.T + decoder.trunk[0].bias  # type: ignore[union-attr]
    if model.lips is not None:
        pixels, valid = visual[..., :-1], visual[..., -1:]
        first = model.lips.layers[0]  # type: ignore[union-attr]
        embedding = (
            valid * torch.tanh(pixels @ first.weight.T + first.bias)
            + (1 - valid) * model.lips.missing_embedding
        )  # type: ignore[union-attr]
        hidden = hidden + embedding @ decoder.condition.weight.T  # type: ignore[union-attr]
    return torch.stack(priors), torch.tanh(hidden) @ decoder.output.weight.T + decoder.output.bias  # type: ignore[union-attr]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluate_is_the_trace_and_the_formula(version: int, shape: tuple[int, ...]) -> None:
    model, visual = min_vae(version), lips()
    z = torch.randn(shape, dtype=torch.float64)
    log_prior, log_variance = by_hand(model, z, visual)
    for evaluation in (model.given(visual)(z), TracedSpeech(model, visual)(z)):
        assert evaluation.log_prior.shape == (2, *shape[:-1])
        assert evaluation.log_variance.shape == (2, *shape[:-1], F)
        torch.testing.assert_close(evaluation.log_prior, log_prior, rtol=1e-8, atol=1e-8)
        for value in evaluation.log_variance:
            torch.testing.assert_close(value, log_variance, rtol=1e-8, atol=1e-8)
    # Negative controls: the other alpha first, and the lips of other frames.
    assert (log_prior - log_prior.flip(0)).abs().min(0).values.max() > 0.1
    other = model.given(visual.roll(1, 0))(z)
    assert torch.equal(other.log_prior, model.given(visual)(z).log_prior)
    assert bool((other.log_variance[0] - log_variance).abs().max() > 0.01) == (version == 2)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_alpha_at_a_z_of_its_own(version: int, shape: tuple[int, ...]) -> None:
    """The diagonal of `evaluate`, by one call of the decoder; and the log joint of clean speech."""
    model, visual, z = min_vae(version), lips(), torch.randn(2, *shape, dtype=torch.float64)
    power, calls = torch.rand(N, F, dtype=torch.float64), []
    model.decoder.trunk[0].register_forward_hook(lambda *ignored: calls.append(None))  # type: ignore[attr-defined]
    each = model.given(visual).each(z)
    assert len(calls) == 1
    for ours, general in zip(each, ConditionedSpeech.each(model.given(visual), z), strict=True):
        torch.testing.assert_close(ours, general, rtol=1e-10, atol=1e-10)
    joint = model.given(visual).each_log_joint_fn(power)(z)
    for alpha in (0, 1):
        for ours, alone in zip(each, model.given(visual)(z[alpha]), strict=True):
            torch.testing.assert_close(ours[alpha], alone[alpha], rtol=1e-10, atol=1e-10)
        by_trace = frame_log_joint(model, z[alpha], power=power, visual=visual)
        torch.testing.assert_close(joint[alpha], by_trace[alpha], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            model.given(visual).log_joint_fn(power)(z[alpha]), by_trace, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_enumeration_is_the_sum_written_out(version: int, shape: tuple[int, ...]) -> None:
    """Under noise: p(x | z) sum_a p(a) p(z | a), since alpha touches nothing but the prior."""
    batch = shape[1:-2]
    speech, mask, visual = min_vae(version), noise(*batch), lips()
    power = torch.rand(*batch, N, F, dtype=torch.float64)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    log_prior, log_variance = by_hand(speech, z, visual)
    variance = mask.frame_gain[..., None] * log_variance.exp() + mask.variance()
    likelihood = torch.distributions.Exponential(1 / variance).log_prob(power).sum(-1)
    truth = likelihood + torch.log(log_prior[0].exp() + log_prior[1].exp())
    slope = torch.autograd.grad(truth.sum(), z)[0]
    model = NoisySpeech(speech, mask)
    by_trace = frame_log_joint(model, z, power=power, visual=visual)
    torch.testing.assert_close(by_trace, likelihood + log_prior, rtol=1e-8, atol=1e-8)
    for make in (closure, traced):
        log_joint = make(model, power=power, visual=visual)(z)
        torch.testing.assert_close(log_joint, truth, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(torch.autograd.grad(log_joint.sum(), z)[0], slope, rtol=1e-8, atol=1e-8)
    r = responsibilities(model, z, power, visual)
    torch.testing.assert_close(r, log_prior.softmax(0), rtol=1e-8, atol=1e-8)


class LoudMINVAE(MINVAE):
    """Another story in `latent` alone, 3 nats louder."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        return super().latent(visual) + 3


@pytest.mark.parametrize("version", VERSIONS)
def test_a_subclass_that_overrides_latent_alone(version: int) -> None:
    model, loud = min_vae(version), min_vae(version, LoudMINVAE)
    loud.load_state_dict(model.state_dict())
    visual, z = lips(), torch.randn(R, N, L, dtype=torch.float64)
    ours = model.given(visual)(z)
    for other in (loud, BandLimited(loud, F)):
        torch.testing.assert_close(other.given(visual)(z).log_prior, ours.log_prior)
        torch.testing.assert_close(other.given(visual)(z).log_variance, ours.log_variance + 3)
        own = z[:2]
        ours_each, theirs = model.given(visual).each(own), other.given(visual).each(own)
        torch.testing.assert_close(theirs.log_prior, ours_each.log_prior)
        torch.testing.assert_close(theirs.log_variance, ours_each.log_variance + 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_samples_of_alpha_and_z(version: int) -> None:
    """Over 20000 frames: 9 z-scores under 4.5, false alarms 6e-5. The other alpha's prior fails them."""
    model, visual = min_vae(version), lips().repeat(5000, 1)
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(visual=visual)
    alpha, z = trace.nodes[ALPHA]["value"], trace.nodes[Z]["value"]
    assert trace.nodes["_RETURN"]["value"].shape == (20_000, F)
    assert abs(float(alpha.mean()) - 0.25) * (20_000 / (0.25 * 0.75)) ** 0.5 < 4.5
    priors = {
        0: (model.visual_mean.detach(), model.visual_log_variance.detach()),
        1: (model.audio_mean.detach(), model.audio_log_variance.detach()),
    }
    for value in (0, 1):
        for assumed in (0, 1):
            mean, log_variance = priors[assumed]
            white = (z[alpha == value] - mean) / torch.exp(log_variance / 2)
            scores = [
                white.mean(0) * len(white) ** 0.5,
                (white.square().mean(0) - 1) * (len(white) / 2) ** 0.5,
            ]
            worst = torch.stack(scores).abs().max()
            assert bool(worst < 4.5) == (value == assumed)


def reached(value: Tensor, model: MINVAE) -> set[str]:
    """The parts of the model that the value depends on, all their parameters or none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    parts: dict[str, list[bool]] = {}
    for name, gradient in zip(names, found, strict=True):
        parts.setdefault(name.split(".")[0], []).append(
            gradient is not None and bool(gradient.abs().max() > 0)
        )
    assert all(all(one) or not any(one) for one in parts.values()), parts
    return {part for part, one in parts.items() if one[0]}


@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_reach_what_they_should(version: int) -> None:
    model, visual, z = min_vae(version), lips(), torch.randn(R, N, L, dtype=torch.float64)
    priors = {"audio_mean", "visual_mean", "audio_log_variance", "visual_log_variance", "log_odds"}
    decoding = {"decoder"} | ({"lips"} if version == 2 else set())
    evaluation = model.given(visual)(z)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None, None]
    assert reached((weights * evaluation.log_prior).sum(), model) == priors
    assert reached(evaluation.log_variance.square().sum(), model) == decoding
    joint = frame_log_joint(model, z, power=torch.rand(N, F, dtype=torch.float64), visual=visual)
    assert reached((weights * joint).sum(), model) == priors | decoding


def test_the_gradient_of_the_log_odds_is_r_less_pi() -> None:
    """d/d logit(pi) of log p(x, z) is r - pi in every frame, exactly."""
    model, z, visual = NoisySpeech(min_vae(1), noise()), torch.randn(N, L).double(), lips()
    power = torch.rand(N, F, dtype=torch.float64)
    joint = sum_out_alpha(model.log_joint(z, power, visual)).sum()
    slope = torch.autograd.grad(joint, model.speech.log_odds)[0]  # type: ignore[arg-type]
    r = responsibilities(model, z, power, visual)[1]
    torch.testing.assert_close(slope, (r - 0.25).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("step", [-1e3, 1e3])
def test_no_step_makes_a_variance_negative_or_pi_impossible(step: float) -> None:
    """Steps of a size that no optimiser takes: still a density, still a probability."""
    model = min_vae(1)
    with torch.no_grad():
        model.log_odds.add_(step)
        model.audio_log_variance.add_(step / 100)
        model.visual_log_variance.sub_(step / 100)
    evaluation = model.given()(model.audio_mean.detach().expand(N, L))
    assert evaluation.log_prior.isfinite().all()
    assert 0 <= float(model.pi.detach()) <= 1


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("version", VERSIONS)
def test_with_one_alpha_alone_it_is_a_model_without(version: int, sign: int) -> None:
    """At log odds of +-1e30: the log joint of the model with that alpha's prior, exactly."""
    model, mask, visual = min_vae(version), noise(), lips()
    with torch.no_grad():
        model.log_odds.fill_(sign * 1e30)
    mean = (model.audio_mean if sign > 0 else model.visual_mean).detach()
    log_variance = (model.audio_log_variance if sign > 0 else model.visual_log_variance).detach()

    class Prior(StandardNormal):
        def forward(self, embedding: Tensor | None = None) -> torch.distributions.Distribution:
            normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
            return torch.distributions.Independent(normal, 1)

        def log_prob(self, z: Tensor) -> Tensor:
            return self().log_prob(z)

    alone = AVAE(Prior(L), model.decoder) if version == 1 else AVVAE(model.lips, Prior(L), model.decoder)  # type: ignore[arg-type]
    z, power = torch.randn(R, N, L, dtype=torch.float64), torch.rand(N, F, dtype=torch.float64)
    ours = NoisySpeech(model, mask).log_joint(z, power, visual)
    assert torch.equal(sum_out_alpha(ours), NoisySpeech(alone, mask).log_joint(z, power, visual)[0])
    drawn = sample_alpha(NoisySpeech(model, mask), z, power, visual, Generator().manual_seed(0))
    assert (drawn == (sign > 0)).all()


@pytest.mark.parametrize("pi", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_pi_starts_strictly_between(pi: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        MINVAE(L, SpectrumDecoder(L, [H], F), pi=pi)


def test_priors_that_do_not_differ_leave_alpha_at_pi() -> None:
    """As a fresh model does: both N(0, I)."""
    fresh = MINVAE(L, SpectrumDecoder(L, [H], F), pi=0.25).double()
    z, power = torch.randn(R, N, L, dtype=torch.float64), torch.rand(N, F, dtype=torch.float64)
    r = responsibilities(NoisySpeech(fresh, noise()), z, power)
    torch.testing.assert_close(r[1], torch.full_like(r[1], 0.25))
    standard = NoisySpeech(AVAE(StandardNormal(L).double(), fresh.decoder), noise())
    same = NoisySpeech(fresh, standard.noise).log_joint(z, power)
    torch.testing.assert_close(sum_out_alpha(same), standard.log_joint(z, power)[0])


def test_lips_that_are_never_seen_and_one_frame() -> None:
    model, hidden = min_vae(2), lips(seen=(0.0,) * N)
    z = torch.randn(R, N, L, dtype=torch.float64)
    other = torch.cat([hidden[:, :-1] + 1, hidden[:, -1:]], -1)
    assert torch.equal(model.given(hidden)(z).log_variance, model.given(other)(z).log_variance)
    one = model.given(hidden[:1])(z[:, :1])
    assert one.log_variance.shape == (2, R, 1, F)
    assert model(visual=hidden[:1]).shape == (1, F)
    with pytest.raises(ValueError, match="give visual"):
        model(frames=N)
    assert min_vae(1)(frames=N).shape == (N, F)


def test_decoder_starts_at_the_mean_log_power() -> None:
    model, power = min_vae(1), torch.rand(500, F, dtype=torch.float64)
    model.fit_scales(power)
    nn.init.zeros_(model.decoder.output.weight)  # type: ignore[union-attr]
    out = model.given()(torch.randn(N, L, dtype=torch.float64)).log_variance[1]
    torch.testing.assert_close(out, torch.log(power + POWER_FLOOR).mean(0).expand(N, F))
    MINVAE(L, lambda z: z).fit_scales(power)  # a decoder without scales


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_is_saved_once_and_comes_back(version: int) -> None:
    model = min_vae(version)
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    other = min_vae(version)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(state)
    visual, z = lips(), torch.randn(N, L, dtype=torch.float64)
    for ours, theirs in zip(model.given(visual)(z), other.given(visual)(z), strict=True):
        assert torch.equal(ours, theirs)
    assert model.pi.item() == pytest.approx(0.25, rel=1e-6)


def short(algorithm: MCEM) -> MCEM:
    assert isinstance(algorithm.final, Chain)
    final = replace(algorithm.final, num_steps=6, warmup=2)
    return replace(algorithm, em=replace(algorithm.em, iterations=2), final=final)


@pytest.mark.parametrize("make", [default_mcem, papers_mcem])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_mcem(make: Callable[[], MCEM], version: int, batch: tuple[int, ...]) -> None:
    model = min_vae(version).float()
    guide = MixtureGuide(
        AudioGuide(RawPower(), GaussianEncoder(F, [H], L)),
        VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], L))),
        responsibilities=OptimalResponsibilities(model),
    )
    power, visual = torch.rand(*batch, N, F), lips().float()
    posterior = short(make())(model, guide, power, visual, Generator().manual_seed(1))
    r = posterior.responsibilities
    assert r.shape == (2, *batch, N)
    assert ((r >= 0) & (r <= 1)).all()
    torch.testing.assert_close(r.sum(0), torch.ones(*batch, N))
    assert len(posterior.costs) == 2
    assert torch.tensor(posterior.costs).isfinite().all()  # EM need not lower the mean of -log p(x | z)
