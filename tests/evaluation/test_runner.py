"""An evaluation keeps what it has done: through failures, kills, full disks and any number of workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from numpy.typing import NDArray

from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.evaluation import store
from avse.evaluation.benchmark import RATE, MixtureSpec
from avse.evaluation.protocols import Folder, Synthetic
from avse.evaluation.runner import computed, estimated, evaluate, result_row, settings_text, shown_lips, units
from avse.evaluation.store import load_manifest, load_results
from avse.evaluation.summary import failures, means_table, write_worst
from avse.systems import EnhancementSystem
from avse.zoo.pair import SpeechPair

FEW = ("si_sdr", "stoi")
"""PESQ takes most of the time of a row."""
TIMES = ["seconds", "real_time_factor"]
Samples = NDArray[np.floating[Any]]


class Halved:
    """Silences the second half of a mixture."""

    model, algorithm, uses_lips, weights = "halved", "auto", False, "0" * 64
    settings = {"share": 0.5}  # noqa: RUF012

    def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
        return noisy * (np.arange(len(noisy)) < len(noisy) // 2)


class Blind(Halved):
    """Wants lips, and keeps what it was shown."""

    model, uses_lips = "blind", True

    def __init__(self) -> None:
        self.seen: list[Lips | None] = []

    def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
        self.seen.append(lips)
        return noisy


class Fragile(Halved):
    """Fails on one mixture, in the way of code that nobody has checked."""

    model = "fragile"

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
        if self.reason and spec.level == 5:
            raise ZeroDivisionError(self.reason)
        return noisy


def synthetic(**values: Any) -> Synthetic:
    return Synthetic(**{"levels": (0.0, 5.0), "noises": ("white",), **values})


def run(folder: Path, system: Any, limit: int, **values: Any) -> None:
    evaluate(synthetic(), [system], folder, limit=limit, metrics=FEW, **values)


def same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """All but the times; numbers to within rounding of the sampled chains."""
    pd.testing.assert_frame_equal(first.drop(columns=TIMES), second.drop(columns=TIMES), rtol=1e-3, atol=1e-3)


def test_every_row_tells_what_it_is_and_where_it_comes_from(tmp_path: Path) -> None:
    evaluate(synthetic(), [Halved()], tmp_path, limit=2)
    table = load_results(tmp_path)
    assert list(table.status) == ["done", "done"]
    assert set(table.lips) == {"none"}
    row = table.iloc[0]
    assert row.mixture == f"{row['clip']} white {row.level:g} dB"
    assert (row.model, row.algorithm, row.split, row.protocol) == ("halved", "auto", "test", "synthetic")
    assert row.level_definition == "broadband"
    assert row.speaker in row["clip"]
    assert json.loads(row.settings) == {"share": 0.5}
    assert json.loads(row.versions)["avse"]
    assert row.weights == "0" * 64
    assert row.noisy_si_sdr == pytest.approx(row.level, abs=0.5)
    assert row.enhanced_stoi < row.noisy_stoi
    assert row.real_time_factor == pytest.approx(row.seconds / row.duration)
    manifest = load_manifest(tmp_path)
    assert manifest["weights"] == {"halved": "0" * 64}
    assert manifest["seconds"] == pytest.approx(table.seconds.sum())
    assert manifest["hardware"]


def test_a_failing_mixture_is_recorded_and_tried_again(tmp_path: Path) -> None:
    run(tmp_path, Fragile("no speech"), 4)
    table = load_results(tmp_path)
    failed = table[table.status == "failed"]
    assert set(failed.level) == {5.0}
    assert set(failed.reason) == {"ZeroDivisionError: no speech"}
    assert failed.noisy_stoi.notna().all()
    assert failed.enhanced_stoi.isna().all()
    assert failures(table) == [f"{len(failed)} failed: ZeroDivisionError: no speech"]
    run(tmp_path, Fragile(), 4)
    assert set(load_results(tmp_path).status) == {"done"}


def test_rows_that_are_done_are_not_computed_again(tmp_path: Path) -> None:
    seen: list[float] = []
    run(tmp_path, Halved(), 2)
    before = load_results(tmp_path)
    run(tmp_path, Halved(), 2, progress=seen.append)
    assert seen == [1.0]
    pd.testing.assert_frame_equal(before, load_results(tmp_path))


def test_unreadable_files_among_good_ones_do_not_end_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "speech"
    root.mkdir()
    sf.write(root / "a.wav", 0.1 * rng.standard_normal(RATE), RATE)
    (root / "b.wav").write_bytes(b"RIFF no sound")
    (root / "c.wav").touch()
    sf.write(root / "d.wav", np.zeros(RATE), RATE)
    evaluate(Folder(root=str(root), levels=(0.0,)), [Halved()], tmp_path / "out", metrics=FEW)
    table = load_results(tmp_path / "out").set_index("clip")
    assert table.status.to_dict() == {
        "a.wav": "done",
        "b.wav": "failed",
        "c.wav": "failed",
        "d.wav": "failed",
    }
    assert "b.wav" in table.reason["b.wav"]
    assert "is empty" in table.reason["c.wav"]
    assert "silent" in table.reason["d.wav"]


def test_lips_are_shown_spoilt_or_hidden_as_asked() -> None:
    protocol = synthetic()
    system = Blind()
    work = units(protocol, [system, Halved()], ("clean", "degraded", "none"), FEW, 1)
    assert [(unit.system.model, unit.lips) for unit in work] == [
        *(("blind", lips) for lips in ("clean", "degraded", "none")),
        ("halved", "none"),
    ]
    assert {result_row(unit)["status"] for unit in work} == {"done"}
    clean, degraded, none = system.seen
    assert clean is not None
    assert degraded is not None
    assert none is not None
    assert clean.valid.all()
    changed = (clean.images != degraded.images).any(axis=(1, 2)) | ~degraded.valid
    assert 0.1 < changed.mean() <= 0.34  # frozen blocks may look alike
    assert not none.valid.any()
    again = shown_lips(protocol, work[1].spec, "degraded", 1.0)
    np.testing.assert_array_equal(again.images, degraded.images)


def test_a_system_that_changes_the_length_fails_alone(tmp_path: Path) -> None:
    class Shorter(Halved):
        def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
            return noisy[1:]

    run(tmp_path, Shorter(), 1)
    assert "must both have shape (T,)" in load_results(tmp_path).reason[0]


def test_a_limit_takes_the_first_of_more() -> None:
    some, more = ({unit.key for unit in units(synthetic(), [Halved()], limit=limit)} for limit in (3, 10))
    assert len(some) == 3
    assert some < more


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lips": ("closed",)}, "lips closed: use clean, degraded, none"),
        ({"systems": []}, "no model"),
        ({"systems": [Halved(), Halved()]}, "halved with auto: is given twice"),
        ({"metrics": ("loudness",)}, "metric loudness: use si_sdr"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        units(**{"protocol": synthetic(), "systems": [Halved()], **change})


def test_lips_of_a_corpus_without_any_are_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.ones(100), RATE)
    folder = Folder(root=str(tmp_path))
    with pytest.raises(InputError, match="shows no speakers"):
        units(folder, [Blind()], ("clean",))
    assert {unit.lips for unit in units(folder, [Blind()])} == {"none"}


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_number_of_processes(tmp_path: Path, tiny_pair: SpeechPair) -> None:
    system = EnhancementSystem(tiny_pair, name="tiny")
    for jobs in (1, 2):
        run(tmp_path / str(jobs), system, 3, jobs=jobs)
    one, two = (load_results(tmp_path / str(jobs)) for jobs in (1, 2))
    assert set(one.status) == {"done"}
    same(one, two)


def test_a_full_disk_ends_a_run_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may not grow beyond what a few rows take."""
    add, pages = store.ResultStore.add, "PRAGMA max_page_count = 8"

    def limited(self: store.ResultStore, row: dict[str, Any]) -> None:
        self._connection.execute(pages)
        add(self, {**row, "settings": "x" * 4000})

    monkeypatch.setattr(store.ResultStore, "add", limited)
    with pytest.raises(InputError, match=r"full.*free some space"):
        run(tmp_path, Halved(), 12)
    kept = len(load_results(tmp_path))
    assert 0 < kept < 12
    monkeypatch.setattr(store.ResultStore, "add", add)
    run(tmp_path, Halved(), 12)
    assert len(load_results(tmp_path)) == 12


