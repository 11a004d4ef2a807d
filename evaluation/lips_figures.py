"""Figures of the lips that were read from a video, to be checked before a network uses them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avse.data.lips import Lips, Reason
from avse.data.lips.front_end import LipTrack

INVALID = "#d62728"


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


def draw_strip(axes: Axes, track: LipTrack, duration: float, count: int = 16) -> None:
    """The lips as a model receives them, video frames side by side in time; red where none are seen.

    Args:
        axes: to draw on.
        track: video frames and the STFT frames that use them.
        duration: of the frames, s.
        count: the most video frames in the strip; fewer in narrow axes, so that they stay square.
    """
    side = track.pictures.shape[-1]
    box = axes.get_window_extent()
    count = max(4, min(count, round(box.width / max(box.height, 1e-3))))
    frames = ((np.arange(count) + 0.5) / count * len(track.valid)).astype(int)
    middle = track.place[frames, track.place.shape[1] // 2].round().long()
    strip = np.concatenate(list(track.pictures[middle].cpu().numpy()), axis=1)
    extent = (0.0, duration, 0.0, 1.0)
    axes.imshow(strip, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)
    unseen = ~track.valid[frames].cpu().numpy()
    for position in np.flatnonzero(unseen):
        axes.axvspan(position * duration / count, (position + 1) * duration / count, color=INVALID)
    axes.set(
        yticks=[],
        xlabel="time (s)",
        title=f"lips, {side} x {side} pixels, input of the model; red: no lips seen",
    )
