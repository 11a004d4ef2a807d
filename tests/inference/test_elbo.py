"""The bound against closed forms, sums written out and Pyro's own, from which it may differ in noise alone.

Statistics are z-scores over independent draws in float64; |z| < 4 has a false-alarm rate of 6e-5 a value, and
4.5 one of 7e-6. Pyro warns where nothing is enumerated, which is what a model without alpha wants.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import Tensor

from avse.data.errors import InputError
from avse.inference.svi.elbo import AlphaLikelihood, AnalyticKLTraceEnumELBO
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.networks.lips import LipCorruptionClassifier, LipTrunk
from avse.models.networks.spectrum import SpectrumDecoder
from avse.models.vae_mm import VAEMM

pytestmark = pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")

N, L, F = 5, 2, 3
DRAWS = 250
A = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]], dtype=torch.float64)
RESIDUAL = 0.7
MEANS = torch.tensor([[-1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
"""Prior mean of z for each alpha."""
PRIOR = 0.3


class Model(PyroModule):
    """z ~ N(0, I), s | z ~ N(z A, RESIDUAL^2); real, so that every expectation is known."""

    def forward(self, power: Tensor, visual: Tensor | None = None) -> None:
        with pyro.plate("frames", N, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("s", dist.Normal(z @ A, RESIDUAL).to_event(1), obs=power)


class Guide(PyroModule):
    """q(z) = N(mean, deviation^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.randn(N, L, dtype=torch.float64))
        self.log_deviation = torch.nn.Parameter(0.3 * torch.randn(N, L, dtype=torch.float64) - 0.5)

    def forward(self, power: Tensor, visual: Tensor | None = None) -> None:
        with pyro.plate("frames", N, dim=-1):
            pyro.sample("z", dist.Normal(self.mean, self.log_deviation.exp()).to_event(1))


class SwitchedModel(PyroModule):
    """alpha ~ Bernoulli(PRIOR) chooses the prior mean of z, as in MIN-VAE."""

    def forward(self, power: Tensor, visual: Tensor | None = None) -> None:
        with pyro.plate("frames", N, dim=-1):
            alpha = pyro.sample("alpha", dist.Bernoulli(torch.tensor(PRIOR, dtype=torch.float64)))
            mean = torch.where(alpha.unsqueeze(-1) > 0.5, MEANS[1], MEANS[0])
            z = pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))
            pyro.sample("s", dist.Normal(z @ A, RESIDUAL).to_event(1), obs=power)


class SwitchedGuide(PyroModule):
    """r(alpha) enumerated, and one q(z) for each alpha."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = torch.nn.ModuleList([Guide(), Guide()])
        self.logit = torch.nn.Parameter(torch.randn(N, dtype=torch.float64))

    def forward(self, power: Tensor, visual: Tensor | None = None) -> None:
        zero, one = self.branches
        with pyro.plate("frames", N, dim=-1):
            alpha = pyro.sample("alpha", dist.Bernoulli(logits=self.logit), infer={"enumerate": "parallel"})
            second = alpha.unsqueeze(-1) > 0.5
            mean = torch.where(second, one.mean, zero.mean)
            log_deviation = torch.where(second, one.log_deviation, zero.log_deviation)
            pyro.sample("z", dist.Normal(mean, log_deviation.exp()).to_event(1))


def divergence(guide: Guide, prior_mean: Tensor) -> Tensor:
    """KL(q || N(prior_mean, I)), (N,), by the formula."""
    deviation = guide.log_deviation.exp()
    terms = deviation.square() + (guide.mean - prior_mean).square() - 1 - 2 * guide.log_deviation
    return terms.sum(-1) / 2


def reconstruction(guide: Guide, s: Tensor) -> Tensor:
    """E_q log p(s | z), (N,): the mean and the spread of z A."""
    square = (s - guide.mean @ A).square() + guide.log_deviation.exp().square() @ A.square()
    return (-square / RESIDUAL**2 - math.log(2 * math.pi * RESIDUAL**2)).sum(-1) / 2


@pytest.fixture
def s() -> Tensor:
    return torch.randn(N, F, dtype=torch.float64)


def losses(elbo: TraceEnum_ELBO, model: PyroModule, guide: PyroModule, s: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (DRAWS,) and gradients (DRAWS, parameters) of single draws."""
    values, gradients = [], []
    for _ in range(DRAWS):
        loss = elbo.differentiable_loss(model, guide, power=s)
        values.append(loss.detach())
        parts = torch.autograd.grad(loss, list(guide.parameters()))
        gradients.append(torch.cat([g.flatten() for g in parts]))
    return torch.stack(values), torch.stack(gradients)