def test_an_estimate_counts_and_times() -> None:
    work = units(synthetic(), [Halved()], (), FEW, 4)
    found = estimated(work, {work[0].key}, jobs=2)
    assert (found.mixtures, found.rows, found.left) == (4, 4, 3)
    assert 0 < found.seconds < 60


def test_the_table_of_means_counts_what_is_undefined() -> None:
    rows = [
        {"enhanced_stoi": 0.8, "noisy_stoi": 0.6, "status": "done"},
        {"enhanced_stoi": 0.6, "noisy_stoi": 0.2, "status": "done"},
        {"enhanced_stoi": np.nan, "noisy_stoi": 0.9, "status": "done"},
        {"enhanced_stoi": np.nan, "noisy_stoi": 0.9, "status": "failed"},
    ]
    common = {"model": "m", "algorithm": "auto", "lips": "none", "level_definition": "broadband"}
    table = means_table(pd.DataFrame([{**common, "real_time_factor": 0.5, **row} for row in rows]))
    assert "| m | auto | none | 0.400 → 0.700 | 0.50 | 3 | 1 | 1 |" in table
    assert "STOI" in table.splitlines()[0]
    assert table.endswith("Level: broadband.")


def test_the_worst_mixtures_are_written_as_they_were_scored(tmp_path: Path) -> None:
    protocol = synthetic()
    run(tmp_path, Halved(), 4)
    table, work = load_results(tmp_path), units(protocol, [Halved()], limit=4)
    assert write_worst(tmp_path, work, table, 2) == 2
    entries = json.loads((tmp_path / "worst/worst.json").read_text())
    gains = (table.enhanced_si_sdr - table.noisy_si_sdr).sort_values()
    assert [entry["improvement"] for entry in entries] == pytest.approx(list(gains[:2]))
    assert [entry["mixture"] for entry in entries] == list(table.mixture[gains.index[:2]])
    enhanced, rate = sf.read(tmp_path / "worst" / entries[0]["enhanced"])
    noisy, _ = sf.read(tmp_path / "worst" / entries[0]["noisy"])
    assert rate == RATE
    np.testing.assert_allclose(enhanced[: len(noisy) // 2], noisy[: len(noisy) // 2], atol=1e-4)
    assert not enhanced[len(noisy) // 2 :].any()


SLOW_SYSTEMS = """
import sys, time
import numpy as np
from avse.evaluation.protocols import Synthetic
from avse.evaluation.runner import evaluate

class Slow:
    algorithm, uses_lips, weights, settings = "auto", False, "0" * 64, {"share": 0.5}
    def __init__(self, model):
        self.model = model
    def __call__(self, noisy, lips, spec):
        time.sleep(0.5)
        return noisy * (np.arange(len(noisy)) < len(noisy) // 2)

protocol = Synthetic(levels=(0.0, 5.0), noises=("white",))
evaluate(protocol, [Slow("a"), Slow("b")], sys.argv[1], limit=4, metrics=("si_sdr", "stoi"))
"""


def rows_in(folder: Path) -> int:
    try:
        return len(load_results(folder))
    except InputError:
        return 0


def kill_half_way(command: list[str], folder: Path, rows: int, **options: Any) -> None:
    """Start a command in a session of its own, and kill all of it once the folder has so many rows."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        deadline = time.monotonic() + 240
        while rows_in(folder) < rows and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


def test_a_killed_run_goes_on_to_the_same_table(tmp_path: Path) -> None:
    """2 mixtures, 2 systems, 2 levels; killed with some rows done, then resumed, beside one that was not."""
    script, systems = tmp_path / "run.py", [Halved(), Halved()]
    script.write_text(SLOW_SYSTEMS)
    for system, name in zip(systems, "ab", strict=True):
        system.model = name
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill_half_way([sys.executable, str(script), str(killed)], killed, 3)
    done = rows_in(killed)
    assert 3 <= done < 8
    for folder in (killed, whole):
        evaluate(synthetic(), systems, folder, limit=4, metrics=FEW)
    assert len(load_results(whole)) == 8
    same(load_results(whole), load_results(killed))
    assert (load_results(killed).seconds > 0.4).sum() == done  # those are not computed again


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_table(tmp_path: Path) -> None:
    """The same with trained models and the command line."""
    start = "import sys; from avse.cli import app; sys.argv[0] = 'avse'; app.main()"
    options = ["--corpus", "synthetic", "--models", "a-vae,av-vae-synthetic", "--snrs", "0,5"]
    command = [sys.executable, "-c", start, "evaluate", *options, "--limit", "4", "--noises", "white"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill_half_way([*command, "--out", str(killed)], killed, 3, env=environment)
    for folder, jobs in ((killed, "2"), (whole, "1")):
        done = subprocess.run(
            [*command, "--out", str(folder), "--jobs", jobs],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("| model |")
    assert len(load_results(whole)) == 8
    same(load_results(whole), load_results(killed))


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("avse.evaluation.dask_cluster.CONNECT_TIMEOUT", 1)
    work = units(synthetic(), [Halved()], limit=1)
    with pytest.raises(InputError, match=r"127.0.0.1:1: no Dask scheduler answers"):
        list(computed(work, dask_scheduler="tcp://127.0.0.1:1"))


def test_a_cluster_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    work = units(synthetic(), [Halved()], limit=1)
    with pytest.raises(InputError, match=r"avse\[evaluation\]"):
        list(computed(work, dask_scheduler="tcp://127.0.0.1:1"))


def test_settings_have_no_addresses() -> None:
    """They differ between processes, whatever the system says of itself."""
    text = settings_text({"function": repr(test_settings_have_no_addresses), "other": [1]})
    assert text == '{"function": "<function test_settings_have_no_addresses>", "other": [1]}'
