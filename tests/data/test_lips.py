"""Lips of generated videos: a photograph whose mouth opens at a known time."""

import io
import os
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.image import imread, imsave
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from avse.cli import app as cli
from avse.data.audio import read_audio
from avse.data.errors import InputError
from avse.data.lips import Lips, Reason, read_lips
from avse.data.lips import video as lips_video
from avse.data.lips.files import load_lips_array
from avse.data.lips.front_end import LipFrontEnd
from avse.data.lips.lips import frame_index, video_frame_rate
from avse.data.stft import STFT

Grey = NDArray[np.uint8]
MOUTH = (159, 190)  # x and y in the photograph
OPENS = 0.61  # s, when the mouth is widest open
CLICK = 0.61  # s, when the sound clicks
_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "18", "bf": "2"},
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


class Sound(NamedTuple):
    """Samples (T,) int16 at a rate in Hz, and how a video is to hold them."""

    samples: NDArray[np.int16]
    rate: int = 16000
    codec: str = "pcm_s16le"


SILENCE = Sound(np.zeros(1600, np.int16))


def _write(
    path: Path,
    pictures: Sequence[Grey],
    fps: float | Fraction = 25,
    times: Sequence[float] | None = None,
    sound_at: float | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    aspect: Fraction | int = 1,
    sound: Sound = SILENCE,
) -> Path:
    """A video of the pictures, at `times` in s or `fps` a second; with the sound from `sound_at` on.

    `aspect` is the width of a pixel over its height.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = pictures[0].shape
        stream.pix_fmt = pix_fmt
        stream.codec_context.sample_aspect_ratio = aspect
        stream.options = _OPTIONS.get(codec, {"b": "3000k"})
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound_at is not None:
            track = container.add_stream(sound.codec, rate=sound.rate, layout="mono")
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound_at is not None:
            block = av.AudioFrame.from_ndarray(sound.samples[None], format="s16", layout="mono")
            block.sample_rate, block.time_base = sound.rate, Fraction(1, sound.rate)
            block.pts = round(sound_at * sound.rate)
            container.mux(track.encode(block))
            container.mux(track.encode())
    return path


def _seen(lips: Lips, times: NDArray[Any], offset: float = 0.0) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """What the frames of the sound at `times` (N,) are shown, from 0 to 1: (N, 67, 67), and the validity."""
    view = LipFrontEnd(side=67, instants=1, normalised=False)
    track = view.track(lips, times, offset)
    visual = view.visual(track).numpy()
    return visual[:, :-1].reshape(-1, 67, 67), track.valid.numpy()


def _opening_time(lips: Lips, offset: float = 0.0) -> float:
    """Time in s, the centre of gravity of how dark the mouth is, by the frames of the sound."""
    stft = STFT(1024, 533, 16000)
    times = stft.frame_times(stft.frames(int(16000 * 1.2))).numpy()
    images, valid = _seen(lips, times, offset)
    dark = images[valid, 24:46, 20:47].mean((1, 2))
    dark = np.maximum(dark.max() - dark - 0.02, 0)
    return float((times[valid] * dark).sum() / dark.sum())


@pytest.mark.parametrize(
    ("suffix", "fps", "codec"),
    [
        (".mp4", Fraction(30000, 1001), "libx264"),
        (".webm", 30, "libvpx"),
        # The quick test of these is the one without a search for lips below.
        pytest.param(".mkv", 25, "libx264", marks=pytest.mark.slow),
        pytest.param(".mov", 30, "mpeg4", marks=pytest.mark.slow),
        pytest.param(".mpg", 25, "mpeg1video", marks=pytest.mark.slow),
        pytest.param(".avi", 50, "mpeg4", marks=pytest.mark.slow),
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


CONTAINERS = [
    (".mp4", "libx264", "aac", 0.0),
    (".mp4", "libx264", "aac", 0.2),
    (".mov", "mpeg4", "pcm_s16le", 0.0),
    (".mkv", "libx264", "flac", 0.0),
    (".mkv", "ffv1", "libopus", 0.2),
    (".webm", "libvpx", "libopus", 0.0),
    (".avi", "mpeg4", "pcm_s16le", 0.0),
    (".mpg", "mpeg1video", "mp2", 0.0),
    (".ts", "mpeg2video", "mp2", 0.2),
    (".flv", "flv", "libmp3lame", 0.0),
]


@pytest.mark.parametrize(
    ("suffix", "codec", "sound_codec", "sound_at", "fps"),
    [
        (*kind, fps)
        for kind in CONTAINERS
        for fps in (25, Fraction(30000, 1001), 30, None)
        if fps is not None or not kind[1].endswith("video")  # MPEG-1 and 2 know no other rates
    ],
)
def test_what_is_heard_and_seen_together_stays_together(
    tmp_path: Path, suffix: str, codec: str, sound_codec: str, sound_at: float, fps: Fraction | int | None
) -> None:
    """The brightness of a picture tells its time, and a click tells that of the sound.

    `fps` None is a rate that varies; the sound starts later than the pictures by `sound_at`.
    """
    generator = np.random.default_rng(0)
    steps = np.full(36, 1 / float(fps)) if fps else generator.choice([0.02, 0.033, 0.05], 36)
    times = np.cumsum(steps) - steps[0]
    levels = (40 + 120 * times)[:, None, None] + generator.normal(0, 8, (len(times), 96, 96))
    rate = 48000
    instants = sound_at + np.arange(rate) / rate
    click = 20000 * np.sin(2000 * np.pi * instants) * np.exp(-(((instants - CLICK) / 0.004) ** 2))
    path = _write(
        tmp_path / f"a{suffix}",
        list(levels.round().astype(np.uint8)),
        fps or 30,
        None if fps else times.tolist(),
        sound_at,
        codec,
        sound=Sound(click.astype(np.int16), rate, sound_codec),
    )

    read = list(lips_video.read_video_frames(path))
    assert len(read) == len(times)
    stamps = np.array([picture.time for picture in read])
    start = lips_video.sound_start(path)
    audio = read_audio(path)
    assert start == audio.start
    images = np.stack([picture.grey[:67, :67] for picture in read])
    lips = Lips(images, stamps - start, np.zeros(len(read), np.uint8), video_frame_rate(stamps))

    stft = STFT(1024, 256, 16000)
    frames = stft.frame_times(100).numpy()
    frames = frames[(frames >= lips.times[0]) & (frames <= lips.times[-1])]
    resampled, valid = _seen(lips, frames)
    assert valid.all()
    assert len(frames) > 50
    energy = audio.samples.mean(1) ** 2
    heard = (energy * np.arange(len(energy))).sum() / energy.sum() / audio.sample_rate  # the click
    shown = (255 * resampled.mean((1, 2)) - 40) / 120
    assert np.abs((shown - CLICK) - (frames - heard)).max() < 0.5 / stft.frame_rate


def test_pictures_that_an_avi_reorders_are_kept(tmp_path: Path) -> None:
    """It has no time stamps for showing, and those that FFmpeg guesses for H.264 go back and forth."""
    levels = np.repeat(np.arange(20, 220, 5, np.uint8), 96 * 96).reshape(-1, 96, 96)
    read = list(lips_video.read_video_frames(_write(tmp_path / "a.avi", list(levels))))
    assert len(read) >= 38
    steps = np.diff([picture.time for picture in read])
    np.testing.assert_allclose(steps[1:], 1 / 25, atol=1e-3)
    assert np.diff([picture.grey.mean() for picture in read]).min() > 0


def _alike(found: Lips, expected: Lips) -> bool:
    """Whether the images show the same in the same greys, apart from a shift by less than a pixel or so."""
    likeness = np.corrcoef(found.images.ravel(), expected.images.ravel())[0, 1]
    darker = np.mean(expected.images.astype(float) - found.images)
    return bool(likeness > 0.93 and abs(darker) < 3)


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [
        (".gif", "gif", "gray"),
        (".mov", "png", "rgb24"),
        (".ts", "mpeg2video", "yuv422p"),
        (".flv", "flv", "yuv420p"),
        (".wmv", "wmv2", "yuv420p"),
        (".avi", "rawvideo", "yuv420p"),
        (".mkv", "libx264", "yuv420p10le"),
        (".webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_other_kinds_of_video(tmp_path: Path, suffix: str, codec: str, pix_fmt: str) -> None:
    pictures = _speaking([index / 25 for index in range(6)])
    expected = read_lips(_write(tmp_path / "reference.mkv", pictures, codec="ffv1", pix_fmt="gray"))
    found = read_lips(_write(tmp_path / f"a{suffix}", pictures, codec=codec, pix_fmt=pix_fmt))
    np.testing.assert_allclose(found.times, expected.times, atol=2e-3)
    assert _alike(found, expected)


def test_a_turned_video_is_seen_upright(tmp_path: Path) -> None:
    """As a telephone writes it: the pictures lie on their side, and the file says so."""
    pictures = _speaking([index / 25 for index in range(6)])
    expected = read_lips(_write(tmp_path / "a.mkv", pictures))
    lying = [np.ascontiguousarray(np.rot90(picture)) for picture in pictures]
    path = _write(tmp_path / "a.mp4", lying, codec="mpeg4")
    upright, turned = (
        struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        for a, b, c, d in ((1 << 16, 0, 0, 1 << 16), (0, 1 << 16, -(1 << 16), 0))
    )
    header, content = path.read_bytes().split(b"tkhd", 1)
    path.write_bytes(header + b"tkhd" + content.replace(upright, turned, 1))
    assert _alike(read_lips(path), expected)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    pictures = _speaking([index / 25 for index in range(6)])
    expected = read_lips(_write(tmp_path / "a.mkv", pictures))
    narrow = [zoom(picture, (1, 0.75), order=1) for picture in pictures]
    found = read_lips(_write(tmp_path / "b.mkv", narrow, aspect=Fraction(4, 3)))
    assert _alike(found, expected)
    assert not _alike(read_lips(_write(tmp_path / "c.mkv", narrow)), expected)


def test_a_colour_space_that_cannot_be_converted(tmp_path: Path) -> None:
    pictures = _speaking([index / 25 for index in range(6)])
    expected = read_lips(_write(tmp_path / "a.mkv", pictures))
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape
        stream.pix_fmt, stream.options = "yuv420p", _OPTIONS["libx264"]
        stream.codec_context.colorspace = 8  # YCgCo
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.colorspace = 8
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert next(container.decode(video=0)).colorspace == 8
    assert _alike(read_lips(tmp_path / "b.mkv"), expected)


def _peak(work: Callable[[], Lips]) -> tuple[Lips, float]:
    """The result, and by how many bytes the memory of this process grew at most on the way to it."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    seen, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, float(max(seen) - seen[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory figures of Linux")
