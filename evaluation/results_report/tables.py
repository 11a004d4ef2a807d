"""Tables of an evaluation as text: Markdown, LaTeX with booktabs, and CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avse.evaluation.comparison import Difference
from avse.evaluation.measures import Measure, measure
from avse.evaluation.results_report.summary import Cell, Summary
from avse.evaluation.store import DONE, NO_LIPS

UNDEFINED, ARROW = "–", "→"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    UNDEFINED: "--",
    ARROW: r"$\rightarrow$",
}
_NUMBER = re.compile(r"(?<![\w.$])[+-]\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Table:
    """Cells of text under a head.

    Attributes:
        name: of its files and its label.
        title: a few words.
        caption: what it shows, with units and the number of mixtures.
        head: titles of the columns.
        rows: texts, as many as titles.
        names: how many of the first columns are names; the others are numbers.
    """

    name: str
    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 2

    def markdown(self) -> str:
        """The table in Markdown, its caption below."""
        lines = [self.head, ("---",) * self.names + ("---:",) * (len(self.head) - self.names), *self.rows]
        text = "".join("| " + " | ".join(_markdown(cell) for cell in line) + " |\n" for line in lines)
        return f"{text}\n{self.caption}\n"

    def latex(self) -> str:
        """The table in LaTeX; it needs the package booktabs."""
        columns = "l" * self.names + "r" * (len(self.head) - self.names)
        head, *rows = (" & ".join(self._latex_cells(line)) + r" \\" for line in (self.head, *self.rows))
        return "\n".join(
            [
                "% \\usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex(self.caption)}}}",
                rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', self.name)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def _latex_cells(self, line: Sequence[str]) -> list[str]:
        cells = [latex(cell) for cell in line]
        numbers = [_NUMBER.sub(r"$\g<0>$", cell) for cell in cells[self.names :]]
        return cells[: self.names] + numbers

    def csv(self) -> str:
        """The texts of the table, separated by commas."""
        return csv_text([self.head, *self.rows])


def csv_text(lines: Sequence[Sequence[object]]) -> str:
    """Lines of values separated by commas."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(lines)
    return written.getvalue()


