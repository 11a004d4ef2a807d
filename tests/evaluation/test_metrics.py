import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.errors import InputError
from avse.data.mixing import mix
from avse.evaluation.metrics import (
    METRICS,
    all_metrics,
    check_metrics,
    dnsmos,
    estoi,
    improvements,
    pesq_nb,
    pesq_wb,
    sdr,
    si_sdr,
    stoi,
)

RATE = 16000
Signal = npt.NDArray[np.float64]
Metric = Callable[[npt.ArrayLike, npt.ArrayLike, int], float]


def speech_like(seconds: float = 3.0, rate: int = RATE, seed: int = 0) -> Signal:
    """Harmonics of a wandering pitch under moving formants, four syllables a second, with some breath."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = np.zeros_like(time)
    for harmonic in range(1, 30):
        formant = 700 + 500 * np.sin(2 * np.pi * 1.3 * time)
        weight = np.exp(-(((harmonic * pitch - formant) / 400) ** 2)) + 0.3 / harmonic
        voice += weight * np.sin(harmonic * phase)
    breath = 0.05 * generator.normal(size=time.size)
    syllables = np.clip(np.sin(2 * np.pi * 2 * time), 0, None) ** 0.5
    return 0.1 * syllables * (voice + breath)


def noise_like(length: int, seed: int = 1) -> Signal:
    return np.random.default_rng(seed).normal(size=length)


@pytest.mark.parametrize("level_db", [-15.0, 0.0, 12.5])
def test_si_sdr_of_orthogonal_noise_is_the_level(level_db: float) -> None:
    reference, noise = speech_like(), noise_like(3 * RATE)
    noise -= (noise @ reference) / (reference @ reference) * reference
    mixture, _ = mix(reference, noise, level_db)
    assert si_sdr(reference, mixture, RATE) == pytest.approx(level_db, abs=1e-9)


def test_si_sdr_closed_form_in_two_dimensions() -> None:
    # e = (1, 1) against s = (2, 0): a s = (1, 0), e - a s = (0, 1).
    assert si_sdr([2.0, 0.0], [1.0, 1.0], RATE) == pytest.approx(0.0)
    assert si_sdr([2.0, 0.0], [3.0, 1.0], RATE) == pytest.approx(10 * math.log10(9))


def test_ratios_are_limited_to_100_db() -> None:
    reference = speech_like()
    assert si_sdr(reference, 3 * reference, RATE) == pytest.approx(100)
    assert sdr(reference, reference, RATE) == pytest.approx(100, abs=1e-3)
    assert si_sdr([1.0, 0.0], [0.0, 1.0], RATE) == pytest.approx(-100)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("gain", [1e-4, 50.0])
def test_the_level_of_the_estimate_plays_no_part(name: str, gain: float) -> None:
    reference = speech_like()
    mixture, _ = mix(reference, noise_like(reference.size), 5.0)
    plain = METRICS[name](reference, mixture, RATE)
    assert METRICS[name](reference, gain * mixture, RATE) == pytest.approx(plain, abs=2e-3)
    assert METRICS[name](gain * reference, mixture, RATE) == pytest.approx(plain, abs=2e-3)


def test_sdr_forgives_a_filter_and_si_sdr_does_not() -> None:
    reference = speech_like() + 1e-3 * noise_like(3 * RATE)
    room = np.random.default_rng(3).normal(size=300) * np.exp(-np.arange(300) / 60)
    filtered = np.convolve(reference, room)[: reference.size]
    assert sdr(reference, filtered, RATE) > 30
    assert si_sdr(reference, filtered, RATE) < 10


def test_sdr_is_the_least_squares_projection() -> None:
    reference, noise = np.random.default_rng(4).normal(size=(2, 2000))
    estimate = reference + 0.5 * np.roll(reference, 3) + 0.3 * noise
    delayed = np.stack(
        [np.concatenate([np.zeros(d), reference, np.zeros(511 - d)]) for d in range(512)], axis=1
    )
    padded = np.concatenate([estimate, np.zeros(511)])
    target = delayed @ np.linalg.lstsq(delayed, padded, rcond=None)[0]
    expected = 10 * np.log10(np.sum(target**2) / np.sum((padded - target) ** 2))
    assert sdr(reference, estimate, RATE) == pytest.approx(expected, abs=1e-6)


def test_sdr_of_band_limited_speech_is_finite() -> None:
    reference = resample(speech_like(), RATE, 48000)
    mixture, _ = mix(reference, noise_like(reference.size), 20.0)
    assert sdr(reference, mixture, 48000) == pytest.approx(20.0, abs=0.3)


def test_pesq_and_stoi_of_a_copy() -> None:
    reference = speech_like()
    assert pesq_wb(reference, reference, RATE) == pytest.approx(4.644, abs=1e-3)
    assert pesq_nb(reference, reference, RATE) == pytest.approx(4.549, abs=1e-3)
    assert stoi(reference, reference, RATE) == pytest.approx(1.0, abs=1e-6)
    assert estoi(reference, reference, RATE) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_grows_with_the_level(name: str) -> None:
    reference, noise = speech_like(), noise_like(3 * RATE)
    values = [METRICS[name](reference, mix(reference, noise, level)[0], RATE) for level in (-5, 5, 15, 30)]
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("name", ["pesq_nb", "stoi", "estoi", "si_sdr"])
def test_the_rate_hardly_matters(name: str, rate: int) -> None:
    reference = speech_like()
    mixture, _ = mix(reference, noise_like(reference.size), 10.0)
    low = [resample(resample(signal, RATE, 8000), 8000, RATE) for signal in (reference, mixture)]
    there = [resample(signal, RATE, rate) for signal in low]
    expected = METRICS[name](low[0], low[1], RATE)
    assert METRICS[name](there[0], there[1], rate) == pytest.approx(expected, rel=0.03)


def test_float32_and_lists_are_taken() -> None:
    reference = speech_like(1.0)
    mixture, _ = mix(reference, noise_like(reference.size), 0.0)
    expected = si_sdr(reference, mixture, RATE)
    assert si_sdr(reference.astype(np.float32), mixture.tolist(), RATE) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("spoil_reference", "spoil_estimate", "reason"),
    [
        (np.zeros_like, np.copy, "the reference is silent"),
        (np.copy, np.zeros_like, "the estimate is silent"),
        (np.copy, lambda signal: np.where(signal > 0.2, np.nan, signal), "the estimate holds NaN"),
        (lambda signal: np.where(signal > 0.2, np.inf, signal), np.copy, "the reference holds NaN"),
        (lambda signal: signal[:0], lambda signal: signal[:0], "silent"),
    ],
)
def test_undefined_metrics_are_nan_with_one_warning(
    name: str,
    spoil_reference: Callable[[Signal], Signal],
    spoil_estimate: Callable[[Signal], Signal],
    reason: str,
) -> None:
    signal = speech_like(1.0)
    with pytest.warns(RuntimeWarning, match=f"{name} is undefined, NaN is returned: .*{reason}") as caught:
        value = METRICS[name](spoil_reference(signal), spoil_estimate(signal), RATE)
    assert math.isnan(value)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("metric", "length", "reason"),
    [
        (sdr, 511, "fewer than the 512 taps"),
        (pesq_wb, 3999, "1/4 s"),
        (pesq_nb, 3999, "1/4 s"),
        (stoi, 6000, "0.4 s"),
        (estoi, 1, "0.4 s"),
    ],
)
def test_short_clips_are_undefined(metric: Metric, length: int, reason: str) -> None:
    signal = noise_like(length)
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert math.isnan(metric(signal, signal, RATE))
    assert len(caught) == 1


def test_speech_with_too_little_sound_is_undefined() -> None:
    signal = np.zeros(2 * RATE)
    signal[:3000] = noise_like(3000)
    with pytest.warns(RuntimeWarning, match="without silent frames") as caught:
        assert math.isnan(stoi(signal, signal, RATE))
    assert len(caught) == 1
    click = np.zeros(2 * RATE)
    click[0] = 1.0
    with pytest.warns(RuntimeWarning, match="no utterance") as caught:
        assert math.isnan(pesq_nb(click, noise_like(2 * RATE), RATE))
    assert len(caught) == 1


@pytest.mark.parametrize("metric", [pesq_wb, pesq_nb])
def test_an_estimate_that_pesq_cannot_hold_is_undefined(metric: Metric) -> None:
    signal = speech_like(1.0)
    with pytest.warns(RuntimeWarning, match="pesq_.* is undefined"):
        assert math.isnan(metric(signal, 1e-60 * signal, RATE))


def test_pesq_of_a_long_clip_is_the_mean_of_its_pieces() -> None:
    reference = speech_like(25.0)
    mixture, _ = mix(reference, noise_like(reference.size), 10.0)
    half = reference.size // 2
    expected = np.mean(
        [pesq_wb(reference[part], mixture[part], RATE) for part in (slice(half), slice(half, None))]
    )
    assert pesq_wb(reference, mixture, RATE) == pytest.approx(expected)


@pytest.mark.slow
def test_pesq_survives_many_utterances() -> None:
    """In another process: 75 bursts in one call crash the interpreter."""
    code = """
