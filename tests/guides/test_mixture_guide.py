"""The mixture guide: its bound written out at the draws it made, the best responsibilities, and gradients.

J(a) = KL(q_a || p_a) - log p(s | z_a), with the draw z_a of branch a; alpha = 0 first in every (2, N).
"""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.base import SpeechGuide
from avse.guides.mixture import (
    MAX_LOG_ODDS,
    AmortisedResponsibilities,
    BranchGuide,
    MixtureGuide,
    OptimalResponsibilities,
    Responsibilities,
    branches,
)
from avse.guides.visual import VisualGuide
from avse.guides.wrappers import BandLimitedGuide, CorruptedGuide, corrupted
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO
from avse.inference.svi.training import SVI, TrainingSettings
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.base import SpeechModel
from avse.models.distributions import PowerSpectrum
from avse.models.min_vae import MINVAE
from avse.models.mixture import SelectedDistribution
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import GaussianEncoder, LogPower, RawPower, SpectrumDecoder
from avse.models.sites import ALPHA, S, Z
from avse.models.vae_mm import VAEMM

L, F, N, E, D, H = 2, 5, 4, 3, 8, 7
PI = 0.25
ELBOS = [AnalyticKLTraceEnumELBO, TraceEnum_ELBO]


def lip_trunk() -> LipTrunk:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    return trunk


def min_vae(lips: LipTrunk | None = None) -> MINVAE:
    model = MINVAE(L, SpectrumDecoder(L, [H], F, embedding_size=E if lips else 0), lips, PI).double()
    with torch.no_grad():
        for mean in (model.audio_mean, model.visual_mean):
            mean.normal_()
        model.visual_log_variance.fill_(0.4)
        model.decoder.output.weight.mul_(3)  # type: ignore[union-attr, operator]
    return model


def vae_mm() -> VAEMM:
    a_vae = AVAE(StandardNormal(L), SpectrumDecoder(L, [H], F))
    prior = VisualPrior(GaussianEncoder(E, [6], L))
    av_vae = AVVAE(lip_trunk(), prior, SpectrumDecoder(L, [H], F, embedding_size=E))
    return VAEMM(a_vae, av_vae, PI).double()


MODELS: dict[str, Callable[[], SpeechModel]] = {
    "v1": min_vae,
    "v2": lambda: min_vae(lip_trunk()),
    "mm": vae_mm,
}


def encoders() -> tuple[SpeechGuide, SpeechGuide]:
    audio = AudioGuide(RawPower(), GaussianEncoder(F, [H], L))
    return audio, VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], L)))


def guide_of(responsibilities: Responsibilities, start: int = 0) -> MixtureGuide:
    return MixtureGuide(*encoders(), responsibilities=responsibilities, start=start).double()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    valid = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    pixels = torch.randn(N, D - 1, dtype=torch.float64)
    return {"power": torch.rand(N, F, dtype=torch.float64), "visual": torch.cat([pixels, valid[:, None]], -1)}


class Preset:
    """Responsibilities that are told beforehand."""

    def __init__(self) -> None:
        self.logits = torch.randn(N, dtype=torch.float64)

    def __call__(self, first: object, second: object, power: object, visual: object) -> Tensor:
        return self.logits


def priors(model: SpeechModel, visual: Tensor) -> list[torch.distributions.Distribution]:
    """p(z | alpha, v) for alpha = 0, 1."""
    if isinstance(model, VAEMM):
        av_vae = model.second
        assert isinstance(av_vae, AVVAE)
        return [av_vae.prior(av_vae.lips(visual)), dist.Normal(torch.zeros(N, L).double(), 1.0).to_event(1)]
    assert isinstance(model, MINVAE)
    parts = (
        (model.visual_mean, model.visual_log_variance),
        (model.audio_mean, model.audio_log_variance),
    )
    return [
        dist.Normal(mean.expand(N, L), torch.exp(log_variance / 2)).to_event(1)
        for mean, log_variance in parts
    ]


