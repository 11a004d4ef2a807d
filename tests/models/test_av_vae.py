"""AV-VAE: closed forms, traces and formulas agree, and the lips reach what they should and nothing else.

Two variants throughout: z ~ N(mu(v), sigma(v)) from a prior network, and z ~ N(0, I).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Generator, Tensor, nn

from avse.data.front_end import FrontEnd
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.inference.em.initial import init_from_encoder
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.kernels import MALA
from avse.inference.mcmc.log_density import closure, frame_log_joint, sum_out_alpha
from avse.inference.posterior import Posterior
from avse.inference.presets import default_mcem, papers_mcem
from avse.models.a_vae import StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.band_limited import BandLimited
from avse.models.base import TracedSpeech
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import POWER_FLOOR, GaussianEncoder, SpectrumDecoder
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import Z
from avse.zoo.pair import PairConfig, SpeechPair

L, F, N, C, R, E, D, H = 2, 5, 4, 2, 6, 3, 8, 7
SHAPES = [(N, L), (R, N, L), (R, C, N, L)]
PRIORS = ["network", "standard"]


def av_vae(prior: str = "network", kind: type[AVVAE] = AVVAE) -> AVVAE:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    network = GaussianEncoder(E, [6], L, "tanh")
    return kind(
        trunk,
        VisualPrior(network) if prior == "network" else StandardNormal(L),
        SpectrumDecoder(L, [H], F, embedding_size=E),
    ).double()


def lips(*batch: int) -> Tensor:
    """Random pixels (*batch, N, D); one frame of N is not seen."""
    valid = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    return torch.cat(
        [2 * torch.randn(*batch, N, D - 1, dtype=torch.float64), valid.expand(*batch, N)[..., None]], -1
    )


def noise(*batch: int) -> NMFNoise:
    return NMFNoise(
        torch.rand(*batch, F, 2, dtype=torch.float64),
        torch.rand(*batch, 2, N, dtype=torch.float64),
        torch.rand(*batch, N, dtype=torch.float64) + 0.5,
        0.0,
        1e-6,
    )


def by_hand(model: AVVAE, z: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z | v) and log sigma(z, v), layer by layer."""
    pixels, valid = visual[..., :-1], visual[..., -1:]
    embedding = valid * torch.tanh(pixels @ model.lips.layers[0].weight.T + model.lips.layers[0].bias)
    embedding = embedding + (1 - valid) * model.lips.missing_embedding
    if isinstance(model.prior, StandardNormal):
        mean, log_variance = torch.zeros(L), torch.zeros(L)
    else:
        network = model.prior.network
        hidden = torch.tanh(embedding @ network.trunk[0].weight.T + network.trunk[0].bias)
        mean = hidden @ network.mean.weight.T + network.mean.bias
        log_variance = hidden @ network.log_variance.weight.T + network.log_variance.bias
    square = (z - mean).square() * torch.exp(-log_variance)
    log_prior = -(square + log_variance + math.log(2 * math.pi)).sum(-1) / 2
    first, condition, last = model.decoder.trunk[0], model.decoder.condition, model.decoder.output
    hidden = torch.tanh(z @ first.weight.T + first.bias + embedding @ condition.weight.T)
    return log_prior, hidden @ last.weight.T + last.bias