import numpy as np
from avse.evaluation.metrics import pesq_nb, pesq_wb
generator = np.random.default_rng(0)
bursts = np.tile(np.repeat([1.0, 0.0], 4800), 75)
reference = bursts * generator.normal(size=bursts.size)
estimate = reference + 0.1 * generator.normal(size=bursts.size)
assert 1 < pesq_wb(reference, estimate, 16000) < pesq_nb(reference, estimate, 16000) < 5
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", METRICS)
def test_mistakes_of_the_caller_raise(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: reference \(100,\) and estimate \(99,\)"):
        METRICS[name](np.ones(100), np.ones(99), RATE)
    with pytest.raises(InputError, match="one channel"):
        METRICS[name](np.ones((100, 2)), np.ones((100, 2)), RATE)
    with pytest.raises(InputError, match="sample rate"):
        METRICS[name](np.ones(100), np.ones(100), 0)


def test_all_metrics_and_improvements() -> None:
    reference = speech_like()
    noisy, noise = mix(reference, noise_like(reference.size), 0.0)
    enhanced = reference + 0.25 * noise
    scores = all_metrics(reference, enhanced, RATE)
    assert list(scores) == ["si_sdr", "sdr", "pesq_wb", "pesq_nb", "stoi", "estoi"]
    gains = improvements(reference, noisy, enhanced, RATE)
    assert list(gains) == list(scores)
    assert all(gain > 0 for gain in gains.values())
    assert gains["si_sdr"] == pytest.approx(20 * math.log10(4), abs=0.1)
    assert improvements(reference, noisy, noisy, RATE) == pytest.approx(dict.fromkeys(METRICS, 0.0), abs=1e-9)


def test_dnsmos_needs_no_reference_and_prefers_clean_speech() -> None:
    pytest.importorskip("speechmos")
    speech = utterance_speech(0, 2, 0)
    clean = speech.samples.astype(np.float64)
    noise = np.random.default_rng(0).standard_normal(len(clean))
    noisy = clean + 0.3 * np.linalg.norm(clean) / np.linalg.norm(noise) * noise
    best = dnsmos(clean, clean, speech.sample_rate)
    assert 1 < dnsmos(clean, noisy, speech.sample_rate) < best - 0.3
    assert best == dnsmos(noisy, clean, speech.sample_rate) < 5
    assert 1 < dnsmos(clean, 100 * clean, speech.sample_rate) < 5  # beyond full scale


def test_dnsmos_names_the_extra_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(InputError, match=r"avse\[dnsmos\]"):
        check_metrics(["si_sdr", "dnsmos"])
    with pytest.raises(InputError, match="metric loudness: use si_sdr"):
        check_metrics(["loudness"])