def costs(
    model: SpeechModel, guide: MixtureGuide, z: Tensor, batch: dict[str, Tensor], analytic: bool
) -> Tensor:
    """J(alpha) at the draws z (2, N, L) of the two branches, (2, N), from the components' own formulas."""
    q = [guide.branch(alpha).posterior(**batch) for alpha in (0, 1)]
    log_variance = model.given(batch["visual"])(z).log_variance
    found = []
    for alpha, p in enumerate(priors(model, batch["visual"])):
        likelihood = PowerSpectrum(log_variance[alpha, alpha]).log_prob(batch["power"]).sum(-1)
        monte_carlo = q[alpha].log_prob(z[alpha]) - p.log_prob(z[alpha])
        found.append((kl_divergence(q[alpha], p) if analytic else monte_carlo) - likelihood)
    return torch.stack(found)


def log_alpha() -> Tensor:
    return torch.tensor([1 - PI, PI], dtype=torch.float64).log()[:, None]


def draws_of(guide: MixtureGuide, batch: dict[str, Tensor], seed: int) -> Tensor:
    """z (2, N, L) that the bound draws at that seed."""
    pyro.set_rng_seed(seed)
    trace = poutine.trace(poutine.enum(guide, first_available_dim=-2)).get_trace(**batch)
    z: Tensor = trace.nodes[Z]["value"]
    assert z.shape == (2, N, L)
    return z


# The bound -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("elbo", ELBOS)
def test_bound_and_gradient_are_the_sum_written_out(
    kind: str, elbo: type[TraceEnum_ELBO], batch: dict[str, Tensor]
) -> None:
    """sum_a r(a) [log p(a) - log r(a) - J(a)] at the draws made, for any r."""
    preset, model = Preset(), MODELS[kind]()
    preset.logits.requires_grad_()
    guide = guide_of(preset)
    z = draws_of(guide, batch, 5)
    pyro.set_rng_seed(5)
    loss = elbo(max_plate_nesting=1).differentiable_loss(model, guide, **batch)
    log_r = nn.functional.logsigmoid(torch.stack([-preset.logits, preset.logits]))
    bracket = log_alpha() - log_r - costs(model, guide, z, batch, elbo is AnalyticKLTraceEnumELBO)
    truth = -(log_r.exp() * bracket).sum()
    assert loss.item() == pytest.approx(truth.item(), rel=1e-7)  # pi is a float32
    parameters = [preset.logits, *guide.parameters(), *model.parameters()]
    both = [torch.autograd.grad(each, parameters, allow_unused=True) for each in (loss, truth)]
    for parameter, found, expected in zip(parameters, *both, strict=True):
        if isinstance(model, MINVAE) and parameter is model.log_odds:
            expected = (model.pi - log_r[1].exp()).sum()
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("elbo", ELBOS)
def test_the_best_r_gives_logsumexp_and_any_other_less_by_its_divergence(
    kind: str, elbo: type[TraceEnum_ELBO], batch: dict[str, Tensor]
) -> None:
    preset, model = Preset(), MODELS[kind]()
    guide = guide_of(preset)
    z = draws_of(guide, batch, 5)
    J = costs(model, guide, z, batch, elbo is AnalyticKLTraceEnumELBO).detach()
    best = (log_alpha() - J).logsumexp(0).sum()

    def bound(logits: Tensor) -> float:
        preset.logits = logits
        pyro.set_rng_seed(5)
        return -elbo(max_plate_nesting=1).differentiable_loss(model, guide, **batch).item()

    optimum = J[0] - J[1] + math.log(PI / (1 - PI))
    assert bound(optimum) == pytest.approx(best.item(), rel=1e-8)
    for other in (optimum + 1.5, -optimum, torch.zeros(N).double()):
        r = torch.stack([torch.sigmoid(-other), torch.sigmoid(other)])
        lower_by = (r * (r.log() - (log_alpha() - J).log_softmax(0))).sum()
        assert lower_by > 0.01  # so that the opposite sign of J(0) - J(1) is seen to be wrong
        assert bound(other) == pytest.approx((best - lower_by).item(), rel=1e-8)