def test_4k_takes_no_gigabytes(tmp_path: Path) -> None:
    """Pictures of 8 MB, 33 MB in float32, none of which is kept."""
    face = zoom(_photograph(), 4, order=1)
    pictures = []
    for shift in range(14):
        canvas = np.full((2160, 3840), 90, np.uint8)
        canvas[400 + shift : 1600 + shift, 1200 + 2 * shift : 2480 + 2 * shift] = face
        pictures.append(canvas)
    path = _write(tmp_path / "a.mkv", pictures)
    del pictures, canvas
    lips, grown = _peak(lambda: read_lips(path))
    assert lips.images.shape == (14, 67, 67)
    assert lips.valid.all()
    assert grown < 400e6


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
    images, valid = _seen(lips, lips.times)
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
    with pytest.warns(UserWarning, match=r"a\.mkv: 1 video frames per second are too few"):
        lips = read_lips(path)
    assert lips.times.tolist() == [0, 1, 2]
    assert lips.fps == pytest.approx(1)


def test_a_cut_file_gives_what_is_there_with_a_warning(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mkv", _speaking([index / 25 for index in range(50)]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"a\.mkv: its video ends \d\.\d s before the file should") as caught:
        lips = read_lips(path)
    assert len(caught) == 1
    _, valid = _seen(lips, np.array([0.2, 1.9]))
    assert valid.tolist() == [True, False]


def _mistakes(folder: Path) -> dict[Path, str]:
    """Files that show no lips, and what is said of each."""
    speaking = _speaking([0.0] * 5)
    _write(folder / "nobody.mkv", [np.full((120, 160), 90, np.uint8)] * 5)
    whole = _write(folder / "whole.mp4", speaking).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:2000])
    whole = _write(folder / "whole.mkv", speaking).read_bytes()
    (folder / "header.mkv").write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75") + 40])  # the first cluster
    (folder / "text.mkv").write_text("no video")
    (folder / "empty.mp4").touch()
    np.save(folder / "lips.npy", np.zeros((3, 67, 67), np.uint8))
    for name, codec in (("sound.mkv", "pcm_s16le"), ("song.mp3", "libmp3lame")):
        with av.open(str(folder / name), "w") as container:
            sound = container.add_stream(codec, rate=16000, layout="mono")
            block = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            block.sample_rate = 16000
            container.mux(sound.encode(block))
            container.mux(sound.encode())
    cover = io.BytesIO()
    imsave(cover, _photograph(), cmap="gray", format="png")
    picture = b"\0image/png\0\3\0" + cover.getvalue()
    picture = struct.pack(">4sIH", b"APIC", len(picture), 0) + picture
    size = bytes(len(picture) >> shift & 127 for shift in (21, 14, 7, 0))
    song = folder / "song.mp3"
    song.write_bytes(b"ID3\3\0\0" + size + picture + song.read_bytes())
    messages = {
        "missing.mp4": "does not exist; check the name",
        "": "is a folder; give a video",
        "nobody.mkv": "no face in its 5 frames; give a video that shows the speaker",
        "cut.mp4": "cannot be read as a video",
        "header.mkv": "none of its video frames can be decoded; export the video again",
        "text.mkv": "cannot be read as a video",
        "empty.mp4": "is empty",
        "lips.npy": "cannot be read as a video",
        "sound.mkv": "has no video frames; give a video that shows the speaker",
        "song.mp3": "has no video frames; give a video that shows the speaker",
    }
    return {folder / name: message for name, message in messages.items()}


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: Path | str) -> int:
    """Exit code of `avse lips`."""
    monkeypatch.setattr(sys, "argv", ["avse", "lips", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_mistakes_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mistakes = _mistakes(tmp_path)
    before = sorted(tmp_path.iterdir())
    for path, message in mistakes.items():
        with pytest.raises(InputError, match=message) as caught:
            read_lips(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert ";" in str(caught.value)
        assert "\n" not in str(caught.value)
        capfd.readouterr()
        assert _command(monkeypatch, path, "--out", tmp_path / "out.npz") == cli.USER_ERROR
        assert capfd.readouterr().err == f"avse: {caught.value}\n"
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_writes_the_lips_and_notes_what_is_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A silent video of two faces, one picture a second."""
    pictures = [np.hstack([picture, picture]) for picture in _speaking([0, 1, 2])]
    path = _write(tmp_path / "a.mkv", pictures, 1, times=[0, 1, 2])
    assert _command(monkeypatch, path) == 0
    printed = capfd.readouterr()
    assert printed.out.strip() == str(tmp_path / "a.mkv.lips.npz")
    notes = " ".join(printed.err.split())  # the console folds long lines
    assert "2 faces; the lips are those of the one around pixel" in notes
    assert "1 video frames per second are too few to follow lips" in notes
    lips = load_lips_array(tmp_path / "a.mkv.lips.npz")
    assert lips.times.tolist() == [0, 1, 2]
    assert lips.valid.any()


def _lips(times: Sequence[float], reasons: Sequence[int], fps: float) -> Lips:
    """Images whose level is 10 times their number."""
    levels = 10 * np.arange(len(times), dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None], (len(times), 67, 67))
    return Lips(images, np.array(times), np.array(reasons, np.uint8), fps)


def test_frame_index_is_linear_and_valid_where_both_neighbours_are() -> None:
    lips = _lips([0.0, 0.04, 0.08, 0.12, 0.32], [0, 0, Reason.NO_FACE, 0, 0], 25)
    wanted = [-0.03, -0.02, 0.01, 0.04, 0.05, 0.08, 0.12, 0.2, 0.32, 0.339, 0.35]
    place, valid = frame_index(lips, wanted)
    np.testing.assert_allclose(place, [0, 0, 0.25, 1, 1.25, 2, 3, 3.4, 4, 4, 4], rtol=1e-5)
    assert valid.tolist() == [False, True, True, True, False, False, True, False, True, True, False]


def test_nominal_rate_forgives_rounding_and_lost_pictures() -> None:
    times = np.delete(np.round(np.arange(100) * 1001 / 30000, 3), [20, 21, 60])
    assert video_frame_rate(times) == pytest.approx(30000 / 1001, rel=1e-3)
    assert video_frame_rate(np.zeros(1)) == 25


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
