"""Speech models: the trace, the closed forms and sums written out agree."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from avse.inference.mcmc.log_density import closure, frame_log_joint, sum_out_alpha, traced
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.band_limited import BandLimited
from avse.models.base import SpeechModel, TracedSpeech
from avse.models.distributions import PowerSpectrum
from avse.models.networks.spectrum import POWER_FLOOR, LogPower, RawPower, SpectrumDecoder
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech, noisy_variance, wiener_moments
from avse.models.sites import ALPHA, Z
from avse.zoo.pair import SpeechPair

L, F, N, B, R = 3, 5, 4, 2, 6
SHAPES = [(N, L), (R, N, L), (R, B, N, L)]
DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-9)]


def a_vae(dtype: torch.dtype = torch.float64) -> AVAE:
    return AVAE(StandardNormal(L), SpectrumDecoder(L, [7], F)).to(dtype)


class LoudAVAE(AVAE):
    """Another story in `latent` alone: z ~ N(1, 2 I), and 3 nats louder."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        mean = torch.ones_like(self.prior.zero)
        z = pyro.sample(Z, dist.Normal(mean, math.sqrt(2)).to_event(1))
        return self.decoder(z) + 3


class SwitchedAVAE(SpeechModel):
    """alpha ~ Bernoulli(0.3) chooses the prior of z and the decoder, as in a mixture of two A-VAEs."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.decoders = torch.nn.ModuleList([SpectrumDecoder(L, [7], F) for _ in range(2)]).to(dtype)
        self.register_buffer("means", torch.tensor([[-1.0] * L, [0.5] * L], dtype=dtype))

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Bernoulli(self.means.new_tensor(0.3)))
        first = alpha.unsqueeze(-1) > 0.5
        z = pyro.sample(Z, dist.Normal(torch.where(first, self.means[1], self.means[0]), 1.0).to_event(1))
        return torch.where(first, self.decoders[1](z), self.decoders[0](z))

    def branch(self, alpha: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z, alpha) and log sigma, by hand."""
        log_weight = math.log(0.3 if alpha else 0.7)
        square = (z - self.means[alpha]).square().sum(-1)
        return log_weight - (square + L * math.log(2 * math.pi)) / 2, self.decoders[alpha](z)


