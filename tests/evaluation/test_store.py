"""The folder of an evaluation keeps every row, once, and refuses what it cannot continue."""

import json
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avse.data.errors import InputError
from avse.evaluation import store
from avse.evaluation.metrics import METRICS
from avse.evaluation.store import ResultStore, load_manifest, load_results, started


def row(mixture: str = "s1/a cafe 0 dB", **values: Any) -> dict[str, Any]:
    key = {"mixture": mixture, "lips": "none", "model": "a-vae", "algorithm": "auto"}
    return {**key, "seed": 3, "status": "done", **values}


def fill(results: ResultStore) -> None:
    for index in range(100):
        results.add(row(f"{index} {'x' * 1000}"))


def manifest(**values: Any) -> dict[str, Any]:
    return {
        "protocol": "grid",
        "arguments": {"seed": 0, "models": ("a-vae",)},
        "level_definition": "broadband",
        "metrics": list(store.METRIC_NAMES),
        "weights": {"a-vae": "0" * 64},
        "settings": {"a-vae, auto": "a"},
        "versions": {"avse": "1"},
        **values,
    }


def test_metrics_are_those_that_are_computed() -> None:
    assert tuple(METRICS) == store.METRIC_NAMES


def test_rows_come_back_sorted_with_undefined_numbers_as_nan(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "new") as results:
        results.add(row("b", level=np.float32(-5), enhanced_stoi=0.5, reason=None))
        results.add(row("a", enhanced_stoi=math.nan, status="failed", reason="silent"))
        assert results.keys() == {("b", "none", "a-vae", "auto")}
        assert results.keys("failed") == {("a", "none", "a-vae", "auto")}
    table = load_results(tmp_path / "new")
    assert list(table.columns) == list(store.columns())
    assert list(table.mixture) == ["a", "b"]
    assert math.isnan(table.enhanced_stoi[0])
    assert table.enhanced_stoi[1] == 0.5
    assert math.isnan(table.level[0])
    assert table.level[1] == -5
    assert list(table.reason) == ["silent", None]
    assert list(table.seed) == [3, 3]


def test_a_row_of_the_same_key_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    with ResultStore(tmp_path) as results:
        results.add(row(status="failed", reason="unreadable"))
        results.add(row(enhanced_stoi=0.7))
    table = load_results(tmp_path)
    assert [*table.status, *table.reason, *table.enhanced_stoi] == ["done", None, 0.7]


def test_a_row_needs_its_key_and_known_columns(tmp_path: Path) -> None:
    with ResultStore(tmp_path) as results:
        with pytest.raises(KeyError, match="lips"):
            results.add({"mixture": "a", "model": "a-vae", "algorithm": "auto"})
        with pytest.raises(KeyError, match="sdr_enhanced"):
            results.add(row(sdr_enhanced=1.0))


@pytest.mark.slow
def test_a_row_is_on_the_disk_when_its_writer_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from avse.evaluation.store import ResultStore\n"
        "results = ResultStore(sys.argv[1])\n"
        "results.add(dict(mixture='a', lips='none', model='m', algorithm='auto', seed=0, status='done'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert list(load_results(tmp_path).mixture) == ["a"]


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with ResultStore(tmp_path) as results:
        results.add(row("a"))
        pages = results._connection.execute("PRAGMA page_count").fetchone()[0]
        results._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match=r"results.sqlite: .*full.*free some space.*rows are kept"):
            fill(results)
        kept = len(load_results(tmp_path))
        results._connection.execute("PRAGMA max_page_count = 10000")
        results.add(row("after the space was freed"))
    assert len(load_results(tmp_path)) == kept + 1


def test_a_run_goes_on_in_its_folder(tmp_path: Path) -> None:
    with started(tmp_path, manifest()) as results:
        results.add(row())
    with started(tmp_path, manifest()) as results:
        assert len(results.keys()) == 1
    assert load_manifest(tmp_path)["format_version"] == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": "folder"}, "protocol 'grid', now 'folder'"),
        ({"arguments": {"seed": 1, "models": ["a-vae"]}}, "seed 0, now 1"),
        ({"arguments": {"seed": 0, "models": ["a-vae"], "limit": 3}}, "limit None, now 3"),
        ({"level_definition": "speech-active (ITU-T P.56)"}, "level_definition 'broadband'"),
        ({"weights": {"a-vae": "1" * 64}}, "weights of a-vae '0"),
        ({"settings": {"a-vae, auto": "b"}}, "settings of a-vae, auto 'a', now 'b'"),
        ({"versions": {"avse": "2"}}, "avse '1', now '2'"),
    ],
)
def test_results_of_another_run_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with started(tmp_path, manifest()) as results:
        results.add(row())
    with pytest.raises(InputError, match=f"{named}.*another folder"):
        started(tmp_path, manifest(**change))
    assert len(load_results(tmp_path)) == 1


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*avse evaluate"):
        load_results(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no results.sqlite"):
        load_results(tmp_path)
    with pytest.raises(InputError, match=r"holds no evaluation.json"):
        load_manifest(tmp_path)
    (tmp_path / store.DATABASE).write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="is damaged"):
        load_results(tmp_path)
    with pytest.raises(InputError, match="is damaged"):
        ResultStore(tmp_path)
    with pytest.raises(InputError, match="results without"):
        started(tmp_path, manifest())
    (tmp_path / store.MANIFEST).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_manifest(tmp_path)
    (tmp_path / store.MANIFEST).write_text(json.dumps({"format_version": 2}))
    with pytest.raises(InputError, match=r"format version 2.*new folder"):
        load_manifest(tmp_path)


def test_another_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / store.DATABASE) as connection:
        connection.execute("CREATE TABLE results (name TEXT)")
    connection.close()
    with pytest.raises(InputError, match="lacks mixture"):
        load_results(tmp_path)
    with pytest.raises(InputError, match="other columns"):
        ResultStore(tmp_path)
