"""Enhancement with a video: which lips a model is shown, and what is said about them.

Pictures tell their time by their grey level. The pairs are untrained: what is tested is what they are shown.
"""

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from matplotlib import cbook
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.io import savemat

import avse
from avse import zoo
from avse.cli import app as cli
from avse.data.audio import read_audio
from avse.data.corpora.base import Split, Utterance
from avse.data.datamodule import FrameDataModule
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips, Reason, read_lips
from avse.data.lips.files import save_lips
from avse.data.lips.front_end import LipFrontEnd
from avse.data.lips.video import has_pictures
from avse.data.stft import STFT
from avse.inference.algorithm import Algorithm
from avse.inference.em.em import EM
from avse.inference.em.initial import init_from_encoder
from avse.inference.em.m_steps import NoiseStep
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.kernels import RandomWalk
from avse.inference.posterior import Posterior
from avse.inference.presets import PRESETS
from avse.models.nmf import RandomInit
from avse.recording import segments
from avse.zoo.pair import PairConfig, SpeechPair

RATE = 16000
STEP = 4  # grey levels from one picture to the next
HOP = FrontEnd(STFT(hop_length=256))
GREY = LipFrontEnd(side=8, instants=1, normalised=False)
SMALL = {"latent_size": 4, "encoder": [8], "decoder": [8]}
SEEING = {**SMALL, "embedding_size": 6, "prior_hidden": [5]}


def frozen(pair: SpeechPair) -> SpeechPair:
    pair.modules().eval().requires_grad_(False)
    return pair


@pytest.fixture
def pair() -> SpeechPair:
    """It hears and sees; untrained."""
    return frozen(SpeechPair(PairConfig("av-vae", SEEING, HOP, GREY), "# Seeing\n"))


@pytest.fixture
def listening() -> SpeechPair:
    """It only hears; untrained."""
    return frozen(SpeechPair(PairConfig("a-vae", SMALL, HOP), "# Listening\n"))


def light() -> MCEM:
    walk = Chain(RandomWalk(0.1), num_steps=1, warmup=0)
    return MCEM(RandomInit(rank=2), (init_from_encoder,), EM(walk, NoiseStep(), iterations=1), walk)


@dataclass
class Watching:
    """An algorithm that remembers what it was given."""

    inner: Algorithm = field(default_factory=light)
    seen: list[torch.Tensor | None] = field(default_factory=list)
    power: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, speech: Any, guide: Any, power: Any, visual: Any, *rest: Any) -> Posterior:
        self.seen.append(None if visual is None else visual.clone())
        self.power.append(power)
        return self.inner(speech, guide, power, visual, *rest)

    def times(self, fps: float = 25) -> NDArray[np.float64]:
        """Times in s that the pictures of a `clock` told, where they are seen; NaN elsewhere, (N,)."""
        told = torch.cat([visual for visual in self.seen if visual is not None])
        time = told[:, 0].double() * 255 / STEP / fps
        return torch.where(told[:, -1] == 1, time, torch.nan).numpy()


def noise(seconds: float, rate: int = RATE, channels: int | None = None) -> NDArray[np.float32]:
    shape = (round(seconds * rate), *(() if channels is None else (channels,)))
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def clock_images(count: int) -> NDArray[np.uint8]:
    """Picture k has grey level STEP k."""
    images = np.empty((count, 67, 67), np.uint8)
    images[:] = (STEP * np.arange(count))[:, None, None]
    return images


def clock(count: int = 25, fps: float = 25.0, start: float = 0.0, bad: Sequence[int] = ()) -> Lips:
    reasons = np.zeros(count, np.uint8)
    reasons[list(bad)] = Reason.TURNED_AWAY
    return Lips(clock_images(count), start + np.arange(count) / fps, reasons, fps)


def told(pair: SpeechPair, x: NDArray, rate: int = RATE, **how: Any) -> tuple[NDArray, avse.Enhancement]:
    """The times that the pictures told in every frame, and the enhancement."""
    watching = Watching()
    enhancement = avse.enhance(x, rate, model=pair, algorithm=watching, **how)
    return watching.times(), enhancement


