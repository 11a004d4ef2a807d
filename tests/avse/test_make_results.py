"""Every command of `make results` is one that the programs take, and reads what the ones before write."""

import csv
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from avse.cli.app import app
from avse.evaluation import runner
from avse.evaluation.protocols.grid import GRID_NOISES

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A tree as AVSE_DATA is, with one clip of GRID, its noises, and one pair of VoiceBank-DEMAND."""
    root = tmp_path / "data"
    rows = [("grid/s1/a.wav", "av", "s1", "test")]
    rows += [(f"noise/{noise}.wav", "noise", noise, "all") for noise in GRID_NOISES if noise != "white"]
    names = [name for name, *_ in rows]
    for index, name in enumerate([*names, "voicebank/clean/p1_1.wav", "voicebank/noisy/p1_1.wav"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / name, 0.1 * np.random.default_rng(index).standard_normal(8000), 16000)
    with (root / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "kind", "speaker_or_type", "split"), *rows])
    return root


def commands(recordings: Path, runs: Path) -> list[list[str]]:
    """The commands of the target, in their order, split as a shell does."""
    variables = [f"AVSE_DATA={recordings}", f"RUNS={runs}"]
    options = ["-n", "-s", "--no-print-directory", "-o", ".venv/.ready"]
    made = subprocess.run(
        ["make", *options, "results", *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    return [shlex.split(line) for line in made.stdout.replace("\\\n", " ").splitlines() if line.strip()]


def test_every_command_is_taken(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluations are run dry, without the rows that estimate the time; the others are parsed."""
    monkeypatch.setattr(runner, "result_row", lambda unit: {})
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    written: list[str] = []
    found: dict[str, int] = {}
    for program, *arguments in commands(recordings, tmp_path / "runs"):
        what = arguments[0]
        found[what] = found.get(what, 0) + 1
        if Path(program).name == "avse" and what == "evaluate":
            done = CliRunner().invoke(app, [*arguments, "--dry-run"])
            assert done.exit_code == 0, (arguments, done.output, done.exception)
            assert " 0 of them done" in done.stdout
            written.append(arguments[arguments.index("--out") + 1])
        elif Path(program).name == "avse":
            parsed = parameters(arguments)
            assert str(parsed["results"]) in written, arguments
        else:
            assert Path(program).name == "python"
            assert (ROOT / what).is_file(), what
            if what == "benchmarks/talk.py":
                given = runpy.run_path(str(ROOT / what))["parser"]().parse_args(arguments[1:])
                assert [str(folder) for folder in given.folders] == written
            else:
                assert arguments[1:] == [], "takes no arguments"
    sys.modules.pop("common", None)
    assert found == {"evaluate": 2, "report": 2, "benchmarks/talk.py": 1, "tools/update_tables.py": 1}
    assert not (tmp_path / "runs").exists()


def parameters(arguments: list[str]) -> dict[str, Any]:
    """What a command of `avse` makes of its arguments, without running it."""
    from typer.main import get_command

    group: Any = get_command(app)
    name, command, rest = group.resolve_command(group.make_context("avse", arguments[:1]), arguments)
    return dict(command.make_context(name, rest).params)


def test_a_command_that_is_not_taken_is_found(recordings: Path, tmp_path: Path) -> None:
    """The check above fails for an option that is gone and for a model that is unknown."""
    (command, *_) = commands(recordings, tmp_path / "runs")
    for extra in (["--colour", "blue"], ["--models", "b-vae"]):
        done = CliRunner().invoke(app, [*command[1:], *extra, "--dry-run"])
        assert done.exit_code != 0
