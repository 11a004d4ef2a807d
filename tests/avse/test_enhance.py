"""The one call: what it promises of shapes, rates, seeds and odd input."""

import json

import numpy as np
import pytest
import torch

import avse
from avse.data.corpora.synthetic import utterance_speech
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.errors import InputError
from avse.data.mixing import mix, white_noise
from avse.data.stft import STFT
from avse.evaluation.metrics import si_sdr
from avse.inference.wiener import average_filter
from avse.models.noisy import NoisySpeech
from avse.recording import OVERLAP, SEGMENT, segments

RATE = 16000


def noise(seconds: float, rate: int = RATE, channels: int | None = None, seed: int = 0) -> np.ndarray:
    shape = (int(seconds * rate),) if channels is None else (int(seconds * rate), channels)
    return 0.1 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_voice_in_noise_comes_out_clearer() -> None:
    speech = utterance_speech(0, 0, 0)
    mixture, _ = mix(speech.samples, white_noise(len(speech.samples), np.random.default_rng(0)), 0.0)
    enhancement = avse.enhance(mixture, speech.sample_rate)
    before = si_sdr(speech.samples, mixture, speech.sample_rate)
    after = si_sdr(speech.samples, enhancement.speech, speech.sample_rate)
    assert after > before + 5


@pytest.mark.parametrize(
    ("channels", "rate"),
    [
        *((None, rate) for rate in (8000, 11025, 16000, 44100, 96000)),
        (1, 11025),
        (8, 44100),
        *(pytest.param(1, rate, marks=pytest.mark.slow) for rate in (8000, 16000, 44100, 96000)),
        *(pytest.param(8, rate, marks=pytest.mark.slow) for rate in (8000, 11025, 16000, 96000)),
    ],
)
def test_shape_and_rate_are_those_of_the_input(rate: int, channels: int | None) -> None:
    x = noise(0.5, rate, channels)
    enhancement = avse.enhance(x, rate)
    assert enhancement.speech.shape == enhancement.noise.shape == x.shape
    assert enhancement.speech.dtype == x.dtype
    assert enhancement.sample_rate == rate
    np.testing.assert_allclose(enhancement.speech + enhancement.noise, x, atol=1e-6)
    assert enhancement.gain.shape == enhancement.deviation.shape == enhancement.spectrum.shape
    assert ((enhancement.gain >= 0) & (enhancement.gain <= 1 + 1e-5)).all()