class LoudAVVAE(AVVAE):
    """Another story in `latent` alone: z ~ N(1, 2 I), and 3 nats louder."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        embedding = self.lips(visual)
        mean = embedding.new_ones(L)
        z = pyro.sample(Z, dist.Normal(mean, math.sqrt(2)).to_event(1))
        return self.decoder(z, embedding) + 3


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluate_is_the_trace_and_the_formula(prior: str, shape: tuple[int, ...]) -> None:
    model, visual = av_vae(prior), lips()
    z = torch.randn(shape, dtype=torch.float64)
    log_prior, log_variance = by_hand(model, z, visual)
    for evaluation in (model.given(visual)(z), TracedSpeech(model, visual)(z)):
        assert evaluation.log_prior.shape == (1, *shape[:-1])
        assert evaluation.log_variance.shape == (1, *shape[:-1], F)
        torch.testing.assert_close(evaluation.log_prior[0], log_prior, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(evaluation.log_variance[0], log_variance, rtol=1e-9, atol=1e-9)
    # Negative control: the lips of other frames.
    other = model.given(visual.roll(1, 0))(z)
    assert (other.log_variance[0] - log_variance).abs().max() > 0.01
    if prior == "network":
        assert (other.log_prior[0] - log_prior).abs().max() > 0.01


def test_lips_of_every_channel() -> None:
    """Visual (C, N, D): channel c of z meets the lips of channel c."""
    model, visual, z = av_vae(), lips(C), torch.randn(R, C, N, L, dtype=torch.float64)
    both = model.given(visual)(z)
    for c in range(C):
        alone = model.given(visual[c])(z[:, c])
        torch.testing.assert_close(both.log_prior[:, :, c], alone.log_prior)
        torch.testing.assert_close(both.log_variance[:, :, c], alone.log_variance)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_subclass_that_overrides_latent_alone(shape: tuple[int, ...]) -> None:
    model, visual = av_vae(kind=LoudAVVAE), lips()
    z = torch.randn(shape, dtype=torch.float64)
    evaluation = model.given(visual)(z)
    log_prior = -((z - 1).square().sum(-1) / 2 + L * math.log(4 * math.pi)) / 2
    torch.testing.assert_close(evaluation.log_prior[0], log_prior, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(evaluation.log_variance[0], by_hand(model, z, visual)[1] + 3)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [AVVAE, LoudAVVAE])
def test_the_log_joint_of_clean_speech_is_the_traced_one(
    prior: str, shape: tuple[int, ...], kind: type[AVVAE]
) -> None:
    model, visual = av_vae(prior, kind), lips()
    power, z = torch.rand(N, F, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    by_trace = frame_log_joint(model, z, power=power, visual=visual)
    torch.testing.assert_close(model.given(visual).log_joint_fn(power)(z), by_trace, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [AVVAE, LoudAVVAE])
def test_noisy_log_joint_is_the_traced_one(prior: str, shape: tuple[int, ...], kind: type[AVVAE]) -> None:
    batch = shape[1:-2]
    model, visual = NoisySpeech(av_vae(prior, kind), noise(*batch)), lips()
    power = torch.rand(*batch, N, F, dtype=torch.float64)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    by_trace = frame_log_joint(model, z, power=power, visual=visual)
    quick = model.log_joint(z, power, visual)
    assert quick.shape == by_trace.shape == (1, *shape[:-1])
    torch.testing.assert_close(quick, by_trace, rtol=1e-9, atol=1e-9)
    log_joint = closure(model, power=power, visual=visual)
    torch.testing.assert_close(log_joint(z), sum_out_alpha(by_trace), rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(joint.sum(), z)[0] for joint in (quick, by_trace)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


def test_noisy_log_joint_by_hand() -> None:
    speech, mask, visual = av_vae(), noise(), lips()
    power, z = torch.rand(N, F, dtype=torch.float64), torch.randn(N, L, dtype=torch.float64)
    log_prior, log_variance = by_hand(speech, z, visual)
    variance = mask.frame_gain[:, None] * log_variance.exp() + (mask.W @ mask.H).T + mask.floor
    truth = log_prior + torch.distributions.Exponential(1 / variance).log_prob(power).sum(-1)
    joint = NoisySpeech(speech, mask).log_joint(z, power, visual)
    torch.testing.assert_close(joint[0], truth, rtol=1e-9, atol=1e-9)


def test_lips_of_a_frame_stay_in_that_frame() -> None:
    model, visual, z = av_vae(), lips(), torch.randn(R, N, L, dtype=torch.float64)
    changed = visual.clone()
    changed[1, :-1] += 1
    before, after = model.given(visual)(z), model.given(changed)(z)
    moved = (before.log_prior != after.log_prior)[0]
    assert moved[:, 1].all()
    assert not moved[:, [0, 2, 3]].any()
    assert torch.equal(moved, (before.log_variance != after.log_variance)[0].any(-1))


def test_a_sample_of_z_comes_from_the_prior_network() -> None:
    """z-scores of mean and variance, 16 checks below 4.5: false alarms 1e-4. N(0, I) fails them."""
    model, visual, draws = av_vae(), lips(), 3000
    with torch.no_grad():
        for part in (model.prior.network.mean, model.prior.network.log_variance):
            part.weight.mul_(4)
        story = poutine.trace(model).get_trace(visual=visual.repeat(draws, 1))
        z = story.nodes[Z]["value"].reshape(draws, N, L)
        truth = model.prior(model.lips(visual))

    def largest(mean: Tensor, deviation: Tensor) -> float:
        white = (z - mean) / deviation
        scores = white.mean(0) * draws**0.5, (white.square().mean(0) - 1) * (draws / 2) ** 0.5
        return float(torch.stack(scores).abs().max())

    assert largest(truth.mean, truth.stddev) < 4.5
    assert largest(torch.zeros(L), torch.ones(L)) > 10


@pytest.mark.parametrize("prior", PRIORS)
def test_sampling_and_what_is_refused(prior: str) -> None:
    model, visual = av_vae(prior), lips()
    assert model(visual=visual).shape == (N, F)
    assert (model(visual=visual) >= 0).all()
    for mistake in (
        lambda: model(frames=N),
        lambda: model(power=torch.rand(N, F)),
        lambda: model.given()(torch.randn(N, L, dtype=torch.float64)),
    ):
        with pytest.raises(ValueError, match="give visual"):
            mistake()
    with pytest.raises(ValueError, match="number of frames"):
        model(power=torch.rand(N + 1, F), visual=visual)


# Gradients -----------------------------------------------------------------------------------------------


def reached(value: Tensor, model: nn.Module) -> set[str]:
    """The parts of a model, by name, of which the value depends on every parameter; else on none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    parts: dict[str, list[bool]] = {}
    for name, gradient in zip(names, found, strict=True):
        part = "condition" if "condition" in name else name.split(".")[0]
        parts.setdefault(part, []).append(gradient is not None and bool(gradient.abs().max() > 0))
    assert all(all(one) or not any(one) for one in parts.values()), parts
    return {part for part, one in parts.items() if one[0]}


