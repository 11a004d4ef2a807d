"""The lips of a speaker: read from a video, and brought to the frames of the sound.

A video frame's time stamp is the instant that it shows. All times are in seconds on the clock of the sound: 0
is the first sample of the sound track, as `avse.data.audio` reads it, or the first frame of a silent video.
"""

import os
import warnings
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avse.data.errors import InputError
from avse.data.lips.crop import SIDE, cut_out, fraction_inside, mouth_path
from avse.data.lips.tracker import Tracker
from avse.data.lips.video import read_video_frames, sound_start

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TURNED_AWAY_NOSE_OFFSET = (
    0.22  # the nose this far from between the eyes, over their distance: some 40 degrees
)
FRACTION_INSIDE_FRAME = 0.85  # of the square around the mouth that must lie in the video frame
DUPLICATE_CHANGE = (
    0.02  # grey levels; a video frame that changes by less on average repeats the one before it
)
DUPLICATE_RELATIVE_CHANGE = (
    0.2  # of the smaller change of both its neighbours; by less, a video frame is a repetition, too
)
LARGEST_FRAME_GAP = 2.5  # periods of the video frames; time stamps further apart hide lost video frames
HIGHEST_FRAME_RATE = 1000.0  # video frames per second, beyond which time stamps are damaged
SLOWEST_FRAME_RATE = 10.0  # video frames per second, below which lips cannot be followed


class Reason(IntEnum):
    """Why an image does not show the lips; `GOOD` where it does."""

    GOOD = 0
    NO_FACE = 1
    TURNED_AWAY = 2
    OUTSIDE = 3
    DUPLICATE = 4
    DAMAGED = 5
    HIDDEN = 6

    @property
    def text(self) -> str:
        """For people: "no face"."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, repr=False)
class Lips:
    """Images of a speaker's lips.

    Attributes:
        images: grey, the mouth in the middle, upright, of one scale over speakers, uint8 (T_v, 67, 67).
        times: s on the clock of the sound, strictly increasing, (T_v,).
        reasons: a `Reason` for every image, uint8 (T_v,).
        fps: video frames per second, nominal: the inverse of the usual distance of the times.

    Raises:
        InputError: no image, or parts that do not fit together.
    """

    images: NDArray[np.uint8]
    times: NDArray[np.float64]
    reasons: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        count = len(self.images)
        if count < 1 or self.images.shape != (count, SIDE, SIDE) or self.images.dtype != np.uint8:
            raise InputError(
                f"lips of {self.images.dtype} {self.images.shape}: give uint8 (T_v, {SIDE}, {SIDE}), T_v >= 1"
            )
        if self.times.shape != (count,) or self.reasons.shape != (count,):
            raise InputError(f"{count} lips need as many times and reasons, not {self.times.shape}")
        if not (np.isfinite(self.times).all() and (np.diff(self.times) > 0).all()):
            raise InputError("the times of lips must increase; give them in seconds, in order")
        if not 0 < self.fps < np.inf:
            raise InputError(f"lips at {self.fps} video frames per second; give a positive number")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether an image shows the lips, (T_v,)."""
        return self.reasons == Reason.GOOD

    def __repr__(self) -> str:
        """Number, rate, time and validity in one line."""
        seen = np.count_nonzero(self.valid)
        return (
            f"Lips({len(self.times)} images at {self.fps:.4g} per second, "
            f"{self.times[0]:.2f} to {self.times[-1]:.2f} s, {seen} show the lips)"
        )

    def plot_strip(self, axes: "Axes | None" = None, *, count: int = 16) -> "Axes":
        """Draw images side by side over time, red where the lips are not seen; returns the axes.

        Args:
            axes: to draw on; by default new ones.
            count: the most images; fewer in narrow axes.
        """
        from avse.data.drawing import axes_or_new
        from avse.data.lips.drawing import draw_lips

        axes = axes_or_new(axes, (10.0, 1.2))
        draw_lips(axes, self, count)
        return axes

    def plot_geometry(
        self, axes: "Axes | None" = None, *, names: tuple[str, ...] = ("open_middle", "width")
    ) -> "Axes":
        """Draw distances of the mouth from its landmarks over time; returns the axes.

        They are in standard deviations of the clip; gaps are where the lips are not seen.

        Args:
            axes: to draw on; by default new ones.
            names: of `avse.data.lips.geometry.SHAPES`.

        Raises:
            InputError: a name that is none of them.
        """
        from avse.data.drawing import axes_or_new
        from avse.data.lips.drawing import draw_geometry
        from avse.data.lips.geometry import SHAPES
        from avse.data.lips.landmarks import find_landmarks
        from avse.data.lips.shape_front_end import described_shapes, with_hidden

        unknown = set(names) - set(SHAPES)
        if unknown:
            raise InputError(f"no shape {', '.join(sorted(unknown))}: there are {', '.join(SHAPES)}")
        found = find_landmarks(self.images, self.valid)
        shown = with_hidden(self, found)
        shapes = np.where(shown.valid[:, None], described_shapes(shown, found), np.nan)
        axes = axes_or_new(axes)
        draw_geometry(axes, self.times, shapes, names)
        axes.set_xlabel("time (s)")
        axes.legend(loc="upper right", ncols=len(names))
        return axes

    def _repr_html_(self) -> str:
        """For a notebook: a strip of images, and how many show the lips."""
        from matplotlib.figure import Figure

        from avse.data.notebook import facts, picture, section

        figure = Figure(figsize=(10, 1.2), layout="constrained")
        self.plot_strip(figure.add_subplot())
        kept = {each.text: np.count_nonzero(self.reasons == each) for each in Reason}
        values = {
            "images": f"{len(self.times)}, {self.fps:.4g} per second",
            "time": f"{self.times[0]:.2f} to {self.times[-1]:.2f} s",
            **{reason: str(number) for reason, number in kept.items() if number},
        }
        alt = f"Images of the lips over time; {kept[Reason.GOOD.text]} of {len(self.times)} show them."
        return section("Lips", picture(figure, alt), facts(values, "images"))