def photograph() -> NDArray[np.uint8]:
    """The head of Grace Hopper, which comes with matplotlib, (300, 320)."""
    image = imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))[90:390, 110:430]
    return image.mean(-1).astype(np.uint8)


def write_video(path: Path, face: bool = True, seconds: float = 0.48, sound: bool = True) -> Path:
    """A clip at 25 pictures a second: a face or nothing, with the noise of camera and microphone."""
    generator = np.random.default_rng(0)
    still = photograph() if face else np.full((120, 160), 90, np.uint8)
    lossless = path.suffix == ".mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = still.shape
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "18"}
        if sound:
            track = container.add_stream("pcm_s16le" if lossless else "aac", rate=RATE, layout="mono")
        for _ in range(round(25 * seconds)):
            picture = still + generator.normal(0, 3, still.shape)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            samples = noise(seconds)[None]
            block = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16), "s16", "mono")
            block.sample_rate, block.pts = RATE, 0
            container.mux(track.encode(block))
            container.mux(track.encode())
    return path


# What the model is shown


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_every_frame_is_shown_the_lips_of_its_instant(rate: int, pair: SpeechPair) -> None:
    """At any rate of the recording: the frames are those of the model."""
    times, enhancement = told(pair, noise(1.0, rate), rate, video=clock())
    frames = HOP.stft.frame_times(HOP.stft.frames(RATE)).numpy()
    assert len(times) == len(frames) == enhancement.gain.shape[-2]
    inside = np.isfinite(times)
    assert (inside == (frames <= 0.98)).all()
    exact = frames <= 0.96
    np.testing.assert_allclose(times[exact], frames[exact], atol=1e-5)
    assert enhancement.speech.shape == (rate,)
    assert np.isfinite(enhancement.speech).all()
    bins = HOP.stft.bins
    low = min(bins, round(bins * rate / RATE))
    assert (enhancement.gain[..., low:] == 0).all()
    assert (enhancement.gain[..., :low] > 0).all()


def test_array_lips_file_and_video_file_are_one(tmp_path: Path, pair: SpeechPair) -> None:
    """The same lips from wherever they come: the same output, to the last digit."""
    x = noise(0.5)
    np.save(tmp_path / "a.npy", clock_images(25))
    save_lips(tmp_path / "a.npz", clock())
    enhanced = [
        avse.enhance(x, RATE, model=pair, algorithm=light(), **how)
        for how in (
            {"video": clock()},
            {"video": clock_images(25), "fps": 25},
            {"video": clock_images(25) / np.float32(255), "fps": 25},
            {"video": tmp_path / "a.npy", "fps": 25},
            {"video": tmp_path / "a.npz"},
            {"video": str(tmp_path / "a.npz")},
        )
    ]
    for other in enhanced[1:]:
        np.testing.assert_array_equal(other.speech, enhanced[0].speech)
        assert other.report["video"] == enhanced[0].report["video"]
    clip = write_video(tmp_path / "a.mkv")
    from_clip, from_lips = (
        avse.enhance(x, RATE, model=pair, algorithm=light(), video=video) for video in (clip, read_lips(clip))
    )
    np.testing.assert_array_equal(from_clip.speech, from_lips.speech)
    assert from_clip.report["video"]["frames_with_lips"] > 0.85
    assert np.abs(from_clip.speech - enhanced[0].speech).max() > 0


def test_rate_of_an_array_is_believed(pair: SpeechPair) -> None:
    watching = Watching()
    avse.enhance(noise(0.5), RATE, model=pair, algorithm=watching, video=clock_images(25), fps=50)
    times = watching.times(50)
    np.testing.assert_allclose(times[:30], HOP.stft.frame_times(30).numpy(), atol=1e-5)


@dataclass
class OneUtterance:
    """A corpus for training and validation alike."""

    load_audio: Callable[[], tuple[NDArray[np.float32], int]]
    load_lips: Callable[[], Lips]
    name: str = "one"

    def utterances(self, split: Split) -> list[Utterance]:
        return [Utterance("one", "anna", split, self.load_audio, self.load_lips)]