def latex(text: str) -> str:
    """Text with the characters escaped that have a meaning in LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text) if not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+\d.,%\[\] –:]*", text) is not None


def interval(mean: float, lower: float, upper: float, how: Measure) -> str:
    """ "+6.10 [+5.90, +6.30]"; without the brackets where there is no interval."""
    if not np.isfinite([lower, upper]).all():
        return how.text(mean)
    return f"{how.text(mean)} [{how.text(lower)}, {how.text(upper)}]"


def tables(summary: Summary) -> list[Table]:
    """All tables: overall, the metrics themselves, differences, and by level and noise for each metric."""
    made = [_overall(summary), _absolute(summary)]
    if summary.comparisons:
        made.append(_differences(summary))
    for metric in summary.metrics:
        if len(summary.levels) > 1:
            made.append(_by_level(summary, metric))
        if len(summary.noises) > 1:
            made.append(_by_noise(summary, metric))
    return made


def mixtures_text(cells: Sequence[Cell | None]) -> str:
    """ "n = 96 mixtures" of every cell, or the range over the cells."""
    counts = [cell.count for cell in cells if cell is not None and cell.count]
    if not counts:
        return "no mixture has a defined value"
    low, high = min(counts), max(counts)
    return f"n = {high} mixture{'' if high == 1 else 's'}" if low == high else f"n = {low} to {high} mixtures"


def levels_text(summary: Summary) -> str:
    """The definition of level, for captions; empty for recordings that were released noisy."""
    if not summary.levels:
        return ""
    return f" Level of speech over noise: {summary.outcomes.level_definition}."


def _places(summary: Summary) -> list[tuple[str, str]]:
    """(lips, system) of the rows of a table."""
    return [
        (lips, system)
        for lips in summary.lips
        for system in summary.systems
        if any(summary.cell(lips, system, metric) for metric in summary.metrics)
    ]


def _overall(summary: Summary) -> Table:
    frame = summary.outcomes.frame
    rows, shown = [], []
    for lips, system in _places(summary):
        own = frame[(frame["system"] == system) & ((frame["lips"] == lips) | (frame["lips"] == NO_LIPS))]
        if (own["lips"] == lips).any():
            own = own[own["lips"] == lips]
        cells = [summary.cell(lips, system, metric) for metric in summary.metrics]
        shown += cells
        speed = own["real_time_factor"].median()
        rows.append(
            (
                lips,
                system,
                str(int((own["status"] == DONE).sum())),
                str(int((own["status"] != DONE).sum())),
                *(_improvement(cell) for cell in cells),
                f"{speed:.2f}" if np.isfinite(speed) else UNDEFINED,
            )
        )
    caption = (
        f"Mean improvement over the noisy input ({mixtures_text(shown)} a value). "
        f"{summary.intervals_text(shown)}{levels_text(summary)} "
        "Real-time factor: median of seconds of enhancement per second of sound."
    )
    titles = [measure(metric).title for metric in summary.metrics]
    head = ("lips", "system", "enhanced", "failed", *titles, "real-time factor")
    return Table("overall", "Improvements", caption, head, tuple(rows))


def _improvement(cell: Cell | None) -> str:
    return UNDEFINED if cell is None else interval(cell.mean, cell.lower, cell.upper, measure(cell.metric))


def _absolute(summary: Summary) -> Table:
    rows, shown = [], []
    for lips, system in _places(summary):
        cells = [summary.cell(lips, system, metric) for metric in summary.metrics]
        shown += cells
        rows.append((lips, system, *(_before_and_after(cell) for cell in cells)))
    caption = f"Means of the metrics, noisy input {ARROW} enhanced speech ({mixtures_text(shown)} a value)."
    head = ("lips", "system", *(measure(metric).title for metric in summary.metrics))
    return Table("metrics", "Metrics before and after", caption + levels_text(summary), head, tuple(rows))


def _before_and_after(cell: Cell | None) -> str:
    if cell is None or not cell.count:
        return UNDEFINED
    how = measure(cell.metric)
    return f"{how.plain(cell.noisy)} {ARROW} {how.plain(cell.enhanced)}"


def _differences(summary: Summary) -> Table:
    rows = [
        (
            lips,
            system,
            str(found.pairs),
            *(_difference(found.differences[metric]) for metric in found.differences),
        )
        for (lips, system), found in summary.comparisons.items()
    ]
    caption = (
        f"Difference to {summary.baseline} on the mixtures that both enhanced, and the share of mixtures in "
        f"which the system is better (win rate). {summary.intervals_text()}{levels_text(summary)}"
    )
    titles = [f"{measure(metric).title}, win rate" for metric in summary.metrics]
    return Table(
        "differences",
        f"Differences to {summary.baseline}",
        caption,
        ("lips", "system", "mixtures", *titles),
        tuple(rows),
    )


def _difference(own: Difference) -> str:
    if not own.pairs:
        return UNDEFINED
    return f"{interval(own.mean, own.lower, own.upper, measure(own.metric))}, {100 * own.win_rate:.0f} %"


def _by_level(summary: Summary, metric: str) -> Table:
    levels = {f"{level:g} dB": (None, level) for level in summary.levels}
    return _split(summary, metric, "level", "level of the input", levels)


def _by_noise(summary: Summary, metric: str) -> Table:
    return _split(summary, metric, "noise", "noise", {noise: (noise, None) for noise in summary.noises})


def _split(
    summary: Summary, metric: str, by: str, what: str, columns: Mapping[str, tuple[str | None, float | None]]
) -> Table:
    """Improvements of one metric, a column for each part of the mixtures."""
    cells = {
        place: [summary.cell(*place, metric, *part) for part in columns.values()]
        for place in _places(summary)
    }
    shown = [cell for row in cells.values() for cell in row]
    caption = (
        f"Mean improvement of {measure(metric).title} by {what} ({mixtures_text(shown)} a value). "
        f"{summary.intervals_text(shown)}{levels_text(summary)}"
    )
    rows = tuple((*place, *map(_improvement, row)) for place, row in cells.items())
    title = f"{measure(metric).name} by {by}"
    return Table(f"{metric}-by-{by}", title, caption, ("lips", "system", *columns), rows)