def read_lips(path: str | os.PathLike[str], track: int | None = None) -> Lips:
    """Find and cut out the speaker's mouth in every frame of a video (mp4, mkv, mov, avi, webm, mpg, ...).

    The video is decoded twice, and never held in memory: first the face is followed, then the lips are cut
    out along its smoothed path. A `UserWarning` tells of several faces, of which the large, central and
    lasting one is followed, of a video that ends before its file does, and of less than 10 a second.

    Frames may have any size. Only the search for faces reduces them, to at most 480 pixels a side, where it
    finds faces from about 24 pixels on.

    Args:
        path: of the video.
        track: number of the sound track, from 0, whose first sample is time 0, as for
            `avse.data.audio.read_audio`; None for the first one.

    Raises:
        InputError: the file is missing, not readable as a video, without video frames, without a face or
            without that sound track, or its time stamps are those of more than 1000 video frames per second.
    """
    path = Path(path)
    tracker = Tracker()
    times, damaged = [], []
    for frame in read_video_frames(path):
        tracker.show(frame.grey, frame.time)
        times.append(frame.time)
        damaged.append(frame.damaged)
    speaker = tracker.speaker(str(path))
    if speaker is None:
        raise InputError(f"{path}: no face in its {len(times)} frames; give a video that shows the speaker")
    stamps = np.array(times)
    fps = video_frame_rate(stamps)
    if not 0 < fps <= HIGHEST_FRAME_RATE:
        raise InputError(
            f"{path}: its time stamps are those of {fps:.3g} video frames per second; export the video again"
        )
    if fps < SLOWEST_FRAME_RATE:
        warnings.warn(f"{path}: {fps:.3g} video frames per second are too few to follow lips", stacklevel=2)
    whole = {index: points for index, points in speaker.landmarks.items() if not damaged[index]}
    mouth = mouth_path(whole or speaker.landmarks, stamps, fps)
    images = np.zeros((len(stamps), SIDE, SIDE), np.uint8)
    outside = np.zeros(len(stamps), bool)
    change = np.full(len(stamps), np.inf)
    previous = np.zeros((0, 0), np.uint8)
    for index, frame in zip(range(len(stamps)), read_video_frames(path), strict=False):
        images[index] = cut_out(frame.grey, mouth.centre[index], mouth.side[index], mouth.angle[index])
        change[index] = _change(frame.grey, previous, mouth.centre[index], mouth.side[index])
        previous = frame.grey
        outside[index] = fraction_inside(mouth, index, frame.grey.shape) < FRACTION_INSIDE_FRAME
    reasons = np.select(
        [
            np.array(damaged),
            ~mouth.seen,
            np.abs(mouth.yaw) > TURNED_AWAY_NOSE_OFFSET,
            outside,
            _repeated(change),
        ],
        [Reason.DAMAGED, Reason.NO_FACE, Reason.TURNED_AWAY, Reason.OUTSIDE, Reason.DUPLICATE],
    ).astype(np.uint8)
    start = sound_start(path, track)
    return Lips(images, stamps - (stamps[0] if start is None else start), reasons, fps)


