"""The mixtures that gained least, with their sounds where the run kept them."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avse.data.errors import InputError
from avse.evaluation.measures import measure
from avse.evaluation.outcomes import Outcomes, improvements

COUNT = 10
"""Mixtures that are listed where the run kept no sounds."""
LARGEST = 40_000_000
"""Bytes of sound in a page; later sounds are left out."""
SOUNDS = ("clean", "noisy", "enhanced")


@dataclass(frozen=True)
class Worst:
    """A mixture that gained little.

    Attributes:
        mixture, lips, system: what was run.
        improvement: with the metric's name and unit.
        sounds: data URIs by name; empty where none were kept.
    """

    mixture: str
    lips: str
    system: str
    improvement: str
    sounds: dict[str, str]


def worst_mixtures(own: Outcomes) -> tuple[list[Worst], str]:
    """The worst mixtures and a remark on their sounds: those in `worst/`, or the worst rows without sounds.

    Raises:
        InputError: `worst/worst.json` is damaged.
    """
    folder = own.folder / "worst" if own.folder else None
    if folder is None or not (folder / "worst.json").is_file():
        return _listed(own), "The run kept no sounds of them."
    found, left, missing = [], LARGEST, 0
    for entry in _entries(folder / "worst.json"):
        how = measure(entry["metric"])
        sounds = {}
        for name in SOUNDS:
            sound = _sound(folder, entry[name], left)
            if sound is None:
                missing += 1
                continue
            left -= len(sound)
            sounds[name] = "data:audio/flac;base64," + base64.b64encode(sound).decode()
        system = f"{entry['model']}:{entry['algorithm']}"
        system = entry["model"] if entry["model"] in own.systems else system
        value = entry["improvement"]
        text = how.text(value if isinstance(value, (int, float)) else float("nan"))
        said = f"{how.name} {text}{' ' + how.unit if how.unit else ''}"
        found.append(Worst(entry["mixture"], entry["lips"], system, said, sounds))
    return found, f"{missing} sounds are missing or too large for the page." if missing else ""


def _entries(path: Path) -> list[dict[str, Any]]:
    wanted = {"mixture", "lips", "model", "algorithm", "metric", "improvement", *SOUNDS}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and wanted <= entry.keys() for entry in entries
        ):
            raise ValueError(f"not a list of entries with {', '.join(sorted(wanted))}")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); remove it, or run the evaluation again"
        ) from error
    return entries


def _sound(folder: Path, name: object, most: int) -> bytes | None:
    """The bytes of a file of this folder, None where it is missing, elsewhere, or larger than `most`."""
    path = folder / str(name)
    if path.resolve().parent != folder.resolve() or not path.is_file() or path.stat().st_size > most:
        return None
    return path.read_bytes()


def _listed(own: Outcomes) -> list[Worst]:
    for metric in own.metrics:
        done = own.done
        gains = improvements(done, metric)
        if not np.isfinite(gains).any():
            continue
        how = measure(metric)
        order = [k for k in np.argsort(how.sign * gains, kind="stable") if np.isfinite(gains[k])][:COUNT]
        rows = done.iloc[order]
        return [
            Worst(
                row["mixture"],
                row["lips"],
                row["system"],
                f"{how.name} {how.text(gain)}{' ' + how.unit if how.unit else ''}",
                {},
            )
            for (_, row), gain in zip(rows.iterrows(), gains[order], strict=True)
        ]
    return []
