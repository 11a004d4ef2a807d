"""Tables of scores in Markdown: mean improvements, and differences between systems on the same mixtures."""

from collections.abc import Iterable, Sequence

import numpy as np

from avse.evaluation.scores import Score

TITLES = {
    "si_sdr": "SI-SDR (dB)",
    "sdr": "SDR (dB)",
    "pesq_wb": "PESQ-wb",
    "pesq_nb": "PESQ-nb",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "dnsmos": "DNSMOS",
}
"""Names and units of the metrics."""
SHOWN = {name: TITLES[name] for name in ("si_sdr", "pesq_wb", "stoi")}
"""Metrics of the tables and their titles."""
FORMATS = {
    "si_sdr": ".1f",
    "sdr": ".1f",
    "pesq_wb": ".2f",
    "pesq_nb": ".2f",
    "stoi": ".3f",
    "estoi": ".3f",
    "dnsmos": ".2f",
}
"""Decimal places of each metric."""


def mean_gain(scores: Iterable[Score], metric: str) -> float:
    """Mean improvement, mixtures without a defined value left out."""
    gains = [s.gain(metric) for s in scores]
    return float(np.nanmean(gains)) if gains else float("nan")


def markdown_table(scores: Sequence[Score], metrics: dict[str, str] = SHOWN) -> str:
    """Mean improvements of one system, a row a noise type, a column a level, metrics separated by slashes."""
    levels = sorted({s.level for s in scores})
    noises = list(dict.fromkeys(s.noise_type for s in scores))

    head = [*(f"{level:g} dB" for level in levels), "mean"]
    lines = [
        f"| {' / '.join(metrics.values())} | " + " | ".join(head) + " |",
        "|---" * (len(head) + 1) + "|",
    ]
    for noise in [*noises, None]:
        row = [s for s in scores if noise in (None, s.noise_type)]
        cells = [_cell([s for s in row if s.level == level], metrics) for level in levels]
        lines.append(f"| {noise or '**mean**'} | " + " | ".join([*cells, _cell(row, metrics)]) + " |")
    return "\n".join(lines)


def systems_table(scores: Sequence[Score], metrics: dict[str, str] = SHOWN) -> str:
    """Mean improvements of several systems on the same mixtures, a row a system, a column a level."""
    levels = sorted({s.level for s in scores})
    head = [*(f"{level:g} dB" for level in levels), "mean"]
    lines = [f"| {' / '.join(metrics.values())} | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for system in dict.fromkeys(s.system for s in scores):
        own = [s for s in scores if s.system == system]
        groups = [*([s for s in own if s.level == level] for level in levels), own]
        lines.append(f"| {system} | " + " | ".join(_cell(group, metrics) for group in groups) + " |")
    return "\n".join(lines)


def differences_table(scores: Sequence[Score], reference: str, metrics: dict[str, str] = SHOWN) -> str:
    """Mean of every system minus the reference on the same mixtures, a column a level.

    Behind each mean is its standard error over the clips, of which a few noises and levels share one voice.
    The last column is the smallest difference of a single mixture in the first metric.
    """
    levels = sorted({s.level for s in scores})
    base = {(s.clip, s.noise_type, s.level): s for s in scores if s.system == reference}
    head = " | ".join(f"{level:g} dB" for level in levels)
    lines = [
        f"| minus {reference}: {' / '.join(metrics.values())} | {head} | worst |",
        "|---" * (len(levels) + 2) + "|",
    ]
    for system in dict.fromkeys(s.system for s in scores if s.system != reference):
        own = [s for s in scores if s.system == system]
        pairs = [(s, base[s.clip, s.noise_type, s.level]) for s in own]
        cells = []
        for level in levels:
            at_level = [pair for pair in pairs if pair[0].level == level]
            cells.append(" / ".join(_difference(at_level, metric) for metric in metrics))
        first = next(iter(metrics))
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
    form = FORMATS[metric].replace(".1f", ".2f")
    return f"{means.mean():+{form}} ± {error:{form}}"


def _cell(scores: list[Score], metrics: dict[str, str]) -> str:
    return " / ".join(f"{mean_gain(scores, metric):+{FORMATS[metric]}}" for metric in metrics)


def worst_cell(scores: Sequence[Score], metric: str = "si_sdr") -> tuple[str, float, float]:
    """Noise type, level and mean improvement of the worst noise x level cell."""
    cells = {(s.noise_type, s.level) for s in scores}
    means = {
        cell: mean_gain([s for s in scores if (s.noise_type, s.level) == cell], metric) for cell in cells
    }
    noise, level = min(means, key=lambda cell: means[cell])
    return noise, level, means[noise, level]
