"""The active speech level of ITU-T P.56 against signals whose level is known."""

import numpy as np
import pytest

from avse.data.errors import InputError
from avse.data.mixing import mix_active, white_noise
from avse.data.speech_level import active_speech_level

RATE = 16000


def tone(seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * 440 / RATE * np.arange(round(seconds * RATE)))


def gated(active: float, silent: float, times: int = 2) -> np.ndarray:
    return np.tile(np.concatenate([tone(active), np.zeros(round(silent * RATE))]), times)


def test_a_steady_tone_is_active_all_the_time() -> None:
    level, activity = active_speech_level(0.5 * tone(10), RATE)
    assert level == pytest.approx(10 * np.log10(0.5 * 0.5**2), abs=0.05)
    assert activity == pytest.approx(1, abs=0.01)


def test_a_tone_gated_half_the_time_has_3_db_more_than_its_mean_power() -> None:
    signal = gated(20, 20)
    level, activity = active_speech_level(signal, RATE)
    assert level - 10 * np.log10(np.mean(signal**2)) == pytest.approx(3.01, abs=0.1)
    assert activity == pytest.approx(0.5, abs=0.01)


def test_pauses_shorter_than_the_hangover_are_speech() -> None:
    assert active_speech_level(gated(0.3, 0.1, 40), RATE).activity > 0.95
    assert active_speech_level(gated(0.5, 1.5, 10), RATE).activity == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("gain", [1e-3, 0.7, 30.0])
def test_the_level_follows_a_gain_and_the_activity_does_not(gain: float) -> None:
    before, after = active_speech_level(gated(3, 2), RATE), active_speech_level(gain * gated(3, 2), RATE)
    assert after.level - before.level == pytest.approx(20 * np.log10(gain), abs=1e-6)
    assert after.activity == pytest.approx(before.activity, abs=1e-9)


def test_quiet_background_noise_is_no_speech() -> None:
    noise = 0.003 * np.random.default_rng(0).standard_normal(80 * RATE)
    assert active_speech_level(gated(20, 20) + noise, RATE).activity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("quiet_db", "active"), [(-12.0, 1.0), (-20.0, 0.5)])
def test_what_is_15_9_db_below_the_active_level_is_silence(quiet_db: float, active: float) -> None:
    """Half loud, half quiet. If both are active, the threshold is 18.6 dB below the loud half, and
    the envelope of a tone is 0.9 dB below its level: at -12 dB the quiet half is above, at -20 dB below."""
    signal = np.concatenate([tone(20), 10 ** (quiet_db / 20) * tone(20)])
    level, activity = active_speech_level(signal, RATE)
    assert activity == pytest.approx(active, abs=0.01)
    assert level == pytest.approx(10 * np.log10(np.mean(signal**2) / active), abs=0.1)


def test_a_mixture_has_the_stated_level_over_the_active_time() -> None:
    speech = gated(20, 20)
    mixture, noise = mix_active(speech, white_noise(len(speech), np.random.default_rng(0)), 5.0, RATE)
    np.testing.assert_allclose(mixture - speech, noise, atol=1e-9)
    level = active_speech_level(speech, RATE).level - 10 * np.log10(np.mean(noise**2))
    assert level == pytest.approx(5, abs=0.01)
    assert 10 * np.log10((speech**2).sum() / (noise**2).sum()) == pytest.approx(2, abs=0.1)


def test_a_click_is_active_for_the_hangover() -> None:
    click = np.zeros(10 * RATE)
    click[RATE] = 1.0
    assert 0.02 <= active_speech_level(click, RATE).activity <= 0.05


@pytest.mark.parametrize("signal", [np.zeros(10), np.zeros(0), np.ones((4, 2)), np.full(4, np.nan)])
def test_what_has_no_level_is_refused(signal: np.ndarray) -> None:
    with pytest.raises(InputError, match="no active level"):
        active_speech_level(signal, RATE)