@pytest.mark.parametrize("kind", MODELS)
def test_alpha_enumerated_in_the_model_alone_is_another_bound(kind: str, batch: dict[str, Tensor]) -> None:
    """Negative control: one encoder, and log sum_a p(a) p(s, z | a) in the place of the sum over branches."""
    model = MODELS[kind]()
    guide = guide_of(OptimalResponsibilities(model))
    audio = guide.branch(1)
    pyro.set_rng_seed(5)
    z = audio(**batch)
    pyro.set_rng_seed(5)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, audio, **batch)
    log_prior, log_variance = model.given(batch["visual"])(z)
    joint = (log_prior + PowerSpectrum(log_variance).log_prob(batch["power"]).sum(-1)).logsumexp(0)
    one_encoder = -(joint - audio.posterior(**batch).log_prob(z)).sum()
    assert loss.item() == pytest.approx(one_encoder.item(), rel=1e-9)
    pyro.set_rng_seed(5)
    ours = AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(model, guide, **batch)
    assert abs(ours.item() - loss.item()) > 0.1


# Optimal responsibilities --------------------------------------------------------------------------------


def recorded(q: dist.TorchDistribution) -> list[Tensor]:
    """The draws that will be made of q."""
    draws: list[Tensor] = []
    sample = q.sample

    def record() -> Tensor:
        draws.append(sample())
        return draws[-1]

    q.sample = record
    return draws


@pytest.mark.parametrize("kind", MODELS)
def test_optimal_responsibilities_are_the_formula_at_their_draws(kind: str, batch: dict[str, Tensor]) -> None:
    """logit r(1) = J(0) - J(1) + logit(pi), of one draw each, and nothing is recorded for gradients."""
    model = MODELS[kind]()
    guide = guide_of(OptimalResponsibilities(model))
    first, second = (guide.branch(alpha).posterior(**batch) for alpha in (1, 0))
    ones, zeros = recorded(first), recorded(second)
    logits = guide.responsibilities(first, second, **batch)
    assert len(ones) == len(zeros) == 1
    J = costs(model, guide, torch.cat([*zeros, *ones]).reshape(2, N, L), batch, analytic=True)
    torch.testing.assert_close(logits, J[0] - J[1] + math.log(PI / (1 - PI)), rtol=1e-6, atol=1e-6)
    assert not logits.requires_grad
    assert logits.shape == (N,)


@torch.no_grad()
def test_the_bound_makes_draws_of_its_own(batch: dict[str, Tensor]) -> None:
    """r chosen by the draws that it then weighs would prefer the lucky one, and the bound be too high.

    Both branches are the prior, so that any r that does not know the draws leaves the mean of sum_a r(a) log
    p(s | z_a) where it is. A z-score, false alarms 7e-6.
    """
    model, many = MINVAE(L, SpectrumDecoder(L, [H], F)).double(), 20_000
    model.decoder.output.weight.mul_(5)  # type: ignore[union-attr, operator]
    prior = VisualGuide(lambda visual: visual[..., :0], lambda empty: StandardNormal(L).double()())
    guide = MixtureGuide(prior, prior, responsibilities=OptimalResponsibilities(model))
    one = {name: x[:1].expand(many, -1) for name, x in batch.items()}
    trace = poutine.trace(poutine.enum(guide, first_available_dim=-2)).get_trace(**one)
    log_variance = model.given()(trace.nodes[Z]["value"]).log_variance[0]
    likelihood = PowerSpectrum(log_variance).log_prob(one["power"]).sum(-1)

    def gain(r: Tensor) -> float:
        """Standard errors by which the mean under r exceeds that under 1/2."""
        excess = (r * likelihood).sum(0) - likelihood.mean(0)
        return float(excess.mean() / (excess.std() / many**0.5))

    probability = trace.nodes[ALPHA]["fn"].probs
    assert probability.std() > 0.05
    assert abs(gain(torch.stack([1 - probability, probability]))) < 4.5
    assert gain(likelihood.softmax(0)) > 20


