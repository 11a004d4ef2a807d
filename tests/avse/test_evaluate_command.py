"""`avse evaluate` from the command line: its table, its folder, and one line for every mistake."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from avse.cli.app import app
from avse.data.errors import InputError
from avse.evaluation import store
from avse.evaluation.store import load_manifest, load_results
from avse.zoo.pair import SpeechPair

RATE = 16000


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two clips of noise with a pause: enough for all metrics but PESQ, which may be undefined."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for index in range(2):
        samples = 0.1 * np.random.default_rng(index).standard_normal(RATE // 2)
        sf.write(folder / f"{index}.wav", samples * np.hanning(len(samples)), RATE)
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny_pair: SpeechPair) -> str:
    tiny_pair.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def evaluate(*arguments: Any) -> str:
    """What the command prints on stdout; raises what the command line turns into exit code 2."""
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_folder_becomes_a_table_and_a_folder_of_results(speech: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (
        "--corpus",
        "folder",
        "--root",
        speech,
        "--models",
        model,
        "--algorithms",
        "mcem",
        "--snrs",
        "-5,5",
    )
    printed = evaluate(*options, "--out", out, "--level-definition", "speech-active", "--worst", "1")
    (row,) = (line for line in printed.splitlines() if line.startswith(f"| {model} | mcem | none |"))
    assert row.split("|")[-4:-2] == [" 4 ", " 0 "]
    assert printed.rstrip().endswith("Level: speech-active (ITU-T P.56).")
    table = load_results(out)
    assert set(table.status) == {"done"}
    assert sorted(set(table.level)) == [-5.0, 5.0]
    assert load_manifest(out)["arguments"]["levels"] == [-5.0, 5.0]
    (entry,) = json.loads((out / "worst/worst.json").read_text())
    assert (out / "worst" / entry["enhanced"]).is_file()
    dry = evaluate(*options, "--out", out, "--level-definition", "speech-active", "--dry-run")
    assert dry.startswith("4 mixtures, 4 rows, 4 of them done; about")
    with pytest.raises(InputError, match=r"level_definition 'speech-active.*another folder"):
        evaluate(*options, "--out", out)


def test_a_dry_run_counts_and_writes_nothing(speech: Path, model: str, tmp_path: Path) -> None:
    printed = evaluate(
        *("--corpus", "folder", "--root", speech, "--models", model, "--out", tmp_path / "out", "--dry-run"),
        *("--snrs", "0", "--algorithms", "mcem,vem", "--jobs", "2"),
    )
    assert printed.startswith("2 mixtures, 4 rows, 0 of them done; about 1 min with 2 processes")
    assert not (tmp_path / "out").exists()


def test_nothing_that_can_be_enhanced_is_an_error(model: str, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"nothing could be enhanced; 1 failed: .*a.wav"):
        evaluate(
            *("--corpus", "folder", "--root", tmp_path / "bad", "--models", model, "--snrs", "0"),
            *("--out", tmp_path / "out"),
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--corpus", "timit"], "unknown corpus 'timit': use one of grid, ntcd-timit"),
        (["--corpus", "grid"], "needs --root"),
        (["--corpus", "synthetic", "--snrs", "low"], "level 'low': give numbers in dB"),
        (["--corpus", "synthetic", "--snrs", ""], "no level"),
        (["--corpus", "synthetic", "--models", "b-vae"], "b-vae: neither a shipped model"),
        (["--corpus", "synthetic", "--algorithms", "gibbs"], "unknown algorithm 'gibbs'"),
        (["--corpus", "synthetic", "--lips", "closed"], "lips closed: use clean, degraded, none"),
        (["--corpus", "synthetic", "--noise-root", "."], "has noises of its own"),
        (["--corpus", "synthetic", "--jobs", "0"], "--jobs 0: give a whole number of at least 1"),
        (["--corpus", "synthetic", "--share", "0"], "--share 0"),
        (["--corpus", "voicebank-demand", "--root", ".", "--snrs", "0"], "ready mixtures"),
        (["--corpus", "folder", "--root", "/absent"], "/absent: no such folder"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        evaluate(*arguments, "--out", tmp_path / "out")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_empty_list_of_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model"):
        evaluate("--corpus", "synthetic", "--models", ",", "--out", tmp_path / "out")


def test_results_of_another_format_are_refused(speech: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / store.MANIFEST).write_text(json.dumps({"format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        evaluate("--corpus", "folder", "--root", speech, "--models", model, "--out", out)
