"""Files of sound, video and lips with random damage: an `InputError` in one line, or an answer; no hang.

The damage is drawn from fixed seeds: bytes flipped, runs of zeros, runs of noise, the end cut off.
"""

import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from avse.data.audio import read_audio
from avse.data.errors import InputError
from avse.data.lips import Lips, read_lips
from avse.data.lips import lips as lips_module
from avse.data.lips.files import load_lips_array, save_lips
from avse.data.lips.tracker import Track

LONGEST = 20  # s that reading a damaged file of a second may take on a busy machine
SOUNDS = ("a.wav", "a.flac", "a.mp3", "a.ogg")
VIDEOS = ("a.mkv", "a.mp4", "a.avi", "a.mpg")
LIPS = ("a.npz", "a.npy", "a.mat")


class SteadyTracker:
    """In the place of `Tracker`: a face at one place in every frame, found without a search."""

    def __init__(self) -> None:
        self.track = Track(np.array([24.0, 24.0, 30.0]))

    def show(self, frame: NDArray[np.uint8], time: float) -> None:
        landmarks = np.array([[16, 16], [32, 16], [24, 24], [18, 32], [30, 32]], float)
        self.track.landmarks[len(self.track.landmarks)] = landmarks

    def speaker(self, name: str) -> Track | None:
        return self.track if self.track.landmarks else None


def write_sound(path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 2))
    sf.write(path, samples, 16000)


def write_video(path: Path) -> None:
    generator = np.random.default_rng(0)
    codec = {".mkv": "libx264", ".mp4": "libx264", ".avi": "mpeg4", ".mpg": "mpeg1video"}[path.suffix]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width = video.height = 48
        video.pix_fmt = "yuv420p"
        sound = container.add_stream(
            "mp2" if path.suffix == ".mpg" else "libmp3lame", rate=48000, layout="mono"
        )
        for _ in range(8):
            frame = generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        block = generator.integers(-9000, 9000, (1, 15000), dtype=np.int16)
        heard = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        heard.sample_rate = 48000
        container.mux(sound.encode(heard))
        container.mux(sound.encode())


def write_lips(path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 67, 67), dtype=np.uint8)
    if path.suffix == ".npz":
        save_lips(path, Lips(images, np.arange(6) / 25, np.zeros(6, np.uint8), 25.0))
    elif path.suffix == ".npy":
        np.save(path, images)
    else:
        with h5py.File(path, "w") as content:
            coefficients = np.zeros((6, 67 * 67))
            coefficients[:, 0] = 67 * 128.0  # a grey image
            content.create_dataset("lips", data=coefficients, compression="gzip")


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """One to three of: up to 8 bytes changed, up to 200 zeros or random bytes in a row, the end cut off.

    Half of the places are in the first 500 bytes, where the headers are.
    """
    array = np.frombuffer(content, np.uint8).copy()
    for _ in range(generator.integers(1, 4)):
        reach = min(len(array), 500) if generator.random() < 0.5 else len(array)
        place, kind = int(generator.integers(reach)), generator.integers(4)
        run = slice(place, place + int(generator.integers(1, 200)))
        if kind == 0:
            places = generator.integers(reach, size=generator.integers(1, 9))
            array[places] = generator.integers(256, size=len(places))
        elif kind == 1:
            array[run] = 0
        elif kind == 2:
            array[run] = generator.integers(256, size=len(array[run]))
        elif place:
            array = array[:place]
    return array.tobytes()


@pytest.fixture
def _no_hang() -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise AssertionError(f"still reading after {LONGEST} s")

    handler = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)


def readers(name: str) -> list[Callable[[Path], object]]:
    if name in SOUNDS:
        return [read_audio]
    return [read_audio, read_lips] if name in VIDEOS else [lambda path: load_lips_array(path, 25)]


def survive(name: str, seed: int, count: int, folder: Path) -> tuple[int, int]:
    """Read `count` damaged files; how many readings gave an answer and how many an `InputError`."""
    path = folder / name
    (write_sound if name in SOUNDS else write_video if name in VIDEOS else write_lips)(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(seed)
    answers = errors = 0
    for _ in range(count):
        path.write_bytes(damaged(whole, generator))
        for read in readers(name):
            message = ""
            signal.alarm(LONGEST)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
                answers += 1
            except InputError as error:
                errors += 1
                message = str(error)
            signal.alarm(0)
            assert "\n" not in message
            assert not message or message.startswith(str(path))
    return answers, errors


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("name", SOUNDS + VIDEOS + LIPS)
def test_a_few_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lips_module, "Tracker", SteadyTracker)
    answers, errors = survive(name, 0, 8, tmp_path)
    assert answers + errors >= 8


@pytest.mark.slow
@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("name", SOUNDS + VIDEOS + LIPS)
def test_many_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lips_module, "Tracker", SteadyTracker)
    answers, errors = survive(name, 1, 500, tmp_path)
    assert answers > 0
    assert errors > 0