def z_score(draws: Tensor, truth: Tensor) -> Tensor:
    return (draws.mean(0) - truth) / (draws.std(0) / DRAWS**0.5)


@pytest.mark.slow
def test_same_mean_as_pyro_less_noise_in_the_gradient(s: Tensor) -> None:
    """Five z-scores at 4 and forty at 4.5: fewer than 6 false alarms in 10,000 seeds."""
    guide = Guide()
    with torch.no_grad():  # far from the prior, so that the control below is far from the bound
        guide.mean.copy_(torch.full((N, L), 1.5))
    truth = -(reconstruction(guide, s) - divergence(guide, torch.zeros(L))).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(truth, list(guide.parameters()))])
    analytic = losses(AnalyticKLTraceEnumELBO(max_plate_nesting=1), Model(), guide, s)
    plain = losses(TraceEnum_ELBO(max_plate_nesting=1), Model(), guide, s)
    for values, gradients in (analytic, plain):
        assert abs(z_score(values, truth.detach())) < 4
        assert z_score(gradients, exact).abs().max() < 4.5
    # Negative control: the bound without its divergence is further away than the bound above allows.
    assert abs(z_score(analytic[0], -reconstruction(guide, s).sum().detach())) > 6
    # The gradient of the mean, at every latent of every frame.
    assert (analytic[1].var(0) < plain[1].var(0) + 1e-12).double().mean() > 0.7
    assert analytic[1].var(0).sum() < 0.9 * plain[1].var(0).sum()


def test_the_divergence_itself_has_no_noise(s: Tensor) -> None:
    """With a likelihood that ignores z every draw gives the same, exact bound."""

    def model(power: Tensor) -> None:
        with pyro.plate("frames", N, dim=-1):
            pyro.sample("z", dist.Normal(torch.ones(L, dtype=torch.float64), 2.0).to_event(1))
            pyro.sample("s", dist.Normal(torch.zeros(F, dtype=torch.float64), 1.0).to_event(1), obs=power)

    guide = Guide()
    q = torch.distributions.Normal(guide.mean, guide.log_deviation.exp())
    p = torch.distributions.Normal(torch.ones(L, dtype=torch.float64), 2.0)
    likelihood = torch.distributions.Normal(0, 1).log_prob(s).sum()
    truth = torch.distributions.kl_divergence(q, p).sum() - likelihood
    analytic, plain = (
        [elbo(max_plate_nesting=1).differentiable_loss(model, guide, power=s).item() for _ in range(3)]
        for elbo in (AnalyticKLTraceEnumELBO, TraceEnum_ELBO)
    )
    assert analytic == pytest.approx([truth.item()] * 3, rel=1e-12)
    assert len(set(plain)) == 3


def branch_bounds(guide: SwitchedGuide, s: Tensor) -> Tensor:
    """-J(alpha), (2, N)."""
    return torch.stack(
        [reconstruction(b, s) - divergence(b, MEANS[a]) for a, b in enumerate(guide.branches)]  # type: ignore[arg-type]
    )


def log_prior() -> Tensor:
    return torch.tensor([1 - PRIOR, PRIOR], dtype=torch.float64).log()[:, None]