@pytest.mark.parametrize("view", [GREY, LipFrontEnd(8), LipFrontEnd(67, 1, normalised=False)])
def test_training_and_enhancement_see_and_hear_the_same(view: LipFrontEnd, tmp_path: Path) -> None:
    """A batch of the data module is what the algorithm is given for those frames, number for number."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (30, 67, 67), dtype=np.uint8)
    reasons = np.zeros(30, np.uint8)
    reasons[[4, 10, 11, 12]] = Reason.NO_FACE
    lips = Lips(images, np.cumsum(generator.uniform(0.02, 0.05, 30)), reasons, 29.0)
    x = noise(1.1)
    data = FrameDataModule(
        [OneUtterance(lambda: (x, RATE), lambda: lips)], HOP, lips=view, cache=tmp_path
    ).frames("train")
    order = torch.randperm(len(data)).tolist()
    batch = data[order]
    watching = Watching()
    arguments = {**SEEING, "trunk": "papers"}
    pair = frozen(SpeechPair(PairConfig("av-vae", arguments, HOP, view)))
    enhancement = avse.enhance(x, RATE, model=pair, algorithm=watching, video=lips)
    (visual,), (power,) = watching.seen, watching.power
    assert visual is not None
    assert torch.equal(batch["visual"], visual[order])
    torch.testing.assert_close(batch["power"], power[0, order])
    assert 0.5 < float(visual[:, -1].mean()) < 1
    assert enhancement.lips is not None
    assert torch.equal(view.visual(enhancement.lips), visual)


def test_pieces_of_a_long_recording_see_their_own_lips(
    pair: SpeechPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avse.recording.SEGMENT", 0.8)
    monkeypatch.setattr("avse.recording.OVERLAP", 0.1)
    x, lips = noise(2.0), clock(50, bad=[20, 21, 22])
    watching = Watching()
    enhancement = avse.enhance(x, RATE, model=pair, algorithm=watching, video=lips, video_offset=0.1)
    count = enhancement.gain.shape[-2]
    pieces = [piece for piece, _ in segments(count, HOP.stft)]
    assert len(pieces) == len(watching.seen) == len(enhancement.posteriors) >= 3
    whole = GREY.visual(GREY.track(lips, HOP.stft.frame_times(count), 0.1))
    for piece, visual in zip(pieces, watching.seen, strict=True):
        assert visual is not None
        assert torch.equal(visual, whole[piece])
    frames = np.concatenate([HOP.stft.frame_times(count)[piece].numpy() for piece in pieces])
    times = watching.times()
    exact = np.isfinite(times) & (frames + 0.1 <= 49 / 25)
    assert exact.mean() > 0.8
    np.testing.assert_allclose(times[exact], frames[exact] + 0.1, atol=1e-5)
    assert enhancement.report["video"]["frames_with_lips"] == pytest.approx(float(whole[:, -1].mean()))


def test_every_channel_is_heard_with_the_same_lips(pair: SpeechPair) -> None:
    watching = Watching()
    x = noise(0.5, channels=2)
    enhancement = avse.enhance(x, RATE, model=pair, algorithm=watching, video=clock(), link_channels=False)
    assert [len(power) for power in watching.power] == [1, 1]
    for visual in watching.seen:
        assert visual is not None
        assert visual.shape == (enhancement.gain.shape[-2], GREY.size)
    assert enhancement.gain.shape[0] == 2
    assert enhancement.speech.shape == x.shape
    assert np.isfinite(enhancement.speech).all()
    assert (enhancement.gain > 0).all()


@pytest.mark.parametrize("length", [1, 100, RATE // 2])
def test_short_and_silent_recordings_with_a_video(length: int, pair: SpeechPair) -> None:
    silent = avse.enhance(
        np.zeros(length, np.float32), RATE, model=pair, algorithm=light(), video=clock(bad=[3])
    )
    assert (silent.speech == 0).all()
    assert "the recording is digital silence" in silent.report["notes"]
    heard = avse.enhance(noise(1.0)[:length], RATE, model=pair, algorithm=light(), video=clock(1))
    assert np.isfinite(heard.speech).all()
    assert json.loads(json.dumps(heard.report)) == heard.report


def test_what_is_seen_matters_and_what_is_not_seen_does_not(pair: SpeechPair) -> None:
    """The pixels of pictures that show no lips change nothing; those of lips do. One seed, one output."""
    x = noise(0.5)

    def speech(lips: Lips) -> NDArray[Any]:
        return avse.enhance(x, RATE, model=pair, algorithm=light(), video=lips, seed=1).speech

    def other(lips: Lips) -> Lips:
        return replace(lips, images=255 - lips.images)

    seen, unseen = clock(), clock(bad=range(25))
    np.testing.assert_array_equal(speech(seen), speech(seen))
    assert np.abs(speech(seen) - speech(other(seen))).max() > 0
    np.testing.assert_array_equal(speech(unseen), speech(other(unseen)))


# What is said about it


def test_report_of_a_video(pair: SpeechPair) -> None:
    """Pictures that begin and end with the sound, up to one picture, are no matter for a note."""
    for seconds, start in ((0.97, 0.0), (1.0, 0.0), (1.03, 0.0), (1.0, 0.03), (1.0, -0.03)):
        _, enhancement = told(pair, noise(seconds), video=clock(start=start))
        assert enhancement.report["notes"] == []
    _, enhancement = told(pair, noise(0.97), video=clock(bad=[7, 18]))
    report = enhancement.report
    assert report["notes"] == []
    assert report["video"] == {
        "pictures": 25,
        "fps": 25.0,
        "offset": 0.0,
        "first_picture": 0.0,
        "seconds": pytest.approx(1.0),
        "frames_with_lips": 1.0,
        "reasons": {"good": 23, "turned away": 2},
    }
    assert report["model"] == "av-vae"
    assert report["architecture"]["lips"]["side"] == 8
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("seconds", "lips", "offset", "note"),
    [
        (1.5, clock(), 0.0, "0.46 s of the sound have no pictures"),
        (1.0, clock(start=0.3), 0.0, "0.26 s of the sound have no pictures"),
        (0.5, clock(), 0.0, "0.46 s of the video have no sound and were not used"),
        (1.0, clock(start=-0.2), 0.0, "0.16 s of the video have no sound and were not used"),
        (1.0, clock(), 0.2, "0.16 s of the sound have no pictures"),
        (1.0, clock(), -0.2, "0.16 s of the video have no sound and were not used"),
        (1.0, clock(), 5.0, "the lips are not seen in 100% of the frames: the sound alone decides there"),
        (0.9, clock(bad=range(5, 14)), 0.0, "the lips are not seen in 41% of the frames"),
    ],
)
def test_notes_tell_where_sound_and_pictures_do_not_meet(
    seconds: float, lips: Lips, offset: float, note: str, pair: SpeechPair
) -> None:
    """One picture period is forgiven at each end."""
    times, enhancement = told(pair, noise(seconds), video=lips, video_offset=offset)
    notes, video = enhancement.report["notes"], enhancement.report["video"]
    assert sum(line.startswith(note) for line in notes) == 1, notes
    assert video["frames_with_lips"] == pytest.approx(np.isfinite(times).mean())
    assert video["offset"] == offset
    assert video["first_picture"] == pytest.approx(lips.times[0] - offset)
    unseen = [line for line in notes if "lips are not seen" in line]
    assert bool(unseen) == ((1 - video["frames_with_lips"]) * seconds > 2 / 25)


@pytest.mark.parametrize("offset", [-0.3, 0.2])
def test_offset_is_how_late_the_pictures_come(offset: float, pair: SpeechPair) -> None:
    """What is heard at t is seen at t + offset."""
    times, enhancement = told(pair, noise(1.0), video=clock(), video_offset=offset)
    frames = enhancement.stft.frame_times(len(times)).numpy()
    exact = (frames + offset >= 0) & (frames + offset <= 0.96)
    assert exact.sum() > 30
    np.testing.assert_allclose(times[exact], frames[exact] + offset, atol=1e-5)
    assert np.isnan(times[(frames + offset < -0.021) | (frames + offset > 0.981)]).all()


def test_a_model_that_only_listens_says_that_it_did_not_look(listening: SpeechPair) -> None:
    watching = Watching()
    enhancement = avse.enhance(noise(0.3), RATE, model=listening, algorithm=watching, video=clock())
    alone = avse.enhance(noise(0.3), RATE, model=listening, algorithm=light())
    assert watching.seen == [None]
    assert enhancement.lips is None
    assert enhancement.report["notes"] == ["the video was not used: model a-vae uses the sound alone"]
    assert "video" not in enhancement.report
    np.testing.assert_array_equal(enhancement.speech, alone.speech)
    assert alone.report["notes"] == []


# What is refused


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "model av-vae needs lips: give a video"),
        ({"video": clock_images(9)}, "how many video frames per second is not known; give fps"),
        ({"video": clock_images(9), "fps": 0}, "give fps, a positive number"),
        ({"video": clock_images(9), "fps": np.nan}, "give fps, a positive number"),
        ({"video": clock_images(9)[:, :60], "fps": 25}, r"shape \(9, 60, 67\); lips are \(T_v, 67, 67\)"),
        ({"video": clock_images(9)[0], "fps": 25}, r"lips are \(T_v, 67, 67\)"),
        ({"video": clock_images(0), "fps": 25}, r"lips are \(T_v, 67, 67\)"),
        ({"video": clock_images(9) * 2.0 - 1, "fps": 25}, "grey levels from -1 to 63"),
        ({"video": clock_images(9) * 10.0, "fps": 25}, "grey levels from 0 to 320"),
        ({"video": np.full((9, 67, 67), np.nan), "fps": 25}, "grey levels from nan"),
        ({"video": clock_images(9) > 8, "fps": 25}, "an array of bool"),
        ({"video": clock(), "video_offset": np.nan}, "video offset nan s"),
        ({"video": clock(), "video_offset": np.inf}, "video offset inf s"),
        ({"video": "absent.mp4"}, "absent.mp4: does not exist"),
        ({"video": Path("absent.npz")}, "absent.npz: does not exist"),
    ],
)
def test_unusable_videos_are_refused(how: dict[str, Any], words: str, pair: SpeechPair) -> None:
    with pytest.raises(InputError, match=words) as caught:
        avse.enhance(noise(0.1), RATE, model=pair, algorithm=light(), **how)
    assert "\n" not in str(caught.value)


def test_offset_must_be_a_number_for_any_model(listening: SpeechPair) -> None:
    with pytest.raises(InputError, match="video offset nan s"):
        avse.enhance(noise(0.1), RATE, model=listening, video=clock(), video_offset=np.nan)


@pytest.mark.parametrize(("video", "name"), [(True, "vae-mm"), (False, "a-vae")])
def test_auto_takes_the_model_that_fits(
    video: bool, name: str, pair: SpeechPair, listening: SpeechPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(zoo, "load", lambda wanted: asked.append(wanted) or (pair if video else listening))
    report = avse.enhance(noise(0.1), RATE, video=clock() if video else None, algorithm=light()).report
    assert asked == [name]
    assert report["requested"]["model"] == "auto"
    assert report["model"] == (pair if video else listening).name
    assert report["architecture"]["architecture"] == (pair if video else listening).config.architecture


# The command line


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object, command: str = "enhance") -> int:
    """Exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["avse", command, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.wav"
    sf.write(path, noise(0.48), RATE)
    return path


@pytest.fixture
def saved(tmp_path: Path, pair: SpeechPair) -> Path:
    """The folder of the pair that hears and sees."""
    pair.save_pretrained(tmp_path / "pair")
    return tmp_path / "pair"


def absent_video(folder: Path) -> list[object]:
    return [folder / "absent.mp4"]


def absent_lips(folder: Path) -> list[object]:
    return [folder / "absent.npz"]


def text(folder: Path) -> list[object]:
    (folder / "text.mp4").write_text("no video")
    return [folder / "text.mp4"]


def sound(folder: Path) -> list[object]:
    return [folder / "noisy.wav"]


def directory(folder: Path) -> list[object]:
    return [folder]


def no_face(folder: Path) -> list[object]:
    return [write_video(folder / "noface.mp4", face=False)]


def wrong_shape(folder: Path) -> list[object]:
    np.save(folder / "shape.npy", np.zeros((9, 64, 64), np.uint8))
    return [folder / "shape.npy", "--fps", 25]


def no_rate(folder: Path) -> list[object]:
    np.save(folder / "rate.npy", clock_images(9))
    return [folder / "rate.npy"]


def damaged(folder: Path) -> list[object]:
    save_lips(folder / "cut.npz", clock())
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:1000])
    return [folder / "cut.npz"]