def test_low_rate_leaves_the_missing_band_empty() -> None:
    enhancement = avse.enhance(noise(0.5, 8000), 8000)
    bins = enhancement.stft.bins
    assert (enhancement.gain[..., bins // 2 + 2 :] == 0).all()
    assert enhancement.gain[..., : bins // 2 - 2].mean() > 0


def test_same_seed_same_samples_and_another_seed_differs() -> None:
    x = noise(0.5)
    first, again, other = (avse.enhance(x, RATE, seed=seed).speech for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_global_random_state_is_neither_used_nor_changed() -> None:
    x = noise(0.3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = avse.enhance(x, RATE).speech
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(7)
    np.testing.assert_array_equal(first, avse.enhance(x, RATE).speech)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_level_of_the_recording_does_not_matter(factor: float) -> None:
    x = noise(0.5)
    plain = avse.enhance(x, RATE).speech
    scaled = avse.enhance((factor * x).astype(np.float32), RATE).speech
    assert np.abs(scaled / factor - plain).max() < 0.05 * np.abs(plain).max()


def test_channels_are_enhanced_independently_in_shape_and_silence() -> None:
    x = np.stack([noise(0.5), np.zeros(RATE // 2, dtype=np.float32)], axis=1)
    enhancement = avse.enhance(x, RATE)
    assert np.isfinite(enhancement.speech).all()
    assert (enhancement.speech[:, 1] == 0).all()
    assert np.abs(enhancement.speech[:, 0]).max() > 0


@pytest.mark.parametrize(
    ("length", "algorithm"),
    [
        *((length, "mcem") for length in (1, 100, 1600)),
        (1, "paper"),
        *(pytest.param(length, "paper", marks=pytest.mark.slow) for length in (100, 1600)),
    ],
)
def test_short_recordings_and_silence_stay_finite(algorithm: str, length: int) -> None:
    silent = avse.enhance(np.zeros(length, dtype=np.float32), RATE, algorithm=algorithm)
    assert (silent.speech == 0).all()
    assert "the recording is digital silence" in silent.report["notes"]
    assert np.isfinite(avse.enhance(noise(1)[:length], RATE, algorithm=algorithm).speech).all()


def test_integer_samples_are_read_as_full_scale() -> None:
    x = (noise(0.3) * 32767).astype(np.int16)
    np.testing.assert_allclose(
        avse.enhance(x, RATE).speech, avse.enhance(x / np.float32(32767), RATE).speech, atol=1e-6
    )


@pytest.mark.parametrize(
    ("x", "rate", "words"),
    [
        (np.zeros(0), RATE, "at least one sample"),
        (np.zeros((2, 2, 2)), RATE, r"\(T,\)"),
        (np.zeros((2, 0)), RATE, "at least one sample"),
        (np.array([0.0, np.nan]), RATE, "NaN"),
        (np.array([0.0, np.inf]), RATE, "infinite"),
        (np.array(["a"]), RATE, "give floats, int16 or int32"),
        (np.zeros(100), 0, "1000 Hz"),
    ],
)
def test_unusable_samples_are_refused(x: np.ndarray, rate: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        avse.enhance(x, rate)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="a-vae"):
        avse.enhance(noise(0.1), RATE, model="no-such-model")
    with pytest.raises(InputError, match="mcem"):
        avse.enhance(noise(0.1), RATE, algorithm="no-such-algorithm")


def test_report_is_plain_and_complete() -> None:
    report = avse.enhance(noise(0.3), RATE, seed=3).report
    assert json.loads(json.dumps(report)) == report
    assert report["seed"] == 3
    assert len(report["segments"][0]["cost"]) == report["segments"][0]["iterations"]
    assert set(report["versions"]) >= {"avse", "torch", "pyro"}


@pytest.mark.parametrize("seconds", [0.1, 29.0, 31.0, 60.0, 59.5, 200.0])
def test_segments_cover_every_frame_with_weight_one(seconds: float) -> None:
    stft = STFT(hop_length=256)
    frames = stft.frames(int(seconds * RATE))
    weight = torch.zeros(frames)
    for piece, fade in segments(frames, stft):
        assert piece.stop - piece.start == len(fade)
        assert len(fade) <= (SEGMENT + OVERLAP) * stft.frame_rate
        weight[piece] += fade
    torch.testing.assert_close(weight, torch.ones(frames))


def test_long_recordings_are_enhanced_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avse.recording.SEGMENT", 1.5)
    enhancement = avse.enhance(noise(3.0), RATE)
    assert len(enhancement.posteriors) == len(enhancement.report["segments"]) > 1
    assert np.isfinite(enhancement.speech).all()


def test_posterior_goes_to_xarray_with_named_dimensions() -> None:
    data = avse.enhance(noise(0.3, channels=2), RATE, link_channels=False).posterior.to_xarray(channel=1)
    assert data["z"].dims == ("chain", "draw", "frame", "latent")
    assert data["wiener_gain"].dims == ("frame", "frequency")


def test_the_scale_leads_back_to_what_inference_saw() -> None:
    """At the model's level |X|^2 has mean 1, and the draws give the filter that was returned."""
    enhancement = avse.enhance(noise(0.3, channels=2), RATE, model="a-vae", link_channels=False)
    power = (enhancement.spectrum * enhancement.scale.unsqueeze(-1)).abs().square()
    torch.testing.assert_close(power.mean((-2, -1)), torch.ones(2))
    posterior = enhancement.posterior
    model = NoisySpeech(avse.load("a-vae").model, posterior.noise)
    average = average_filter(model, posterior.z.flatten(0, 1), power)
    torch.testing.assert_close(average.gain, enhancement.gain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("noise", "level", "kept"), [(0.0, 20, True), (0.3, 20, False), (0.0, 5, False)])
def test_rumble_stays_in_clean_speech_and_goes_with_noise(noise: float, level: float, kept: bool) -> None:
    """A tone of 25 Hz beside clean and noisy speech; what the input has of it, and what the output has.

    Loud rumble, 5 dB below the speech, is noise in itself, as that of a car.
    """
    face = talking_face(seed=0)
    clean = np.asarray(face.clean, dtype=np.float64)
    hiss = np.random.default_rng(0).standard_normal(len(clean)) * noise * clean.std()
    rumble = (
        np.sqrt(2 * 10 ** (-level / 10))
        * clean.std()
        * np.sin(2 * np.pi * 25 * np.arange(len(clean)) / face.sample_rate)
    )
    enhancement = avse.enhance(clean + hiss + rumble, face.sample_rate, model="a-vae", algorithm="mcem")
    share = float(np.dot(enhancement.speech, rumble) / np.dot(rumble, rumble))
    assert (share > 0.7) if kept else (share < 0.2)
    (reported,) = enhancement.report["low_frequencies_kept"]
    assert (reported > 0.7) if kept else (reported < 0.2)