@pytest.mark.parametrize("prior", PRIORS)
def test_gradients_reach_what_they_should(prior: str) -> None:
    model, visual, z = av_vae(prior), lips(), torch.randn(R, N, L, dtype=torch.float64)
    evaluation = model.given(visual)(z)
    assert reached(evaluation.log_variance.square().sum(), model) == {"lips", "decoder", "condition"}
    if prior == "network":
        assert reached(evaluation.log_prior.sum(), model) == {"lips", "prior"}
    else:
        assert not evaluation.log_prior.requires_grad
    joint = frame_log_joint(model, z, power=torch.rand(N, F, dtype=torch.float64), visual=visual)
    everything = {"lips", "decoder", "condition"} | ({"prior"} if prior == "network" else set())
    assert reached(joint.sum(), model) == everything


# Parts ---------------------------------------------------------------------------------------------------


def test_frozen_decoder_equals_the_trainable_one() -> None:
    """Its last layer is folded into the fixed scales; the lips come before it."""
    model, visual, z = av_vae(), lips(), torch.randn(R, N, L, dtype=torch.float64)
    model.fit_scales(torch.rand(50, F, dtype=torch.float64))
    trainable = model.given(visual)(z).log_variance.detach()
    frozen = model.requires_grad_(False).given(visual)(z).log_variance
    torch.testing.assert_close(frozen, trainable)


def test_decoder_starts_at_the_mean_log_power() -> None:
    model, power = av_vae(), torch.rand(500, F, dtype=torch.float64)
    model.fit_scales(power)
    nn.init.zeros_(model.decoder.output.weight)
    out = model.given(lips())(torch.randn(N, L, dtype=torch.float64)).log_variance[0]
    torch.testing.assert_close(out, torch.log(power + POWER_FLOOR).mean(0).expand(N, F))