def test_enumerated_alpha_is_the_sum_written_out(s: Tensor) -> None:
    guide = SwitchedGuide()
    r = torch.stack([torch.sigmoid(-guide.logit), torch.sigmoid(guide.logit)])
    truth = -(r * (branch_bounds(guide, s) + log_prior() - r.log())).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(truth, list(guide.parameters()))])
    analytic = losses(AnalyticKLTraceEnumELBO(max_plate_nesting=1), SwitchedModel(), guide, s)
    plain = losses(TraceEnum_ELBO(max_plate_nesting=1), SwitchedModel(), guide, s)
    for values, gradients in (analytic, plain):
        assert abs(z_score(values, truth.detach())) < 4
        assert z_score(gradients, exact).abs().max() < 4.5
    # Negative control: without the prior of alpha.
    without = -(r * (branch_bounds(guide, s) - r.log())).sum().detach()
    assert abs(z_score(analytic[0], without)) > 6
    assert analytic[1].var(0).sum() < plain[1].var(0).sum()


def test_optimal_responsibilities_give_logsumexp(s: Tensor) -> None:
    """At r* = softmax(log p(alpha) - J) the bound is logsumexp(log p(alpha) - J); elsewhere lower by KL."""
    guide = SwitchedGuide()
    bounds = branch_bounds(guide, s).detach() + log_prior()
    with torch.no_grad():
        guide.logit.copy_(bounds[1] - bounds[0])
    values, _ = losses(AnalyticKLTraceEnumELBO(max_plate_nesting=1), SwitchedModel(), guide, s)
    best = -bounds.logsumexp(0).sum()
    assert abs(z_score(values, best)) < 4
    with torch.no_grad():
        guide.logit.copy_(-guide.logit - 2 * guide.logit.sign())
    r = torch.stack([torch.sigmoid(-guide.logit), torch.sigmoid(guide.logit)]).detach()
    lower_by = (r * (r.log() - bounds.log_softmax(0))).sum()
    worse, _ = losses(AnalyticKLTraceEnumELBO(max_plate_nesting=1), SwitchedModel(), guide, s)
    assert lower_by > 0.5
    assert abs(z_score(worse, best + lower_by)) < 4


def test_sites_without_a_closed_form_keep_their_draws(s: Tensor) -> None:
    """A mixture prior has no closed-form divergence: the loss is Pyro's, draw by draw."""

    def model(power: Tensor) -> None:
        with pyro.plate("frames", N, dim=-1):
            weights = dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64))
            parts = torch.distributions.Independent(torch.distributions.Normal(MEANS, 1.0), 1)
            z = pyro.sample("z", dist.MixtureSameFamily(weights, parts))
            pyro.sample("s", dist.Normal(z @ A, RESIDUAL).to_event(1), obs=power)

    guide = Guide()
    both = []
    for elbo in (AnalyticKLTraceEnumELBO, TraceEnum_ELBO):
        pyro.set_rng_seed(4)
        both.append(elbo(max_plate_nesting=1).differentiable_loss(model, guide, power=s).item())
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_alpha_enumerated_in_the_model_alone_keeps_its_logsumexp(s: Tensor) -> None:
    """One encoder, alpha summed out in the model: another bound, which Pyro's Monte Carlo term gives."""
    model, guide = pyro.infer.config_enumerate(SwitchedModel()), Guide()
    deviation, noise = guide.log_deviation.exp(), torch.randn(20_000, N, L, dtype=torch.float64)
    with torch.no_grad():
        z = guide.mean + deviation * noise
        log_q = dist.Normal(guide.mean, deviation).log_prob(z).sum(-1)
        log_p = torch.stack([dist.Normal(mean, 1.0).log_prob(z).sum(-1) for mean in MEANS])
        truth = (log_q - (log_p + log_prior()[:, None]).logsumexp(0)).mean(0).sum()
        truth -= reconstruction(guide, s).sum()
    values, _ = losses(AnalyticKLTraceEnumELBO(max_plate_nesting=1), model, guide, s)
    assert abs(z_score(values, truth)) < 4


class Coarse(dist.Normal):
    """A normal without a reparametrised sampler."""

    has_rsample = False


