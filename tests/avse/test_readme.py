"""What the README shows can be run, and what it states was measured."""

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse import zoo
from avse.cli import app as cli

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("AVSE_DATA", ROOT / "../shared/data"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "docs" / "results.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_first_screen_has_the_two_commands() -> None:
    assert len(README.splitlines()) <= 60
    first_screen = "\n".join(README.splitlines()[:30])
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in first_screen
        assert f"\n{target}: " in makefile


@pytest.mark.slow
def test_shell_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `avse` line of the README, in its order, in one folder; training is cut to one epoch.

    A talking face cannot be made here: without the real recordings, the line about lips is left out.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    sf.write("noisy.wav", 0.1 * generator.standard_normal(8000), 16000)
    for split in ("train", "validation"):
        folder = Path("my_speech") / split
        folder.mkdir(parents=True)
        sf.write(folder / "a.wav", 0.1 * generator.standard_normal(8000), 16000)
    faces = sorted((DATA / "grid" / "s2").glob("*.mpg"))
    if faces:
        shutil.copy(faces[0], "talking.mp4")
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("avse ")]
    assert len(lines) >= 4
    for line in lines:
        if "talking.mp4" in line and not faces:
            continue
        arguments = shlex.split(line, comments=True)
        if arguments[1] == "train":
            arguments += ["--epochs", "1"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        assert not exit_info.value.code, line


def test_python_block_runs(tmp_path: Path) -> None:
    (block,) = blocks("python")
    script = tmp_path / "readme.py"
    script.write_text(block)
    x = (0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    names = runpy.run_path(str(script), init_globals={"x": x, "sample_rate": 16000})
    assert names["enhancement"].speech.shape == x.shape


def test_tables_are_the_measured_ones() -> None:
    """The tables in docs/results.md and the model cards are those that the benchmarks wrote."""
    filled = runpy.run_path(str(ROOT / "tools" / "update_tables.py"))
    assert RESULTS in filled["PAGES"]
    for page in filled["PAGES"]:
        text = page.read_text(encoding="utf-8")
        assert filled["filled"](text) == text, f"run tools/update_tables.py: {page}"


def test_headline_is_the_mean_of_the_measured_table() -> None:
    table = (ROOT / "benchmarks" / "results" / "quality_test_a-vae_amortised.md").read_text(encoding="utf-8")
    (means,) = re.findall(r"\| \*\*mean\*\* .*\| (\S+) / (\S+) / (\S+) \|$", table, re.MULTILINE)
    si_sdr, pesq, stoi = map(float, means)
    headline = f"**+{si_sdr:.1f} dB SI-SDR, +{pesq:.2f} PESQ, +{stoi:.3f} STOI**".replace("+0.", "+.")
    assert headline in README


def test_every_shipped_model_has_a_row() -> None:
    for name in zoo.shipped():
        assert f"[`{name}`](src/avse/zoo/weights/{name}/README.md)" in README
