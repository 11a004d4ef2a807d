"""The folder of an evaluation: a row of results for every enhanced mixture, and what was asked for.

    evaluation.json    the manifest: protocol, arguments, metrics, weights, versions, hardware, time
    results.sqlite     table `results`, a row for every (mixture, lips, model, algorithm)
    worst/             the sounds of the worst mixtures, see `avse.evaluation.summary.write_worst`

A row is on the disk before `ResultStore.add` returns, so that a killed run loses what it was computing and no
more. One process writes; others may read meanwhile.
"""

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avse.data.errors import InputError
from avse.data.files import atomic_path, made_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

FORMAT_VERSION = 1
MANIFEST = "evaluation.json"
DATABASE = "results.sqlite"
METRIC_NAMES = ("si_sdr", "sdr", "pesq_wb", "pesq_nb", "stoi", "estoi")
"""Of `avse.evaluation.metrics.METRICS`, whose import needs the extra `metrics`; a test compares them."""

KEY = ("mixture", "lips", "model", "algorithm")
"""Columns that name a row."""
DESCRIPTION = {
    **dict.fromkeys((*KEY, "protocol", "split", "speaker", "clip", "noise_type"), "TEXT"),
    "level": "REAL",
    "level_definition": "TEXT",
    "duration": "REAL",
    "seed": "INTEGER",
    "status": "TEXT",
    "reason": "TEXT",
    "seconds": "REAL",
    "real_time_factor": "REAL",
}
"""Columns of a row before its metrics, with their types in SQLite."""
PROVENANCE = dict.fromkeys(("weights", "settings", "versions"), "TEXT")
"""Columns of a row after its metrics."""
NO_LIPS = "none"
LIPS = ("clean", "degraded", NO_LIPS)
"""Values of the column `lips`: what a model was shown, the lips, the lips with a third of the video frames
spoilt, or a video in which nobody is seen."""
DONE, FAILED = "done", "failed"
"""Values of `status`."""
IDENTITY = ("protocol", "arguments", "level_definition", "metrics", "weights", "settings")
"""Entries of the manifest that are the same in a run that is continued; so is the version of this package."""


def columns(metrics: Sequence[str] = METRIC_NAMES) -> dict[str, str]:
    """All columns with their types in SQLite: `noisy_m` and `enhanced_m` for every metric m."""
    measured = {f"{sound}_{name}": "REAL" for name in metrics for sound in ("noisy", "enhanced")}
    return {**DESCRIPTION, **measured, **PROVENANCE}


