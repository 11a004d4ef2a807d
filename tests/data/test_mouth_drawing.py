import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from avse.data.corpora.synthetic import synthetic_lips, utterance_speech
from avse.data.corpora.synthetic.mouth import Face, draw_mouth, random_face
from avse.data.corpora.synthetic.visemes import APERTURE, articulation
from avse.data.errors import InputError


def face(seed: int) -> Face:
    return random_face(np.random.default_rng(seed))


def darkness(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of the region of the mouth, without chin and nose, (T,)."""
    return 255 - pictures[:, 18:50, 15:52].mean((1, 2))


@pytest.mark.slow
def test_repeats_in_another_process(tmp_path: Path) -> None:
    """To within one grey level, which the rounding of its arithmetic may change."""
    code = (
        "import sys, numpy as np\n"
        "from avse.data.corpora.synthetic import synthetic_lips\n"
        "np.save(sys.argv[1], synthetic_lips(3, 1, 2)[0])\n"
    )
    path = tmp_path / "lips.npy"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    np.testing.assert_allclose(np.load(path).astype(float), synthetic_lips(3, 1, 2)[0], rtol=0, atol=1)


@pytest.mark.parametrize("fps", [25.0, 29.97, 30.0])
def test_pictures_cover_the_sound(fps: float) -> None:
    pictures, times = synthetic_lips(0, 2, 1, fps)
    speech = utterance_speech(0, 2, 1)
    duration = len(speech.samples) / speech.sample_rate
    assert pictures.shape == (len(times), 67, 67)
    assert pictures.dtype == np.uint8
    assert times[0] == 0
    assert np.allclose(np.diff(times), 1 / fps)
    assert times[-1] < duration <= times[-1] + 1.001 / fps


def test_a_speaker_keeps_the_face() -> None:
    """Mean pictures of a speaker's sentences are alike, those of different speakers are not."""
    mean = np.array([[synthetic_lips(0, s, i, 10.0)[0].mean(0) for i in range(2)] for s in range(5)])
    within = np.abs(mean[:, 0] - mean[:, 1]).mean((1, 2))
    between = np.abs(mean[:, None, 0] - mean[None, :, 1]).mean((2, 3))[~np.eye(5, dtype=bool)]
    assert within.mean() < 5  # grey levels; 2.6 +- 0.9 over speakers
    assert within.max() < between.min()


def test_motion_and_noise_differ_between_sentences() -> None:
    first, second = (synthetic_lips(0, 0, index)[0][0] for index in range(2))
    assert not np.array_equal(first, second)


def test_dark_where_open() -> None:
    """The correlation is .88 +- .13 over speakers: the mean of 24 misses .78 once in 10,000 seeds."""
    correlations = []
    for speaker in range(24):
        speech = utterance_speech(0, speaker, 0)
        duration = len(speech.samples) / speech.sample_rate
        track = articulation(speech.phonemes, duration, np.arange(0, duration, 1 / 30))
        pictures = draw_mouth(face(speaker), track, np.random.default_rng(speaker))
        correlations.append(np.corrcoef(darkness(pictures), track[:, APERTURE])[0, 1])
    assert np.mean(correlations) > 0.78  # not 1: bright teeth fill a small opening


def test_every_articulator_shows() -> None:
    """Each changes the picture of a half open mouth by far more than the noise does."""
    rest = np.full((1, 4), 0.5)
    for seed in range(5):
        noise_free = [
            draw_mouth(face(seed), np.clip(rest + 0.4 * change, 0, 1), np.random.default_rng(0)).astype(float)
            for change in np.vstack([np.zeros(4), np.eye(4)])
        ]
        for changed in noise_free[1:]:  # the same generator: the same noise
            assert np.abs(changed - noise_free[0]).max() > 25


def test_grey_range() -> None:
    for speaker in range(6):
        pictures, _ = synthetic_lips(0, speaker, 0)
        low, high = np.percentile(pictures, [0.1, 99.9])
        assert high - low > 90
        assert pictures.reshape(len(pictures), -1).std(1).min() > 8
        assert np.mean((pictures == 0) | (pictures == 255)) < 0.02


def test_changes_between_pictures_are_small() -> None:
    track = np.linspace(0, 1, 60)[:, None] * np.ones(4)
    for seed in range(3):
        pictures = draw_mouth(face(seed), track, np.random.default_rng(0)).astype(float)
        change = np.abs(np.diff(pictures, axis=0)).mean((1, 2))
        assert change.max() < 8  # greys; the noise alone gives up to 4.5


def test_length_does_not_change_the_pictures_drawn() -> None:
    track = np.random.default_rng(0).uniform(0, 1, (70, 4))
    long = draw_mouth(face(0), track, np.random.default_rng(0))
    short = draw_mouth(face(0), track[:33], np.random.default_rng(0))
    assert np.array_equal(long[:33], short)
    assert draw_mouth(face(0), track[:0], np.random.default_rng(0)).shape == (0, 67, 67)


def test_bad_numbers() -> None:
    with pytest.raises(InputError, match="count from 0"):
        synthetic_lips(0, -1, 0)


def test_speed() -> None:
    track = np.random.default_rng(0).uniform(0, 1, (100, 4))
    draw_mouth(face(0), track[:1], np.random.default_rng(0))
    start = time.process_time()
    draw_mouth(face(0), track, np.random.default_rng(0))
    assert time.process_time() - start < 1  # 100 pictures a second, a third of the usual or less
