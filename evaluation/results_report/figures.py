"""Figures of an evaluation: mean improvements with intervals against the level of the input, as in the talk.

Systems differ in marker, line and colour, whose lightness differs too, so that a grey print can be read.
Points of one level are drawn side by side: their intervals would hide each other.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from avse.evaluation.figures import plain_text
from avse.evaluation.measures import measure
from avse.evaluation.results_report.summary import Summary
from avse.evaluation.results_report.tables import levels_text, mixtures_text
from avse.evaluation.store import NO_LIPS

TALK = (("pesq_wb", "pesq_nb"), ("sdr", "si_sdr"), ("stoi", "estoi"))
"""Metrics of the first figure; of each group the first that was measured."""
COLOURS = ("#000000", "#d55e00", "#0072b2", "#e69f00", "#009e73", "#9a5c8a", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p", ">")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))
LIPS_TITLES = {"clean": "clean lips", "degraded": "degraded lips", NO_LIPS: "no lips"}
LONGEST_NAME = 28  # characters of a system's name in a legend
TITLE_CHARACTERS = 10.0  # of a panel's title, per inch of its width
NO_BREAK = "\u00a0"
TITLE_LINE = 0.16  # inches
_STYLE: dict[str, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "avse",
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Picture:
    """A figure with what is said below it.

    Attributes:
        name: of its files.
        figure: of matplotlib.
        caption: what it shows, with units and the number of mixtures.
    """

    name: str
    figure: Figure
    caption: str

    def svg(self) -> str:
        """The figure as a data URI of an SVG image."""
        written = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(written, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()

    def pdf(self) -> bytes:
        """The figure as a page of PDF."""
        written = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            self.figure.savefig(written, format="pdf", metadata={"CreationDate": None})
        return written.getvalue()


def pictures(summary: Summary) -> list[Picture]:
    """The talk's figure, one of the other metrics, and one by noise for each metric of the talk."""
    talk = [
        found[0] for group in TALK if (found := [metric for metric in group if metric in summary.metrics])
    ]
    others = [metric for metric in summary.metrics if metric not in talk]
    made: list[Picture] = []
    if not summary.cells:
        return made
    for name, metrics in (("improvement", talk), ("other-metrics", others)):
        if metrics:
            figure = _grid(summary, [(metric, None) for metric in metrics])
            made.append(Picture(name, figure, _caption(summary, metrics, by_noise=False)))
    if len(summary.noises) > 1:
        for metric in talk or others[:1]:
            figure = _grid(summary, [(metric, noise) for noise in summary.noises])
            made.append(Picture(f"{metric}-by-noise", figure, _caption(summary, [metric], by_noise=True)))
    return made


def against_level(summary: Summary) -> bool:
    """Whether the figures have the level of the input as their horizontal axis."""
    return len(summary.levels) > 1


def _caption(summary: Summary, metrics: Sequence[str], by_noise: bool) -> str:
    levels: tuple[float | None, ...] = summary.levels if against_level(summary) else (None,)
    noises: tuple[str | None, ...] = summary.noises if by_noise else (None,)
    cells = [
        summary.cell(lips, system, metric, noise, level)
        for lips in summary.lips
        for system in summary.systems
        for metric in metrics
        for noise in noises
        for level in levels
    ]
    names = ", ".join(measure(metric).name for metric in metrics)
    how = "by level of the input" if against_level(summary) else "of every system"
    blind = [
        system
        for system in summary.systems
        if set(summary.outcomes.rows_of(system)["lips"]) == {NO_LIPS} and set(summary.lips) != {NO_LIPS}
    ]
    listens = "listens" if len(blind) == 1 else "listen"
    shared = (
        f" {', '.join(blind)} {listens} only: the same results stand beside every kind of lips."
        if blind and len(summary.lips) > 1
        else ""
    )
    return (
        f"Mean improvement of {names} over the noisy input {how}{', by noise' if by_noise else ''} "
        f"({mixtures_text(cells)} a point). {summary.intervals_text(cells)}{levels_text(summary)}{shared}"
    )


def _grid(summary: Summary, columns: Sequence[tuple[str, str | None]]) -> Figure:
    """Panels of metrics or noises; a row for each kind of lips, or rows of four where there is one kind."""
    lines = against_level(summary)
    several = len(summary.lips) > 1
    across = len(columns) if several else min(4, len(columns))
    down = len(summary.lips) if several else -(-len(columns) // across)
    by_noise = columns[0][1] is not None
    labels = [short(system) for system in summary.systems]
    longest = max(map(len, labels))
    panel = (2.15 if by_noise else 2.7, 2.2 if lines else 0.75 + 0.24 * len(labels))  # inches
    width = max(4.6, panel[0] * across + (0.0 if lines else 0.065 * longest))
    legend_columns = max(1, min(len(labels), int(width / (0.75 + 0.08 * longest))))
    head = 0.4 + 0.18 * -(-len(labels) // legend_columns) if lines else 0.2
    panels = [(lips, *column) for lips in summary.lips for column in columns]
    titles = [
        _title(measure(metric).name if noise is None else noise, lips if several else None, panel[0])
        for lips, metric, noise in panels
    ]
    height = panel[1] + TITLE_LINE * max(title.count("\n") for title in titles)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height * down + head), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharex="col" if not by_noise else True)
        for axes, (lips, metric, noise), title in zip(grid.flat, panels, titles, strict=False):
            (_draw_lines if lines else _draw_points)(axes, summary, lips, metric, noise)
            axes.set_title(title)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        _share_scales(grid, by_noise, lines)
        _label_axes(grid, columns, len(panels), lines)
        if lines:
            figure.legend(
                _handles(len(labels)),
                labels,
                loc="outside upper center",
                ncols=legend_columns,
                frameon=False,
                handlelength=3.2,
            )
    return figure


