"""The results of an evaluation, checked: which systems were run, on which mixtures, measured by what.

A system is a model with an algorithm. It is named by the model where a run has one algorithm for it, and
MODEL:ALGORITHM otherwise. A system that was run without lips only (an A-VAE) is the same under any lips: its
rows stand beside clean and degraded lips alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avse.data.errors import InputError
from avse.evaluation.store import (
    DESCRIPTION,
    DONE,
    KEY,
    LIPS,
    NO_LIPS,
    PROVENANCE,
    load_manifest,
    load_results,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcomes:
    """The rows of one evaluation.

    Attributes:
        frame: the rows, with the columns of `avse.evaluation.store` and "system".
        name: of the run, for people.
        metrics: names of the metrics, in the order of their columns.
        manifest: what `evaluation.json` says; empty for a table in memory.
        folder: of the run, if it has one.
    """

    frame: "pd.DataFrame"
    name: str
    metrics: tuple[str, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def systems(self) -> list[str]:
        """Names of the systems, in the order in which their models were asked for, or else of the rows."""
        models = dict(zip(self.frame["system"], self.frame["model"], strict=True))
        asked = list(self.manifest.get("weights") or ())
        return sorted(
            models, key=lambda name: asked.index(models[name]) if models[name] in asked else len(asked)
        )

    @property
    def done(self) -> "pd.DataFrame":
        """Rows of mixtures that were enhanced."""
        return self.frame[self.frame["status"] == DONE]

    @property
    def failed(self) -> "pd.DataFrame":
        """Rows of mixtures that were not."""
        return self.frame[self.frame["status"] != DONE]

    @property
    def level_definition(self) -> str:
        """The definitions of level that occur, usually one."""
        return ", ".join(dict.fromkeys(map(str, self.frame["level_definition"])))

    def rows_of(self, system: str) -> "pd.DataFrame":
        """Rows of a system by its name, its model's if that has one algorithm, or MODEL:ALGORITHM.

        Raises:
            InputError: no such system; names those there are.
        """
        frame = self.frame
        names = (frame["system"], frame["model"] + ":" + frame["algorithm"])
        for own in names:
            if (own == system).any():
                return frame[own == system]
        raise InputError(f"{self.name}: no system {system!r}; there are {', '.join(self.systems)}")


def outcomes(results: "str | Path | pd.DataFrame", name: str = "") -> Outcomes:
    """Results read from a folder, or a table with the columns that `load_results` gives.

    Args:
        results: folder of an evaluation, or its table.
        name: of the run; default the folder.

    Raises:
        InputError: the folder cannot be read (see `avse.evaluation.store`); the table lacks columns, has no
            rows, or has two of one key.
    """
    if isinstance(results, (str, Path)):
        folder = Path(results)
        name = name or str(results)
        manifest = load_manifest(folder)
        return _checked(load_results(folder), name, manifest, folder)
    return _checked(results, name or "the table", {}, None)


def _checked(frame: "pd.DataFrame", name: str, manifest: Mapping[str, Any], folder: Path | None) -> Outcomes:
    missing = [column for column in (*DESCRIPTION, *PROVENANCE) if column not in frame.columns]
    if missing:
        raise InputError(f"{name}: the results lack the columns {', '.join(missing)}")
    metrics = tuple(
        column.removeprefix("enhanced_")
        for column in frame.columns
        if column.startswith("enhanced_") and "noisy_" + column.removeprefix("enhanced_") in frame.columns
    )
    if not metrics:
        raise InputError(f"{name}: the results hold no metric; columns noisy_METRIC and enhanced_METRIC")
    if frame.empty:
        raise InputError(f"{name}: holds no results yet; run avse evaluate first")
    twice = frame[frame.duplicated(list(KEY))]
    if len(twice):
        key = " / ".join(str(twice.iloc[0][column]) for column in KEY)
        raise InputError(f"{name}: {key} occurs twice; give the results of one run")
    frame = frame.reset_index(drop=True)
    return Outcomes(frame.assign(system=_systems(frame)), name, metrics, manifest, folder)


def _systems(frame: "pd.DataFrame") -> list[str]:
    algorithms = frame.groupby("model")["algorithm"].nunique()
    return [
        model if algorithms[model] == 1 else f"{model}:{algorithm}"
        for model, algorithm in zip(frame["model"], frame["algorithm"], strict=True)
    ]


def improvements(frame: "pd.DataFrame", metric: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Metric of the enhanced speech minus that of the noisy speech, (rows,), NaN where one is undefined."""
    return (frame[f"enhanced_{metric}"] - frame[f"noisy_{metric}"]).to_numpy(np.float64)


def by_lips(own: Outcomes) -> "dict[str, pd.DataFrame]":
    """The rows to be shown together for each kind of lips, in the order of `LIPS`.

    Systems that were run without lips only are in every part; there is a part "none" where another system was
    run so, too, or where nothing was run with lips.
    """
    frame = own.frame
    kinds = {system: set(rows["lips"]) for system, rows in frame.groupby("system")}
    blind = [system for system, lips in kinds.items() if lips == {NO_LIPS}]
    seen = set(frame.loc[~frame["system"].isin(blind), "lips"]) or {NO_LIPS}
    order = [*(lips for lips in LIPS if lips in seen), *sorted(seen - set(LIPS))]
    return {lips: frame[(frame["lips"] == lips) | frame["system"].isin(blind)] for lips in order}
