"""Figures of a posterior and its chains, one panel per figure, for the HTML report.

Traces, ranks, autocorrelations, energy and predictive check are those of ArviZ; maps over time and frequency,
and values over time, are our own. Each function returns a matplotlib figure, which `svg_uri` encodes as a
data URI. Text and axes have the colour `INK`, which the URI replaces by a dark or a light colour according to
the colour scheme of the reader.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from avse.data.drawing import DYNAMIC_RANGE, draw_spectrogram, draw_uncertainty, level_db
from avse.data.stft import STFT
from avse.inference import drawing
from avse.inference.drawing import without_warnings_of_arviz
from avse.inference.inference_data import Tree

Array = NDArray[Any]

INK = "#0a0b0c"
"""Placeholder for the colour of the text around a figure; nothing else is drawn in this colour."""
COLOURS = ("#3b82c4", "#d9822b", "#2fa36b", "#c2527e", "#8a6fd1", "#a3872a", "#2aa3b5", "#8f8f8f")
"""Colours of the chains, distinguishable on white and on black."""
SIZE = (5.2, 3.1)
"""Width and height of a panel in inches; its text is legible at the width of a phone."""
WIDE = (7.0, 2.6)
"""Width and height of a figure of ArviZ in inches."""
_LIGHT, _DARK = "#1f2328", "#dfe3e8"
_STYLE = (
    f"<style>svg{{color:{_LIGHT}}}@media(prefers-color-scheme:dark){{svg{{color:{_DARK}}}}}"
    "text{font-family:system-ui,sans-serif!important}</style>"
)
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "avse",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.0,
}


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI of an SVG image that follows the colour scheme of the reader."""
    written = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(written, format="svg", dpi=130, transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    end_of_tag = text.index(">") + 1
    text = text[:end_of_tag] + _STYLE + text[end_of_tag:]
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _panel() -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=SIZE, layout="constrained")
        return figure, figure.add_subplot()


def _legend(axes: Axes, bottom: float, columns: int) -> None:
    """Place the legend above the panel."""
    with matplotlib.rc_context(_SETTINGS):
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, bottom), ncols=columns, borderaxespad=0.2, markerscale=3
        )


def spectrogram(power: Array, top: float, stft: STFT) -> Figure:
    """Spectrogram of `power` = |.|^2 (N, F), in dB relative to `top` (dB)."""
    figure, axes = _panel()
    with matplotlib.rc_context(_SETTINGS):
        level = np.clip(level_db(power) - top, -DYNAMIC_RANGE, 0)
        image = draw_spectrogram(axes, level, stft)
        axes.set(xlabel="time (s)", ylabel="frequency (Hz)")
        figure.colorbar(image, ax=axes, label="level (dB)")
    return figure


def uncertainty_map(mean: Array, std: Array, stft: STFT) -> Figure:
    """Posterior standard deviation over |mean| of every bin in dB, from |mean| and std (N, F)."""
    figure, axes = _panel()
    with matplotlib.rc_context(_SETTINGS):
        draw_uncertainty(axes, mean, std, stft)
    return figure


def plot_over_time(draws: Array, times: Array, label: str, names: Sequence[str] = ()) -> Figure:
    """Median and 90 % interval over draws (C, D, N, K) of K values against the times of the frames in s (N,).

    Values with names are probabilities, whose axis ends at 1.
    """
    figure, axes = _panel()
    with matplotlib.rc_context(_SETTINGS):
        pooled = draws.reshape(-1, *draws.shape[2:])
        for k, curves in enumerate(np.moveaxis(np.quantile(pooled, [0.05, 0.5, 0.95], axis=0), -1, 0)):
            low, middle, high = curves
            colour = COLOURS[k % len(COLOURS)]
            axes.fill_between(times, low, high, color=colour, alpha=0.3, linewidth=0)
            axes.plot(times, middle, color=colour, label=names[k] if names else None)
        axes.set(xlabel="time (s)", ylabel=label, ylim=(0, 1.02 if names else None), xlim=(0, times[-1] or 1))
    if names:
        _legend(axes, 1.0, len(names))
    return figure


def plot_rhat_over_time(values: dict[str, Array], times: Array, limits: Sequence[float]) -> Figure:
    """R-hat (N,) of quantities against time in s, on a logarithmic axis of R-hat - 1, with thresholds."""
    figure, axes = _panel()
    with matplotlib.rc_context(_SETTINGS):
        for (name, rhat), colour in zip(values.items(), COLOURS, strict=False):
            above = np.maximum(rhat - 1, 1e-4)
            axes.plot(times, above, ".", color=colour, label=name, markersize=3)
        for limit in limits:
            axes.axhline(limit - 1, color=INK, linewidth=0.8, linestyle="--")
        ticks = [0.001, 0.01, 0.05, 0.1, 1.0, 10.0]
        axes.set_yscale("log")
        axes.set_yticks(ticks, [f"{1 + tick:g}" for tick in ticks])
        axes.minorticks_off()
        finite = [rhat[np.isfinite(rhat)] for rhat in values.values()]
        highest = max([1.2, *(float(own.max()) for own in finite if len(own))])
        axes.set(xlabel="time (s)", ylabel="R-hat", xlim=(0, times[-1] or 1), ylim=(5e-4, highest * 1.5 - 1))
    _legend(axes, 1.0, len(values))
    return figure


def trace_plot(tree: Tree, name: str, at: Mapping[str, Any] | None = None) -> Figure:
    """`drawing.plot_trace` of a variable of the posterior, at coordinates such as {"frame": 0.5}."""
    return _by_arviz(drawing.plot_trace, tree, name, at)


def rank_plot(tree: Tree, name: str, at: Mapping[str, Any] | None = None) -> Figure:
    """`drawing.plot_rank` of a variable of the posterior at coordinates: flat if the chains agree."""
    return _by_arviz(drawing.plot_rank, tree, name, at)


def autocorrelation_plot(tree: Tree, name: str, at: Mapping[str, Any] | None = None) -> Figure:
    """`drawing.plot_autocorrelation` of a variable of the posterior at coordinates."""
    return _by_arviz(drawing.plot_autocorrelation, tree, name, at)


def energy_plot(tree: Tree) -> Figure:
    """`drawing.plot_energy`: the energy and its changes between draws."""
    return _by_arviz(drawing.plot_energy, tree)


def predictive_plot(tree: Tree) -> Figure:
    """`drawing.plot_predictive` of observed and replicated |x|^2, in dB."""
    return _by_arviz(drawing.plot_predictive, tree)


def _by_arviz(plot: Callable[..., Any], tree: Tree, *arguments: Any) -> Figure:
    """The figure of a plot of ArviZ, in the style of the page."""
    with matplotlib.rc_context(_SETTINGS), without_warnings_of_arviz():
        figure = drawing.figure_of(plot(tree, *arguments))
        pyplot.close(figure)
        figure.set_layout_engine("constrained")
        figure.set_size_inches(WIDE)
        for text in figure.findobj(Text):
            text.set_fontsize(_SETTINGS["font.size"])
    return figure
