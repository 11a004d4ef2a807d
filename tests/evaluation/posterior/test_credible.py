"""Draws of the speech against moments in closed form, and against speech that was simulated.

False alarms are stated with every check.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from avse.data.stft import STFT
from avse.evaluation.posterior.credible import (
    credible_band,
    draw_speech,
    level_draws,
    sample_waveforms,
    speech_moments,
)
from avse.evaluation.posterior.functionals import decibels, given_z
from avse.inference.responsibilities import draw_component
from avse.inference.wiener import average_filter
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z
from avse.models.vae_mm import VAEMM

N, F, L = 4, 5, 2


class Line(torch.nn.Module):
    """log sigma_f = a_f'z + offset."""

    def __init__(self, scale: float, size: int = L, bins: int = F, offset: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("a", scale * torch.randn(size, bins, dtype=torch.float64))
        self.offset = offset

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.a + self.offset


class Switched(SpeechModel):
    """alpha ~ Bernoulli(0.3) chooses between quiet and loud speech."""

    def __init__(self) -> None:
        super().__init__()
        self.decoders = torch.nn.ModuleList([Line(0.5, offset=-1.0), Line(0.5, offset=1.0)])

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
        z = pyro.sample(Z, dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1))
        return torch.where(alpha.unsqueeze(-1) > 0.5, self.decoders[1](z), self.decoders[0](z))


def noise(frames: int = N, bins: int = F) -> NMFNoise:
    return NMFNoise(
        torch.rand(bins, 2, dtype=torch.float64) + 0.1,
        torch.rand(2, frames, dtype=torch.float64) + 0.1,
        torch.rand(frames, dtype=torch.float64) + 0.5,
    )


def complex_normal(variance: Tensor) -> Tensor:
    return variance.sqrt() * torch.randn(variance.shape, dtype=torch.complex128)


def test_moments_are_those_of_the_averaged_filter() -> None:
    model = NoisySpeech(Switched(), noise())
    z = torch.randn(2, 3, N, L, dtype=torch.float64)
    x = complex_normal(torch.ones(N, F, dtype=torch.float64))
    moments = speech_moments(model, z, x)
    average = average_filter(model, z.flatten(0, 1), x.abs().square())
    torch.testing.assert_close(moments.mean, average.gain * x)
    torch.testing.assert_close(moments.std.square(), average.variance)


@pytest.mark.parametrize("control", [False, True])
def test_draws_have_the_moments(control: bool, generator: Generator) -> None:
    """3 draws of z, 4000 draws of the speech from each; the control ignores what x says of alpha.

    z-scores of mean (real, imaginary) and variance in 20 bins, 60 in all, |z| < 5: false alarms 4e-5.
    """
    model = NoisySpeech(Switched(), noise())
    z = torch.randn(1, 3, N, L, dtype=torch.float64)
    x = complex_normal(3 * torch.ones(N, F, dtype=torch.float64))
    moments = speech_moments(model, z, x)
    used = model
    if control:
        used = NoisySpeech(AVAE(StandardNormal(L).double(), model.speech.decoders[0]), model.noise)
    draws = draw_speech(used, z[0].repeat(4000, 1, 1, 1), x.expand(4000, 3, N, F), None, generator).flatten(
        0, 1
    )
    errors = torch.view_as_real(draws - moments.mean)
    square = errors.square().sum(-1) - moments.std.square()
    scores = [t.mean(0) / (t.std(0) / len(t) ** 0.5) for t in (errors.flatten(1), square.flatten(1))]
    assert (max(float(score.abs().max()) for score in scores) < 5) != control


def test_alpha_is_drawn_by_its_responsibilities(generator: Generator) -> None:
    """3 x 5 frequencies of 20 000 draws, |z| < 5: false alarms 9e-6. Certain ones are always drawn."""
    weights = torch.rand(3, 5, dtype=torch.float64)
    weights = weights / weights.sum(0)
    many = draw_component(weights.unsqueeze(1).expand(3, 20000, 5), generator)
    for a in range(3):
        error = (many == a).double().mean(0) - weights[a]
        assert (error.abs() < 5 * (weights[a] * (1 - weights[a]) / 20000).sqrt()).all()
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).unsqueeze(1).expand(2, 1000, 2)
    assert (draw_component(sure, generator) == torch.tensor([0, 1])).all()
    assert (draw_component(torch.ones(1, 7), generator) == 0).all()