def test_evidence_is_clipped_and_the_prior_is_not(batch: dict[str, Tensor]) -> None:
    """A branch that is better by thousands of nats leaves a finite bound, and pi at its ends rules."""
    model = vae_mm()
    with torch.no_grad():
        model.first.decoder.output.bias.add_(-20)  # type: ignore[union-attr, operator]
    guide = guide_of(OptimalResponsibilities(model))
    first, second = (guide.branch(alpha).posterior(**batch) for alpha in (1, 0))
    for pi, logit in ((PI, -MAX_LOG_ODDS + math.log(PI / (1 - PI))), (1.0, 1e30), (0.0, -1e30)):
        model.pi.fill_(pi)
        logits = guide.responsibilities(first, second, **batch)
        torch.testing.assert_close(logits, torch.full((N,), logit, dtype=torch.float64))
        loss = AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(model, guide, **batch)
        assert loss.isfinite()
        gradients = torch.autograd.grad(loss, [*guide.parameters()], allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_optimal_responsibilities_without_a_closed_form_divergence(batch: dict[str, Tensor]) -> None:
    """A prior that is itself a mixture: the divergence is that of the one draw, log q(z) - log p(z)."""

    class Two(StandardNormal):
        def forward(self, embedding: Tensor | None = None) -> torch.distributions.Distribution:
            means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
            parts = torch.distributions.Independent(torch.distributions.Normal(means, 1.0), 1)
            return dist.MixtureSameFamily(dist.Categorical(torch.ones(2, dtype=torch.float64)), parts)

        def log_prob(self, z: Tensor) -> Tensor:
            return self().log_prob(z)

    decoder = SpectrumDecoder(L, [H], F)
    model = VAEMM(AVAE(Two(L), decoder), AVAE(Two(L), decoder), PI).double()
    guide = guide_of(OptimalResponsibilities(model))
    first, second = (guide.branch(alpha).posterior(**batch) for alpha in (1, 0))
    ones, zeros = recorded(first), recorded(second)
    logits = guide.responsibilities(first, second, **batch)
    J = []
    for q, (z,) in ((second, zeros), (first, ones)):
        likelihood = PowerSpectrum(decoder(z)).log_prob(batch["power"]).sum(-1)
        J.append(q.log_prob(z) - Two(L)().log_prob(z) - likelihood)
    torch.testing.assert_close(logits, J[0] - J[1] + math.log(PI / (1 - PI)))
    assert AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(model, guide, **batch).isfinite()


# Divergences of switches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["both", "first", "second"])
def test_divergence_of_switches_is_that_of_the_chosen(pair: str) -> None:
    """Frame by frame, for alpha of each switch apart; enumerated alpha is both at once."""

    def normal() -> dist.TorchDistribution:
        return dist.Normal(torch.randn(N, L).double(), torch.rand(N, L).double() + 0.5).to_event(1)

    q1, q0, p1, p0 = (normal() for _ in range(4))
    for alpha, beta in (
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])),
        (torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])),
    ):
        q = SelectedDistribution(alpha, [q0, q1]) if pair != "second" else q1
        p = SelectedDistribution(beta, [p0, p1]) if pair != "first" else p1
        found = kl_divergence(q, p)
        shape = alpha.expand(*alpha.shape[:-1], N).shape
        assert found.shape == shape
        for index in torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, len(shape)):
            n, where = index[-1], tuple(index.tolist())
            a = alpha.expand(shape)[where] if pair != "second" else 1
            b = beta.expand(shape)[where] if pair != "first" else 1
            truth = kl_divergence(q1 if a else q0, p1 if b else p0)[n]
            torch.testing.assert_close(found[where], truth)


def test_a_switch_is_the_chosen_distribution() -> None:
    """Moments, density, and draws that are the chosen one's with its gradient alone."""
    mean = torch.zeros(2, L, dtype=torch.float64, requires_grad=True)
    first, second = dist.Normal(mean[1], 0.1).to_event(1), dist.Normal(mean[0] + 10, 0.2).to_event(1)
    alpha = torch.tensor([0.0, 1.0, 1.0])
    switch = SelectedDistribution(alpha, [second, first])
    assert (switch.batch_shape, switch.event_shape) == ((3,), (L,))
    assert switch.expand((5, 3)).rsample().shape == (5, 3, L)
    assert switch.sample((7,)).shape == (7, 3, L)
    assert not switch.sample().requires_grad
    assert switch.mean.tolist() == [[10.0] * L, [0.0] * L, [0.0] * L]
    torch.testing.assert_close(switch.variance[:, 0], torch.tensor([0.04, 0.01, 0.01]).double())
    value = switch.rsample()
    assert ((value > 5).all(-1) == (alpha == 0)).all()
    assert len(value.unique(dim=0)) == 3
    torch.testing.assert_close(switch.log_prob(value)[1], first.log_prob(value[1]))
    torch.testing.assert_close(switch.log_prob(value)[0], second.log_prob(value[0]))
    assert torch.autograd.grad(value[0].sum(), mean)[0].tolist() == [[1.0] * L, [0.0] * L]
    coarse = SelectedDistribution(alpha, [dist.Poisson(torch.ones(L)).to_event(1), first])
    assert not coarse.has_rsample
    assert switch.has_rsample
    assert switch.support.check(value).all()


