"""The weight of the audio-visual component, and the lower limit of the averaged gain."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from avse.inference.em.anchored import ComponentFits, VisualWeight, synchrony_score, with_weighted_gains
from avse.inference.posterior import Posterior
from avse.inference.presets import anchored_mcem
from avse.zoo import load


def test_synchrony_separates_matching_lips_from_others() -> None:
    generator = torch.Generator().manual_seed(0)
    level = torch.nn.functional.avg_pool1d(torch.randn(1, 1, 620, generator=generator), 20, 1)[:, 0]
    valid = torch.ones_like(level)
    assert float(synchrony_score(level, level + 0.1, valid, 31)) > 3
    assert float(synchrony_score(level, level.roll(200, -1), valid, 31)) < 2
    assert float(synchrony_score(level[:, :40], level[:, :40], valid[:, :40], 31)) == 0


def test_weight_decreases_with_the_snr_and_is_zero_without_lips() -> None:
    power, valid = torch.ones(1, 200, 9), torch.ones(1, 200)
    flat, intact = torch.zeros(1, 200), torch.zeros(1, 200)
    steady = torch.ones_like(power)
    varying = torch.linspace(0.1, 4, 200)[None, :, None].expand_as(power)

    def mean(
        gain: float,
        noise: torch.Tensor = steady,
        valid: torch.Tensor = valid,
        corrupted: torch.Tensor = intact,
    ) -> float:
        gains = torch.full_like(power, gain)
        audio = SimpleNamespace(wiener_gain=gains, noise=SimpleNamespace(variance=lambda: noise))
        fits = ComponentFits(audio, audio, gains, gains, flat, valid, corrupted)  # type: ignore[arg-type]
        return float(VisualWeight()(fits, power).mean())

    assert mean(0.9) < mean(0.5) < mean(0.1) <= VisualWeight().max_weight
    assert mean(0.5) < mean(0.5, noise=varying)  # lips help where the noise changes
    assert mean(0.1, valid=torch.zeros(1, 200)) == 0
    assert mean(0.1, corrupted=torch.ones(1, 200)) == 0


def test_lips_cannot_lower_the_gain_below_its_limit() -> None:
    pair = load("vae-mm")
    generator = torch.Generator().manual_seed(0)
    power = torch.rand(1, 80, pair.stft.bins, generator=generator)
    silence = torch.randn(80, pair.config.lips.size, generator=generator) * 3
    silence[:, -1] = 1
    algorithm = anchored_mcem()
    sound = algorithm.audio(
        pair.model.first, pair.guide.branch(1), power, None, torch.Generator().manual_seed(1)
    )
    mixed = algorithm(pair.model, pair.guide, power, silence, torch.Generator().manual_seed(1))
    assert (mixed.wiener_gain >= (1 - algorithm.weight.max_weight) * sound.wiener_gain - 1e-6).all()
    assert mixed.responsibilities.shape == (2, 1, 80)
    # Without weight on the lips the gain is the audio-only one; with weight it is not.
    none = replace(algorithm, weight=VisualWeight(max_weight=0.0))
    unweighted = none(pair.model, pair.guide, power, silence, torch.Generator().manual_seed(1))
    expected = sound.wiener_gain.clamp_min(sound.gain_floor)
    torch.testing.assert_close(unweighted.wiener_gain, expected)
    assert (mixed.wiener_gain - expected).abs().max() > 1e-3


def test_without_lips_it_is_the_audio_only_algorithm() -> None:
    pair = load("a-vae")
    power = torch.rand(1, 40, pair.stft.bins, generator=torch.Generator().manual_seed(0))
    algorithm = anchored_mcem()
    first = algorithm(pair.model, pair.guide, power, None, torch.Generator().manual_seed(1))
    second = algorithm.audio(pair.model, pair.guide, power, None, torch.Generator().manual_seed(1))
    torch.testing.assert_close(first.wiener_gain, second.wiener_gain)


def test_moments_of_the_mixture_are_those_written_out() -> None:
    """Var[s | x] = E |s|^2 - |E s|^2 under (1 - w) N_c(G_1 x, v_1) + w N_c(G_0 x, v_0)."""
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(2, 1, 6, 4, generator=generator, dtype=torch.float64)
    variances = torch.rand(2, 1, 6, 4, generator=generator, dtype=torch.float64)
    power = 3 * torch.rand(1, 6, 4, generator=generator, dtype=torch.float64)
    weight = torch.rand(1, 6, generator=generator, dtype=torch.float64)
    z, rate = torch.zeros(1, 2, 1, 6, 3), torch.ones(1, 6)
    audio, visual = (
        Posterior(z + k, None, gains[k], variances[k], torch.ones(1, 1, 6), rate, [], None)  # type: ignore[arg-type]
        for k in range(2)
    )
    found = with_weighted_gains(audio, visual, weight, power)
    shares = torch.stack([1 - weight, weight]).unsqueeze(-1)
    mean = (shares * gains).sum(0)
    second = (shares * (gains.square() * power + variances)).sum(0)
    torch.testing.assert_close(found.wiener_gain, mean)
    torch.testing.assert_close(found.variance, second - mean.square() * power)
    assert found.z[:, 0, 0, 0, 0].tolist() == [1.0, 0.0]  # with lips, then by sound