class FrameIndex(NamedTuple):
    """Where instants fall among the video frames of a clip.

    Attributes:
        place: between 0 and T_v - 1, whole at a video frame and fractional between two, (N,).
        valid: whether the lips are seen there, (N,).
    """

    place: NDArray[np.float64]
    valid: NDArray[np.bool_]


def frame_index(lips: Lips, instants: ArrayLike) -> FrameIndex:
    """Where instants (N,), in s on the clock of the sound, fall among the video frames.

    An instant is valid where all images next to it are valid and their time stamps leave no room for a lost
    video frame. Instants before the first and after the last one take that one; they are invalid if more than
    half a frame period away.
    """
    wanted = np.asarray(instants, np.float64)
    last = len(lips.times) - 1
    place = np.interp(wanted, lips.times, np.arange(last + 1))
    place = np.where(np.abs(place - np.round(place)) < 1e-6, np.round(place), place)
    before, after = np.floor(place).astype(int), np.ceil(place).astype(int)
    period = 1 / lips.fps
    valid = lips.valid[before] & lips.valid[after]
    valid &= lips.times[after] - lips.times[before] <= LARGEST_FRAME_GAP * period
    edge = period / 2 + 1e-6
    valid &= (wanted >= lips.times[0] - edge) & (wanted <= lips.times[-1] + edge)
    return FrameIndex(place, valid)


def nearest(lips: Lips, instants: ArrayLike) -> NDArray[np.int_]:
    """The video frame nearest to each instant (N,), in s on the clock of the sound: its index, (N,)."""
    return np.rint(frame_index(lips, instants).place).astype(int)


def interpolate_gaps(lips: Lips) -> Lips:
    """The lips without single bad video frames: those whose good neighbours are near enough to stand in.

    What is left is interpolated across the gap. A video that was brought from 25 to 30 frames per second by
    doubling every fifth is whole again.
    """
    good = np.flatnonzero(lips.valid)
    after = np.searchsorted(good, np.arange(len(lips.times)))
    inner = (after > 0) & (after < len(good))
    gap = np.full(len(lips.times), np.inf)
    gap[inner] = lips.times[good[after[inner]]] - lips.times[good[after[inner] - 1]]
    kept = lips.valid | (gap > LARGEST_FRAME_GAP / lips.fps)
    return Lips(lips.images[kept], lips.times[kept], lips.reasons[kept], lips.fps)


def video_frame_rate(times: NDArray[np.float64]) -> float:
    """Video frames per second of time stamps (T_v,) in s: inverse of their usual distance; 25 for one alone.

    The mean of all distances that are at most 1.5 times the median: lost video frames do not count, and time
    stamps that are rounded to milliseconds average out.
    """
    steps = np.diff(times)
    if not len(steps):
        return 25.0
    return float(1 / steps[steps <= 1.5 * np.median(steps)].mean())


def _change(
    frame: NDArray[np.uint8], previous: NDArray[np.uint8], centre: NDArray[np.float64], side: float
) -> float:
    """Mean absolute difference of two grey images (H, W) around the mouth; infinite where unknown."""
    top, left = (slice(max(0, int(middle - side)), max(0, int(middle + side))) for middle in centre[::-1])
    if frame.shape != previous.shape or not frame[top, left].size:
        return np.inf
    return float(np.abs(np.subtract(frame[top, left], previous[top, left], dtype=np.int16)).mean())


def _repeated(change: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether video frames repeat the one before, from their change to it, (T_v,).

    A camera's noise changes every video frame. A repetition that was encoded once more changes less than the
    video frames on both sides of it.
    """
    inner = np.pad(np.where(np.isfinite(change), change, 0), 1)
    return (change < DUPLICATE_CHANGE) | (
        change < DUPLICATE_RELATIVE_CHANGE * np.minimum(inner[:-2], inner[2:])
    )
