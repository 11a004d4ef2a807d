"""Tables of scores in Markdown: mean improvements, and differences between systems on the same mixtures."""

from collections.abc import Iterable, Sequence

import numpy as np

from avse.evaluation.measures import measure
from avse.evaluation.scores import Score

SHOWN = ("si_sdr", "pesq_wb", "stoi")
"""Metrics of the tables."""


def mean_gain(scores: Iterable[Score], metric: str) -> float:
    """Mean improvement, mixtures without a defined value left out."""
    gains = [s.gain(metric) for s in scores]
    return float(np.nanmean(gains)) if gains else float("nan")


def markdown_table(scores: Sequence[Score], metrics: Sequence[str] = SHOWN) -> str:
    """Mean improvements of one system, a row a noise type, a column a level, metrics separated by slashes."""
    levels = sorted({s.level for s in scores})
    noises = list(dict.fromkeys(s.noise_type for s in scores))

    head = [*(f"{level:g} dB" for level in levels), "mean"]
    lines = [
        f"| {_titles(metrics)} | " + " | ".join(head) + " |",
        "|---" * (len(head) + 1) + "|",
    ]
    for noise in [*noises, None]:
        row = [s for s in scores if noise in (None, s.noise_type)]
        cells = [_cell([s for s in row if s.level == level], metrics) for level in levels]
        lines.append(f"| {noise or '**mean**'} | " + " | ".join([*cells, _cell(row, metrics)]) + " |")
    return "\n".join(lines)


def systems_table(scores: Sequence[Score], metrics: Sequence[str] = SHOWN) -> str:
    """Mean improvements of several systems on the same mixtures, a row a system, a column a level."""
    levels = sorted({s.level for s in scores})
    head = [*(f"{level:g} dB" for level in levels), "mean"]
    lines = [f"| {_titles(metrics)} | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for system in dict.fromkeys(s.system for s in scores):
        own = [s for s in scores if s.system == system]
        groups = [*([s for s in own if s.level == level] for level in levels), own]
        lines.append(f"| {system} | " + " | ".join(_cell(group, metrics) for group in groups) + " |")
    return "\n".join(lines)


def differences_table(scores: Sequence[Score], reference: str, metrics: Sequence[str] = SHOWN) -> str:
    """Mean of every system minus the reference on the same mixtures, a column a level.

    Behind each mean is its standard error over the clips, of which a few noises and levels share one voice.
    The last column is the smallest difference of a single mixture in the first metric.
    """
    levels = sorted({s.level for s in scores})
    base = {(s.clip, s.noise_type, s.level): s for s in scores if s.system == reference}
    head = " | ".join(f"{level:g} dB" for level in levels)
    lines = [
        f"| minus {reference}: {_titles(metrics)} | {head} | worst |",
        "|---" * (len(levels) + 2) + "|",
    ]
    for system in dict.fromkeys(s.system for s in scores if s.system != reference):
        own = [s for s in scores if s.system == system]
        pairs = [(s, base[s.clip, s.noise_type, s.level]) for s in own]
        cells = []
        for level in levels:
            at_level = [pair for pair in pairs if pair[0].level == level]
            cells.append(" / ".join(_difference(at_level, metric) for metric in metrics))
        first = metrics[0]
        worst = min(ours.enhanced[first] - theirs.enhanced[first] for ours, theirs in pairs)
        cells.append(f"{worst:+.2f}")
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(pairs: Sequence[tuple[Score, Score]], metric: str) -> str:
    by_clip: dict[str, list[float]] = {}
    for ours, theirs in pairs:
        by_clip.setdefault(ours.clip, []).append(ours.enhanced[metric] - theirs.enhanced[metric])
    means = np.array([np.nanmean(values) for values in by_clip.values()])
    error = means.std(ddof=1) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    how = measure(metric)
    return f"{how.text(means.mean())} ± {how.plain(error)}"


def _titles(metrics: Sequence[str]) -> str:
    return " / ".join(measure(metric).title for metric in metrics)


def _cell(scores: list[Score], metrics: Sequence[str]) -> str:
    return " / ".join(measure(metric).text(mean_gain(scores, metric)) for metric in metrics)


def worst_cell(scores: Sequence[Score], metric: str = "si_sdr") -> tuple[str, float, float]:
    """Noise type, level and mean improvement of the worst noise x level cell."""
    cells = {(s.noise_type, s.level) for s in scores}
    means = {
        cell: mean_gain([s for s in scores if (s.noise_type, s.level) == cell], metric) for cell in cells
    }
    noise, level = min(means, key=lambda cell: means[cell])
    return noise, level, means[noise, level]
