"""Inputs of every kind give what plain samples give, or one clear refusal; channels of one recording."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import avse
from avse.data.audio import write_audio
from avse.data.errors import InputError

RATE = 16000


@pytest.fixture(scope="module")
def x() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 0.1, RATE // 2)


@pytest.fixture(scope="module")
def speech(x: NDArray[np.float64]) -> NDArray[Any]:
    return avse.enhance(x, RATE).speech


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_file_and_its_copy(x: NDArray[np.float64], speech: NDArray[Any], tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", x, RATE, "FLOAT")
    enhancement = avse.enhance(tmp_path / "x.wav")
    assert enhancement.sample_rate == RATE
    same(enhancement.speech, speech)
    enhancement.save(tmp_path / "out.wav")
    assert (tmp_path / "out.wav").stat().st_size > 2 * len(x)


@pytest.mark.parametrize("rate", [np.int64(RATE), np.float32(RATE), float(RATE)])
def test_numpy_scalars_and_whole_floats(rate: Any, x: NDArray[np.float64], speech: NDArray[Any]) -> None:
    same(avse.enhance(x, rate, seed=np.int64(0)).speech, speech)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["tensor", "array", "list"])
def test_channels_first_as_librosa_and_torch_have_them(
    layout: str, x: NDArray[np.float64], speech: NDArray[Any]
) -> None:
    both = np.stack([x, x])
    given = {"tensor": torch.tensor(both, requires_grad=True), "array": both, "list": both.tolist()}[layout]
    found = avse.enhance(given, RATE)
    assert found.speech.shape == found.noise.shape == both.shape
    same(found.speech[1], speech)
    np.testing.assert_array_equal(found.speech, avse.enhance(both.T, RATE).speech.T)


@pytest.mark.parametrize("factor", [1e-3, 1e6, 1e25])
def test_any_scale(factor: float, x: NDArray[np.float64], speech: NDArray[Any]) -> None:
    """Other rounding may change which proposals are accepted, hence 5 % of the level."""
    scaled = avse.enhance(factor * x, RATE).speech / factor
    assert np.linalg.norm(scaled - speech) < 0.05 * np.linalg.norm(speech)


def test_inside_inference_mode(x: NDArray[np.float64], speech: NDArray[Any]) -> None:
    with torch.inference_mode():
        same(avse.enhance(x, RATE).speech, speech)


@pytest.mark.usefixtures("double_by_default")
def test_another_default_precision(x: NDArray[np.float64], speech: NDArray[Any]) -> None:
    same(avse.enhance(x, RATE).speech, speech)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        ([1, 2, 3] * 1000, RATE, "full scale"),
        (np.arange(3000), RATE, "full scale"),
        (np.zeros(3000, np.uint8), RATE, "full scale"),
        ([[1.0], [2.0, 3.0]], RATE, "form no array"),
        (np.zeros(3000), float("nan"), "sample rate"),
        (np.zeros(3000), float("inf"), "sample rate"),
        (np.zeros(3000), 16000.5, "sample rate"),
        (np.zeros(3000), 999, "at least 1000 Hz"),
        (np.zeros(3000), None, "sample rate"),
        (np.full(3000, 1e150), RATE, "divide them by their peak"),
    ],
)
def test_what_has_no_meaning_is_refused(samples: Any, rate: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        avse.enhance(samples, rate)


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 2**70}, {"seed": 0.5}, {"device": "gpu"}])
def test_seeds_and_devices_that_cannot_be(values: dict[str, Any], x: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        avse.enhance(x, RATE, **values)


@pytest.mark.parametrize("link", [None, True, False])
def test_equal_channels_have_equal_output(
    link: bool | None, x: NDArray[np.float64], speech: NDArray[Any]
) -> None:
    found = avse.enhance(np.stack([x, x], 1), RATE, link_channels=link)
    same(found.speech[:, 0], found.speech[:, 1])
    same(found.speech[:, 0], speech)


def test_linked_channels_keep_the_stereo_image(x: NDArray[np.float64]) -> None:
    """One filter for both: it commutes with the panning. Channels of their own have filters of their own."""
    panned = np.stack([x, 0.2 * x + 0.3 * np.random.default_rng(1).normal(0, 0.1, len(x))], 1)
    linked, free = (avse.enhance(panned, RATE, link_channels=link) for link in (None, False))
    torch.testing.assert_close(linked.wiener_gain[0], linked.wiener_gain[1])
    assert (free.wiener_gain[0] - free.wiener_gain[1]).abs().max() > 0.03
    assert linked.report["input"]["channels_linked"]
    assert not free.report["input"]["channels_linked"]


def test_what_is_linked_is_the_mean_power(x: NDArray[np.float64]) -> None:
    """The power at the scale that is told has mean 1 over bins, frames and channels."""
    panned = np.stack([x, 0.2 * x[::-1]], 1)
    found = avse.enhance(panned, RATE)
    power = (found.spectrum * found.scale.unsqueeze(-1)).abs().square()
    torch.testing.assert_close(power.mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_reprs_are_short(x: NDArray[np.float64]) -> None:
    found = avse.enhance(x, RATE)
    for each in (found, found.posterior, avse.load("a-vae")):
        assert len(repr(each)) < 200


def test_former_names_still_work(x: NDArray[np.float64]) -> None:
    found = avse.enhance(x, RATE)
    assert found.gain is found.wiener_gain
    assert found.deviation is found.speech_std


def test_a_long_recording_has_no_single_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avse.recording.SEGMENT", 1.0)
    monkeypatch.setattr("avse.recording.OVERLAP", 0.1)
    found = avse.enhance(np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
    assert len(found.posteriors) > 1
    with pytest.raises(ValueError, match="segments"):
        _ = found.posterior


@pytest.mark.parametrize("choice", [{"model": None}, {"model": 3}, {"algorithm": 3}, {"algorithm": None}])
def test_choices_of_another_type_are_named(choice: dict[str, Any], x: NDArray[np.float64]) -> None:
    (name,) = choice
    with pytest.raises(InputError, match=f"^{name} {choice[name]}: give a name"):
        avse.enhance(x, RATE, **choice)


@pytest.mark.parametrize("video", [3, b"talk.mp4", [1, 2]])
def test_videos_of_another_type_are_named(video: Any, x: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match=f"^video of type {type(video).__name__}: "):
        avse.enhance(x, RATE, video=video)


def test_bfloat16_is_read(x: NDArray[np.float64]) -> None:
    samples = torch.from_numpy(x).bfloat16()
    same(avse.enhance(samples, RATE).speech, avse.enhance(samples.double().numpy(), RATE).speech)
