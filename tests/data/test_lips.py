"""Lips of generated videos: a photograph whose mouth opens at a known time."""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from avse.data.audio import read_audio
from avse.data.errors import InputError
from avse.data.lips import Lips, Reason, picture_rate, read_lips, resample_lips
from avse.data.stft import STFT

Grey = NDArray[np.uint8]
MOUTH = (159, 190)  # x and y in the photograph
OPENS = 0.61  # s, when the mouth is widest open
_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "18"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "3000k"},
    "ffv1": {},
}


def _photograph() -> Grey:
    """The head of Grace Hopper, which comes with matplotlib, (300, 320)."""
    image = imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))[90:390, 110:430]
    return image.mean(-1).astype(np.uint8)


def _speaking(times: Sequence[float], face: Grey | None = None, noise: float = 2.0) -> list[Grey]:
    """The face at each time: camera noise, and a dark mouth that opens for 0.4 s around `OPENS`."""
    generator = np.random.default_rng(0)
    picture = _photograph() if face is None else face
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    shape = ((x - MOUTH[0]) / 20) ** 2 + ((y - MOUTH[1]) / 10) ** 2 < 1
    pictures = []
    for time in times:
        opening = np.cos(np.pi * np.clip((time - OPENS) / 0.4, -0.5, 0.5)) ** 2
        noisy = np.where(shape, picture * (1 - opening), picture) + noise * generator.normal(
            size=picture.shape
        )
        pictures.append(noisy.clip(0, 255).astype(np.uint8))
    return pictures


