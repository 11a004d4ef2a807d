"""Commands that are interrupted, or whose disk fills, keep the older files whole and leave nothing else."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse.cli import app as cli

RATE = 16000
INTERRUPTED = 128 + signal.SIGINT


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "n.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(RATE // 4), RATE)
    return path


@contextmanager
def interrupting(label: str) -> Iterator[Callable[[float], None]]:
    """A progress bar at whose first sign of work somebody types control-C."""
    yield lambda fraction: signal.raise_signal(signal.SIGINT)


def interrupted_write(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("moment", ["computing", "writing"])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_an_interrupt_keeps_the_old_output(
    moment: str,
    suffix: str,
    noisy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, report = noisy.with_name(f"o{suffix}"), noisy.with_name("o.json")
    for path in (out, report):
        path.write_bytes(b"an earlier result")
    before = {path: path.read_bytes() for path in noisy.parent.iterdir()}
    if moment == "computing":
        monkeypatch.setattr(cli, "progress_bar", interrupting)
    else:
        monkeypatch.setattr("avse.data.audio.sf.SoundFile.write", interrupted_write)
    command = ["avse", "enhance", noisy, "--model", "a-vae", "--out", out, "--json", report]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == INTERRUPTED
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) <= 1, printed.err
    assert {path: path.read_bytes() for path in noisy.parent.iterdir()} == before


UNDER_A_LIMIT = """
import contextlib, io, json, os, resource, sys
from pathlib import Path
from avse.cli.app import main

noisy, results = Path(sys.argv[1]), {}
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for option, name in json.loads(sys.argv[2]):
    sound, path = noisy.with_name("sound.wav"), noisy.with_name(name)
    for old in (sound, path):
        old.write_bytes(b"old")
    others = [] if option == "--out" else ["--out", str(sound)]
    sys.argv = ["avse", "enhance", str(noisy), "--model", "a-vae", option, str(path), *others]
    said = io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (400 if option == "--out" else 2000, hard))
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    results[name] = {
        "code": code,
        "said": said.getvalue().splitlines(),
        "kept": path.read_bytes() == b"old",
        "sound": sound.read_bytes() != b"old",
        "left": sorted(set(os.listdir(noisy.parent)) - {"n.wav", name, "sound.wav"}),
    }
    path.unlink()
print(json.dumps(results))
"""
"""Names of outputs -> what the command line says and leaves where no file may grow beyond a limit.

In a process of its own: the limit would hold for the log of the tests as well. The limit is below the size of
the file in question; for a report or a figure it is above that of the sound.
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    noisy = tmp_path / "n.wav"
    sf.write(noisy, 0.1 * np.random.default_rng(0).standard_normal(800), RATE)
    outputs = [("--out", f"o{suffix}") for suffix in (".wav", ".flac", ".ogg")]
    outputs += [("--json", "o.json"), ("--figure", "o.png"), ("--figure", "o.svg")]
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(noisy), json.dumps(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results.keys() == {name for _, name in outputs}
    for option, name in outputs:
        found = results[name]
        (line,) = found["said"]
        assert str(tmp_path / name) in line, found
        assert "free" in line, found
        assert found["kept"], found
        assert found["left"] == [], found
        assert found["sound"] == (option != "--out"), found
        # The sound is the job; a figure that fails is a note.
        assert found["code"] == (0 if option == "--figure" else cli.USER_ERROR), found