def test_the_components_go_on_to_check_their_values() -> None:
    """Where nothing is expanded, too: what another component drew need not be in their support."""
    own = dist.Gamma(torch.ones(2, 1), 1.0, validate_args=True).to_event(1)
    own._validate_args = True
    either = SelectedDistribution(torch.tensor([0.0, 1.0]), [own, own])
    outside = -torch.ones(2, 1)
    either.log_prob(outside)
    with pytest.raises(ValueError, match="support"):
        own.log_prob(outside)


# As a guide ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_same_plates_and_sites_as_the_model(kind: str, batch: dict[str, Tensor]) -> None:
    model = MODELS[kind]()
    guide = guide_of(OptimalResponsibilities(model))
    ours, theirs = (poutine.trace(part).get_trace(**batch) for part in (guide, model))
    sites = [[n for n, node in story.nodes.items() if node["type"] == "sample"] for story in (ours, theirs)]
    assert sites[0] == ["frames", ALPHA, Z]
    assert sites[1] == ["frames", ALPHA, Z, S]
    for site, shape in ((ALPHA, (N,)), (Z, (N, L))):
        for story in (ours, theirs):
            assert story.nodes[site]["value"].shape == shape
            assert [plate.name for plate in story.nodes[site]["cond_indep_stack"]] == ["frames"]


def test_z_comes_from_the_encoder_that_alpha_names(batch: dict[str, Tensor]) -> None:
    """4 frames, 3000 copies: 32 z-scores under 4.5, false alarms 2e-4; the other encoder fails."""
    preset, copies = Preset(), 3000
    guide = guide_of(preset)
    preset.logits = torch.zeros(N * copies, dtype=torch.float64)
    trace = poutine.trace(guide).get_trace(**{name: x.repeat(copies, 1) for name, x in batch.items()})
    alpha = trace.nodes[ALPHA]["value"].reshape(copies, N)
    z = trace.nodes[Z]["value"].reshape(copies, N, L).detach()
    for value in (0, 1):
        for encoder in (0, 1):
            q = guide.branch(encoder).posterior(**batch)
            scores = []
            for n in range(N):
                white = (z[alpha[:, n] == value, n] - q.mean[n]) / q.stddev[n]
                scores += [white.mean(0) * len(white) ** 0.5]
                scores += [(white.square().mean(0) - 1) * (len(white) / 2) ** 0.5]
            worst = torch.stack(scores).abs().max()
            assert bool(worst < 4.5) == (value == encoder)
            assert value == encoder or worst > 10


@pytest.mark.parametrize("start", [0, 1])
def test_posterior_is_that_of_the_chosen_encoder(start: int, batch: dict[str, Tensor]) -> None:
    guide = guide_of(Preset(), start)
    q, truth = guide.posterior(**batch), guide.branch(start).posterior(**batch)
    assert torch.equal(q.mean, truth.mean)
    assert torch.equal(q.variance, truth.variance)
    assert isinstance(guide.branch(start), AudioGuide if start else VisualGuide)
    louder = guide.posterior(2 * batch["power"], batch["visual"])
    assert torch.equal(louder.mean, q.mean) == (start == 0)