def test_without_z_the_draws_are_the_conjugate_posterior(generator: Generator) -> None:
    """A decoder that ignores z leaves s ~ N_c(0, v), b ~ N_c(0, u): s | x ~ N_c(G x, G u), G = v / (v + u).

    Whitened draws are N_c(0, 1): |e|^2 is exponential and the phase uniform. Two Kolmogorov-Smirnov tests of
    20 000 values at p > 1e-5: false alarms 2e-5.
    """
    speech = AVAE(StandardNormal(L).double(), Line(0.0, offset=0.4))
    model = NoisySpeech(speech, noise(1000))
    x = complex_normal(torch.ones(1000, F, dtype=torch.float64) * 2)
    v = model.noise.frame_gain[:, None] * math.exp(0.4)
    u = model.noise.variance()
    gain = v / (v + u)
    draws = [draw_speech(model, torch.randn(1000, L).double(), x, None, generator) for _ in range(4)]
    e = torch.stack([(draw - gain * x) / (gain * u).sqrt() for draw in draws]).flatten()
    assert stats.kstest(e.abs().square(), "expon").pvalue > 1e-5
    assert stats.kstest((e.angle() + math.pi) / (2 * math.pi), "uniform").pvalue > 1e-5


@pytest.mark.parametrize("control", [False, True])
def test_true_levels_lie_in_credible_bands_as_often_as_said(control: bool, generator: Generator) -> None:
    """3000 frames simulated from the model, z drawn from the exact posterior on a grid.

    The rank of the true level among 99 draws is uniform: Kolmogorov-Smirnov at p > 1e-4 in 2 bands, and
    coverage of the 80 % band within 5 standard errors: false alarms 2e-4. The control takes the expected
    power given z in place of a draw of the speech, and is too sure.
    """
    frames, bins, draws = 3000, 4, 99
    true = noise(frames, bins)
    speech = AVAE(StandardNormal(1).double(), Line(1.5, 1, bins))
    model = NoisySpeech(speech, true)
    z = torch.randn(frames, 1, dtype=torch.float64)
    s = true.frame_gain.sqrt()[:, None] * complex_normal(speech.decoder(z).exp())
    power = (s + complex_normal(true.variance())).abs().square()
    grid = torch.linspace(-5, 5, 300, dtype=torch.float64)
    log_joint = model.log_joint(grid[:, None, None].expand(-1, frames, 1), power)[0]
    index = torch.multinomial(log_joint.softmax(0).T, draws, replacement=True, generator=generator).T
    posterior = grid[index][None, ..., None]
    bands = [slice(0, 1), slice(1, bins)]
    truth = decibels(torch.stack([s.abs().square()[:, band].mean(-1) for band in bands], -1))
    levels = level_draws(model, posterior, power, bands, generator)
    if control:
        expected = [given_z(model, draw, power) for draw in posterior[0]]
        means = torch.stack([(g.gain.square() * power + g.speech_variance)[0] for g in expected])
        levels = decibels(torch.stack([means[..., band].mean(-1) for band in bands], -1))[None]
    assert levels.shape == (1, draws, frames, 2)
    band = credible_band(levels, 0.8)
    covered = ((band.lower <= truth) & (truth <= band.upper)).double().mean(0)
    # Of n draws the interval between their quantiles p and 1 - p holds (1 - 2 p) (n - 1) / (n + 1).
    claimed = 0.8 * (draws - 1) / (draws + 1)
    calibrated = bool(((covered - claimed).abs() < 5 * (0.16 / frames) ** 0.5).all())
    ranks = ((levels[0] < truth).sum(0) + torch.rand(frames, 2)) / (draws + 1)
    for b in range(2):
        calibrated &= bool(stats.kstest(ranks[:, b], "uniform").pvalue > 1e-4)
    assert calibrated != control
    assert (band.lower <= band.median).all()
    assert (band.median <= band.upper).all()


@pytest.mark.parametrize("count", [1, 2, 37])
def test_credible_bands_are_quantiles(count: int) -> None:
    draws = torch.randn(2, count, 3, 4, dtype=torch.float64)
    for probability in (0.5, 0.9, 1.0):
        tail = (1 - probability) / 2
        levels = torch.tensor([tail, 0.5, 1 - tail], dtype=torch.float64)
        expected = draws.flatten(0, 1).quantile(levels, dim=0)
        torch.testing.assert_close(torch.stack(credible_band(draws, probability)), expected)