def old_mat(folder: Path) -> list[object]:
    savemat(folder / "old.mat", {"lips": np.zeros((3, 4489))})
    return [folder / "old.mat", "--fps", 30]


MISTAKES = [
    absent_video,
    absent_lips,
    text,
    sound,
    directory,
    no_face,
    wrong_shape,
    no_rate,
    damaged,
    old_mat,
]


@pytest.mark.parametrize("model", ["auto", "saved"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_unusable_videos_end_in_one_line_that_names_them(
    mistake: Callable[[Path], list[object]],
    model: str,
    noisy: Path,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = mistake(noisy.parent)
    before = sorted(noisy.parent.rglob("*"))
    chosen = [] if model == "auto" else ["--model", saved]
    assert run(monkeypatch, noisy, "--video", *options, *chosen) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("avse: ")
    assert str(options[0]) in line
    assert sorted(noisy.parent.rglob("*")) == before


def test_a_bad_offset_is_one_line(
    noisy: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    save_lips(noisy.with_name("a.npz"), clock())
    options = ["--video", noisy.with_name("a.npz"), "--video-offset", "nan", "--model", saved]
    assert run(monkeypatch, noisy, *options) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "video offset nan s" in line


def test_lips_of_a_file_are_used(
    noisy: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the command writes is what the function gives for the same lips; both tell the same."""
    save_lips(noisy.with_name("a.npz"), clock(20))
    out, report = noisy.with_name("out.wav"), noisy.with_name("out.json")
    options = ["--video", noisy.with_name("a.npz"), "--video-offset", 0.1, "--model", saved, "--seed", 3]
    assert run(monkeypatch, noisy, *options, "--out", out, "--json", report) == 0
    written = json.loads(report.read_text())
    audio = read_audio(noisy)
    expected = avse.enhance(
        audio.samples, RATE, video=clock(20), video_offset=0.1, model=avse.load(saved), seed=3
    )
    np.testing.assert_allclose(sf.read(out)[0], expected.speech[:, 0], atol=2**-14)
    assert written["video"] == expected.report["video"]
    assert written["video"]["offset"] == 0.1
    assert written["notes"] == expected.report["notes"]
    assert [f"note: {note}" for note in written["notes"]] == capfd.readouterr().err.strip().splitlines()


@pytest.fixture
def light_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "mcem", light)


@pytest.mark.parametrize("sound", [True, False])
def test_lips_of_a_clip_as_a_file_and_a_picture(
    sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The picture is drawn for a silent video, too, and differs from that with the level of a sound."""
    clip, figure = write_video(tmp_path / "clip.mp4", sound=sound), tmp_path / "clip.png"
    assert run(monkeypatch, clip, "--figure", figure, command="lips") == 0
    streams = capfd.readouterr()
    assert streams.out.strip() == str(tmp_path / "clip_lips.npz")
    assert "good: 12" in streams.err
    assert len(np.load(tmp_path / "clip_lips.npz")["images"]) == 12
    drawn = imread(figure)
    assert drawn.shape[0] > 300
    assert drawn.std() > 0.05


@pytest.mark.usefixtures("light_presets")
def test_a_noisy_video_is_its_own_video(
    tmp_path: Path, saved: Path, pair: SpeechPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With "auto", which then takes vae-mm, and with a model that looks."""
    clip, report = write_video(tmp_path / "noisy.mp4"), tmp_path / "report.json"
    assert has_pictures(clip)
    assert run(monkeypatch, clip, "--model", saved, "--json", report) == 0
    own = json.loads(report.read_text())
    assert own["video"]["pictures"] == 12
    assert own["video"]["frames_with_lips"] > 0.85
    assert sf.info(tmp_path / "noisy.mp4.enhanced.wav").frames == len(read_audio(clip).samples)
    asked: list[object] = []
    monkeypatch.setattr(zoo, "load", lambda wanted: asked.append(wanted) or pair)
    assert run(monkeypatch, clip, "--json", report) == 0
    assert asked == ["vae-mm"]
    assert json.loads(report.read_text())["video"] == own["video"]


@pytest.mark.usefixtures("light_presets")
def test_a_noisy_video_is_only_heard_by_a_model_that_only_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody looks for a face in it."""
    clip, report = write_video(tmp_path / "noisy.mp4", face=False), tmp_path / "report.json"
    assert run(monkeypatch, clip, "--model", "a-vae", "--json", report) == 0
    values = json.loads(report.read_text())
    assert values["notes"] == []
    assert "video" not in values
    assert not capfd.readouterr().err.strip()


@pytest.mark.usefixtures("light_presets")
def test_a_noisy_video_without_a_face_is_enhanced_by_its_sound_alone(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With one note, unless the model or the option asks for lips."""
    (tmp_path / "a[").mkdir()
    clip = write_video(tmp_path / "a[" / "b] [hd].mp4", face=False)  # no markup of the terminal
    assert run(monkeypatch, clip, "--out", tmp_path / "out.wav", "--json", tmp_path / "report.json") == 0
    (note,) = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert note.startswith("the sound alone was used (")
    assert f"{clip}: no face in its 12 " in note
    assert capfd.readouterr().err.strip().splitlines() == [f"note: {note}"]
    assert sf.info(tmp_path / "out.wav").frames == len(read_audio(clip).samples)
    for options in (["--video", clip], ["--model", saved]):
        assert run(monkeypatch, clip, *options, "--out", tmp_path / "new.wav") == cli.USER_ERROR
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert line.startswith(f"avse: {clip}: no face in its 12 ")
        assert not (tmp_path / "new.wav").exists()


@pytest.mark.usefixtures("light_presets")
def test_a_sound_file_with_lips_for_a_model_that_only_listens(
    noisy: Path, listening: SpeechPair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    listening.save_pretrained(noisy.with_name("deaf"))
    save_lips(noisy.with_name("a.npz"), clock())
    options = ["--video", noisy.with_name("a.npz"), "--model", noisy.with_name("deaf")]
    assert run(monkeypatch, noisy, *options) == 0
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line == f"note: the video was not used: model {noisy.with_name('deaf')} uses the sound alone"


@pytest.mark.parametrize(
    ("sound", "pictures", "expected"), [(True, True, True), (False, True, True), (True, False, False)]
)
def test_what_counts_as_a_video(sound: bool, pictures: bool, expected: bool, tmp_path: Path) -> None:
    if pictures:
        path = write_video(tmp_path / "a.mp4", face=False, sound=sound)
    else:
        path = tmp_path / "a.flac"
        sf.write(path, noise(0.2), RATE)
    assert has_pictures(path) == expected


@pytest.mark.data
def test_a_real_clip_shows_its_lips_throughout(real_recordings: Path, pair: SpeechPair) -> None:
    """75 pictures, 3 s of sound: every frame of the sound has lips, and there is nothing to note."""
    clip = real_recordings / "grid" / "s1" / "bbaf2n.mpg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio = read_audio(clip)
        enhancement = avse.enhance(
            audio.samples, audio.sample_rate, model=pair, algorithm=light(), video=clip
        )
    video = enhancement.report["video"]
    assert video["pictures"] == 75
    assert video["fps"] == pytest.approx(25)
    assert video["first_picture"] == pytest.approx(0, abs=0.04)
    assert video["frames_with_lips"] > 0.97
    assert not [note for note in enhancement.report["notes"] if "modelled" not in note]