class FourVoices(SpeechModel):
    """A user's mixture of four: alpha chooses the prior of z and how loud the one decoder is."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = SpectrumDecoder(L, [7], F).double()

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Categorical(logits=torch.arange(4.0, dtype=torch.float64)))
        mean = alpha.unsqueeze(-1).expand(*alpha.shape, L) - 1.5
        z = pyro.sample(Z, dist.Normal(mean, 1 + alpha.unsqueeze(-1) / 2).to_event(1))
        return self.decoder(z) + alpha.unsqueeze(-1)


def noise(dtype: torch.dtype, *batch: int, smoothness: float = 0.0) -> NMFNoise:
    return NMFNoise(
        torch.rand(*batch, F, 2, dtype=dtype),
        torch.rand(*batch, 2, N, dtype=dtype),
        torch.rand(*batch, N, dtype=dtype) + 0.5,
        smoothness,
        1e-6,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluate_traced_is_the_closed_form(shape: tuple[int, ...]) -> None:
    model = a_vae()
    z = torch.randn(shape, dtype=torch.float64)
    traced_form, closed = TracedSpeech(model)(z), model.given()(z)
    log_prior = -(z.square().sum(-1) + L * math.log(2 * math.pi)) / 2
    for evaluation in (traced_form, closed):
        assert evaluation.log_prior.shape == (1, *shape[:-1])
        torch.testing.assert_close(evaluation.log_prior[0], log_prior, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(evaluation.log_variance[0], model.decoder(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_subclass_that_overrides_latent_alone(shape: tuple[int, ...]) -> None:
    model = LoudAVAE(StandardNormal(L), SpectrumDecoder(L, [7], F)).double()
    z = torch.randn(shape, dtype=torch.float64)
    log_prior = -((z - 1).square().sum(-1) / 2 + L * math.log(4 * math.pi)) / 2
    evaluation = model.given()(z)
    torch.testing.assert_close(evaluation.log_prior[0], log_prior, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(evaluation.log_variance[0], model.decoder(z) + 3, rtol=1e-6, atol=1e-6)
    power = torch.rand(N, F, dtype=torch.float64)
    truth = frame_log_joint(model, z, power=power)
    torch.testing.assert_close(model.given().log_joint_fn(power)(z), truth, rtol=1e-9, atol=1e-9)
    # Negative control: the closed form of the parent would be wrong by far.
    assert (evaluation.log_prior - a_vae().given()(z).log_prior).abs().max() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_enumerated_alpha_is_the_sum_written_out(shape: tuple[int, ...]) -> None:
    model = SwitchedAVAE()
    z = torch.randn(shape, dtype=torch.float64)
    power = torch.rand(*shape[-3:-1][-1:], F, dtype=torch.float64)
    joint = frame_log_joint(model, z, power=power)
    assert joint.shape == (2, *shape[:-1])
    by_hand = []
    for alpha in (0, 1):
        log_prior, log_variance = model.branch(alpha, z)
        by_hand.append(log_prior - (log_variance + power * torch.exp(-log_variance)).sum(-1))
        torch.testing.assert_close(joint[alpha], by_hand[alpha], rtol=1e-8, atol=1e-8)
        evaluation = model.given()(z)
        torch.testing.assert_close(evaluation.log_prior[alpha], log_prior, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(evaluation.log_variance[alpha], log_variance, rtol=1e-8, atol=1e-8)
    explicit = torch.log(by_hand[0].exp() + by_hand[1].exp())
    torch.testing.assert_close(traced(model, power=power)(z), explicit, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("make", "values"), [(a_vae, 1), (SwitchedAVAE, 2), (FourVoices, 4)])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: BandLimited(model, 2)])
def test_each_alpha_at_a_z_of_its_own(
    make: Callable[[], SpeechModel],
    values: int,
    wrap: Callable[[SpeechModel], SpeechModel],
    shape: tuple[int, ...],
) -> None:
    """`evaluate_each` is the diagonal of `evaluate`, whatever the model."""
    model, z = wrap(make()), torch.randn(values, *shape, dtype=torch.float64)
    each = model.given().each(z)
    assert each.log_prior.shape == (values, *shape[:-1])
    for alpha in range(values):
        alone = model.given()(z[alpha])
        for ours, all_alpha in zip(each, alone, strict=True):
            torch.testing.assert_close(ours[alpha], all_alpha[alpha], rtol=1e-10, atol=1e-10)
            if values > 1:  # negative control: the z of another
                assert (each.log_prior[alpha] - alone.log_prior[alpha - 1]).abs().max() > 0.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("make", "values"), [(a_vae, 1), (SwitchedAVAE, 2), (FourVoices, 4)])
def test_the_log_joint_of_clean_speech_is_the_traced_one(
    make: Callable[[], SpeechModel], values: int, shape: tuple[int, ...]
) -> None:
    model, power = make(), torch.rand(N, F, dtype=torch.float64)
    z = torch.randn(values, *shape, dtype=torch.float64)
    each = model.given().each_log_joint_fn(power)(z)
    for alpha in range(values):
        by_trace = frame_log_joint(model, z[alpha], power=power)
        torch.testing.assert_close(
            model.given().log_joint_fn(power)(z[alpha]), by_trace, rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(each[alpha], by_trace[alpha], rtol=1e-10, atol=1e-10)


class LoudDecoder(SpectrumDecoder):
    """Another `forward`, 3 nats louder."""

    def forward(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        return super().forward(z, embedding) + 3


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [SpectrumDecoder, LoudDecoder])
def test_the_log_joint_of_clean_speech_at_the_weights_of_now(
    kind: type[SpectrumDecoder], frozen: bool
) -> None:
    """Any decoder, trainable or not, and after a change; with its slope."""
    model = AVAE(StandardNormal(L), kind(L, [7], F)).double().requires_grad_(not frozen)
    power, z = torch.rand(N, F, dtype=torch.float64), torch.randn(R, N, L, dtype=torch.float64)
    for change in (lambda: None, lambda: nn.init.constant_(model.decoder.output.bias, 0.7)):
        change()
        at = z.clone().requires_grad_()
        ours, by_trace = model.given().log_joint_fn(power)(at), frame_log_joint(model, at, power=power)
        torch.testing.assert_close(ours, by_trace, rtol=1e-9, atol=1e-9)
        slopes = [torch.autograd.grad(joint.sum(), at)[0] for joint in (ours, by_trace)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(model.given().log_joint_fn(power)(z), by_trace, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [a_vae, SwitchedAVAE])
def test_noisy_log_joint_is_the_traced_one(
    kind: type, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    batch = shape[1:-2]
    model = NoisySpeech(kind(dtype), noise(dtype, *batch))
    power = torch.rand(*batch, N, F, dtype=dtype)
    z = torch.randn(shape, dtype=dtype)
    by_trace = frame_log_joint(model, z, power=power)
    quick = model.log_joint(z, power=power)
    assert quick.shape == by_trace.shape == (2 if kind is SwitchedAVAE else 1, *shape[:-1])
    torch.testing.assert_close(quick, by_trace, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        closure(model, power=power)(z), sum_out_alpha(by_trace), rtol=tolerance, atol=0
    )


def test_noisy_log_joint_by_hand() -> None:
    speech, mask = a_vae(), noise(torch.float64)
    power, z = torch.rand(N, F, dtype=torch.float64), torch.randn(N, L, dtype=torch.float64)
    variance = mask.frame_gain[:, None] * speech.decoder(z).exp() + (mask.W @ mask.H).T + mask.floor
    log_likelihood = torch.distributions.Exponential(1 / variance).log_prob(power).sum(-1)
    log_prior = torch.distributions.Normal(0, 1).log_prob(z).sum(-1)
    joint = NoisySpeech(speech, mask).log_joint(z, power)
    torch.testing.assert_close(joint[0], log_prior + log_likelihood, rtol=1e-9, atol=1e-9)


def test_a_model_without_a_closed_form_gets_the_trace() -> None:
    model, z = a_vae(), torch.randn(N, L, dtype=torch.float64)
    power = torch.rand(N, F, dtype=torch.float64)
    truth = torch.distributions.Normal(0, 1).log_prob(z).sum(-1) + PowerSpectrum(model.decoder(z)).log_prob(
        power
    ).sum(-1)
    for story in (model, lambda power: model(power)):
        torch.testing.assert_close(closure(story, power=power)(z), truth, rtol=1e-9, atol=1e-9)


def test_wiener_moments_by_bayes_rule() -> None:
    """s ~ N_c(0, v), x = s + b: the posterior of a Gaussian, from precisions."""
    mask = noise(torch.float64)
    sigma = torch.rand(N, F, dtype=torch.float64)
    prior, likelihood = 1 / (mask.frame_gain[:, None] * sigma), 1 / mask.variance()
    moments = wiener_moments(sigma, mask)
    torch.testing.assert_close(moments.variance, 1 / (prior + likelihood), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moments.gain, likelihood / (prior + likelihood), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [a_vae, SwitchedAVAE])
def test_sampling(kind: type) -> None:
    model = kind(torch.float64)
    assert model(frames=7).shape == (7, F)
    mixture = NoisySpeech(model, noise(torch.float64))
    assert mixture().shape == (N, F)
    assert (mixture() >= 0).all()
    with pytest.raises(ValueError, match="number of frames"):
        model()
    with pytest.raises(ValueError, match="number of frames"):
        model(power=torch.rand(4, F), visual=torch.rand(5, 2))


def test_sampled_mixture_has_the_mixture_variance() -> None:
    """Mean of |x|^2 over draws with a decoder that ignores z; |z-score| < 4.5, false alarms 1e-4 in all."""
    model = NoisySpeech(a_vae(), noise(torch.float64))
    with torch.no_grad():
        for weight in (model.speech.decoder.trunk[0].weight, model.speech.decoder.trunk[0].bias):
            weight.zero_()
        log_variance = model.speech.decoder.output.bias.expand(N, F)
        draws = torch.stack([model() for _ in range(2000)])
        truth = noisy_variance(log_variance, model.noise)
    z_scores = (draws.mean(0) / truth - 1) * math.sqrt(2000)
    assert z_scores.abs().max() < 4.5


@pytest.mark.parametrize("kind", [a_vae, SwitchedAVAE])
def test_evaluation_leaves_no_parameter_in_the_store(kind: type) -> None:
    """A traced evaluation puts none there; a call of the model does, for `pyro.infer.SVI`."""
    model = kind(torch.float64)
    power, z = torch.rand(N, F, dtype=torch.float64), torch.randn(N, L, dtype=torch.float64)
    frame_log_joint(model, z, power=power)
    TracedSpeech(model)(z)
    assert list(pyro.get_param_store()) == []
    assert model.state_dict()
    model(power=power)
    stored = {id(parameter) for parameter in pyro.get_param_store().values()}
    assert stored == {id(parameter) for parameter in model.parameters()}


def test_band_limited_is_the_lowest_bins() -> None:
    whole, z = SwitchedAVAE(), torch.randn(R, N, L, dtype=torch.float64)
    part = BandLimited(whole, 2)
    evaluation = part.given()(z)
    torch.testing.assert_close(evaluation.log_variance, whole.given()(z).log_variance[..., :2])
    torch.testing.assert_close(evaluation.log_prior, whole.given()(z).log_prior)
    for ours, by_trace in zip(evaluation, TracedSpeech(part)(z), strict=True):
        torch.testing.assert_close(ours, by_trace, rtol=1e-9, atol=1e-9)
    assert part(frames=4).shape == (4, 2)


def test_a_model_must_tell_a_story() -> None:
    with pytest.raises(NotImplementedError, match="SpeechModel must define latent"):
        SpeechModel()(frames=2)


def test_log_power_features() -> None:
    power = torch.rand(500, F, dtype=torch.float64) + 0.1
    features = LogPower(F).double()
    features.fit(power)
    out = features(power)
    torch.testing.assert_close(out.mean(0), torch.zeros(F, dtype=torch.float64), atol=1e-9, rtol=0)
    assert features.scale.unique().numel() == 1
    assert out.std().item() == pytest.approx(1, abs=0.01)
    assert features(torch.zeros(1, F, dtype=torch.float64)).isfinite().all()
    torch.testing.assert_close(RawPower()(power), power)


def test_decoder_starts_at_the_mean_log_power() -> None:
    model = a_vae()
    power = torch.rand(500, F, dtype=torch.float64)
    model.fit_scales(power)
    with torch.no_grad():
        model.decoder.trunk[0].weight.zero_()
        model.decoder.trunk[0].bias.zero_()
        out = model.decoder(torch.zeros(L, dtype=torch.float64))
    torch.testing.assert_close(out, torch.log(power + POWER_FLOOR).mean(0))


def test_a_whole_recording_of_silence_is_finite(tiny_pair: SpeechPair) -> None:
    silence = torch.zeros(4, tiny_pair.stft.bins)
    q = tiny_pair.guide.posterior(silence)
    z = q.mean
    assert q.log_prob(z).isfinite().all()
    assert frame_log_joint(tiny_pair.model, z, power=silence).isfinite().all()


def test_frozen_decoder_equals_the_trainable_one_and_follows_changes() -> None:
    """A frozen decoder folds its scale and shift into the last layer; no change of either goes unnoticed."""
    decoder = a_vae().decoder
    z = torch.randn(2, N, L, dtype=torch.float64)
    power = torch.rand(100, F, dtype=torch.float64)
    for change in (
        lambda: None,
        lambda: decoder.fit(power),
        lambda: nn.init.constant_(decoder.output.bias, 0.7),
        lambda: decoder.load_state_dict({k: v * 0.5 for k, v in decoder.state_dict().items()}),
    ):
        decoder.requires_grad_(True)
        change()
        trainable = decoder(z).detach()
        torch.testing.assert_close(decoder.requires_grad_(False)(z), trainable)
    torch.testing.assert_close(decoder.float()(z.float()).double(), trainable, rtol=1e-5, atol=1e-5)