def test_a_mixture_that_is_sure_of_alpha_draws_as_its_component() -> None:
    """With pi = 1 the draws are those of the first component, number for number."""
    first, second = (AVAE(StandardNormal(L).double(), Line(scale)) for scale in (0.5, 2.0))
    own_noise = noise()
    z, power = torch.randn(2, 3, N, L, dtype=torch.float64), torch.rand(N, F, dtype=torch.float64)
    alone, mixed = (
        level_draws(NoisySpeech(speech, own_noise), z, power, [slice(0, F)], torch.Generator().manual_seed(3))
        for speech in (first, VAEMM(first, second, pi=1.0).double())
    )
    torch.testing.assert_close(alone, mixed)


def test_sounds_average_to_the_posterior_mean(generator: Generator) -> None:
    """600 sounds of 1000 samples. The mean squared z-score is at most 1 (less, since every draw of z is taken
    equally often) with a standard deviation below 0.2 if samples correlate within a window of 64; below 2:
    false alarms below 1e-6. The control, another posterior mean, is far off."""
    stft = STFT(window_length=64, hop_length=16)
    frames = stft.frames(1000)
    model = NoisySpeech(AVAE(StandardNormal(L).double(), Line(0.7, bins=33)), noise(frames, 33))
    x = stft.analysis(torch.randn(1000, dtype=torch.float64))
    z = torch.randn(2, 5, frames, L, dtype=torch.float64)
    sounds = sample_waveforms(model, z, x, stft, 1000, 600, generator)
    assert sounds.shape == (600, 1000)
    moments = speech_moments(model, z, x)
    standard_error = sounds.std(0) / 600**0.5
    for spectrum, good in ((moments.mean, True), (0.9 * moments.mean, False)):
        scores = (sounds.mean(0) - stft.synthesis(spectrum, 1000)) / standard_error
        assert (float(scores.square().mean()) < 2) == good


def test_sounds_vary_as_much_as_independent_bins_say(generator: Generator) -> None:
    """Bins of one variance nu: a sample of the synthesis has variance nu (M - 1) / M^2 / sum_n w^2(t - n h).

    Mean over 800 samples of 500 sounds; within 5 % (standard deviation below 0.5 %).
    """
    stft = STFT(window_length=32, hop_length=8)
    frames = stft.frames(800)
    flat = NMFNoise(
        torch.ones(17, 1).double(), torch.ones(1, frames).double(), torch.ones(frames, dtype=torch.float64)
    )
    model = NoisySpeech(AVAE(StandardNormal(L).double(), Line(0.0, bins=17)), flat)
    z = torch.zeros(1, 1, frames, L, dtype=torch.float64)
    x = stft.analysis(torch.zeros(800, dtype=torch.float64))
    sounds = sample_waveforms(model, z, x, stft, 800, 500, generator)
    # sin^2 windows at a quarter of their length sum to 2; G V_b = 1 / 2.
    expected = 0.5 * 31 / 32**2 / 2
    assert float(sounds.square().mean()) == pytest.approx(expected, rel=0.05)


def test_sounds_are_seeded_and_take_all_draws_in_turn() -> None:
    stft = STFT(window_length=16, hop_length=8)
    frames = stft.frames(40)
    loud = torch.zeros(2, 2, 3, frames, L, dtype=torch.float64)
    for r in range(4):
        loud[r // 2, r % 2] = 6.0 if r else -6.0
    speech = AVAE(StandardNormal(L).double(), Line(0.0, bins=9))
    speech.decoder.a[:] = 1.0
    model = NoisySpeech(speech, noise(frames, 9))
    x = stft.analysis(torch.randn(3, 40, dtype=torch.float64))

    def sounds(seed: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample_waveforms(model, loud, x, stft, 40, count, generator)

    first = sounds(0, 8)
    assert first.shape == (8, 3, 40)
    torch.testing.assert_close(first, sounds(0, 8), rtol=1e-9, atol=1e-12)
    assert not torch.equal(first, sounds(1, 8))
    # Where the speech is far louder than the noise, a sound is nearly the mixture: with three draws of four.
    near = ((first - stft.synthesis(x, 40)).square().mean((1, 2)) < 0.1).reshape(2, 4)
    assert near.sum(1).tolist() == [3, 3]
