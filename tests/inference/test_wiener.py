"""The averaged filter against sums written out, and against speech and noise that were simulated."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from avse.inference.wiener import average_filter, clean_share
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

N, F, L, R = 4, 5, 2, 3


class Line(torch.nn.Module):
    """log sigma_f = a_f'z: a decoder with a wide range."""

    def __init__(self, scale: float, size: int = L, bins: int = F) -> None:
        super().__init__()
        self.register_buffer("a", scale * torch.randn(size, bins, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.a


class Switched(SpeechModel):
    """alpha ~ Bernoulli(0.3) chooses the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoders = torch.nn.ModuleList([Line(1.0), Line(3.0)])

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
        z = pyro.sample(Z, dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1))
        return torch.where(alpha.unsqueeze(-1) > 0.5, self.decoders[1](z), self.decoders[0](z))


def noise(frames: int = N, bins: int = F) -> NMFNoise:
    return NMFNoise(
        torch.rand(bins, 2, dtype=torch.float64),
        torch.rand(2, frames, dtype=torch.float64),
        3 * torch.rand(frames, dtype=torch.float64) + 0.1,
    )


def test_average_over_draws_written_out() -> None:
    model = NoisySpeech(AVAE(StandardNormal(L).double(), Line(2.0)), noise())
    z = torch.randn(R, N, L, dtype=torch.float64)
    power = torch.rand(N, F, dtype=torch.float64)
    average = average_filter(model, z, power)
    noise_variance = (model.noise.W @ model.noise.H).T
    gains = []
    for draw in z:
        speech = model.noise.frame_gain[:, None] * model.speech.decoder(draw).exp()
        gains.append(speech / (speech + noise_variance))
    gain = sum(gains) / R
    spread = sum((g - gain).square() for g in gains) / R
    torch.testing.assert_close(average.gain, gain)
    torch.testing.assert_close(average.variance, gain * noise_variance + spread * power)
    torch.testing.assert_close(average.responsibilities, torch.ones(1, N, dtype=torch.float64))
    assert spread.max() > 0.01  # the second term matters
    # Every draw counts: without the last one the answer is another.
    assert (average_filter(model, z[:-1], power).gain - gain).abs().max() > 1e-3


def test_average_over_alpha_written_out() -> None:
    model = NoisySpeech(Switched(), noise())
    z = torch.randn(R, N, L, dtype=torch.float64)
    power = 3 * torch.rand(N, F, dtype=torch.float64)
    average = average_filter(model, z, power)
    noise_variance = model.noise.variance()
    gain, square, within = (torch.zeros(N, F, dtype=torch.float64) for _ in range(3))
    responsibilities = torch.zeros(2, N, dtype=torch.float64)
    for draw in z:
        filters, log_weights = [], []
        for alpha, prior in ((0, 0.7), (1, 0.3)):
            speech = model.noise.frame_gain[:, None] * model.speech.decoders[alpha](draw).exp()
            total = speech + noise_variance
            filters.append(speech / total)
            log_weights.append(math.log(prior) - (total.log() + power / total).sum(-1))
        weights = torch.stack(log_weights).softmax(0)
        responsibilities += weights / R
        for weight, g in zip(weights, filters, strict=True):
            gain += weight[:, None] * g / R
            square += weight[:, None] * g.square() / R
            within += weight[:, None] * g * noise_variance / R
    torch.testing.assert_close(average.gain, gain)
    torch.testing.assert_close(average.variance, within + (square - gain.square()) * power)
    torch.testing.assert_close(average.responsibilities, responsibilities)
    assert 0.02 < responsibilities[1].mean() < 0.98


def test_a_batch_is_each_recording_alone() -> None:
    together = NMFNoise(
        torch.rand(2, F, 2, dtype=torch.float64), torch.rand(2, 2, N, dtype=torch.float64), torch.ones(2, N)
    )
    speech = Switched()
    z, power = torch.randn(R, 2, N, L, dtype=torch.float64), torch.rand(2, N, F, dtype=torch.float64)
    average = average_filter(NoisySpeech(speech, together), z, power)
    for i in range(2):
        alone = NMFNoise(together.W[i], together.H[i], together.frame_gain[i])
        single = average_filter(NoisySpeech(speech, alone), z[:, i], power[i])
        for whole, part in zip(average, single, strict=True):
            torch.testing.assert_close(whole[:, i] if whole is average.responsibilities else whole[i], part)


def complex_normal(variance: Tensor) -> Tensor:
    return variance.sqrt() * torch.randn(variance.shape, dtype=torch.complex128)


@pytest.mark.parametrize("control", [False, True])
def test_oracle_is_the_wiener_filter(control: bool) -> None:
    """At the true z and noise, (sqrt(g) s - G x) / sqrt(Var) is white and uncorrelated with x.

    z-scores over 40 000 coefficients, |z| < 4.5, false alarms 2e-5. The control filters without the gain.
    """
    frames = 8000
    true = noise(frames)
    speech = AVAE(StandardNormal(L).double(), Line(2.0))
    z = torch.randn(frames, L, dtype=torch.float64)
    s = complex_normal(speech.decoder(z).exp())
    target = true.frame_gain.sqrt()[:, None] * s
    x = target + complex_normal(true.variance())
    used = NMFNoise(true.W, true.H, torch.ones_like(true.frame_gain)) if control else true
    average = average_filter(NoisySpeech(speech, used), z[None], x.abs().square())
    error = target - average.gain * x
    calibration = error.abs().square() / average.variance - 1
    correlation = (error * x.conj()).real / average.variance.sqrt()
    scores = [float(t.mean() / (t.std() / t.numel() ** 0.5)) for t in (calibration, correlation)]
    assert (max(abs(score) for score in scores) < 4.5) != control


def test_posterior_variance_covers_the_uncertainty_of_z() -> None:
    """z drawn from the model, and 200 exact posterior draws from a grid: E|s - G x|^2 = Var.

    z-score over 8000 frames, |z| < 4.5 (false alarm 7e-6); without Var[G] |x|^2 the same score is far off.
    """
    frames, bins, draws = 8000, 3, 200
    true = noise(frames, bins)
    speech = AVAE(StandardNormal(1).double(), Line(3.0, 1, bins))
    speech.decoder.a = torch.tensor([[2.0, -3.0, 4.0]], dtype=torch.float64)  # not by chance flat
    model = NoisySpeech(speech, true)
    z = torch.randn(frames, 1, dtype=torch.float64)
    target = true.frame_gain.sqrt()[:, None] * complex_normal(speech.decoder(z).exp())
    x = target + complex_normal(true.variance())
    power = x.abs().square()
    grid = torch.linspace(-5, 5, 400, dtype=torch.float64)
    log_joint = model.log_joint(grid[:, None, None].expand(-1, frames, 1), power)[0]
    index = torch.multinomial(log_joint.softmax(0).T, draws, replacement=True).T
    average = average_filter(model, grid[index][..., None], power)
    within = average_filter(model, grid[index][:1, ..., None], power).variance
    square = (target - average.gain * x).abs().square()

    def score(variance: Tensor) -> float:
        frame = ((square - variance) / average.variance).mean(-1)
        return float(frame.mean() / (frame.std() / frames**0.5))

    assert abs(score(average.variance)) < 4.5
    assert score(within) > 5


@pytest.mark.parametrize(("level", "low", "high"), [(0.0, 0.0, 0.01), (31.0, 0.3, 0.7), (40.0, 0.98, 1.0)])
def test_clean_share_follows_the_level_of_the_noise(level: float, low: float, high: float) -> None:
    """Noise in one half of the bins, which an ideal filter takes away."""
    noise = 10 ** (-level / 10)
    power = torch.cat([torch.ones(N, F, dtype=torch.float64), torch.full((N, F), noise).double()], -1)
    gain = torch.cat([torch.ones(N, F), torch.zeros(N, F)], -1).double()
    rejected = torch.zeros(2 * F, dtype=torch.float64)
    assert low <= float(clean_share(gain, power, rejected)) <= high
    several = clean_share(gain.expand(3, N, 2 * F), power.expand(3, N, 2 * F), rejected)
    assert several.shape == (3,)


@pytest.mark.parametrize(("level", "low", "high"), [(5.0, 0.0, 0.01), (16.0, 0.3, 0.7), (25.0, 0.98, 1.0)])
def test_clean_share_follows_what_is_below_the_high_pass(level: float, low: float, high: float) -> None:
    """The first of F bins held 10^(-level / 10) of the power of the others; the filter takes nothing away."""
    power, gain = torch.ones(N, F, dtype=torch.float64), torch.ones(N, F, dtype=torch.float64)
    rejected = torch.zeros(F, dtype=torch.float64)
    rejected[0] = (F * 10 ** (-level / 10)) ** 0.5
    assert low <= float(clean_share(gain, power, rejected)) <= high


def test_clean_share_of_silence_is_finite() -> None:
    assert float(clean_share(torch.zeros(N, F), torch.zeros(N, F), torch.ones(F))) == 1