def _write(
    path: Path,
    pictures: Sequence[Grey],
    fps: float | Fraction = 25,
    times: Sequence[float] | None = None,
    sound_at: float | None = None,
    codec: str = "libx264",
) -> Path:
    """A video of the pictures, at `times` in s or `fps` a second; with 0.1 s of sound from `sound_at`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = pictures[0].shape
        stream.pix_fmt = "yuv420p"
        stream.options = _OPTIONS.get(codec, {"b": "3000k"})
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound_at is not None:
            sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound_at is not None:
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
            block.sample_rate, block.time_base = 16000, Fraction(1, 16000)
            block.pts = round(sound_at * 16000)
            container.mux(sound.encode(block))
            container.mux(sound.encode())
    return path


def _opening_time(lips: Lips, offset: float = 0.0) -> float:
    """Time in s, the centre of gravity of how dark the mouth is, by the frames of the sound."""
    stft = STFT(1024, 533, 16000)
    times = stft.frame_times(stft.frames(int(16000 * 1.2))).numpy()
    images, valid = resample_lips(lips, times, offset)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    dark = images[valid, 24:46, 20:47].mean((1, 2))
    dark = np.maximum(dark.max() - dark - 0.02, 0)
    return float((times[valid] * dark).sum() / dark.sum())


@pytest.mark.parametrize(
    ("suffix", "fps", "codec"),
    [
        (".mkv", 25, "libx264"),
        (".mp4", Fraction(30000, 1001), "libx264"),
        (".mov", 30, "mpeg4"),
        (".mpg", 25, "mpeg1video"),
        (".avi", 50, "mpeg4"),
        (".webm", 30, "libvpx"),
    ],
)
def test_lips_stay_with_the_sound(tmp_path: Path, suffix: str, fps: float, codec: str) -> None:
    count = round(float(1.2 * fps))
    pictures = _speaking([index / float(fps) for index in range(count)])
    lips = read_lips(_write(tmp_path / f"a{suffix}", pictures, fps, codec=codec))
    assert lips.images.shape == (count, 67, 67)
    assert lips.fps == pytest.approx(float(fps), rel=2e-3)
    assert lips.times[0] == 0
    assert lips.valid.mean() > 0.95
    assert _opening_time(lips) == pytest.approx(OPENS, abs=0.005)


def test_variable_rate_is_read_by_its_time_stamps(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).choice([0.02, 0.033, 0.05], 36)
    times = np.concatenate([[0.0], np.cumsum(steps)]).tolist()
    lips = read_lips(_write(tmp_path / "a.mkv", _speaking(times), times=times))
    np.testing.assert_allclose(lips.times, times, atol=2e-3)
    assert _opening_time(lips) == pytest.approx(OPENS, abs=0.01)


def test_times_are_those_of_the_sound(tmp_path: Path) -> None:
    times = [0.2 + index / 25 for index in range(10)]
    path = _write(tmp_path / "a.mkv", _speaking(times), times=times, sound_at=0.5)
    assert read_audio(path).start == pytest.approx(0.5)
    np.testing.assert_allclose(read_lips(path).times, np.array(times) - 0.5, atol=2e-3)


def test_offset_is_how_late_the_pictures_come(tmp_path: Path) -> None:
    lips = read_lips(_write(tmp_path / "a.mkv", _speaking([index / 30 for index in range(36)]), 30))
    assert _opening_time(lips, offset=0.2) == pytest.approx(OPENS - 0.2, abs=0.01)


def test_mouth_is_in_the_middle_and_steady(tmp_path: Path) -> None:
    """A face that fills a small picture, one that wanders through a large one: the same lips."""
    face = _photograph()
    still = read_lips(_write(tmp_path / "a.mkv", [face[40:240, 60:260]] * 12))
    wandering = []
    for step in range(12):
        canvas = np.full((640, 800), 90, np.uint8)
        canvas[100 + step : 550 + step, 200 - 2 * step : 680 - 2 * step] = zoom(face, 1.5, order=1)
        wandering.append(canvas)
    moved = read_lips(_write(tmp_path / "b.mkv", wandering))
    apart = [np.abs(image - still.images[3].astype(float)).mean() for image in moved.images[2:-2]]
    reference = still.images[3].astype(float)
    shifted_by_one_pixel = np.abs(reference[:, 1:] - reference[:, :-1]).mean()
    assert max(apart) < 0.75 * shifted_by_one_pixel


@pytest.mark.parametrize("again", [0.0, 0.3])
def test_repeated_pictures_are_duplicates(tmp_path: Path, again: float) -> None:
    """Exactly the same, or with the little noise that encoding them once more adds."""
    pictures = _speaking([index / 25 for index in range(20)])
    generator = np.random.default_rng(2)
    for index in range(3, 20, 5):
        noise = again * generator.normal(size=pictures[0].shape)
        pictures[index] = (pictures[index - 1] + noise).round().clip(0, 255).astype(np.uint8)
    lips = read_lips(_write(tmp_path / "a.mkv", pictures, codec="ffv1"))
    assert np.flatnonzero(lips.reasons == Reason.DUPLICATE).tolist() == [3, 8, 13, 18]


def test_damage_is_survived_and_marked(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mpg", _speaking([index / 25 for index in range(40)]), codec="mpeg1video")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    path.write_bytes(content)
    lips = read_lips(path)
    damaged = np.flatnonzero(lips.reasons == Reason.DAMAGED)
    assert 1 <= len(damaged) <= 16
    assert len(lips.images) >= 30
    images, valid = resample_lips(lips, lips.times)
    assert np.isfinite(images).all()
    assert not valid[damaged].any()
    assert valid[:10].all()


def test_pictures_without_the_face_are_not_valid(tmp_path: Path) -> None:
    pictures = _speaking([index / 25 for index in range(30)])
    empty = np.random.default_rng(1).normal(90, 3, (8, *pictures[0].shape)).clip(0, 255).astype(np.uint8)
    lips = read_lips(_write(tmp_path / "a.mkv", [*pictures[:10], *empty, *pictures[18:]]))
    assert (lips.reasons[10:18] == Reason.NO_FACE).all()
    assert lips.valid[:10].all()
    assert lips.valid[21:].all()


def test_a_turned_face_is_not_valid(tmp_path: Path) -> None:
    """The head as a cylinder, turned by 50 degrees for a while."""
    face = _photograph()
    y, x = np.mgrid[: face.shape[0], : face.shape[1]].astype(float)
    around = np.arcsin(np.clip((x - MOUTH[0]) / 75, -1, 1)) - np.deg2rad(50)
    source = np.where(np.abs(x - MOUTH[0]) < 75, MOUTH[0] + 75 * np.sin(np.maximum(around, -np.pi / 2)), x)
    turned = map_coordinates(face, [y, source], order=1, mode="nearest")
    pictures = _speaking([0.0] * 10, face) + _speaking([0.0] * 10, turned)
    lips = read_lips(_write(tmp_path / "a.mkv", pictures))
    assert lips.valid[1:10].all()
    assert (lips.reasons[11:] == Reason.TURNED_AWAY).mean() > 0.8


def test_of_two_faces_the_larger_and_central_one_is_followed(tmp_path: Path) -> None:
    alone, both = [], []
    small = zoom(_photograph()[::-1, ::-1][::-1], 0.5, order=1)
    for picture in _speaking([index / 25 for index in range(20)]):
        canvas = np.full((340, 640), 90, np.uint8)
        canvas[20:320, 150:470] = picture
        alone.append(canvas.copy())
        canvas[100:250, 475:635] = small
        both.append(canvas)
    expected = read_lips(_write(tmp_path / "a.mkv", alone))
    with pytest.warns(UserWarning, match=r"b\.mkv: 2 faces; .* around pixel"):
        found = read_lips(_write(tmp_path / "b.mkv", both))
    assert np.abs(found.images - expected.images.astype(float)).mean() < 4


def test_one_picture_a_second_is_read_with_a_warning(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mkv", _speaking([0, 1, 2]), 1, times=[0, 1, 2])
    with pytest.warns(UserWarning, match=r"a\.mkv: 1 pictures a second are too few"):
        lips = read_lips(path)
    assert lips.times.tolist() == [0, 1, 2]
    assert lips.fps == pytest.approx(1)


def test_a_cut_file_gives_what_is_there_with_a_warning(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mkv", _speaking([index / 25 for index in range(50)]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(
        UserWarning, match=r"a\.mkv: its pictures end \d\.\d s before the file should"
    ) as caught:
        lips = read_lips(path)
    assert len(caught) == 1
    _, valid = resample_lips(lips, np.array([0.2, 1.9]))
    assert valid.tolist() == [True, False]


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    empty = _write(tmp_path / "empty.mkv", [np.full((120, 160), 90, np.uint8)] * 5)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(_write(tmp_path / "a.mp4", _speaking([0.0] * 5)).read_bytes()[:2000])
    text = tmp_path / "text.mkv"
    text.write_text("no video")
    silent = tmp_path / "sound.mkv"
    with av.open(str(silent), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        block.sample_rate = 16000
        container.mux(sound.encode(block))
    for path, message in (
        (tmp_path / "missing.mp4", "does not exist"),
        (tmp_path, "is a folder"),
        (empty, "no face in its 5 pictures"),
        (cut, "cannot be read as a video"),
        (text, "cannot be read as a video"),
        (silent, "has no pictures"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_lips(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def _lips(times: Sequence[float], reasons: Sequence[int], fps: float) -> Lips:
    """Images whose level is 10 times their number."""
    levels = 10 * np.arange(len(times), dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None], (len(times), 67, 67))
    return Lips(images, np.array(times), np.array(reasons, np.uint8), fps)


def test_resampling_is_linear_and_valid_where_both_neighbours_are() -> None:
    lips = _lips([0.0, 0.04, 0.08, 0.12, 0.32], [0, 0, Reason.NO_FACE, 0, 0], 25)
    wanted = [-0.03, -0.02, 0.01, 0.04, 0.05, 0.08, 0.12, 0.2, 0.32, 0.339, 0.35]
    images, valid = resample_lips(lips, wanted)
    np.testing.assert_allclose(
        images[:, 5, 7] * 255, [0, 0, 2.5, 10, 12.5, 20, 30, 34, 40, 40, 40], rtol=1e-5
    )
    assert valid.tolist() == [False, True, True, True, False, False, True, False, True, True, False]


def test_nominal_rate_forgives_rounding_and_lost_pictures() -> None:
    times = np.delete(np.round(np.arange(100) * 1001 / 30000, 3), [20, 21, 60])
    assert picture_rate(times) == pytest.approx(30000 / 1001, rel=1e-3)
    assert picture_rate(np.zeros(1)) == 25


@pytest.mark.parametrize(
    ("times", "reasons", "fps"),
    [
        ([0.0, 0.0], [0, 0], 25),
        ([0.0], [0, 0], 25),
        ([0.0, np.nan], [0, 0], 25),
        ([0.0], [0], 0),
        ([], [], 25),
    ],
)
def test_lips_that_do_not_fit_together(times: list[float], reasons: list[int], fps: float) -> None:
    with pytest.raises(InputError):
        _lips(times, reasons, fps)


def test_no_warning_for_a_good_video(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mkv", _speaking([index / 25 for index in range(10)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_lips(path).valid.all()
