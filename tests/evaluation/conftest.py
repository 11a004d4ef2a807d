"""Made-up results of an evaluation: what each system gains is known."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from avse.evaluation.store import METRIC_NAMES, ResultStore, columns, write_manifest

GAINS = {"si_sdr": 6.0, "sdr": 5.0, "pesq_wb": 0.3, "pesq_nb": 0.3, "stoi": 0.03, "estoi": 0.04}
INPUTS = {"si_sdr": 0.0, "sdr": 0.5, "pesq_wb": 1.2, "pesq_nb": 1.6, "stoi": 0.7, "estoi": 0.5}


def made_results(
    systems: Mapping[str, float] | None = None,
    *,
    speakers: int = 6,
    clips: int = 2,
    noises: Sequence[str | None] = ("cafe", "white"),
    levels: Sequence[float | None] = (-5.0, 5.0),
    lips: Mapping[str, Sequence[str]] | None = None,
    spread: float = 0.01,
    seed: int = 0,
    protocol: str = "grid",
) -> pd.DataFrame:
    """A table of results.

    Args:
        systems: model:algorithm -> what it gains beyond `GAINS`, in dB of SI-SDR; default "a-vae:auto".
        lips: system -> kinds of lips; default "none".
        spread: standard deviation of a gain between speakers, as large as that between mixtures.
        seed: of what varies; mixtures of one name have the same noisy recording under any seed.
    """
    systems = systems or {"a-vae:auto": 0.0}
    generator, noisy_generator = np.random.default_rng(seed), np.random.default_rng(12345)
    rows = []
    voices = {name: generator.normal(0, spread, (speakers, len(METRIC_NAMES))) for name in systems}
    for s, c, noise, level in product(range(speakers), range(clips), noises, levels):
        clip = f"clip{c}"
        easy = noisy_generator.normal(0, 0.2)
        noisy = {m: INPUTS[m] + GAINS[m] * ((level or 0) / 6 + easy) for m in METRIC_NAMES}
        shown = " ".join(
            [f"s{s}/{clip}", *([noise] if noise else []), *([f"{level:g} dB"] if level is not None else [])]
        )
        for name, gain in systems.items():
            model, _, algorithm = name.partition(":")
            for kind in (lips or {}).get(name, ["none"]):
                own = voices[name][s] + generator.normal(0, spread, len(METRIC_NAMES))
                row: dict[str, Any] = dict.fromkeys(columns())
                row |= {"mixture": shown, "lips": kind, "model": model, "algorithm": algorithm}
                row |= {"protocol": protocol, "split": "test", "speaker": f"s{s}", "clip": clip}
                row |= {"noise_type": noise, "level": level, "level_definition": "broadband", "duration": 3.0}
                row |= {"seed": 17 * s + c, "status": "done", "seconds": 0.6, "real_time_factor": 0.2}
                row |= {"weights": "0" * 64, "settings": "{}", "versions": json.dumps({"avse": "0"})}
                for k, m in enumerate(METRIC_NAMES):
                    row[f"noisy_{m}"] = noisy[m]
                    row[f"enhanced_{m}"] = noisy[m] + GAINS[m] * (1 + gain / 6 + own[k])
                rows.append(row)
    return pd.DataFrame(rows, columns=list(columns())).astype(
        {"level": float, **{n: float for n, kind in columns().items() if kind == "REAL"}}
    )


def fail(table: pd.DataFrame, rows: Sequence[int], reason: str = "the noise is silent") -> pd.DataFrame:
    """The table with rows that failed."""
    table = table.copy()
    table.loc[list(rows), ["status", "reason"]] = ["failed", reason]
    table.loc[list(rows), [f"{k}_{m}" for k in ("noisy", "enhanced") for m in METRIC_NAMES]] = np.nan
    return table


def save(folder: Path, table: pd.DataFrame, **manifest: Any) -> Path:
    """The table as the folder of an evaluation."""
    first = table.iloc[0]
    write_manifest(
        folder,
        {
            "protocol": first["protocol"],
            "arguments": {"seed": 0, "models": sorted(set(table["model"]))},
            "level_definition": first["level_definition"],
            "metrics": list(METRIC_NAMES),
            "weights": dict(zip(table["model"], table["weights"], strict=True)),
            "versions": {"avse": "0.1", "torch": "2"},
            "hardware": "2 cores",
            "started": "2026-11-27T12:00:00",
            "seconds": 3600.0,
            **manifest,
        },
    )
    with ResultStore(folder) as store:
        for row in table.to_dict("records"):
            store.add(row)
    return folder


@pytest.fixture(scope="session", name="made_results")
def _made_results() -> Callable[..., pd.DataFrame]:
    return made_results


@pytest.fixture(scope="session", name="fail")
def _fail() -> Callable[..., pd.DataFrame]:
    return fail


@pytest.fixture(scope="session", name="save")
def _save() -> Callable[..., Path]:
    return save
