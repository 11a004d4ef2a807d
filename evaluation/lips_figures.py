"""Figures of the lips that were read from a video, to be checked before a network uses them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from avse.data.lips import Lips, Reason
from avse.data.lips.crop import SIDE
from avse.data.lips.drawing import GEOMETRY, INVALID, SEEN, draw_geometry
from avse.data.lips.landmarks import find_landmarks
from avse.data.lips.shape_front_end import described_shapes, with_hidden


def contact_sheet(lips: Lips, every: int | None = None, columns: int = 10, title: str = "") -> Figure:
    """Every k-th image with its time stamp; those that are not valid in a red frame, with the reason.

    Args:
        lips: T_v images.
        every: k; None gives 60 images at the most.
        columns: images in a row.
        title: of the figure.
    """
    step = every or -(-len(lips.times) // 60)
    chosen: Sequence[int] = range(0, len(lips.times), step)
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(columns * 1.05, rows * 1.25 + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, index in zip(grid.flat, chosen, strict=False):
        axes.imshow(lips.images[index], cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{lips.times[index]:.3f} s", fontsize=7, pad=2)
        reason = Reason(lips.reasons[index])
        if reason != Reason.GOOD:
            axes.spines[:].set(visible=True, edgecolor=INVALID, linewidth=2.5)
            axes.set_xlabel(reason.text, fontsize=7, color=INVALID, labelpad=2)
    good = np.count_nonzero(lips.valid)
    note = f"{good} of {len(lips.times)} video frames show the lips, {lips.fps:.4g} per second"
    figure.suptitle(f"{title}: {note}" if title else note, fontsize=9)
    return figure


def shapes_sheet(
    lips: Lips,
    level: NDArray[np.floating] | None = None,
    level_times: NDArray[np.floating] | None = None,
    columns: int = 10,
    rows: int = 2,
    title: str = "",
) -> Figure:
    """Landmarks on some video frames, and the curves of the mouth's shape over the level of the sound.

    Args:
        lips: T_v images.
        level: of the sound, dB, (N,), or None.
        level_times: s, (N,).
        columns, rows: of video frames.
        title: of the figure.
    """
    found = find_landmarks(lips.images, lips.valid)
    lips = with_hidden(lips, found)
    shapes = described_shapes(lips, found)
    figure = Figure(figsize=(columns * 1.05, rows * 1.2 + 3.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(rows * 1.2, 2.9))  # type: ignore[misc]
    chosen = np.linspace(0, len(lips.times) - 1, columns * rows).round().astype(int)
    for axes, index in zip(above.subplots(rows, columns, squeeze=False).flat, chosen, strict=True):
        axes.imshow(lips.images[index], cmap="gray", vmin=0, vmax=255)
        good = lips.valid[index]
        points = found.points[index] * SIDE + (SIDE - 1) / 2
        axes.plot(*points.T, ".", markersize=3, color=SEEN if good else INVALID)
        axes.set(xticks=[], yticks=[], xlim=(-0.5, SIDE - 0.5), ylim=(SIDE - 0.5, -0.5))
        axes.set_title(f"{lips.times[index]:.2f} s", fontsize=7, pad=2)
    curves = below.subplots(2, 1, sharex=True)
    seen = np.where(lips.valid[:, None], shapes, np.nan)
    for axes, names in zip(curves, GEOMETRY, strict=True):
        draw_geometry(axes, lips.times, seen, names)
        if level is not None and level_times is not None:
            beside = axes.twinx()
            beside.fill_between(level_times, level, np.min(level), color="0.85")
            beside.set_ylabel("level (dB)", fontsize=8)
            beside.set_zorder(axes.get_zorder() - 1)
            axes.patch.set_visible(False)
        axes.legend(loc="upper right", fontsize=7, ncols=2)
    curves[-1].set_xlabel("time (s)")
    good = np.count_nonzero(lips.valid)
    note = f"lips seen in {good} of {len(lips.times)} video frames, {lips.fps:.4g} a second"
    figure.suptitle(f"{title}: {note}" if title else note, fontsize=9)
    return figure


def lip_weight_figure(
    lips: Lips,
    bad: NDArray[np.bool_],
    times: NDArray[np.floating],
    curves: dict[str, NDArray[np.floating]],
    title: str = "",
) -> Figure:
    """Video frames, and under them how far a mixture relied on sound alone instead of lips, over time.

    Args:
        lips: T_v images.
        bad: whether an image was corrupted on purpose, (T_v,); drawn in red.
        times: of the frames of the sound, s, (N,).
        curves: name -> probability or weight of the sound alone, (N,) each.
        title: of the figure.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    strip, axes = figure.subplots(2, 1, height_ratios=(1, 3), sharex=True)
    end = max(float(times[-1]), float(lips.times[-1]))
    for time in (np.arange(15) + 0.5) / 15 * end:  # as many as fit side by side
        index = int(np.abs(lips.times - time).argmin())
        image = OffsetImage(lips.images[index], zoom=0.62, cmap="gray", norm=Normalize(0, 255))
        edge = {"edgecolor": INVALID if bad[index] else "0.7", "linewidth": 2.5 if bad[index] else 0.8}
        strip.add_artist(AnnotationBbox(image, (time, 0.5), pad=0.05, bboxprops=edge))
    strip.set(ylim=(0, 1), title="video frames; red edge: corrupted on purpose")
    strip.axis("off")
    truth = bad[np.abs(times[:, None] - lips.times).argmin(1)]
    axes.fill_between(
        times, -0.02, 1.02, where=truth, step="mid", color=INVALID, alpha=0.15, linewidth=0, label="corrupted"
    )
    for name, values in curves.items():
        axes.plot(times, values, label=name, linewidth=1.2)
    axes.set(xlabel="time (s)", ylabel="sound alone instead of lips", xlim=(0, end), ylim=(-0.02, 1.02))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(curves) + 1, frameon=False)
    figure.suptitle(title)
    return figure
