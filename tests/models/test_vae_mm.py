"""VAE-MM: closed form, trace and explicit sum agree, with any two components and at both ends of pi.

alpha = 1 is the first component, alpha = 0 the second, and alpha = 0 stands first in every (A, *, N).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.guides.visual import VisualGuide
from avse.inference.component_density import log_alpha
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.log_density import closure, frame_log_joint, sum_out_alpha, traced
from avse.inference.presets import default_mcem, default_vem, papers_mcem
from avse.inference.responsibilities import responsibilities, sample_alpha
from avse.inference.vem.latent_factor import LatentFactor, Shared, Structured
from avse.inference.vem.vem import VEM
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.band_limited import BandLimited
from avse.models.base import ConditionedSpeech, SpeechModel, TracedSpeech
from avse.models.distributions import PowerSpectrum
from avse.models.min_vae import MINVAE
from avse.models.mixture import MAX_LOG_ODDS
from avse.models.networks.lips import LipCorruptionClassifier, LipTrunk, cached_embeddings
from avse.models.networks.spectrum import GaussianEncoder, RawPower, SpectrumDecoder
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech, noisy_variance
from avse.models.sites import ALPHA, Z
from avse.models.vae_mm import VAEMM

L, F, N, C, R, E, D, H = 2, 5, 4, 2, 6, 3, 8, 7
SHAPES = [(N, L), (R, N, L), (R, C, N, L)]
PI = 0.25
"""A number that float32 knows exactly."""


def a_vae(latents: int = L, bins: int = F) -> AVAE:
    return AVAE(StandardNormal(latents), SpectrumDecoder(latents, [H], bins)).double()


def lip_trunk() -> LipTrunk:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    return trunk


def av_vae(latents: int = L, bins: int = F) -> AVVAE:
    prior = VisualPrior(GaussianEncoder(E, [6], latents))
    return AVVAE(lip_trunk(), prior, SpectrumDecoder(latents, [H], bins, embedding_size=E)).double()


class Uniform(SpeechModel):
    """Tells its story in `latent` alone, and its prior is not normal: z ~ U(-4, 4), log sigma = z."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        edge = torch.full((L,), 4.0, dtype=torch.float64)
        z = pyro.sample(Z, dist.Uniform(-edge, edge, validate_args=False).to_event(1))
        return z.repeat_interleave(3, -1)[..., :F]


COMPONENTS: dict[str, tuple[Callable[[], SpeechModel], Callable[[], SpeechModel]]] = {
    "papers": (a_vae, av_vae),
    "swapped": (av_vae, a_vae),
    "deaf": (a_vae, a_vae),
    "seeing": (av_vae, av_vae),
    "uniform": (Uniform, av_vae),
    "normal": (a_vae, Uniform),
}


def mixture(components: str = "papers", pi: float = PI) -> VAEMM:
    return VAEMM(*(make() for make in COMPONENTS[components]), pi).double()


def lips(*batch: int, seen: tuple[float, ...] = (1.0, 1.0, 0.0, 1.0)) -> Tensor:
    valid = torch.tensor(seen, dtype=torch.float64)
    pixels = 2 * torch.randn(*batch, len(seen), D - 1, dtype=torch.float64)
    return torch.cat([pixels, valid.expand(*batch, len(seen))[..., None]], -1)


def noise(*batch: int, frames: int = N) -> NMFNoise:
    return NMFNoise(
        torch.rand(*batch, F, 2, dtype=torch.float64),
        torch.rand(*batch, 2, frames, dtype=torch.float64),
        torch.rand(*batch, frames, dtype=torch.float64) + 0.5,
        0.0,
        1e-6,
    )


