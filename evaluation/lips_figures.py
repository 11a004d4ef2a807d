"""Pictures of the lips that were read from a video, to look at before a network does."""

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
    note = f"{good} of {len(lips.times)} pictures show the lips, {lips.fps:.4g} a second"
    figure.suptitle(f"{title}: {note}" if title else note, fontsize=9)
    return figure


def draw_strip(axes: Axes, track: LipTrack, duration: float, count: int = 16) -> None:
    """What a model saw of the lips, `count` pictures side by side along the time axis; red where it saw none.

    Args:
        axes: to draw on.
        track: pictures and frames.
        duration: of the frames, s.
        count: pictures in the strip.
    """
    side = track.pictures.shape[-1]
    frames = ((np.arange(count) + 0.5) / count * len(track.valid)).astype(int)
    middle = track.place[frames, track.place.shape[1] // 2].round().long()
    strip = np.concatenate(list(track.pictures[middle].cpu().numpy()), axis=1)
    extent = (0.0, duration, 0.0, 1.0)
    axes.imshow(strip, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)
    unseen = ~track.valid[frames].cpu().numpy()
    for position in np.flatnonzero(unseen):
        axes.axvspan(position * duration / count, (position + 1) * duration / count, color=INVALID)
    axes.set(yticks=[], xlabel="time (s)", title=f"lips, {side} x {side} pixels, as the model sees them")
