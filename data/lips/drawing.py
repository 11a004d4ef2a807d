"""Drawing lips on matplotlib axes: strips of video frames, and the shape of the mouth over time."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avse.data.lips.geometry import SHAPES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from avse.data.lips.front_end import LipTrack
    from avse.data.lips.lips import Lips

SEEN, INVALID = "#2ca02c", "#d62728"
GEOMETRY = (("open_middle", "outer_height"), ("width", "lower_lip"))
"""Quantities of the shape that are drawn, those of one panel together."""


def frames_that_fit(axes: "Axes", most: int) -> int:
    """How many square video frames fit side by side into axes, at least 4 and at most `most`."""
    box = axes.get_window_extent()
    return max(4, min(most, round(box.width / max(box.height, 1e-3))))


def draw_images(
    axes: "Axes", images: NDArray[np.uint8], seen: NDArray[np.bool_], start: float, end: float
) -> None:
    """Grey images (M, side, side) side by side over time; red where the lips are not seen.

    Args:
        axes: to draw on.
        images: of equal parts of the time.
        seen: whether an image shows the lips, (M,).
        start: of the first part, s.
        end: of the last part, s.
    """
    axes.imshow(
        np.concatenate(list(images), axis=1),
        cmap="gray",
        vmin=0,
        vmax=255,
        aspect="auto",
        extent=(start, end, 0.0, 1.0),
    )
    step = (end - start) / len(images)
    for position in np.flatnonzero(~seen):
        axes.axvspan(start + position * step, start + (position + 1) * step, color=INVALID)
    axes.set(yticks=[], xlabel="time (s)")


def draw_strip(axes: "Axes", track: "LipTrack", duration: float, count: int = 16) -> None:
    """The lips as a model receives them, video frames side by side in time; red where none are seen.

    Args:
        axes: to draw on.
        track: video frames and the STFT frames that use them; of features, their curves are drawn.
        duration: of the frames, s.
        count: the most video frames in the strip; fewer in narrow axes, so that they stay square.
    """
    if track.video_frames.dim() == 2:
        return draw_shapes(axes, track, duration)
    side = track.video_frames.shape[-1]
    count = frames_that_fit(axes, count)
    frames = ((np.arange(count) + 0.5) / count * len(track.valid)).astype(int)
    middle = track.place[frames, track.place.shape[1] // 2].round().long()
    images, seen = track.video_frames[middle].cpu().numpy(), track.valid[frames].cpu().numpy()
    draw_images(axes, images, seen, 0.0, duration)
    axes.set_title(f"lips, {side} x {side} pixels, input of the model; red: no lips seen")


def draw_shapes(axes: "Axes", track: "LipTrack", duration: float) -> None:
    """The shapes of the mouth that a model saw, over `duration` in s; red where it saw none."""
    frames = len(track.valid)
    time = (np.arange(frames) + 0.5) / frames * duration
    middle = track.place[:, track.place.shape[1] // 2].round().long()
    shown = track.video_frames[middle].cpu().numpy()
    valid = track.valid.cpu().numpy()
    for name in ("open_middle", "width"):
        curve = np.where(valid, shown[:, SHAPES.index(name)], np.nan)
        axes.plot(time, curve, linewidth=1, label=name.replace("_", " "))
    low, high = axes.get_ylim()
    axes.fill_between(time, low, high, where=~valid, color=INVALID, step="mid")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, ncols=2, frameon=False)
    title = "shape of the mouth, as the model sees it; red: no lips seen"
    axes.set(xlim=(0, duration), yticks=[], xlabel="time (s)", title=title)


def draw_lips(axes: "Axes", lips: "Lips", count: int = 16) -> None:
    """Video frames side by side in time, those nearest to the middles of equal parts; red where not valid.

    Args:
        axes: to draw on.
        lips: T_v images.
        count: the most video frames; fewer in narrow axes, so that they stay square.
    """
    from avse.data.lips.lips import nearest

    count = min(frames_that_fit(axes, count), len(lips.times))
    half = 0.5 / lips.fps
    start, end = float(lips.times[0]) - half, float(lips.times[-1]) + half
    chosen = nearest(lips, start + (np.arange(count) + 0.5) / count * (end - start))
    draw_images(axes, lips.images[chosen], lips.valid[chosen], start, end)
    axes.set_title("lips; red: not seen")


def draw_geometry(
    axes: "Axes", times: NDArray[np.floating], shapes: NDArray[np.floating], names: tuple[str, ...]
) -> None:
    """Named quantities of `avse.data.lips.geometry.SHAPES`, (T_v, K), over times (T_v,) in s; NaN: gaps."""
    for name in names:
        axes.plot(times, shapes[:, SHAPES.index(name)], linewidth=1.2, label=name.replace("_", " "))
    axes.set_ylabel("deviations", fontsize=8)
