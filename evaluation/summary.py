"""The end of an evaluation: a table of means, and the sounds of the worst mixtures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avse.data.audio import write_audio
from avse.data.errors import InputError
from avse.data.files import atomic_path, made_folder
from avse.evaluation import store
from avse.evaluation.benchmark import RATE
from avse.evaluation.measures import MEASURES, measure
from avse.evaluation.runner import Unit, shown_lips

if TYPE_CHECKING:
    import pandas as pd

WORST_METRIC = "si_sdr"
SYSTEM = ["model", "algorithm", "lips"]
"""Columns that name a system."""


def means_table(results: "pd.DataFrame") -> str:
    """Means before and after enhancement in Markdown, a row a system, with the counts behind them.

    n counts the mixtures that are done, failed those that are not, undefined the values of metrics that are
    left out of the means: a mixture counts for a metric where it is defined before and after. A line under
    the table names the definition of level.
    """
    metrics = [name for name in MEASURES if f"enhanced_{name}" in results]
    head = ["model", "algorithm", "lips", *(measure(name).title for name in metrics), "× real time"]
    lines = [f"| {' | '.join([*head, 'n', 'failed', 'undefined'])} |", "|---" * (len(head) + 3) + "|"]
    for names, rows in results.groupby(SYSTEM):
        done = rows[rows["status"] == store.DONE]
        cells, undefined = list(names), 0
        for name in metrics:
            pairs = done[[f"noisy_{name}", f"enhanced_{name}"]].dropna()
            undefined += len(done) - len(pairs)
            before, after = map(measure(name).plain, pairs.mean())
            cells.append(f"{before} → {after}" if len(pairs) else "–")
        pace = done["real_time_factor"].mean()
        cells += [f"{pace:.2f}" if len(done) else "–", str(len(done)), str(len(rows) - len(done))]
        lines.append(f"| {' | '.join([*cells, str(undefined)])} |")
    definition = ", ".join(dict.fromkeys(results["level_definition"]))
    return "\n".join([*lines, "", f"Noisy → enhanced, means over n mixtures. Level: {definition}."])


def failures(results: "pd.DataFrame") -> list[str]:
    """Reasons of the rows that failed, each once, with how many rows it cost, most frequent first."""
    counts = results.loc[results["status"] == store.FAILED, "reason"].value_counts()
    return [f"{count} failed: {reason}" for reason, count in counts.items()]


def write_worst(folder: str | Path, work: Sequence[Unit], results: "pd.DataFrame", count: int = 3) -> int:
    """Write the sounds of the mixtures that gained least, with `worst.json`; returns how many.

    For every system the `count` rows of the least improvement of SI-SDR. Their speech is computed again from
    the same seeds. The three sounds of a mixture are scaled alike, to a peak of at most full scale.

    Args:
        folder: of the evaluation.
        work: all of its units.
        results: of `avse.evaluation.store.load_results`.
        count: of every system.

    Raises:
        InputError: the folder cannot be written.
    """
    done = results[results["status"] == store.DONE]
    gain = done[f"enhanced_{WORST_METRIC}"] - done[f"noisy_{WORST_METRIC}"]
    ranked = done.assign(gain=gain).dropna(subset=["gain"]).sort_values("gain", kind="stable")
    units = {unit.key: unit for unit in work}
    place = made_folder(Path(folder) / "worst")
    entries: list[dict[str, Any]] = []
    for row in ranked.groupby(SYSTEM, sort=False).head(count).itertuples():
        unit = units[row.mixture, row.lips, row.model, row.algorithm]
        try:
            clean, noisy = unit.protocol.sounds(unit.spec)
            lips = None
            if unit.system.uses_lips:
                lips = shown_lips(unit.protocol, unit.spec, unit.lips, len(noisy) / RATE)
            sounds = {"clean": clean, "noisy": noisy, "enhanced": unit.system(noisy, lips, unit.spec)}
        except InputError:  # a file has gone since
            continue
        scale = 1 / max(1.0, *(float(np.abs(sound).max()) for sound in sounds.values()))
        files = {name: f"{len(entries):03d}_{name}.flac" for name in sounds}
        for name, sound in sounds.items():
            write_audio(place / files[name], scale * sound, RATE)
        key = dict(zip(store.KEY, unit.key, strict=True))
        entries.append({**key, "metric": WORST_METRIC, "improvement": float(row.gain), **files})
    with atomic_path(place / "worst.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(entries)