def test_what_is_missing_or_wrong_is_named(batch: dict[str, Tensor]) -> None:
    guide = guide_of(OptimalResponsibilities(min_vae()))
    with pytest.raises(ValueError, match="give visual"):
        guide(power=batch["power"])
    with pytest.raises(ValueError, match="needs the power"):
        guide(visual=batch["visual"])
    q = guide.posterior(**batch)
    amortised = AmortisedResponsibilities(RawPower(), nn.Linear(F, 1))
    for responsibilities in (guide.responsibilities, amortised):
        with pytest.raises(ValueError, match="need the power"):
            responsibilities(q, q, power=None, visual=batch["visual"])
    with pytest.raises(InputError, match="alpha is 0"):
        guide_of(Preset(), start=2)


def test_wrapped_guides_and_a_guide_that_has_run(batch: dict[str, Tensor]) -> None:
    """Pyro refuses to wrap guides with Pyro modules as parts that have run."""
    guide = guide_of(OptimalResponsibilities(min_vae()))
    for _ in range(2):
        guide(**batch)
        whole = guide.posterior(**batch)
        assert torch.equal(BandLimitedGuide(guide, F).posterior(**batch).mean, whole.mean)
        assert torch.equal(CorruptedGuide(guide, lambda p: 2 * p).posterior(**batch).mean, whole.mean)


@pytest.mark.parametrize("kind", MODELS)
def test_a_corrupted_branch_is_corrupted_once(kind: str, batch: dict[str, Tensor]) -> None:
    """r is that of the encoder's answer which the bound then uses, and the target stays clean."""
    calls: list[Tensor] = []

    def corruption(power: Tensor) -> Tensor:
        calls.append(power)
        return power + 50 * torch.rand_like(power)

    model = MODELS[kind]()
    audio, visual = encoders()
    guide = MixtureGuide(
        CorruptedGuide(audio, corruption), visual, responsibilities=OptimalResponsibilities(model)
    ).double()
    loss = AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(model, guide, **batch)
    assert len(calls) == 1
    assert torch.equal(calls[0], batch["power"])
    assert loss.isfinite()
    guide.eval()(**batch)
    assert len(calls) == 1
    assert [id(p) for p in guide.parameters()] == [id(p) for p in (*visual.parameters(), *audio.parameters())]


# Weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amortised", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_is_saved_once_and_comes_back(
    kind: str, amortised: bool, batch: dict[str, Tensor]
) -> None:
    """The guide refers to the model, which stays no part of it."""

    def make() -> nn.ModuleDict:
        model = MODELS[kind]()
        responsibilities = (
            AmortisedResponsibilities(LogPower(F), nn.Linear(F + E, 1), lip_trunk())
            if amortised
            else OptimalResponsibilities(model)
        )
        return nn.ModuleDict({"model": model, "guide": guide_of(responsibilities)})

    pair, other = make(), make()
    state = pair.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert any("responsibilities" in name for name in state) == amortised
    assert not {id(p) for p in pair["model"].parameters()} & {id(p) for p in pair["guide"].parameters()}
    other.load_state_dict(state)
    losses = []
    for one in (pair, other):
        pyro.set_rng_seed(1)
        elbo = AnalyticKLTraceEnumELBO(max_plate_nesting=1)
        losses.append(elbo.differentiable_loss(one["model"], one["guide"], **batch).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("amortised", [False, True])
def test_gradients_reach_every_parameter_in_training(
    kind: str, amortised: bool, batch: dict[str, Tensor]
) -> None:
    """By the loss that training uses, which looks at the lips once; frames with and without lips."""
    model = MODELS[kind]()
    responsibilities: Responsibilities = OptimalResponsibilities(model)
    if amortised:
        responsibilities = AmortisedResponsibilities(LogPower(F), nn.Linear(F + E, 1), lip_trunk())
    svi = SVI(model, guide_of(responsibilities), TrainingSettings())
    svi.loss(batch).backward()
    missing = [n for n, p in svi.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []
    # The same gradients as without the memory of the lips.
    parameters, elbo = list(svi.parameters()), AnalyticKLTraceEnumELBO(max_plate_nesting=1)
    pyro.set_rng_seed(0)
    remembered = torch.autograd.grad(svi.loss(batch) * N, parameters)
    pyro.set_rng_seed(0)
    power = batch["power"] + svi.settings.power_floor
    loss = elbo.differentiable_loss(model, svi.guide, power=power, visual=batch["visual"])
    for ours, theirs in zip(remembered, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_amortised_responsibilities_are_their_network(batch: dict[str, Tensor]) -> None:
    trunk, layers = lip_trunk(), nn.Linear(F + E, 1)
    network = AmortisedResponsibilities(RawPower(), layers, trunk).double()
    guide = guide_of(network)
    q = guide.posterior(**batch)
    truth = layers(torch.cat([batch["power"], trunk(batch["visual"])], -1))[:, 0]
    torch.testing.assert_close(network(q, q, **batch), truth)
    channels = torch.stack([batch["power"]] * 2)
    torch.testing.assert_close(network(q, q, power=channels, visual=batch["visual"])[1], truth)
    deaf = AmortisedResponsibilities(RawPower(), nn.Linear(F, 1)).double()
    assert deaf(q, q, power=batch["power"], visual=None).shape == (N,)


def test_scales_come_from_the_training_frames() -> None:
    audio = AudioGuide(LogPower(F), GaussianEncoder(F, [H], L))
    network = AmortisedResponsibilities(LogPower(F), nn.Linear(F, 1))
    guide = MixtureGuide(audio, encoders()[1], responsibilities=network)
    power = torch.rand(100, F) + 0.1
    guide.fit_scales(power)
    for features in (audio.features, network.features):
        torch.testing.assert_close(features(power).mean(0), torch.zeros(F), atol=1e-5, rtol=0)
    guide_of(Preset()).fit_scales(power)


def test_corruption_reaches_the_branches_and_not_the_mixture(batch: dict[str, Tensor]) -> None:
    """What r(alpha) is told of the sound stays clean; every parameter is shared, and alpha is still there."""

    class Told(Preset):
        heard: object = None

        def __call__(self, first: object, second: object, power: object, visual: object) -> Tensor:
            self.heard = power
            return super().__call__(first, second, power, visual)

    told = Told()
    guide = guide_of(told, start=1)
    worse = corrupted(guide, lambda power: 2 * power)
    assert isinstance(worse, MixtureGuide)
    assert worse.start == 1
    assert {id(p) for p in worse.parameters()} == {id(p) for p in guide.parameters()}
    louder = {**batch, "power": 2 * batch["power"]}
    for alpha in (0, 1):
        expected = guide.branch(alpha).posterior(**louder).mean
        torch.testing.assert_close(worse.branch(alpha).posterior(**batch).mean, expected)
    trace = poutine.trace(worse).get_trace(**batch)
    assert told.heard is batch["power"]
    assert {ALPHA, Z} <= set(trace.nodes)


def test_branches_of_a_mixture_and_of_a_plain_guide() -> None:
    guide = guide_of(Preset())
    assert branches(guide) == [guide.branch(0), guide.branch(1)]
    assert branches(guide.branch(1)) == [guide.branch(1)]


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_bound_of_one_branch_is_that_of_a_mixture_sure_of_it(
    make: Callable[[], SpeechModel], alpha: int, batch: dict[str, Tensor]
) -> None:
    """log p(alpha) - J(alpha) at the draw that was made, by hand."""
    torch.manual_seed(0)
    model, guide = make(), guide_of(Preset())
    branch = BranchGuide(guide, alpha)
    torch.manual_seed(1)
    loss = AnalyticKLTraceEnumELBO(max_plate_nesting=1).differentiable_loss(model, branch, **batch)
    torch.manual_seed(1)
    z = poutine.trace(branch).get_trace(**batch).nodes[Z]["value"]
    given = {ALPHA: torch.full((N,), float(alpha), dtype=torch.float64), Z: z}
    trace = poutine.trace(poutine.condition(model, given)).get_trace(**batch)
    trace.compute_log_prob()
    q = guide.branch(alpha).posterior(**batch)
    expected = (
        kl_divergence(q, trace.nodes[Z]["fn"]) - trace.nodes[S]["log_prob"] - trace.nodes[ALPHA]["log_prob"]
    )
    torch.testing.assert_close(loss, expected.sum())
    sure = math.log(PI if alpha else 1 - PI)
    torch.testing.assert_close(trace.nodes[ALPHA]["log_prob"], torch.full((N,), sure, dtype=torch.float64))