def explicit(model: VAEMM, z: Tensor, visual: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """log p(alpha) + log p(z | alpha) and log sigma^alpha for alpha = 0, 1, one component at a time."""
    priors, variances = [], []
    for component, probability in ((model.second, 1 - PI), (model.first, PI)):
        evaluation = component.given(visual)(z)
        priors.append(evaluation.log_prior[0] + math.log(probability))
        variances.append(evaluation.log_variance[0])
    return priors, variances


@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluate_is_the_trace_and_the_components(components: str, shape: tuple[int, ...]) -> None:
    model, visual = mixture(components), lips()
    z = torch.randn(shape, dtype=torch.float64)
    priors, variances = map(torch.stack, explicit(model, z, visual))
    for evaluation in (model.given(visual)(z), TracedSpeech(model, visual)(z)):
        assert evaluation.log_prior.shape == (2, *shape[:-1])
        assert evaluation.log_variance.shape == (2, *shape[:-1], F)
        torch.testing.assert_close(evaluation.log_prior, priors, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(evaluation.log_variance, variances, rtol=1e-8, atol=1e-8)
        # Negative control: alpha = 1 first.
        assert (evaluation.log_variance - variances.flip(0)).abs().max() > 0.01


@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_component_at_a_z_of_its_own(components: str, shape: tuple[int, ...]) -> None:
    """The diagonal of `evaluate`, and of the trace with the power observed."""
    model, visual, z = mixture(components), lips(), torch.randn(2, *shape, dtype=torch.float64)
    power = torch.rand(N, F, dtype=torch.float64)
    each, joint = model.given(visual).each(z), model.given(visual).each_log_joint_fn(power)(z)
    for ours, general in zip(each, ConditionedSpeech.each(model.given(visual), z), strict=True):
        torch.testing.assert_close(ours, general, rtol=1e-10, atol=1e-10)
    for alpha in (0, 1):
        alone = model.given(visual)(z[alpha])
        torch.testing.assert_close(each.log_prior[alpha], alone.log_prior[alpha], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            each.log_variance[alpha], alone.log_variance[alpha], rtol=1e-10, atol=1e-10
        )
        assert (each.log_variance[alpha] - alone.log_variance[1 - alpha]).abs().max() > 0.01
        by_trace = frame_log_joint(model, z[alpha], power=power, visual=visual)
        torch.testing.assert_close(joint[alpha], by_trace[alpha], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            model.given(visual).log_joint_fn(power)(z[alpha]), by_trace, rtol=1e-10, atol=1e-10
        )


def test_no_component_is_asked_for_the_z_of_the_other() -> None:
    """One call of each decoder, at its own z."""
    model, visual, z = mixture(), lips(), torch.randn(2, R, N, L, dtype=torch.float64)
    power, asked = torch.rand(N, F, dtype=torch.float64), []
    for component in (model.second, model.first):
        layer = component.decoder.trunk[0]  # type: ignore[union-attr]
        layer.register_forward_pre_hook(lambda layer, at: asked.append((layer, at[0])))  # type: ignore[operator, union-attr]
    for evaluate in (
        lambda: model.given(visual).each(z),
        lambda: model.given(visual).each_log_joint_fn(power)(z),
    ):
        asked.clear()
        evaluate()
        assert len(asked) == 2
        for layer, at in asked:
            own = z[1] if layer is model.first.decoder.trunk[0] else z[0]  # type: ignore[union-attr, index]
            assert torch.equal(at.reshape(own.shape), own)
        assert asked[0][0] is not asked[1][0]


@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_enumeration_is_the_sum_written_out(components: str, shape: tuple[int, ...]) -> None:
    """log sum_a p(a) p(z | a) p(x | z, a) under noise, by trace, closed form and hand; and its slope."""
    batch = shape[1:-2]
    speech, mask, visual = mixture(components), noise(*batch), lips()
    model = NoisySpeech(speech, mask)
    power = torch.rand(*batch, N, F, dtype=torch.float64)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    joints = []
    for log_prior, log_variance in zip(*explicit(speech, z, visual), strict=True):
        variance = noisy_variance(log_variance.clone(), mask)
        joints.append(log_prior + PowerSpectrum(variance.log()).log_prob(power).sum(-1))
    truth = joints[0] + torch.log1p(torch.exp(joints[1] - joints[0]))
    by_trace = frame_log_joint(model, z, power=power, visual=visual)
    torch.testing.assert_close(by_trace, torch.stack(joints), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.log_joint(z, power, visual), by_trace, rtol=1e-8, atol=1e-8)
    slope = torch.autograd.grad(truth.sum(), z, retain_graph=True)[0]
    for make in (closure, traced):
        log_joint = make(model, power=power, visual=visual)(z)
        torch.testing.assert_close(log_joint, truth, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(torch.autograd.grad(log_joint.sum(), z)[0], slope, rtol=1e-8, atol=1e-8)
    r = responsibilities(model, z, power, visual)
    torch.testing.assert_close(r[1], torch.exp(joints[1] - truth), rtol=1e-8, atol=1e-8)


def test_lips_of_every_channel() -> None:
    model, visual, z = mixture(), lips(C), torch.randn(R, C, N, L, dtype=torch.float64)
    for conditioned in (model.given(visual), TracedSpeech(model, visual)):
        both = conditioned(z)
        for c in range(C):
            alone = model.given(visual[c])(z[:, c])
            torch.testing.assert_close(both.log_prior[:, :, c], alone.log_prior)
            torch.testing.assert_close(both.log_variance[:, :, c], alone.log_variance)


class LoudVAEMM(VAEMM):
    """Another story in `latent` alone, 3 nats louder."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        return super().latent(visual) + 3


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: BandLimited(model, F)])
def test_a_subclass_that_overrides_latent_alone(wrap: Callable[[SpeechModel], SpeechModel]) -> None:
    model = mixture()
    loud = LoudVAEMM(model.first, model.second, PI).double()
    visual, z = lips(), torch.randn(R, N, L, dtype=torch.float64)
    ours, theirs = model.given(visual)(z), wrap(loud).given(visual)(z)
    torch.testing.assert_close(theirs.log_prior, ours.log_prior)
    torch.testing.assert_close(theirs.log_variance, ours.log_variance + 3)
    own, power = torch.randn(2, R, N, L, dtype=torch.float64), torch.rand(N, F, dtype=torch.float64)
    ours, theirs = model.given(visual).each(own), wrap(loud).given(visual).each(own)
    torch.testing.assert_close(theirs.log_prior, ours.log_prior)
    torch.testing.assert_close(theirs.log_variance, ours.log_variance + 3)
    by_trace = frame_log_joint(loud, z, power=power, visual=visual)
    torch.testing.assert_close(wrap(loud).given(visual).log_joint_fn(power)(z), by_trace)


# The story -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("components", COMPONENTS)
def test_given_alpha_it_is_that_component(components: str, alpha: int) -> None:
    model, visual, power = mixture(components), lips(), torch.rand(N, F, dtype=torch.float64)
    component = model.first if alpha == 1 else model.second
    z = torch.randn(N, L, dtype=torch.float64)
    given = poutine.condition(model, {ALPHA: torch.full((N,), float(alpha), dtype=torch.float64), Z: z})
    ours = poutine.trace(given).get_trace(power=power, visual=visual)
    theirs = poutine.trace(poutine.condition(component, {Z: z})).get_trace(power=power, visual=visual)
    prior = math.log(PI if alpha else 1 - PI)
    difference = ours.log_prob_sum() - theirs.log_prob_sum()
    assert difference.item() == pytest.approx(N * prior, rel=1e-9)
    assert {n for n, node in ours.nodes.items() if node["type"] == "sample"} == {"frames", "alpha", "z", "s"}


def test_samples_of_alpha_and_z() -> None:
    """z-scores of alpha, and of z within each alpha, over 4000 copies of 4 frames: 36 values under 4.5, false
    alarms 3e-4. The prior of the other component fails them."""
    model, visual, draws = mixture(), lips(), 4000
    with torch.no_grad():
        model.second.prior.network.mean.weight.mul_(4)  # type: ignore[union-attr, operator]
        trace = poutine.trace(model).get_trace(visual=visual.repeat(draws, 1))
        alpha = trace.nodes[ALPHA]["value"].reshape(draws, N)
        z = trace.nodes[Z]["value"].reshape(draws, N, L)
        seen = model.second.prior(model.second.lips(visual))  # type: ignore[operator]
    assert trace.nodes["_RETURN"]["value"].shape == (draws * N, F)
    assert ((alpha.mean(0) - PI) * (draws / (PI * (1 - PI))) ** 0.5).abs().max() < 4.5
    heard = (torch.zeros(N, L), torch.ones(N, L))
    for value, own, other in ((0.0, (seen.mean, seen.stddev), heard), (1.0, heard, (seen.mean, seen.stddev))):
        scores = []
        for mean, deviation in (own, other):
            worst = []
            for n in range(N):
                white = (z[alpha[:, n] == value, n] - mean[n]) / deviation[n]
                worst += [white.mean(0) * len(white) ** 0.5]
                worst += [(white.square().mean(0) - 1) * (len(white) / 2) ** 0.5]
            scores.append(float(torch.stack(worst).abs().max()))
        assert scores[0] < 4.5
        assert scores[1] > 10


def test_nothing_of_the_components_shows_in_the_trace_or_in_other_randomness() -> None:
    """Building it asks its components for a frame each; that leaves the generators as they were."""
    state = torch.get_rng_state()
    first, second = a_vae(), av_vae()
    torch.set_rng_state(state)
    VAEMM(first, second)
    assert torch.equal(torch.get_rng_state(), state)


# Both ends of pi, and components that do not differ -------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pi", [0.0, 1.0])
def test_at_the_ends_of_pi_it_is_one_component_exactly(pi: float, dtype: torch.dtype) -> None:
    """However much better the other component is: a mistake of e^-30 would show."""
    speech, visual = mixture(pi=pi).to(dtype), lips().to(dtype)
    alone = speech.first if pi == 1 else speech.second
    other = speech.second if pi == 1 else speech.first
    with torch.no_grad():
        alone.decoder.output.bias.add_(-20.0)  # type: ignore[union-attr, operator]
    mask = NMFNoise(torch.rand(F, 2).to(dtype) * 1e-6, torch.rand(2, N).to(dtype), torch.ones(N).to(dtype))
    power = torch.rand(N, F).to(dtype)
    z = torch.randn(R, N, L).to(dtype).requires_grad_()
    mixed, single = (NoisySpeech(part, mask).log_joint(z, power, visual) for part in (speech, alone))
    assert (NoisySpeech(other, mask).log_joint(z, power, visual) - single).min() > 100
    summed = sum_out_alpha(mixed)
    assert torch.equal(summed, single[0])
    slopes = [torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in (summed, single)]
    torch.testing.assert_close(*slopes, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)
    r = responsibilities(NoisySpeech(speech, mask), z, power, visual)
    assert torch.equal(r[int(pi)], torch.ones_like(r[0]))
    by_trace = frame_log_joint(NoisySpeech(speech, mask), z, power=power, visual=visual)
    torch.testing.assert_close(sum_out_alpha(by_trace), single[0])
    assert mixed.isfinite().all()
    assert (0 * mixed == 0).all()
    drawn = sample_alpha(NoisySpeech(speech, mask), z.detach(), power, visual, Generator().manual_seed(1))
    assert (drawn == pi).all()
    assert (poutine.trace(speech).get_trace(visual=visual).nodes[ALPHA]["value"] == pi).all()


def test_what_cannot_be_is_finite() -> None:
    assert math.isfinite(MAX_LOG_ODDS)
    assert mixture(pi=0.0).given(lips())(torch.zeros(N, L, dtype=torch.float64)).log_prior[1].max() < -1e29


@pytest.mark.parametrize("pi", [0.0, 0.2, 0.5, 1.0])
def test_components_that_do_not_differ_leave_alpha_at_pi(pi: float) -> None:
    component = av_vae()
    model = NoisySpeech(VAEMM(component, copy.deepcopy(component), pi).double(), noise())
    z, power, visual = torch.randn(R, N, L).double(), torch.rand(N, F).double(), lips()
    r = responsibilities(model, z, power, visual)
    torch.testing.assert_close(r[1], torch.full_like(r[1], model.speech.pi.item()), rtol=1e-9, atol=1e-12)  # type: ignore[operator]
    alone = NoisySpeech(component, model.noise).log_joint(z, power, visual)
    torch.testing.assert_close(sum_out_alpha(model.log_joint(z, power, visual)), alone[0])


def test_lips_that_are_never_seen() -> None:
    """Pixels that are hidden count for nothing, and both components still have their say."""
    model, z = NoisySpeech(mixture(), noise()), torch.randn(R, N, L, dtype=torch.float64)
    hidden, power = lips(seen=(0.0,) * N), torch.rand(N, F, dtype=torch.float64)
    other = torch.cat([hidden[:, :-1] + 1, hidden[:, -1:]], -1)
    before, after = (model.log_joint(z, power, visual) for visual in (hidden, other))
    assert torch.equal(before, after)
    assert (before[0] != before[1]).all()
    torch.testing.assert_close(frame_log_joint(model, z, power=power, visual=hidden), before)
    seen = torch.cat([hidden[:, :-1], torch.ones_like(hidden[:, -1:])], -1)
    changed = model.log_joint(z, power, seen) != before
    assert changed[0].all()
    assert not changed[1].any()  # the A-VAE does not look


def test_one_frame() -> None:
    speech, visual = mixture(), lips(seen=(1.0,))
    model, power = NoisySpeech(speech, noise(frames=1)), torch.rand(1, F, dtype=torch.float64)
    z = torch.randn(R, 1, L, dtype=torch.float64)
    assert model.log_joint(z, power, visual).shape == (2, R, 1)
    torch.testing.assert_close(
        frame_log_joint(model, z, power=power, visual=visual), model.log_joint(z, power, visual)
    )
    assert sample_alpha(model, z, power, visual, Generator().manual_seed(0)).shape == (R, 1)
    assert speech(visual=visual).shape == (1, F)


# What is refused, and what is saved ----------------------------------------------------------------------


@pytest.mark.parametrize("pi", [-0.1, 1.1, math.nan, math.inf])
def test_pi_is_a_probability(pi: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        VAEMM(a_vae(), a_vae(), pi)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: a_vae(3), av_vae),
        (a_vae, lambda: av_vae(3)),
        (a_vae, lambda: av_vae(bins=6)),
        (lambda: BandLimited(av_vae(), 3), a_vae),
        (Uniform, lambda: a_vae(3)),
    ],
)
def test_components_of_other_sizes(
    first: Callable[[], SpeechModel], second: Callable[[], SpeechModel]
) -> None:
    with pytest.raises(InputError, match="latents"):
        VAEMM(first(), second())


def test_a_component_with_an_alpha_of_another_kind_is_refused() -> None:
    loud = LoudVAEMM(a_vae(), av_vae()).double()
    for component in (loud, BandLimited(loud, F), MINVAE(L, SpectrumDecoder(L, [H], F))):
        with pytest.raises(InputError, match="alpha"):
            VAEMM(a_vae(), component)


def test_a_trunk_of_another_kind_is_trusted() -> None:
    """It cannot be asked without pixels; a clash of sizes then shows in use."""
    model = av_vae(3)
    model.lips = nn.Linear(D, E).double()  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        VAEMM(a_vae(), model).double().given(lips())(torch.randn(N, L, dtype=torch.float64))


def test_lips_are_asked_for() -> None:
    for use in (lambda: mixture()(frames=N), lambda: mixture().given()(torch.randn(N, L).double())):
        with pytest.raises(ValueError, match="give visual"):
            use()
    assert mixture("deaf")(frames=N).shape == (N, F)


def test_every_tensor_is_saved_once_and_comes_back() -> None:
    model, other = mixture(), mixture(pi=0.9)
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    own = {id(t) for t in (*model.parameters(), *model.buffers())}
    parts = [
        *model.first.state_dict(keep_vars=True).values(),
        *model.second.state_dict(keep_vars=True).values(),
    ]
    assert {id(t) for t in parts} <= own
    assert len(state) == len(parts) + 1
    visual, z = lips(), torch.randn(N, L, dtype=torch.float64)
    other.load_state_dict(state)
    assert float(other.pi) == pytest.approx(PI)
    for ours, theirs in zip(model.given(visual)(z), other.given(visual)(z), strict=True):
        assert torch.equal(ours, theirs)


def test_a_mixture_that_has_run_can_be_put_into_another_model() -> None:
    """Pyro refuses that of models with parts that are Pyro modules and have run."""
    speech, visual, power = mixture(), lips(), torch.rand(N, F, dtype=torch.float64)
    z = torch.randn(N, L, dtype=torch.float64)
    for _ in range(2):
        speech(power=power, visual=visual)
        frame_log_joint(NoisySpeech(BandLimited(speech, F), noise()), z, power=power, visual=visual)


# Draws of alpha ------------------------------------------------------------------------------------------


def test_draws_of_alpha_have_the_exact_responsibilities() -> None:
    """Frequencies over 5000 draws of 2 x 4 frames: 8 z-scores under 4.5, false alarms 5e-5."""
    speech, mask, visual, draws = mixture(), noise(C), lips(), 5000
    model = NoisySpeech(speech, mask)
    power = torch.rand(C, N, F, dtype=torch.float64)
    z = torch.randn(C, N, L, dtype=torch.float64)
    r = responsibilities(model, z, power, visual)[1].detach()
    many = z.expand(draws, C, N, L)
    alpha = sample_alpha(model, many, power, visual, Generator().manual_seed(0))
    assert alpha.shape == (draws, C, N)
    assert set(alpha.unique().tolist()) == {0.0, 1.0}

    def largest(probability: Tensor) -> float:
        deviation = (r * (1 - r) / draws).sqrt()
        return float(((alpha.mean(0) - probability) / deviation).abs().max())

    assert largest(r) < 4.5
    # Negative controls: the prior, and 1 - r.
    assert largest(torch.full_like(r, PI)) > 8
    assert largest(1 - r) > 8
    # Frames are drawn apart from each other.
    centred = alpha.flatten(1) - alpha.flatten(1).mean(0)
    correlation = torch.corrcoef(centred.T) - torch.eye(C * N, dtype=torch.float64)
    assert correlation.abs().max() * draws**0.5 < 4.5


def test_draws_of_alpha_come_from_the_generator_alone() -> None:
    model, z = NoisySpeech(mixture(), noise()), torch.randn(40, N, L, dtype=torch.float64)
    power, visual = torch.rand(N, F, dtype=torch.float64), lips()
    state = torch.get_rng_state()
    one, two = (sample_alpha(model, z, power, visual, Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, two)
    generator = Generator().manual_seed(3)
    first, second = (sample_alpha(model, z, power, visual, generator) for _ in range(2))
    assert torch.equal(first, one)
    assert not torch.equal(second, one)


def test_a_model_without_alpha_has_none_to_draw() -> None:
    model, z = NoisySpeech(av_vae(), noise()), torch.randn(N, L, dtype=torch.float64)
    power, visual = torch.rand(N, F, dtype=torch.float64), lips()
    assert (responsibilities(model, z, power, visual) == 1).all()
    with pytest.raises(InputError, match="no alpha"):
        sample_alpha(model, z, power, visual, Generator())


# Enhancement ---------------------------------------------------------------------------------------------


def short(algorithm: MCEM) -> MCEM:
    assert isinstance(algorithm.final, Chain)
    final = replace(algorithm.final, num_steps=6, warmup=2)
    return replace(algorithm, em=replace(algorithm.em, iterations=2), final=final)


@pytest.mark.parametrize("make", [default_mcem, papers_mcem])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_mcem(make: Callable[[], MCEM], batch: tuple[int, ...]) -> None:
    model = mixture().float()
    guide = MixtureGuide(
        AudioGuide(RawPower(), GaussianEncoder(F, [H], L)),
        VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], L))),
        responsibilities=OptimalResponsibilities(model),
    )
    power, visual = torch.rand(*batch, N, F), lips().float()
    run = short(make())
    posteriors = [run(model, guide, power, visual, Generator().manual_seed(1)) for _ in range(2)]
    r = posteriors[0].responsibilities
    assert r.shape == (2, *batch, N)
    assert ((r > 0) & (r < 1)).all()
    torch.testing.assert_close(r.sum(0), torch.ones(*batch, N))
    assert posteriors[0].costs[-1] < posteriors[0].costs[0]
    assert torch.equal(posteriors[0].wiener_gain, posteriors[1].wiener_gain)


# Lips that are doubted -----------------------------------------------------------------------------------


def doubting(components: str = "papers", pi: float = PI) -> VAEMM:
    """A mixture whose prior of alpha looks at the lips."""
    classifier = LipCorruptionClassifier(lip_trunk(), E)
    nn.init.normal_(classifier.logit.weight)
    nn.init.normal_(classifier.logit.bias)
    return VAEMM(*(make() for make in COMPONENTS[components]), pi, classifier).double()


def logit(pi: float) -> float:
    return math.log(pi / (1 - pi))


@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_doubt_by_closed_form_trace_and_hand(components: str, shape: tuple[int, ...]) -> None:
    """log p(alpha) = log sigmoid(+-(logit(pi) + d(v))), a frame and channel each."""
    model, visual = doubting(components), lips(*shape[1:-2])
    plain = VAEMM(model.first, model.second, PI).double()
    z = torch.randn(shape, dtype=torch.float64)
    odds = logit(PI) + model.corruption_classifier(visual)  # type: ignore[misc]
    assert odds.shape == (*shape[1:-2], N)
    assert odds.std() > 0.1
    prior = torch.stack([-torch.log1p(odds.exp()), -torch.log1p((-odds).exp())])
    without = plain.given(visual)(z)
    given = without.log_prior - torch.tensor([1 - PI, PI]).log().reshape(2, *[1] * (z.dim() - 1))
    prior = prior.reshape(2, *[1] * (z.dim() - 1 - odds.dim()), *odds.shape)
    truth = given + prior
    for evaluation in (model.given(visual)(z), TracedSpeech(model, visual)(z)):
        torch.testing.assert_close(evaluation.log_prior, truth, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(evaluation.log_variance, without.log_variance)
        assert (evaluation.log_prior - without.log_prior).abs().max() > 0.1  # negative control
    torch.testing.assert_close(log_alpha(model, z, visual), prior.expand(2, *shape[:-1]))


def test_doubt_adds_to_the_log_odds_of_alpha() -> None:
    """logit p(alpha | x, z, v) moves by d(v); draws of alpha follow (8 z-scores, false alarms 5e-5)."""
    speech, visual, mask, draws = doubting(), lips(), noise(), 5000
    plain = VAEMM(speech.first, speech.second, PI).double()
    z, power = torch.randn(N, L, dtype=torch.float64), torch.rand(N, F, dtype=torch.float64)
    with torch.no_grad():
        r, before = (
            responsibilities(NoisySpeech(model, mask), z, power, visual)[1] for model in (speech, plain)
        )
        torch.testing.assert_close(r.logit(), before.logit() + speech.corruption_classifier(visual))  # type: ignore[misc]
        many = z.expand(draws, N, L)
        alpha = sample_alpha(NoisySpeech(speech, mask), many, power, visual, Generator().manual_seed(0))
        prior = poutine.trace(speech).get_trace(visual=visual.repeat(draws, 1)).nodes[ALPHA]["value"]
    for value, p in ((alpha, r), (prior.reshape(draws, N), speech.alpha_logit(visual).sigmoid())):
        assert ((value.mean(0) - p) / (p * (1 - p) / draws).sqrt()).abs().max() < 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pi", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e6, 1e6])
def test_no_classifier_stands_against_the_ends_of_pi(pi: float, logit: float, dtype: torch.dtype) -> None:
    parts = mixture().first, mixture().second
    speech, sure = (
        VAEMM(*parts, pi, each).to(dtype) for each in (lambda visual: visual.new_full((N,), logit), None)
    )
    z, visual = torch.randn(R, N, L).to(dtype), lips().to(dtype)
    assert torch.equal(speech.alpha_logit(visual), sure.alpha_logit().expand(N))
    assert torch.equal(speech.given(visual)(z).log_prior, sure.given(visual)(z).log_prior)
    assert (poutine.trace(speech).get_trace(visual=visual).nodes[ALPHA]["value"] == pi).all()


def test_a_new_doubt_has_no_opinion() -> None:
    classifier = LipCorruptionClassifier(lip_trunk(), E).double()
    assert torch.equal(classifier(lips(C)), torch.zeros(C, N, dtype=torch.float64))


def test_doubt_of_lips_that_are_not_seen_is_learned() -> None:
    """Whatever their pixels; it needs lips at all, and looks at them once."""
    model, visual = doubting("deaf"), lips(C)
    other = torch.cat([visual[..., :-1] + 1, visual[..., -1:]], -1)
    classifier = model.corruption_classifier
    assert isinstance(classifier, LipCorruptionClassifier)
    unseen = 4 * math.tanh(classifier.logit(classifier.trunk.missing_embedding).item() / 4)
    changed = classifier(visual) != classifier(other)
    assert (changed == (visual[..., -1] > 0.5)).all()
    torch.testing.assert_close(classifier(visual)[:, 2], torch.full((C,), unseen, dtype=torch.float64))
    with pytest.raises(ValueError, match="give visual"):
        model(frames=N)
    looks: list[None] = []
    classifier.trunk.layers.register_forward_hook(lambda *ignored: looks.append(None))
    with cached_embeddings():
        for _ in range(3):
            model.given(visual[0].clone() if looks else visual[1])(torch.randn(N, L, dtype=torch.float64))
    assert len(looks) == 3


@pytest.mark.parametrize("largest", [0.5, 4.0])
def test_doubt_has_bounds(largest: float) -> None:
    """d = B tanh(l / B): as l where that is small, and never beyond B."""
    classifier, visual = LipCorruptionClassifier(lip_trunk(), E, largest).double(), lips(C)
    nn.init.normal_(classifier.logit.weight)
    with torch.no_grad():
        line = classifier.logit(classifier.trunk(visual)).squeeze(-1)
        classifier.logit.weight.mul_(1e-4)
        torch.testing.assert_close(classifier(visual), 1e-4 * line, rtol=1e-4, atol=0)
        classifier.logit.weight.mul_(1e9)
        torch.testing.assert_close(classifier(visual), largest * line.sign())


def test_doubt_is_saved_and_comes_back() -> None:
    model, other = doubting(), doubting(pi=0.9)
    other.load_state_dict(model.state_dict())
    visual, z = lips(), torch.randn(N, L, dtype=torch.float64)
    for ours, theirs in zip(model.given(visual)(z), other.given(visual)(z), strict=True):
        assert torch.equal(ours, theirs)


def test_scales_are_those_of_both_components() -> None:
    model, power = mixture(), torch.rand(50, F, dtype=torch.float64)
    model.fit_scales(power)
    for component in (model.first, model.second):
        alone = AVAE(StandardNormal(L), SpectrumDecoder(L, [H], F)).double()
        alone.fit_scales(power)
        assert torch.equal(component.decoder.shift, alone.decoder.shift)  # type: ignore[union-attr]


def vem(factor: LatentFactor) -> VEM:
    algorithm = default_vem()
    assert isinstance(algorithm.final, Chain)
    final = replace(algorithm.final, num_steps=6, warmup=2)
    return replace(algorithm, iterations=3, final=final, factor=factor)


@pytest.mark.parametrize(
    "algorithm",
    [short(default_mcem()), vem(Shared()), vem(Structured(4))],
    ids=["mcem", "shared", "structured"],
)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_algorithms_follow_a_doubt_that_is_sure(algorithm: MCEM | VEM, batch: tuple[int, ...]) -> None:
    """Bad lips in one frame, good ones in another, against whatever the sound says; in between, both."""
    sure = torch.tensor([1e4, -1e4, 0.0, 0.0])
    speech = VAEMM(mixture().first, mixture().second, 0.5, lambda visual: sure).float()
    guide = MixtureGuide(
        AudioGuide(RawPower(), GaussianEncoder(F, [H], L)),
        VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], L))),
        responsibilities=OptimalResponsibilities(speech),
    )
    power, visual = torch.rand(*batch, N, F), lips().float()
    posterior = algorithm(speech, guide, power, visual, Generator().manual_seed(1))
    r = posterior.responsibilities
    assert r.shape == (2, *batch, N)
    assert (r[1, ..., 0] > 1 - 1e-6).all()
    assert (r[1, ..., 1] < 1e-6).all()
    assert ((r[1, ..., 2:] > 1e-6) & (r[1, ..., 2:] < 1 - 1e-6)).all()
    assert torch.tensor(posterior.costs).isfinite().all()


def test_the_gradient_of_the_doubt_is_r_less_p() -> None:
    """d/dd(v_n) log p(x, z | v) = p(alpha_n = 1 | x, z, v) - p(alpha_n = 1 | v), so that it can be learnt;
    d = B tanh(l / B) grows by 1 - (d / B)^2 with l."""
    speech, visual = doubting(), lips()
    model, z = NoisySpeech(speech, noise()), torch.randn(N, L, dtype=torch.float64)
    power = torch.rand(N, F, dtype=torch.float64)
    joint = sum_out_alpha(model.log_joint(z, power, visual)).sum()
    slope = torch.autograd.grad(joint, speech.corruption_classifier.logit.bias)[0]  # type: ignore[union-attr, arg-type]
    r = responsibilities(model, z, power, visual)[1]
    growth = 1 - (speech.corruption_classifier(visual) / 4).square()  # type: ignore[misc]
    truth = (growth * (r - speech.alpha_logit(visual).sigmoid())).sum()
    torch.testing.assert_close(slope, truth.reshape(1))
