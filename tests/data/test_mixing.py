import numpy as np
import pytest

from avse.data.errors import InputError
from avse.data.mixing import mix, noise_excerpt, pink_noise, white_noise


def level(speech: np.ndarray, noise: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(speech.astype(float) ** 2) / np.sum(noise.astype(float) ** 2)))


@pytest.mark.parametrize("level_db", [-15.0, -5.0, 0.0, 7.3, 15.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mix_reaches_the_level_and_leaves_the_speech(level_db: float, dtype: type) -> None:
    generator = np.random.default_rng(0)
    speech: np.ndarray = generator.laplace(size=5000).astype(dtype)
    noise: np.ndarray = 30 * generator.normal(size=5000).astype(dtype)
    before = speech.copy()
    mixture, scaled = mix(speech, noise, level_db)
    assert mixture.dtype == scaled.dtype == dtype
    assert level(speech, scaled) == pytest.approx(level_db, abs=1e-5)
    np.testing.assert_array_equal(mixture, speech + scaled)
    np.testing.assert_array_equal(speech, before)
    ratio = scaled / noise
    assert ratio.min() > 0
    assert np.ptp(ratio) / ratio.mean() < 1e-6


def test_mix_does_not_depend_on_the_noise_level() -> None:
    generator = np.random.default_rng(0)
    speech, noise = generator.normal(size=1000), generator.normal(size=1000)
    loud, quiet = mix(speech, 1e6 * noise, 3.0), mix(speech, 1e-6 * noise, 3.0)
    np.testing.assert_allclose(loud[0], quiet[0])


@pytest.mark.parametrize(
    ("speech", "noise", "level_db", "mend"),
    [
        (np.ones(5), np.ones(6), 0.0, "noise_excerpt"),
        (np.ones((5, 2)), np.ones((5, 2)), 0.0, r"shape \(T,\)"),
        (np.zeros(5), np.ones(5), 0.0, "the speech is silent"),
        (np.ones(5), np.zeros(5), 0.0, "the noise is silent"),
        (np.ones(0), np.ones(0), 0.0, "silent"),
        (np.array([1.0, np.nan]), np.ones(2), 0.0, "the speech holds NaN"),
        (np.ones(2), np.array([1.0, np.inf]), 0.0, "the noise holds NaN"),
        (np.ones(2), np.array([1.0, 1e200]), 0.0, "huge"),
        (np.ones(2), np.ones(2), np.nan, "finite"),
        (np.ones(2), np.ones(2), np.inf, "finite"),
        (np.ones(2, np.float32), np.ones(2), -1000.0, "nearer to 0"),
        (np.ones(2), np.ones(2), -1e5, "nearer to 0"),
        (np.ones(2), np.ones(2), 1e5, "nearer to 0"),
    ],
)
def test_mix_refuses(speech: np.ndarray, noise: np.ndarray, level_db: float, mend: str) -> None:
    with pytest.raises(InputError, match=mend):
        mix(speech, noise, level_db)


def test_excerpt_of_a_long_recording_is_a_slice_that_the_seed_fixes() -> None:
    noise = np.arange(10_000.0)
    first = noise_excerpt(noise, 300, np.random.default_rng(5))
    again = noise_excerpt(noise, 300, np.random.default_rng(5))
    other = noise_excerpt(noise, 300, np.random.default_rng(6))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.diff(first), 1.0)
    assert first[0] != other[0]
    first[:] = 0
    assert noise[1] == 1.0


def test_every_offset_is_reached() -> None:
    generator = np.random.default_rng(0)
    starts = {int(noise_excerpt(np.arange(7.0), 3, generator)[0]) for _ in range(200)}
    assert starts == {0, 1, 2, 3, 4}  # missed with probability below 5 * 0.8**200 = 2e-19
    np.testing.assert_array_equal(noise_excerpt(np.arange(7.0), 7, generator), np.arange(7))


def test_short_recording_is_looped_without_steps_or_loss_of_power() -> None:
    time = np.arange(4000)
    slow = np.sin(2 * np.pi * time / 1000 + 0.3)
    looped = noise_excerpt(slow, 20_000, np.random.default_rng(0))
    assert looped.shape == (20_000,)
    assert np.abs(np.diff(looped)).max() < 0.02  # the ends differ by far more without the fade
    np.testing.assert_array_equal(looped[:-3744], looped[3744:])  # the loop is 4000 - 256 long

    white = np.random.default_rng(1).normal(size=(400, 1000))
    joins = np.array([noise_excerpt(row, 1488, np.random.default_rng(2)) for row in white])
    power = np.mean(joins**2, axis=0)  # (1488,), chi-squared of 400: standard deviation 0.07
    assert np.abs(power - 1).max() < 0.45  # 6 standard deviations, 1488 samples: false alarm below 1e-5


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_tiny_recordings_are_looped(size: int) -> None:
    assert noise_excerpt(np.ones(size), 1000, np.random.default_rng(0)).shape == (1000,)


def test_excerpt_refuses() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(InputError, match="shape"):
        noise_excerpt(np.ones((5, 2)), 3, generator)
    with pytest.raises(InputError, match="shape"):
        noise_excerpt(np.ones(0), 3, generator)
    with pytest.raises(InputError, match="1 or more"):
        noise_excerpt(np.ones(5), 0, generator)


def test_white_noise_has_unit_power_and_a_flat_spectrum() -> None:
    noise = white_noise(100_000, np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert noise.shape == (100_000,)
    assert np.mean(noise**2) == pytest.approx(1.0, abs=0.025)  # 5 standard errors of 0.0045
    low, high = np.split(np.abs(np.fft.rfft(noise)[1:]) ** 2, 2)
    assert low.mean() / high.mean() == pytest.approx(1.0, abs=0.045)  # 5 standard errors of 0.009
    np.testing.assert_array_equal(noise, white_noise(100_000, np.random.default_rng(0)))


def test_pink_noise_falls_three_decibels_an_octave() -> None:
    noise = pink_noise(2**18, np.random.default_rng(0))
    assert float(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(8, 16)]
    np.testing.assert_allclose(np.diff(10 * np.log10(octaves)), -3.01, atol=0.8)