def _title(what: str, lips: str | None, width: float) -> str:
    """The title of a panel that is `width` inches wide, in as many lines as it takes; lips stay in one."""
    unbroken = "" if lips is None else f", {LIPS_TITLES.get(lips, lips).replace(' ', NO_BREAK)}"
    characters = max(8, int(TITLE_CHARACTERS * width))
    lines = textwrap.wrap(what + unbroken, characters, break_on_hyphens=False)
    return plain_text("\n".join(lines).replace(NO_BREAK, " "))


def short(system: str) -> str:
    """The name of a system for a legend; the end of a long one, which for a folder tells most."""
    return plain_text(system if len(system) <= LONGEST_NAME else "…" + system[1 - LONGEST_NAME :])


def looks(count: int) -> list[tuple[str, str, Any]]:
    """Colour, marker and line for each of `count` systems; none is the same for 616 systems."""
    return list(islice(zip(cycle(COLOURS), cycle(MARKERS), cycle(LINES), strict=False), count))


def _handles(count: int) -> list[Line2D]:
    """Lines of the systems for a legend, without their error bars."""
    return [
        Line2D([], [], color=colour, marker=marker, linestyle=line, markersize=4.5, linewidth=1.2)
        for colour, marker, line in looks(count)
    ]


def _draw_lines(axes: Axes, summary: Summary, lips: str, metric: str, noise: str | None) -> None:
    levels = np.array(summary.levels)
    step = float(np.diff(levels).min())
    systems = summary.systems
    for index, (system, (colour, marker, line)) in enumerate(zip(systems, looks(len(systems)), strict=True)):
        cells = [summary.cell(lips, system, metric, noise, level) for level in summary.levels]
        values = np.array([[np.nan] * 3 if c is None else [c.mean, c.lower, c.upper] for c in cells])
        if np.isnan(values[:, 0]).all():
            continue
        shift = min(0.45, 0.08 * len(systems)) * step * ((index + 0.5) / len(systems) - 0.5)
        bars = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
        axes.errorbar(
            levels + shift,
            values[:, 0],
            bars,
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=3.6,
            linewidth=1.1,
            elinewidth=0.8,
            capsize=1.5,
            capthick=0.8,
        )
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.set_xlim(levels[0] - 0.45 * step, levels[-1] + 0.45 * step)
    _finish(axes, horizontal=True)


def _draw_points(axes: Axes, summary: Summary, lips: str, metric: str, noise: str | None) -> None:
    systems = summary.systems
    for row, (system, (colour, marker, _)) in enumerate(zip(systems, looks(len(systems)), strict=True)):
        cell = summary.cell(lips, system, metric, noise)
        if cell is None or np.isnan(cell.mean):
            continue
        bar = np.nan_to_num([[cell.mean - cell.lower], [cell.upper - cell.mean]])
        axes.errorbar(
            [cell.mean],
            [row],
            xerr=bar,
            color=colour,
            marker=marker,
            markersize=5,
            capsize=2.5,
            linewidth=1.2,
        )
    axes.set_yticks(range(len(systems)), [short(system) for system in systems])
    axes.set_ylim(len(systems) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    _finish(axes, horizontal=False)


def _finish(axes: Axes, horizontal: bool) -> None:
    """A line at no improvement; a remark where nothing is defined."""
    if not axes.containers:
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color="#555555")
        return
    line = axes.axhline if horizontal else axes.axvline
    line(0, color="#555555", linewidth=0.8, zorder=1)
    if horizontal:
        axes.margins(y=0.08)
    else:
        axes.margins(x=0.08)


def _share_scales(grid: "np.ndarray[Any, Any]", by_noise: bool, lines: bool) -> None:
    """One scale for what is one metric: of a column, or of all panels where these are noises."""
    groups = [list(grid.flat)] if by_noise else [list(column) for column in grid.T]
    for group in groups:
        shown = [axes for axes in group if axes.get_visible() and axes.containers]
        if len(shown) > 1 and (by_noise or len(grid) > 1):
            limits = [axes.get_ylim() if lines else axes.get_xlim() for axes in shown]
            low, high = min(each[0] for each in limits), max(each[1] for each in limits)
            for axes in shown:
                (axes.set_ylim if lines else axes.set_xlim)(low, high)


def _label_axes(
    grid: "np.ndarray[Any, Any]", columns: Sequence[tuple[str, str | None]], shown: int, lines: bool
) -> None:
    by_noise = columns[0][1] is not None
    for number, axes in enumerate(grid.flat[:shown]):
        column = number % grid.shape[1]
        last = number + grid.shape[1] >= shown
        unit = measure(columns[number % len(columns)][0])
        quantity = f"improvement ({unit.unit})" if unit.unit else "improvement"
        if by_noise:
            quantity = f"{unit.name} {quantity}"
        if lines:
            axes.set_xlabel("input level (dB)" if last else "")
            axes.set_ylabel(quantity if column == 0 or not by_noise else "")
            axes.tick_params(labelbottom=last, labelleft=column == 0 or not by_noise)
        else:
            axes.set_xlabel(quantity if last else "")
            axes.tick_params(labelbottom=True, labelleft=column == 0, left=column == 0)
