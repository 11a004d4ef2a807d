"""Figures of an enhancement and of a training run. Each function returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avse.data.drawing import NOISE, SERIES, SPEECH, draw_spectrograms, separated
from avse.data.drawing import draw_spectrogram as draw_spectrogram
from avse.data.drawing import level_db as level_db
from avse.data.errors import InputError
from avse.data.files import atomic_path
from avse.data.lips.drawing import draw_strip
from avse.data.lips.front_end import LipTrack
from avse.data.stft import STFT
from avse.evaluation.measures import measure
from avse.inference.drawing import draw_costs


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
    panels = separated(spectrum, gain)
    if clean is not None:
        panels["clean speech"] = clean
    duration = spectrum.shape[0] / stft.frame_rate
    strip = [] if lips is None else [4.2 * len(panels) / 16]  # sixteen square video frames, inches
    heights = [3.6, *strip, 1.2]
    figure = Figure(figsize=(4.2 * len(panels), sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(heights), len(panels), height_ratios=heights)
    draw_spectrograms([figure.add_subplot(grid[0, column]) for column in range(len(panels))], panels, stft)
    if lips is not None:
        draw_strip(figure.add_subplot(grid[1, :]), lips, duration)
    draw_costs(figure.add_subplot(grid[-1, :]), costs)
    figure.suptitle(title)
    return figure


def without_first_epochs(history: Sequence[dict[str, float]]) -> Sequence[dict[str, float]]:
    """The history less its first third, at least one epoch, whose bounds are far off and would set the scale.

    A history of one epoch is left as it is.
    """
    return history[max(1, len(history) // 3) :] if len(history) > 1 else history


def training_figure(history: Sequence[dict[str, float]], title: str = "") -> Figure:
    """Minus the evidence lower bound a frame against the epoch, training and validation.

    The first epochs are left out, see `without_first_epochs`.
    """
    history = without_first_epochs(history)
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
        axes.set_title(measure(metric).title)
        axes.axhline(0, color="black", linewidth=0.8)
    return figure


def em_figure(
    exact: Sequence[float],
    sampled: Sequence[float],
    truth: float,
    draws: Tensor,
    mean: Tensor,
    covariance: Tensor,
) -> Figure:
    """EM with draws beside exact EM: log evidence, its difference between the two, and one posterior.

    Args:
        exact: log evidence per frame before every iteration of exact EM, nats.
        sampled: the same of EM with draws.
        truth: log evidence per frame of the parameters that the data was drawn with.
        draws: of a two-dimensional z, (D, 2).
        mean: of the exact posterior, (2,).
        covariance: of the exact posterior, (2, 2).
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    both = slice(0, min(len(exact), len(sampled)))
    left.plot(exact, "o", color=SPEECH, markerfacecolor="none", label="exact E-step")
    left.plot(sampled, color=NOISE, label="E-step with draws")
    left.axhline(truth, color="black", linestyle=":", label="true parameters")
    left.set(title="log evidence", xlabel="iteration", ylabel="log p(s) per frame (nats)")
    left.set_ylim(truth - 2, max(*exact, truth) + 0.2)
    left.legend(frameon=False)
    gap = np.asarray(sampled)[both] - np.asarray(exact)[both]
    middle.plot(gap, ".-", color=NOISE)
    middle.axhline(0, color="black", linewidth=0.8)
    middle.set(title="draws minus exact", xlabel="iteration", ylabel="difference per frame (nats)")
    for deviations in (1, 2):
        ellipse = ellipse_points(mean.numpy(), covariance.numpy(), deviations)
        right.plot(*ellipse.T, color=SPEECH, label="exact, 1 and 2 std" if deviations == 1 else None)
    right.plot(*draws.numpy().T, ".", alpha=0.3, color=NOISE, label="draws", zorder=0)
    right.set(title="posterior of z, first frame", xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    right.margins(y=0.2)
    right.legend(loc="upper center", frameon=False, ncols=2)
    for axes in (left, middle):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def ellipse_points(
    mean: NDArray[np.floating], covariance: NDArray[np.floating], deviations: float, count: int = 200
) -> NDArray[np.floating]:
    """Points (count, 2) at a Mahalanobis distance of `deviations` from the mean of a normal in the plane."""
    angle = np.linspace(0, 2 * np.pi, count)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return mean + (deviations * np.linalg.cholesky(covariance) @ circle).T


def bounds_figure(histories: dict[str, Sequence[dict[str, float]]], title: str = "") -> Figure:
    """Validation ELBO per frame of several training runs against the epoch.

    The first epochs are left out, see `without_first_epochs`.
    """
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, history in histories.items():
        kept = [row for row in without_first_epochs(history) if "validation_loss" in row]
        epochs = [row["epoch"] + 1 for row in kept]
        axes.plot(epochs, [-row["validation_loss"] for row in kept], ".-", label=name)
    axes.set(title=title, xlabel="epoch", ylabel="validation ELBO per frame (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False)
    return figure


def grouped_bars_figure(
    panels: dict[str, dict[str, Sequence[float]]], groups: Sequence[str], legend_title: str = ""
) -> Figure:
    """Panels of bars, those of every series side by side in each group.

    Args:
        panels: quantity and unit -> name of the series -> a value for each group.
        groups: names of the groups, on the horizontal axes.
        legend_title: what the series differ in.
    """
    figure = Figure(figsize=((1.5 + 0.8 * len(groups)) * len(panels), 3.8), layout="constrained")
    for axes, (quantity, series) in zip(
        figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True
    ):
        width = 0.8 / len(series)
        for index, (name, values) in enumerate(series.items()):
            middle = np.arange(len(groups)) + width * (index - (len(series) - 1) / 2)
            axes.bar(middle, values, width=0.92 * width, label=name)
        axes.set_xticks(range(len(groups)), groups)
        axes.set(title=quantity)
        axes.axhline(0, color="black", linewidth=0.8)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *handles, title=legend_title, loc="outside lower center", ncols=len(handles[0]), frameon=False
    )
    return figure


def efficiency_figure(rates: dict[str, float], rhats: dict[str, float], limit: float = 1.1) -> Figure:
    """Effective draws per second of samplers beside the R-hat of their chains.

    Where R-hat is above the limit the chains have not converged and the ESS means nothing: no bar is drawn.

    Args:
        rates: name -> bulk ESS per second.
        rhats: name -> R-hat.
        limit: of R-hat.
    """
    figure = Figure(figsize=(9, 0.8 + 0.5 * len(rates)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(rates)
    good = [rhats[name] < limit for name in names]
    left.barh(
        names, [rhats[name] - 1 for name in names], left=1, color=[SPEECH if g else NOISE for g in good]
    )
    left.axvline(limit, color="black", linestyle="--", linewidth=0.8)
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    left.bar_label(left.containers[0], labels=[f"{rhats[name]:.2f}" for name in names], padding=4, bbox=plain)
    left.set(xlabel=f"R-hat (dashed: {limit:g})", title="do the chains agree?")
    bars = right.barh(
        names, [rates[name] if g else 0 for name, g in zip(names, good, strict=True)], color=SPEECH
    )
    labels = [f"{rates[name]:.2g}" if g else "not converged" for name, g in zip(names, good, strict=True)]
    right.bar_label(bars, labels=labels, padding=3)
    right.set(xlabel="effective draws per second", title="how fast?")
    left.invert_yaxis()
    for axes in (left, right):
        axes.margins(x=0.25)
    if not any(good):
        right.set_xlim(0, 1)
    return figure


def improvement_figure(
    gains: dict[str, dict[str, NDArray[np.floating]]],
    levels: Sequence[float],
    title: str = "",
) -> Figure:
    """Mean improvements of systems against the input's level, above their paired differences.

    Under each panel: the second system minus every other one, clip by clip, with standard errors.

    Args:
        gains: metric -> system -> improvement of every clip, (levels, clips).
        levels: of speech over noise, dB.
        title: of the figure.
    """
    figure = Figure(figsize=(4.8 * len(gains), 6.8), layout="constrained")
    grid = figure.subplots(2, len(gains), sharex=True, height_ratios=(3, 2), squeeze=False)
    for (top, bottom), (metric, systems) in zip(grid.T, gains.items(), strict=True):
        names = list(systems)
        for name, colour, style in zip(names, SERIES, ("s-", "o-", "o:", "^-"), strict=False):
            top.plot(levels, systems[name].mean(-1), style, color=colour, label=name)
            if name != names[1]:
                mean, error = mean_and_error(systems[names[1]] - systems[name])
                label = f"{names[1]} minus {name}"
                bottom.errorbar(levels, mean, error, fmt=style, color=colour, capsize=3, label=label)
        top.set(title=measure(metric).title, ylabel="improvement", xticks=levels)
        bottom.set(xlabel="level of the input (dB)", ylabel="difference")
        for axes in (top, bottom):
            axes.axhline(0, color="black", linewidth=0.8)
    above, below = (axes.get_legend_handles_labels() for axes in grid[:, 0])
    head = figure.legend(*above, title=title, loc="outside upper center", ncols=3, frameon=False)
    head.get_title().set_multialignment("center")
    figure.legend(*below, loc="outside lower center", ncols=1, frameon=False)
    return figure


def mean_and_error(values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Mean and standard error over the last dimension, (*, clips) -> (*); of one clip the error is NaN."""
    count = values.shape[-1]
    spread = values.std(-1, ddof=1) if count > 1 else np.full(values.shape[:-1], np.nan)
    return values.mean(-1), spread / np.sqrt(count)


class Intervals(NamedTuple):
    """Credible intervals and the truth at N places, for a panel of `intervals_figure`.

    Attributes:
        xlabel: what the places are, with their unit.
        at: the places, (N,).
        lower, median, upper: of the posterior, (N,).
        truth: (N,).
        title: of the panel.
        others: further estimates by name, (N,) each.
    """

    xlabel: str
    at: ArrayLike
    lower: ArrayLike
    median: ArrayLike
    upper: ArrayLike
    truth: ArrayLike
    title: str = ""
    others: Mapping[str, ArrayLike] = MappingProxyType({})


def intervals_figure(panels: Sequence[Intervals], ylabel: str, probability: float = 0.9) -> Figure:
    """Credible intervals, their medians and the truth, a panel under the other.

    All of the truth is shown, but for levels more than 80 below its highest.
    """
    figure = Figure(figsize=(9, max(5.0, 1.9 * len(panels))), layout="constrained")
    shared = len({panel.xlabel for panel in panels}) == 1
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        lower, upper, truth = (np.asarray(own) for own in (panel.lower, panel.upper, panel.truth))
        axes.fill_between(
            panel.at, lower, upper, color=SPEECH, alpha=0.3, label=f"{probability:.0%} interval"
        )
        axes.plot(panel.at, panel.median, color=SPEECH, label="posterior median")
        for (name, values), colour in zip(panel.others.items(), SERIES, strict=False):
            axes.plot(panel.at, values, "--", color=colour, label=name)
        axes.plot(panel.at, truth, color="black", linewidth=1, label="truth")
        others = [np.asarray(values) for values in panel.others.values()]
        shown = np.concatenate([lower, upper, truth.clip(truth.max() - 80), *others])
        axes.set(title=panel.title, ylabel=ylabel, ylim=(shown.min() - 1, shown.max() + 1))
        axes.margins(x=0)
        if not shared or panel is panels[-1]:
            axes.set_xlabel(panel.xlabel)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]), frameon=False)
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