class ResultStore:
    """The rows in a folder, which is made when missing.

    Args:
        folder: of the evaluation.
        metrics: names of the metrics of a new folder; one that has rows must have the same.

    Raises:
        InputError: the folder cannot be written, its database is damaged, has other columns, or is locked.
    """

    def __init__(self, folder: str | Path, metrics: Sequence[str] = METRIC_NAMES) -> None:
        self.path = made_folder(folder) / DATABASE
        self.columns = columns(metrics)
        with _database_errors(self.path):
            self._connection = sqlite3.connect(self.path, timeout=60)
            fields = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS results ({fields}, PRIMARY KEY ({', '.join(KEY)}))"
            )
            self._connection.commit()
        found = _columns_of(self._connection, self.path)
        if found != list(self.columns):
            self.close()
            raise InputError(
                f"{self.path}: has other columns than this version of avse writes; choose another folder"
            )

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, in place of one of the same key; it is on the disk when this returns.

        Columns that the row lacks are NULL, as is NaN.

        Raises:
            InputError: the disk is full or the database cannot be written; earlier rows are kept.
            KeyError: the row lacks a column of `KEY` or has one that the table lacks.
        """
        if unknown := set(row) - set(self.columns):
            raise KeyError(f"no such columns: {', '.join(sorted(unknown))}")
        values = {name: _plain(row[name] if name in KEY else row.get(name)) for name in self.columns}
        marks = ", ".join("?" * len(values))
        with _database_errors(self.path), self._connection:  # a transaction, undone where it fails
            self._connection.execute(f"INSERT OR REPLACE INTO results VALUES ({marks})", [*values.values()])

    def keys(self, status: str = DONE) -> set[tuple[str, str, str, str]]:
        """(mixture, lips, model, algorithm) of the rows of a status."""
        with _database_errors(self.path):
            rows = self._connection.execute(
                f"SELECT {', '.join(KEY)} FROM results WHERE status = ?", [status]
            ).fetchall()
        return set(rows)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def __enter__(self) -> "ResultStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load_results(folder: str | Path) -> "pd.DataFrame":
    """All rows as a table, sorted by key, whatever the order in which they were computed.

    Undefined numbers are NaN, missing texts None.

    Raises:
        InputError: no such folder, no results in it, or a damaged database.
    """
    import pandas as pd

    path = _existing(folder, DATABASE)
    with closing(_opened(path)) as connection, _database_errors(path):
        names = _columns_of(connection, path)
        missing = [name for name in columns(()) if name not in names]
        if missing:
            raise InputError(f"{path}: lacks {', '.join(missing)}; it is no database of an evaluation")
        rows = connection.execute(f"SELECT * FROM results ORDER BY {', '.join(KEY)}").fetchall()
        kinds = {row[1]: row[2] for row in connection.execute("PRAGMA table_info(results)")}
    table = pd.DataFrame(rows, columns=names, dtype=object)
    for name, kind in kinds.items():
        if kind == "REAL":
            table[name] = table[name].astype(float)
        elif kind == "INTEGER":
            table[name] = table[name].astype("int64")
    return table


def finished_keys(folder: str | Path) -> set[tuple[str, str, str, str]]:
    """Keys of the rows that are done in a folder, which need not be there; nothing is written.

    Raises:
        InputError: the database is damaged.
    """
    path = Path(folder, DATABASE)
    if not path.is_file():
        return set()
    with closing(_opened(path)) as connection, _database_errors(path):
        return set(connection.execute(f"SELECT {', '.join(KEY)} FROM results WHERE status = ?", [DONE]))


def load_manifest(folder: str | Path) -> dict[str, Any]:
    """What `evaluation.json` says.

    Raises:
        InputError: no such folder or file, a damaged file, or one of another format version.
    """
    path = _existing(folder, MANIFEST)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); run the evaluation again in a new folder"
        ) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: has format version {version!r}, this avse reads {FORMAT_VERSION}; "
            "use the avse that wrote it, or run the evaluation again in a new folder"
        )
    return manifest


def write_manifest(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Write `evaluation.json`, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(made_folder(folder) / MANIFEST) as temporary:
        text = json.dumps({"format_version": FORMAT_VERSION, **manifest}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def started(folder: str | Path, manifest: Mapping[str, Any]) -> ResultStore:
    """The store of a run that begins in `folder`, or goes on there if it was begun with the same manifest.

    Raises:
        InputError: the folder holds the results of another protocol, other arguments, weights or another
            version of this package, names the difference; or it cannot be written.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        _check_same(folder, load_manifest(folder), {"format_version": FORMAT_VERSION, **manifest})
    elif (folder / DATABASE).exists():
        raise InputError(f"{folder}: holds results without {MANIFEST}; choose another folder")
    else:
        write_manifest(folder, manifest)
    return ResultStore(folder, manifest["metrics"])


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    new = json.loads(json.dumps(new))  # tuples are lists in a file
    before, now = ({**_flat(each), "avse": each.get("versions", {}).get("avse")} for each in (old, new))
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{folder}: holds results of {name} {before.get(name)!r}, now {now.get(name)!r}; "
                "give the arguments of that run to continue it, or another folder"
            )


def _flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `IDENTITY`, those that are dictionaries one by one."""
    flat: dict[str, Any] = {}
    for name in IDENTITY:
        value = manifest.get(name)
        if not isinstance(value, dict):
            flat[name] = value
        elif name == "arguments":
            flat.update(value)
        else:
            flat.update({f"{name} of {key}": own for key, own in value.items()})
    return flat


def _plain(value: Any) -> Any:
    """A value that SQLite stores: NumPy's numbers as Python's, NaN as NULL."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _existing(folder: str | Path, name: str) -> Path:
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of an evaluation (avse evaluate --out)")
    path = Path(folder, name)
    if not path.is_file():
        raise InputError(f"{folder}: holds no {name}; give the folder of an evaluation (avse evaluate --out)")
    return path


def _opened(path: Path) -> sqlite3.Connection:
    with _database_errors(path):
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)


def _columns_of(connection: sqlite3.Connection, path: Path) -> list[str]:
    with _database_errors(path):
        return [row[1] for row in connection.execute("PRAGMA table_info(results)")]


@contextmanager
def _database_errors(path: Path) -> "Iterator[None]":
    """SQLite's errors as those that a person can mend."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = str(error)
        if "full" in reason:
            mend = "free some space and give the same command again: finished rows are kept"
        elif "locked" in reason:
            mend = "another run writes there; wait for it or choose another folder"
        else:
            mend = "check the folder and its permissions; finished rows are kept"
        raise InputError(f"{path}: cannot be used ({reason}); {mend}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: is damaged ({error}); move it away and run the evaluation again"
        ) from error
