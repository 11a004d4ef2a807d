"""The predictive check on data simulated from the model, with draws from the exact posterior on a grid.

False alarms are stated with every check; wrong noise must fail.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from avse.data.stft import STFT
from avse.evaluation.posterior.predictive import PredictiveCheck, predictive_check
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

F = 8
BANDS = [slice(0, 2), slice(2, F)]
GRID = torch.linspace(-5, 5, 200, dtype=torch.float64)


class Line(torch.nn.Module):
    """log sigma_f = a_f z."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("a", scale * torch.randn(1, F, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.a


class Switched(SpeechModel):
    """alpha ~ Bernoulli(0.5) chooses the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoders = torch.nn.ModuleList([Line(0.7), Line(2.0)])

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Bernoulli(torch.tensor(0.5, dtype=torch.float64)))
        z = pyro.sample(Z, dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
        return torch.where(alpha.unsqueeze(-1) > 0.5, self.decoders[1](z), self.decoders[0](z))


def noise(frames: int) -> NMFNoise:
    return NMFNoise(
        torch.rand(F, 2, dtype=torch.float64) + 0.1,
        torch.rand(2, frames, dtype=torch.float64) + 0.1,
        torch.ones(frames, dtype=torch.float64),
    )


def exact_draws(model: NoisySpeech, power: Tensor, draws: int, generator: Generator) -> Tensor:
    """(1, D, N, 1)."""
    joint = model.log_joint(GRID[:, None, None].expand(-1, len(power), 1), power).logsumexp(0)
    index = torch.multinomial(joint.softmax(0).T, draws, replacement=True, generator=generator).T
    return GRID[index][None, ..., None]


def checked(
    speech: SpeechModel, frames: int, factor: float, generator: Generator, num_draws: int = 5, draws: int = 20
) -> PredictiveCheck:
    """Data from the model; checked with `factor` times its noise."""
    true = noise(frames)
    power = NoisySpeech(speech, true)()
    used = NoisySpeech(speech, NMFNoise(factor * true.W, true.H, true.frame_gain))
    z = exact_draws(used, power, draws, generator)
    return predictive_check(used, z, power, generator, bands=BANDS, num_draws=num_draws)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("mixture", [False, True])
def test_right_noise_fits_and_wrong_noise_does_not(
    factor: float, mixture: bool, generator: Generator
) -> None:
    """2000 frames, at a false-alarm rate of 1e-4."""
    speech = Switched() if mixture else AVAE(StandardNormal(1).double(), Line(1.5))
    check = checked(speech, 2000, factor, generator)
    assert check.fits(1e-4) == (factor == 1.0)
    assert ("not as" in str(check)) == (factor != 1.0)
    if factor == 1.0:
        assert (check.excess.abs() < 0.3).all()
    else:
        assert (check.excess.sign() == (1.0 if factor < 1 else -1.0)).any()


@pytest.mark.slow
def test_pivotal_p_values_are_uniform_and_medians_are_valid(generator: Generator) -> None:
    """Of 80 recordings of 40 frames from the model, p-values of single draws are uniform: four
    Kolmogorov-Smirnov tests at p > 1e-4, and twice the median of three is below 0.2 in no more than a fifth
    (5 standard errors): false alarms 4e-4."""
    speech = AVAE(StandardNormal(1).double(), Line(1.5))
    single = [checked(speech, 60, 1.0, generator, num_draws=1) for _ in range(150)]
    for values in (
        torch.stack([own.band_p_value for own in single]),
        torch.stack([own.bin_p_value for own in single]),
    ):
        for band in values.T:
            assert stats.kstest(band, "uniform").pvalue > 1e-4
    several = torch.stack([checked(speech, 60, 1.0, generator, num_draws=3).band_p_value for _ in range(150)])
    assert (several < 0.2).double().mean() < 0.2 + 5 * (0.16 / 300) ** 0.5


def test_posterior_predictive_p_values_are_the_share_of_replicas(generator: Generator) -> None:
    """400 replicas for each of 20 draws, 30 frames in 2 bands, within 5 binomial standard errors (false
    alarms 3e-5)."""
    speech, true = AVAE(StandardNormal(1).double(), Line(1.5)), noise(30)
    model = NoisySpeech(speech, true)
    power = model()
    draws = exact_draws(model, power, 20, generator)
    check = predictive_check(model, draws, power, generator, bands=BANDS)
    variance = speech.decoder(draws[0]).exp() + true.variance()
    replicas = variance * torch.empty(400, *variance.shape, dtype=torch.float64).exponential_()
    for b, band in enumerate(BANDS):
        observed, replicated = ((p / variance)[..., band].sum(-1) for p in (power, replicas))
        share = (replicated >= observed).double().mean((0, 1))
        error = (check.p_values[:, b] * (1 - check.p_values[:, b]) / 8000).sqrt()
        assert ((share - check.p_values[:, b]).abs() < 5 * error + 1e-3).all()


def test_posterior_predictive_p_values_crowd_around_one_half(generator: Generator) -> None:
    """4000 frames of a right model that says little beforehand: their mean is 1/2 and their variance below
    the 1/12 of the uniform, by 5 standard errors (0.0012 for the variance of the uniform): false alarms
    3e-6. Pivots, the control, are uniform: their variance is not below."""
    speech = AVAE(StandardNormal(1).double(), Line(1.5))
    speech.decoder.a = torch.linspace(1.5, 2.5, F, dtype=torch.float64).unsqueeze(0)
    check = checked(speech, 4000, 1.0, generator)
    bound = 1 / 12 - 5 * ((1 / 80 - 1 / 144) / 4000) ** 0.5
    assert (check.p_values.var(0) < bound).all()
    assert ((check.p_values.mean(0) - 0.5).abs() < 5 * (1 / 12 / 4000) ** 0.5).all()
    assert (torch.rand(4000, generator=generator, dtype=torch.float64).var() > bound).all()


def test_shapes_of_batches_and_strides(generator: Generator) -> None:
    true = NMFNoise(torch.rand(2, F, 1) + 0.1, torch.rand(2, 1, 10) + 0.1, torch.ones(2, 10))
    model = NoisySpeech(AVAE(StandardNormal(1), Line(0.0).float()), true)
    power = torch.rand(2, 10, F)
    check = predictive_check(model, torch.zeros(3, 2, 2, 10, 1), power, generator, num_draws=4, stride=(3, 2))
    assert check.pivots.shape == (4, 2, 4, 4)
    assert check.p_values.shape == (2, 10, 4)
    ratio = power.double() / (1 + true.variance().double())
    expected = torch.special.gammainc(torch.tensor(2.0), ratio[..., [4, 6]].sum(-1).float())
    torch.testing.assert_close(check.pivots[0, ..., -1], expected[:, ::3].double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("stride", "fits"), [((4, 2), True), ((1, 1), False)])
def test_windows_overlap(stride: tuple[int, int], fits: bool, generator: Generator) -> None:
    """White noise of known variance, through a sine window at a quarter of its length: a stride of (4, 2)
    leaves independent values (false alarms 1e-4), all of them are not what the model says."""
    stft = STFT(window_length=256, hop_length=64)
    x = stft.analysis(torch.randn(300000, dtype=torch.float64))[4:-4]
    frames, bins = x.shape
    flat = NMFNoise(
        torch.full((bins, 1), 128.0).double(),  # sum_t w^2(t) = M / 2
        torch.ones(1, frames, dtype=torch.float64),
        torch.ones(frames, dtype=torch.float64),
    )
    silent = AVAE(StandardNormal(1).double(), lambda z: (-30 * torch.ones(bins)).expand(*z.shape[:-1], bins))
    check = predictive_check(
        NoisySpeech(silent, flat),
        torch.zeros(1, 1, frames, 1),
        x.abs().square(),
        generator,
        bands=[slice(2, bins - 2)],  # the power of real bins at both ends is no exponential
        stride=stride,
    )
    assert check.fits(1e-4) == fits
    assert abs(float(check.excess)) < 0.1
