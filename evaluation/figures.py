"""Figures of an enhancement and of a training run. Each function returns a matplotlib figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from avse.data.errors import InputError
from avse.data.files import atomic_path
from avse.data.lips.front_end import LipTrack
from avse.data.stft import STFT
from avse.evaluation.lips_figures import draw_strip

DYNAMIC_RANGE = 70.0
"""Decibels below the loudest bin that a spectrogram shows."""
METRIC_NAMES = {
    "si_sdr": "SI-SDR (dB)",
    "sdr": "SDR (dB)",
    "pesq_wb": "PESQ, wide band",
    "pesq_nb": "PESQ, narrow band",
    "stoi": "STOI",
    "estoi": "extended STOI",
}
SPEECH, NOISE = "#1b6ca8", "#c0504d"


def level_db(power: Tensor | NDArray[np.floating]) -> NDArray[np.floating]:
    """10 log10 of a power."""
    return 10 * np.log10(np.maximum(np.asarray(power), 1e-20))


def draw_spectrogram(axes: Axes, level: NDArray[np.floating], stft: STFT) -> AxesImage:
    """Levels (N, F) in dB, at most 0, down to `DYNAMIC_RANGE` below; time in s and frequency in kHz."""
    extent = (0.0, len(level) / stft.frame_rate, 0.0, stft.sample_rate / 2000)
    look: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "magma"}
    return axes.imshow(level.T, extent=extent, vmin=-DYNAMIC_RANGE, vmax=0, **look)


def enhancement_figure(
    spectrum: Tensor,
    gain: Tensor,
    stft: STFT,
    costs: Sequence[float],
    clean: Tensor | None = None,
    lips: LipTrack | None = None,
    title: str = "",
) -> Figure:
    """Spectrograms of mixture, speech, noise (and clean speech) on one dB scale, lips, and the costs.

    Args:
        spectrum: STFT of the mixture, complex (N, F).
        gain: posterior mean filter, (N, F).
        stft: of both.
        costs: cost of the noise model before every iteration.
        clean: STFT of the clean speech, where it is known.
        lips: the model's visual input, if it has one.
        title: of the figure.
    """
    panels = {
        "noisy": spectrum,
        "enhanced speech": gain * spectrum,
        "removed noise": (1 - gain) * spectrum,
    }
    if clean is not None:
        panels["clean speech"] = clean
    levels = {name: level_db(panel.abs().square().cpu()) for name, panel in panels.items()}
    top = max(level.max() for level in levels.values())
    duration = spectrum.shape[0] / stft.frame_rate
    strip = [] if lips is None else [4.2 * len(panels) / 16]  # sixteen square video frames, inches
    heights = [3.6, *strip, 1.2]
    figure = Figure(figsize=(4.2 * len(panels), sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(heights), len(panels), height_ratios=heights)
    for column, (name, level) in enumerate(levels.items()):
        axes = figure.add_subplot(grid[0, column])
        image = draw_spectrogram(axes, level - top, stft)
        axes.set(title=name, xlabel="time (s)", ylabel="frequency (kHz)" if column == 0 else "")
    figure.colorbar(image, ax=axes, label="level (dB below the loudest bin)")
    if lips is not None:
        draw_strip(figure.add_subplot(grid[1, :]), lips, duration)
    axes = figure.add_subplot(grid[-1, :])
    axes.plot(np.arange(1, len(costs) + 1), costs, color=SPEECH)
    axes.set(
        title="fit of the noise model",
        xlabel="iteration",
        ylabel="cost per bin (nats)",
        xlim=(1, max(2, len(costs))),
    )
    figure.suptitle(title)
    return figure


def training_figure(history: Sequence[dict[str, float]], title: str = "") -> Figure:
    """Minus the evidence lower bound a frame against the epoch, training and validation.

    The first epoch is left out where others follow: its bound is far from theirs and would set the scale.
    """
    history = history[1:] if len(history) > 1 else history
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label, colour in (
        ("train_loss", "training", SPEECH),
        ("validation_loss", "validation", NOISE),
    ):
        points = [(row["epoch"] + 1, row[key]) for row in history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", label=label, color=colour)
    axes.set(title=title, xlabel="epoch", ylabel="-ELBO per frame (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def metrics_figure(systems: dict[str, dict[str, float]]) -> Figure:
    """Metrics of the noisy recording and of its enhancements, a bar chart for each metric, three in a row.

    Args:
        systems: name -> metric -> value; the noisy recording comes first.
    """
    metrics = list(next(iter(systems.values())))
    colours = [NOISE, *[SPEECH] * (len(systems) - 1)]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(columns * max(2.6, 0.9 * len(systems)), 2.6 * rows), layout="constrained")
    for index, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, index + 1)
        values = [own[metric] for own in systems.values()]
        bars = axes.bar(list(systems), values, color=colours)
        axes.bar_label(bars, fmt="%.2f", padding=2)
        axes.margins(y=0.2)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(METRIC_NAMES.get(metric, metric))
        axes.axhline(0, color="black", linewidth=0.8)
    return figure


def check_figure_format(path: Path) -> None:
    """Raise `InputError` unless matplotlib can write files of this suffix."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in formats:
        raise InputError(f"{path}: no figure format of that name; use .png, .pdf or .svg")


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plain_text(text: str) -> str:
    """Text for a title, without mathematics between dollar signs; surrogates are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")
