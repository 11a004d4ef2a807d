"""Pictures of an enhancement and of a training run. Each function returns a matplotlib figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from avse.data.stft import STFT

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


def enhancement_figure(
    spectrum: Tensor,
    gain: Tensor,
    stft: STFT,
    costs: Sequence[float],
    clean: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Spectrograms of mixture, speech, noise (and clean speech) on one dB scale, above the objective trace.

    Args:
        spectrum: STFT of the mixture, complex (N, F).
        gain: posterior mean filter, (N, F).
        stft: of both.
        costs: cost of the noise model before every iteration.
        clean: STFT of the clean speech, where it is known.
        title: of the figure.
    """
    panels = {
        "noisy": spectrum,
        "enhanced speech": gain * spectrum,
        "noise taken away": (1 - gain) * spectrum,
    }
    if clean is not None:
        panels["clean speech"] = clean
    levels = {name: level_db(panel.abs().square().cpu()) for name, panel in panels.items()}
    top = max(level.max() for level in levels.values())
    figure = Figure(figsize=(4.2 * len(panels), 5.6), layout="constrained")
    grid = figure.add_gridspec(2, len(panels), height_ratios=(3, 1))
    extent = (0, spectrum.shape[0] / stft.frame_rate, 0, stft.sample_rate / 2000)
    for column, (name, level) in enumerate(levels.items()):
        axes = figure.add_subplot(grid[0, column])
        image = axes.imshow(
            level.T - top,
            origin="lower",
            aspect="auto",
            extent=extent,
            vmin=-DYNAMIC_RANGE,
            vmax=0,
            cmap="magma",
        )
        axes.set(title=name, xlabel="time (s)", ylabel="frequency (kHz)" if column == 0 else "")
    figure.colorbar(image, ax=axes, label="level (dB below the loudest bin)")
    axes = figure.add_subplot(grid[1, :])
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
    """Minus the evidence lower bound a frame against the epoch, training and validation."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label, colour in (
        ("train_loss", "training", SPEECH),
        ("validation_loss", "validation", NOISE),
    ):
        points = [(row["epoch"] + 1, row[key]) for row in history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour)
    axes.set(title=title, xlabel="epoch", ylabel="-ELBO per frame (nats)")
    axes.legend(frameon=False)
    return figure


def before_after_figure(before: dict[str, float], after: dict[str, float]) -> Figure:
    """Metrics of the noisy and of the enhanced recording, one small bar chart a metric."""
    figure = Figure(figsize=(1.9 * len(before), 2.6), layout="constrained")
    for column, (name, value) in enumerate(before.items()):
        axes = figure.add_subplot(1, len(before), column + 1)
        bars = axes.bar(["noisy", "enhanced"], [value, after[name]], color=[NOISE, SPEECH])
        axes.bar_label(bars, fmt="%.2f", padding=2)
        axes.margins(y=0.2)
        axes.set_title(METRIC_NAMES.get(name, name))
        axes.axhline(0, color="black", linewidth=0.8)
    return figure