def test_a_guide_without_reparametrisation_keeps_its_score(s: Tensor) -> None:
    """The gradient by the score function still agrees with the closed form."""

    class CoarseGuide(Guide):
        def forward(self, power: Tensor, visual: Tensor | None = None) -> None:
            with pyro.plate("frames", N, dim=-1):
                pyro.sample("z", Coarse(self.mean, self.log_deviation.exp()).to_event(1))

    guide = CoarseGuide()
    truth = -(reconstruction(guide, s) - divergence(guide, torch.zeros(L))).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(truth, list(guide.parameters()))])
    values, gradients = losses(AnalyticKLTraceEnumELBO(max_plate_nesting=1), Model(), guide, s)
    assert abs(z_score(values, truth.detach())) < 4
    assert z_score(gradients, exact).abs().max() < 4.5


# The prior of alpha alone --------------------------------------------------------------------------------


def doubting(pi: float) -> VAEMM:
    """A mixture that knows bad lips by one number."""
    first, second = (AVAE(StandardNormal(L), SpectrumDecoder(L, [4], F)) for _ in range(2))
    trunk = LipTrunk(torch.nn.Identity(), 1)
    return VAEMM(first, second, pi, LipCorruptionClassifier(trunk, 1)).double()


@pytest.mark.parametrize("pi", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_likelihood_of_alpha(pi: float, batch: tuple[int, ...]) -> None:
    """-sum log p(bad | v) of d = 4 tanh(l / 4), l = 0.7 v - 0.3, whatever pi; v = 0 if lips are not seen."""
    model = doubting(pi)
    with torch.no_grad():
        model.corruption_classifier.logit.weight.fill_(0.7)  # type: ignore[union-attr]
        model.corruption_classifier.logit.bias.fill_(-0.3)  # type: ignore[union-attr]
    pixel = torch.randn(*batch, N, dtype=torch.float64)
    valid = (torch.arange(N) > 0).double().expand(*batch, N)
    bad = (torch.rand(*batch, N) < 0.5).double()
    truth = 0.0
    for v, seen, label in zip(pixel.flatten(), valid.flatten(), bad.flatten(), strict=True):
        p = 1 / (1 + math.exp(-4 * math.tanh((0.7 * v * seen - 0.3) / 4)))
        truth -= math.log(p if label else 1 - p)
    data = {"power": torch.rand(*batch, N, F), "visual": torch.stack([pixel, valid], -1), "bad": bad}
    objective = AlphaLikelihood()
    loss = objective.differentiable_loss(model, Guide(), **data)
    assert loss.item() == pytest.approx(truth, rel=1e-9)
    objective.kl_weight = 0.1  # there is none
    assert torch.equal(objective.differentiable_loss(model, Guide(), **data), loss)
    loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {
        "corruption_classifier.trunk.missing_embedding",
        "corruption_classifier.logit.weight",
        "corruption_classifier.logit.bias",
    }


def test_likelihood_of_alpha_is_largest_at_the_log_odds_of_bad_lips() -> None:
    """Lips that show nothing: d = logit(share of bad frames), where the gradient is zero."""
    model, share = doubting(0.5), 0.25
    visual = torch.cat([torch.zeros(400, 1), torch.ones(400, 1)], 1).double()
    bad = (torch.arange(400) < 400 * share).double()
    bias = model.corruption_classifier.logit.bias  # type: ignore[union-attr]
    slopes = []
    for value in (0.0, 4 * math.atanh(math.log(share / (1 - share)) / 4), -2.0):
        with torch.no_grad():
            bias.fill_(value)
        loss = AlphaLikelihood().differentiable_loss(model, Guide(), visual=visual, bad=bad)
        slopes.append(torch.autograd.grad(loss, bias)[0].item())
    assert slopes[0] > 1
    assert slopes[1] == pytest.approx(0, abs=1e-9)
    assert slopes[2] < -1


def test_a_model_that_cannot_doubt_is_refused() -> None:
    plain = VAEMM(doubting(0.5).first, doubting(0.5).second)
    with pytest.raises(InputError, match="no classifier"):
        AlphaLikelihood().differentiable_loss(plain, Guide(), visual=torch.ones(N, 2), bad=torch.ones(N))
