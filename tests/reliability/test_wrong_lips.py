"""Lips that are wrong may cost little: the default with a video beside the sound alone."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import avse
from avse.data.corpora.synthetic.demo import TalkingFace, talking_face
from avse.data.lips import Lips
from avse.data.mixing import mix, pink_noise
from avse.evaluation.metrics import si_sdr

Images = NDArray[np.uint8]

MAX_LOSS = 1.5
"""dB of SI-SDR."""
MOUTH = np.s_[:, 28:40, 20:47]


def held(images: Images, index: int) -> Images:
    return np.repeat(images[index : index + 1], len(images), 0)


def closed(images: Images) -> Images:
    """The brightest mouth throughout: lips of silence over speech."""
    return held(images, int(images[MOUTH].mean((1, 2)).argmax()))


def open_wide(images: Images) -> Images:
    return held(images, int(images[MOUTH].mean((1, 2)).argmin()))


def another(images: Images) -> Images:
    other: Images = talking_face(7).lips.images
    return np.resize(other, images.shape)


WRONG: dict[str, Callable[[Images], Images]] = {
    "closed": closed,
    "open": open_wide,
    "reversed": lambda images: images[::-1],
    "upside down": lambda images: images[:, ::-1],
    "another person": another,
    "noise": lambda images: np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8),
    "constant": np.zeros_like,
}


@pytest.fixture(scope="module")
def face() -> TalkingFace:
    return talking_face(0)


@pytest.fixture(scope="module", params=[-5.0, pytest.param(5.0, marks=pytest.mark.slow)])
def noisy_and_audio_only(
    request: pytest.FixtureRequest, face: TalkingFace
) -> tuple[NDArray[np.floating], float]:
    noisy, _ = mix(face.clean, pink_noise(len(face.clean), np.random.default_rng(3)), request.param)
    speech = avse.enhance(noisy, face.sample_rate, model="a-vae").speech
    return noisy, si_sdr(face.clean, speech, face.sample_rate)


LIKE_OTHERS = ("open", "upside down", "another person")
"""Of the kinds of "closed", "reversed" and "noise", which the quick tests have."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LIKE_OTHERS else ()) for name in WRONG]
)
def test_wrong_lips_cost_little(
    name: str, face: TalkingFace, noisy_and_audio_only: tuple[NDArray[np.floating], float]
) -> None:
    noisy, audio_only = noisy_and_audio_only
    images = np.ascontiguousarray(WRONG[name](face.lips.images))
    lips = Lips(images, face.lips.times, face.lips.reasons, face.lips.fps)
    enhancement = avse.enhance(noisy, face.sample_rate, video=lips)
    assert si_sdr(face.clean, enhancement.speech, face.sample_rate) > audio_only - MAX_LOSS
    assert enhancement.report["video"]["trust"]["mean_weight"] < 0.5