def test_band_limited_is_the_lowest_bins() -> None:
    whole, visual, z = av_vae(), lips(), torch.randn(R, N, L, dtype=torch.float64)
    part = BandLimited(whole, 2)
    ours, by_trace = part.given(visual)(z), TracedSpeech(part, visual)(z)
    torch.testing.assert_close(ours.log_variance, whole.given(visual)(z).log_variance[..., :2])
    for one, other in zip(ours, by_trace, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


# Enhancement with lips: MCEM as it is --------------------------------------------------------------------

LIPS = LipFrontEnd(side=4, instants=1)
ARGUMENTS = {"latent_size": L, "embedding_size": E, "trunk": "papers", "encoder": [H], "decoder": [H]}
ARCHITECTURES = [("v-vae", {}), ("av-vae", {"tied": True}), ("av-vae", {"tied": False, "prior": "standard"})]


def pair_of(architecture: str, arguments: dict[str, object]) -> SpeechPair:
    """A pair as it is before training, all of it trainable, in evaluation mode."""
    config = PairConfig(architecture, ARGUMENTS | arguments, FrontEnd(STFT(16, 8)), LIPS)
    pair = SpeechPair(config)
    pair.modules().eval()
    return pair


def short(algorithm: MCEM) -> MCEM:
    final = replace(algorithm.final, num_steps=6, warmup=2) if isinstance(algorithm.final, Chain) else None
    assert final is not None
    return replace(algorithm, em=replace(algorithm.em, iterations=2), final=final)


def langevin_from_the_encoder() -> MCEM:
    """The model's trunk is first asked where gradients are recorded."""
    chain = Chain(MALA(0.1), 3, 1)
    return replace(
        default_mcem(), latent_inits=(init_from_encoder,), em=replace(default_mcem().em, e_step=chain)
    )


def infer(make: Callable[[], MCEM], pair: SpeechPair, power: Tensor, visual: Tensor | None) -> Posterior:
    return short(make())(pair.model, pair.guide, power, visual, Generator().manual_seed(1))


@pytest.mark.parametrize("make", [default_mcem, papers_mcem, langevin_from_the_encoder])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a[0]}{len(a[1])}")
@pytest.mark.parametrize("shape", [(6,), (2, 6)])
def test_mcem_with_lips(
    make: Callable[[], MCEM], architecture: tuple[str, dict[str, object]], shape: tuple[int, ...]
) -> None:
    pair = pair_of(*architecture)
    trunks = [part for part in nn.ModuleList(pair.modules().values()).modules() if isinstance(part, LipTrunk)]
    looks: list[None] = []
    for trunk in trunks:
        trunk.layers.register_forward_hook(lambda *ignored: looks.append(None))
    power = torch.rand(*shape, pair.stft.bins)
    visual = torch.cat([2 * torch.randn(6, 16), torch.tensor([[1.0]] * 5 + [[0.0]])], -1)
    posterior = infer(make, pair, power, visual)
    assert len(looks) == len(trunks) == (2 if architecture[1].get("tied") is False else 1)
    assert posterior.wiener_gain.shape == posterior.variance.shape == power.shape
    assert posterior.z.shape[2:] == (*shape, L)
    assert ((posterior.wiener_gain >= 0) & (posterior.wiener_gain <= 1 + 1e-5)).all()
    assert posterior.costs[-1] < posterior.costs[0]
    again = infer(make, pair, power, visual.clone())
    assert torch.equal(again.wiener_gain, posterior.wiener_gain)
    # Other lips, another answer; but pixels that are not seen do not count.
    unseen, other = visual.clone(), visual.clone()
    unseen[5, :-1] += 1
    other[:5, :-1] += 1
    assert torch.equal(infer(make, pair, power, unseen).wiener_gain, posterior.wiener_gain)
    assert not torch.equal(infer(make, pair, power, other).wiener_gain, posterior.wiener_gain)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a[0]}{len(a[1])}")
def test_mcem_needs_the_lips(architecture: tuple[str, dict[str, object]]) -> None:
    pair = pair_of(*architecture)
    with pytest.raises(ValueError, match="give visual"):
        infer(default_mcem, pair, torch.rand(6, pair.stft.bins), None)
