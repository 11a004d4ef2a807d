"""Drawing on matplotlib axes of what has frames and frequency bins.

Figures and the `plot` methods of objects call the same functions.
matplotlib and librosa take seconds and are imported by what draws.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avse.data.stft import STFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

DYNAMIC_RANGE = 70.0
"""Decibels below the loudest bin that a spectrogram shows."""
UNCERTAINTY_RANGE = (-20.0, 20.0)
"""Range of the uncertainty map: standard deviation over mean, in dB."""
SPEECH, NOISE = "#1b6ca8", "#c0504d"
"""Colours of the two."""
SERIES = (NOISE, SPEECH, "#6aa84f", "#8a6fd1")
"""Colours of systems that are compared."""


def axes_or_new(axes: "Axes | None", size: tuple[float, float] = (7.0, 3.5)) -> "Axes":
    """The axes themselves, or those of a new figure of pyplot, which a notebook shows.

    Args:
        axes: to draw on, or None.
        size: width and height of a new figure, inches.
    """
    if axes is not None:
        return axes
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def level_db(power: Tensor | NDArray[np.floating]) -> NDArray[np.floating]:
    """10 log10 of a power."""
    return 10 * np.log10(np.maximum(np.asarray(power), 1e-20))


def draw_frames_and_bins(
    axes: "Axes", values: NDArray[np.floating], stft: STFT | None, **style: Any
) -> "QuadMesh":
    """Values (N, F) at the centres of the frames in s and of the bins in Hz, by `librosa.display.specshow`.

    Args:
        axes: where to draw.
        values: of frames and bins, the lowest F of the STFT.
        stft: of the frames; None numbers frames and bins.
        style: of the colours, such as cmap, vmin and vmax.
    """
    from librosa.display import specshow  # takes seconds

    frames, bins = values.shape
    if stft is None:
        where: dict[str, Any] = {"x_coords": np.arange(frames), "y_coords": np.arange(bins)}
    else:
        where = {
            "x_axis": "s",
            "x_coords": stft.frame_times(frames).numpy(),
            "y_axis": "linear",
            "y_coords": np.arange(bins) * stft.sample_rate / stft.window_length,
        }
    image: QuadMesh = specshow(values.T, ax=axes, rasterized=True, **where, **style)
    named = ("frame", "bin") if stft is None else ("time (s)", "frequency (Hz)")
    axes.set(xlabel=named[0], ylabel=named[1])
    return image


def draw_spectrogram(axes: "Axes", level: NDArray[np.floating], stft: STFT) -> "QuadMesh":
    """Levels (N, F) in dB, at most 0, down to `DYNAMIC_RANGE` below; see `draw_frames_and_bins`."""
    return draw_frames_and_bins(axes, level, stft, cmap="magma", vmin=-DYNAMIC_RANGE, vmax=0)


def separated(spectrum: Tensor, gain: Tensor) -> dict[str, Tensor]:
    """Spectra (N, F) of a mixture, of its speech, gain x, and of its noise, (1 - gain) x, by name."""
    return {"noisy": spectrum, "enhanced speech": gain * spectrum, "removed noise": (1 - gain) * spectrum}


def draw_spectrograms(axes: Sequence["Axes"], spectra: Mapping[str, Tensor], stft: STFT) -> "QuadMesh":
    """Spectrograms of spectra (N, F) side by side, in dB below the loudest bin of all of them.

    Args:
        axes: one for each spectrum.
        spectra: complex, by name.
        stft: of all of them.
    """
    levels = {name: level_db(own.abs().square().cpu()) for name, own in spectra.items()}
    top = max(level.max() for level in levels.values())
    for own, (name, level) in zip(axes, levels.items(), strict=True):
        image = draw_spectrogram(own, level - top, stft)
        own.set(title=name, xlabel="time (s)", ylabel="frequency (Hz)" if own is axes[0] else "")
    own.figure.colorbar(image, ax=own, label="level (dB below the loudest bin)")
    return image


def draw_gain(axes: "Axes", gain: NDArray[np.floating], stft: STFT | None) -> "QuadMesh":
    """The Wiener gain E[s | x] / x, (N, F), from 0 to 1, with a colour bar."""
    image = draw_frames_and_bins(axes, gain, stft, cmap="viridis", vmin=0, vmax=1)
    axes.figure.colorbar(image, ax=axes, label="Wiener gain")
    return image


def draw_uncertainty(
    axes: "Axes", mean: NDArray[np.floating], std: NDArray[np.floating], stft: STFT | None
) -> "QuadMesh":
    """Posterior standard deviation over |mean| of every bin in dB, from |mean| and std (N, F)."""
    ratio = level_db(np.square(std)) - level_db(np.square(mean))
    low, high = UNCERTAINTY_RANGE
    image = draw_frames_and_bins(axes, ratio, stft, cmap="cividis_r", vmin=low, vmax=high)
    axes.figure.colorbar(image, ax=axes, label="std / mean (dB)", extend="both")
    return image
