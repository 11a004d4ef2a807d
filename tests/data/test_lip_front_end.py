"""What a frame of the sound is shown of the lips: pictures whose grey level tells their time."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avse.data.errors import InputError
from avse.data.lips import Lips, Reason
from avse.data.lips.front_end import MIDDLE, SPREAD, LipFrontEnd, LipTrack
from avse.data.lips.lips import interpolate_gaps
from avse.data.stft import STFT

RATES = [25, Fraction(30000, 1001), 30, 50]
STEP = 5  # grey levels from one picture to the next
PLAIN = LipFrontEnd(side=4, instants=1, normalised=False)


def flat_lips(levels: Sequence[int], times: Sequence[float], fps: float, bad: Sequence[int] = ()) -> Lips:
    """Pictures of one grey level each; those of the numbers `bad` show no face."""
    images = np.empty((len(levels), 67, 67), np.uint8)
    images[:] = np.array(levels)[:, None, None]
    reasons = np.zeros(len(levels), np.uint8)
    reasons[list(bad)] = Reason.NO_FACE
    return Lips(images, np.array(times, np.float64), reasons, float(fps))


def clock(fps: float, count: int = 50, bad: Sequence[int] = ()) -> Lips:
    """Picture k has level STEP k and is taken at k / fps."""
    return flat_lips([STEP * k for k in range(count)], [k / float(fps) for k in range(count)], fps, bad)


def textured(count: int = 20, seed: int = 0) -> NDArray[np.float64]:
    """Mouths between 60 and 180 grey levels: a texture that brightens and darkens, (T_v, 67, 67)."""
    texture = np.random.default_rng(seed).uniform(80, 160, (67, 67))
    return texture + 20 * np.sin(np.arange(count))[:, None, None]


def of(images: NDArray[np.floating], bad: Sequence[int] = ()) -> Lips:
    """25 pictures a second, rounded to whole grey levels."""
    reasons = np.zeros(len(images), np.uint8)
    reasons[list(bad)] = Reason.NO_FACE
    return Lips(images.round().astype(np.uint8), np.arange(len(images)) / 25, reasons, 25.0)


def shown(
    view: LipFrontEnd, lips: Lips, times: Sequence[float] | NDArray, offset: float = 0.0
) -> torch.Tensor:
    """What the frames at `times` see, (N, D)."""
    return view.visual(view.track(lips, times, offset))


def told_times(view: LipFrontEnd, visual: torch.Tensor, fps: float) -> NDArray[np.float64]:
    """The times in s that the pictures of a `clock` tell, (N, P)."""
    pictures = visual[:, :-1].unflatten(1, (view.instants, view.side**2)).double()
    assert (pictures == pictures[..., :1]).all()
    return pictures[..., 0].numpy() * 255 / STEP / float(fps)


@pytest.mark.parametrize(("side", "pictures"), [(1, 1), (8, 1), (8, 5), (32, 3), (67, 7)])
def test_size_is_that_of_a_frame(side: int, pictures: int) -> None:
    view = LipFrontEnd(side, pictures)
    assert view.size == pictures * side**2 + 1
    visual = shown(view, clock(25), [0.1, 0.5, 9.0])
    assert visual.shape == (3, view.size)
    assert visual.dtype == torch.float32


def test_the_papers_frame_is_the_image() -> None:
    """4489 grey levels from 0 to 1, exactly, and whether they are lips."""
    view = LipFrontEnd(67, 1, normalised=False)
    images = np.random.default_rng(0).integers(0, 256, (7, 67, 67), dtype=np.uint8)
    lips = Lips(images, np.arange(7) / 30, np.zeros(7, np.uint8), 30.0)
    visual = shown(view, lips, lips.times)
    assert visual.shape == (7, 4490)
    assert torch.equal(visual[:, :-1], torch.from_numpy(images).flatten(1) / 255)
    assert (visual[:, -1] == 1).all()


@pytest.mark.parametrize("fps", RATES)
def test_between_two_pictures_grey_is_linear_in_time(fps: float) -> None:
    """At its own time stamp a picture is shown exactly."""
    lips = clock(fps)
    exact = shown(PLAIN, lips, lips.times)
    assert torch.equal(exact[:, 0], STEP * torch.arange(50.0) / 255)
    share = np.array([0.25, 0.5, 0.9])
    between = (np.arange(49)[:, None] + share) / float(fps)
    told = told_times(PLAIN, shown(PLAIN, lips, between.ravel()), fps)
    np.testing.assert_allclose(told[:, 0], between.ravel(), atol=1e-5)


def test_uneven_time_stamps_are_believed() -> None:
    steps = np.random.default_rng(0).choice([0.02, 0.033, 0.05], 39)
    times = np.concatenate([[0.1], 0.1 + np.cumsum(steps)])
    lips = flat_lips([6 * k for k in range(40)], times.tolist(), 30)
    wanted = np.linspace(times[0], times[-1], 333)
    visual = shown(PLAIN, lips, wanted)
    np.testing.assert_allclose(
        visual[:, 0] * 255, np.interp(wanted, times, 6 * np.arange(40)), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize(("pictures", "spacing"), [(3, 0.04), (5, 0.04), (5, 0.033), (7, 0.05)])
def test_instants_lie_as_far_apart_whatever_the_rate(fps: float, pictures: int, spacing: float) -> None:
    """The pictures of a frame at t tell t - 2 d, t - d, t, t + d, t + 2 d."""
    view = LipFrontEnd(side=2, instants=pictures, step=spacing, normalised=False)
    stft = STFT(hop_length=256)
    times = stft.frame_times(60).numpy()
    times = times[(times > 0.2) & (times < 0.75)]
    track = view.track(clock(fps), times)
    assert track.valid.all()
    around = spacing * (np.arange(pictures) - pictures // 2)
    told = told_times(view, view.visual(track), fps)
    np.testing.assert_allclose(told, times[:, None] + around, atol=1e-5)


def test_pictures_come_late_by_the_offset() -> None:
    """What is heard at t is seen at t + offset."""
    times = np.linspace(0.4, 1.4, 30)
    for offset in (-0.3, 0.0, 0.123):
        told = told_times(PLAIN, shown(PLAIN, clock(25), times, offset), 25)
        np.testing.assert_allclose(told[:, 0], times + offset, atol=1e-5)


def test_frames_that_see_nothing_are_all_zero() -> None:
    """Two bad pictures, and what lies more than half a picture period outside the clip."""
    lips = clock(25, count=20, bad=[10, 11])
    times = np.array([-0.1, -0.021, 0.0, 0.36, 0.37, 0.4, 0.44, 0.47, 0.48, 0.76, 0.779, 0.781, 5.0])
    expected = [False, False, True, True, False, False, False, False, True, True, True, False, False]
    for view in (LipFrontEnd(4), LipFrontEnd(4, 3, normalised=False)):
        track = view.track(lips, times)
        assert track.valid.tolist() == expected
        visual = view.visual(track)
        assert torch.isfinite(visual).all()
        assert (visual[~track.valid] == 0).all()
        assert (visual[track.valid, -1] == 1).all()


def test_unseen_side_instants_show_the_frames_own_picture() -> None:
    """Before the first picture, after the last, and where the face is lost."""
    view = LipFrontEnd(2, 5, 0.04, normalised=False)
    lips = clock(25, count=30, bad=[13, 14, 15])
    told = told_times(view, shown(view, lips, np.array([0, 1, 12, 16, 28, 29, 5]) / 25), 25) * 25
    expected = [
        [0, 0, 0, 1, 2],
        [1, 0, 1, 2, 3],
        [10, 11, 12, 12, 12],
        [16, 16, 16, 17, 18],
        [26, 27, 28, 29, 28],
        [27, 28, 29, 29, 29],
        [3, 4, 5, 6, 7],
    ]
    np.testing.assert_allclose(told, expected, atol=1e-4)


@pytest.mark.parametrize(("gain", "shift"), [(1.0, 60.0), (1.0, -50.0), (0.5, 20.0), (1.5, -80.0)])
@pytest.mark.parametrize("side", [16, 67])
def test_light_and_contrast_do_not_matter(gain: float, shift: float, side: int) -> None:
    """Up to the rounding of camera and front end. Without normalisation they do matter."""
    images = textured()
    times = np.linspace(0, 0.75, 33)
    view = LipFrontEnd(side, 3)
    first = shown(view, of(images), times)
    again = shown(view, of(gain * images + shift), times)
    spread = images.std() if side == 67 else 14  # of pictures that blocks of pixels were averaged in
    rounding = (0.5 + 0.5 / gain) / spread + 1 / SPREAD
    assert float((again - first).abs().max()) < rounding < 0.14
    raw = LipFrontEnd(side, 3, normalised=False)
    change = shown(raw, of(gain * images + shift), times) - shown(raw, of(images), times)
    assert float(change.abs().mean()) > 0.05


def test_a_normalised_clip_has_mean_0_and_spread_1() -> None:
    """Over the pictures that show the lips; what the others hold does not count."""
    images = textured(30)
    spoilt = images.copy()
    bad = [11, 12, 13, 29]
    spoilt[bad] = 255
    view = LipFrontEnd(67, 1)
    times = np.arange(30) / 25
    visual = shown(view, of(spoilt, bad), times)
    pixels = visual[visual[:, -1] == 1, :-1]
    assert len(pixels) == 26
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-3)
    assert float(pixels.std()) == pytest.approx(1, abs=1e-2)
    assert torch.equal(visual, shown(view, of(images, bad), times))


def test_clips_without_contrast_or_without_lips_stay_finite() -> None:
    times = np.arange(5) / 25
    flat = flat_lips([90] * 5, times.tolist(), 25)
    assert (shown(LipFrontEnd(8), flat, times)[:, :-1] == 0).all()
    unseen = flat_lips([90] * 5, times.tolist(), 25, bad=range(5))
    assert (shown(LipFrontEnd(8), unseen, times) == 0).all()
    one = flat_lips([90], [0.0], 25)
    assert shown(LipFrontEnd(8), one, [0.0, 0.01, 0.1])[:, -1].tolist() == [1, 1, 0]


def test_small_pictures_are_means_of_the_large_one() -> None:
    images = textured(3)
    visual = shown(LipFrontEnd(1, 1, normalised=False), of(images), np.arange(3) / 25)
    np.testing.assert_allclose(visual[:, 0] * 255, images.mean((1, 2)), atol=0.6)
    left = np.zeros((1, 67, 67))
    left[:, :, :33] = 200
    (frame,) = shown(LipFrontEnd(2, 1, normalised=False), of(left), [0.0])
    quarters = frame[:-1].view(2, 2) * 255
    assert torch.equal(quarters[0], quarters[1])
    assert quarters[0, 0] > 190
    assert quarters[0, 1] < 10


@pytest.mark.parametrize("view", [LipFrontEnd(8), LipFrontEnd(8, 1, normalised=False)])
def test_absent_lips_are_unseen_lips(view: LipFrontEnd) -> None:
    track = view.absent(6)
    assert len(track.video_frames) == 1
    assert (track.video_frames == MIDDLE).all()
    assert not track.valid.any()
    visual = view.visual(track)
    assert visual.shape == (6, view.size)
    assert (visual == 0).all()


def test_clips_joined_are_the_clips_one_after_the_other() -> None:
    """Whatever the clips, and also where one of them is absent; no frame sees the clip of another."""
    view = LipFrontEnd(8, 3)
    times = np.linspace(-0.1, 0.9, 41)
    tracks = [
        view.track(of(textured(20, 1)), times),
        view.absent(5),
        view.track(clock(30, 25, bad=[7, 8]), times[:17], 0.05),
        view.track(of(textured(22, 2)), times),
    ]
    joined = LipTrack.joined(tracks)
    assert joined.place.shape == (41 + 5 + 17 + 41, 3)
    assert torch.equal(view.visual(joined), torch.cat([view.visual(track) for track in tracks]))
    assert torch.equal(view.visual(LipTrack.joined(tracks[:1])), view.visual(tracks[0]))


def test_some_frames_of_a_track() -> None:
    view = LipFrontEnd(8, 3)
    track = view.track(of(textured()), np.linspace(-0.1, 0.9, 41))
    whole = view.visual(track)
    mask = torch.arange(41) % 3 == 0
    for part in (slice(5, 20), [7, 3, 3, 40], torch.tensor([2, 1]), mask):
        assert torch.equal(view.visual(track.frames(part)), whole[part])


@pytest.mark.parametrize(
    "setting",
    [
        {"side": 0},
        {"side": 68},
        {"instants": 0},
        {"instants": 2},
        {"instants": -1},
        {"step": 0.0},
        {"step": -0.04},
        {"step": float("nan")},
        {"step": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match="the side is 1 to 67, the instants an odd number"):
        LipFrontEnd(**setting)  # type: ignore[arg-type]


def test_single_bad_pictures_are_bridged_and_longer_gaps_are_not() -> None:
    """Nothing else changes; nor do bad pictures at either end, which have one neighbour alone."""
    bad = [0, 5, 9, 11, 20, 21, 29]
    lips = clock(25, count=30, bad=bad)
    whole = interpolate_gaps(lips)
    kept = np.array([k for k in range(30) if k not in (5, 9, 11)])
    for name in ("images", "times", "reasons"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(lips, name)[kept])
    assert whole.fps == lips.fps
    track = PLAIN.track(lips, lips.times)
    assert (~track.valid).nonzero().ravel().tolist() == [0, 20, 21, 29]
    told = told_times(PLAIN, PLAIN.visual(track), 25)[track.valid.numpy(), 0]
    np.testing.assert_allclose(told, lips.times[track.valid.numpy()], atol=1e-5)


@pytest.mark.parametrize("bad", [[], range(12)])
def test_clips_that_are_all_good_or_all_bad_are_not_bridged(bad: Sequence[int]) -> None:
    lips = clock(25, count=12, bad=bad)
    for name in ("images", "times", "reasons"):
        np.testing.assert_array_equal(getattr(interpolate_gaps(lips), name), getattr(lips, name))


def test_the_gap_counts_in_seconds_and_not_in_pictures() -> None:
    """A bad picture beside a lost one leaves too long a way to go."""
    lips = flat_lips([0, 10, 20, 30, 40], [0.0, 0.04, 0.08, 0.16, 0.2], 25, bad=[2])
    assert interpolate_gaps(lips).times.tolist() == lips.times.tolist()
    assert PLAIN.track(lips, [0.04, 0.06, 0.08, 0.12, 0.16]).valid.tolist() == [True, *[False] * 3, True]


def test_a_video_brought_to_30_pictures_a_second_by_doubling_is_whole_again() -> None:
    """Every sixth picture repeats the fifth: it is not shown, and the lips move on between its neighbours."""
    levels = [STEP * (k - (k % 6 == 5)) for k in range(48)]
    lips = flat_lips(levels, [k / 30 for k in range(48)], 30)
    doubled = np.arange(48) % 6 == 5
    reasons = np.where(doubled, Reason.DUPLICATE, Reason.GOOD).astype(np.uint8)
    lips = Lips(lips.images, lips.times, reasons, lips.fps)
    track = PLAIN.track(lips, np.linspace(0, 46 / 30, 500))
    assert track.valid.all()
    told = told_times(PLAIN, shown(PLAIN, lips, lips.times[:47]), 30)[:, 0]
    np.testing.assert_allclose(told, lips.times[:47], atol=1e-5)
