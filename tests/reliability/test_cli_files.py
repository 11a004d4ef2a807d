"""Commands never write over what they read, fail no finished job for a figure, and answer in one line."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse.cli import app as cli
from avse.data.errors import InputError
from avse.data.files import check_distinct

RATE = 16000


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "n.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(RATE // 4), RATE)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["avse", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


@pytest.mark.parametrize(
    "options",
    [
        ["--out", "n.wav"],
        ["--out", "../{folder}/n.wav"],
        ["--out", "N.wav"],
        ["--out", "soft.wav"],
        ["--out", "hard.wav"],
        ["--json", "n.wav"],
        ["--figure", "n.wav"],
        ["--json", "o.wav", "--out", "o.wav"],
        ["--json", "f.png", "--figure", "./f.png"],
        ["--video", "v.mp4", "--json", "v.mp4"],
    ],
)
def test_outputs_that_are_the_input_or_each_other_are_refused(
    options: list[str], noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(noisy.parent)
    Path("soft.wav").symlink_to("n.wav")
    os.link("n.wav", "hard.wav")
    Path("v.mp4").write_bytes(b"a video")
    before = {path: path.read_bytes() for path in Path(".").iterdir()}
    options = [option.format(folder=noisy.parent.name) for option in options]
    assert run(monkeypatch, "enhance", "n.wav", *options) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "is both" in line
    assert {path: path.read_bytes() for path in Path(".").iterdir()} == before


def test_different_files_are_let_through(tmp_path: Path) -> None:
    check_distinct(input=tmp_path / "a.wav", out=tmp_path / "b.wav", report=None)
    with pytest.raises(InputError, match="is both"):
        check_distinct(out=tmp_path / "a", cache=tmp_path / "b" / ".." / "a")


def test_default_outputs_of_files_with_one_stem_differ() -> None:
    assert cli.default_output(Path("talk.wav")) == Path("talk_enhanced.wav")
    assert cli.default_output(Path("a/talk.mp4")) == Path("a/talk.mp4.enhanced.wav")
    assert cli.default_lips(Path("talk.mp4")) == Path("talk_lips.npz")
    suffixes = [
        "",
        ".",
        ".wav",
        ".WAV",
        ".mp4",
        ".MP4",
        ".mkv",
        ".flac",
        "_enhanced",
        ".enhanced",
        "_lips",
        ".lips",
    ]
    names = {f"talk{first}{second}" for first in suffixes for second in suffixes}
    for default in (cli.default_output, cli.default_lips):
        made = {default(Path(name)) for name in names}
        assert len(made) == len(names)


@pytest.mark.parametrize("seed", [-1, 99999999999999999999])
@pytest.mark.parametrize("command", [["enhance"], ["diagnose", "--out", "x.html"]])
def test_seeds_out_of_range_are_one_line(
    seed: int,
    command: list[str],
    noisy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(noisy.parent)
    assert run(monkeypatch, *command, noisy, "--seed", seed) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "seed" in line


@pytest.mark.parametrize("device", ["gpu", "foo", "xla"])
@pytest.mark.parametrize("command", ["enhance", "train"])
def test_unknown_devices_are_one_line(
    device: str,
    command: str,
    noisy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    what = [noisy] if command == "enhance" else ["a-vae", "--out", noisy.with_name("run")]
    assert run(monkeypatch, command, *what, "--device", device) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert device in line


def test_a_figure_that_fails_leaves_the_results(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("xelatex not found\nsecond line")

    monkeypatch.setattr("avse.evaluation.figures.write_figure", failing)
    out, report = noisy.with_name("o.wav"), noisy.with_name("o.json")
    options = ["--out", out, "--json", report, "--figure", noisy.with_name("b.png")]
    assert run(monkeypatch, "enhance", noisy, "--model", "a-vae", *options) == 0
    assert out.is_file()
    assert json.loads(report.read_text())["model"] == "a-vae"
    assert "xelatex not found" in capfd.readouterr().err


def test_a_name_that_looks_like_mathematics_is_drawn(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = noisy.rename(noisy.with_name("a$_{b$.wav"))
    figure = noisy.with_name("f.png")
    assert run(monkeypatch, "enhance", odd, "--model", "a-vae", "--figure", figure) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_models_are_one_line_each_with_whole_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert run(monkeypatch, "models") == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "av-vae-synthetic" in text.split()]
    assert "the AV-VAE of drawn mouths" in line


@pytest.mark.slow
def test_version_backend_and_ascii_terminal(noisy: Path) -> None:
    """A process of its own: MPLBACKEND of a notebook and an ASCII terminal stop nothing."""
    accented = noisy.rename(noisy.with_name("café.wav"))
    settings = {**os.environ, "MPLBACKEND": "no-such-backend", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", "from avse.cli.app import main; main()"]
    version = subprocess.run([*command, "--version"], env=settings, capture_output=True, text=True)
    assert version.stdout.startswith("avse ")
    figure = noisy.with_name("f.png")
    done = subprocess.run(
        [*command, "enhance", accented, "--model", "a-vae", "--figure", figure],
        env=settings,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\xe9_enhanced.wav" in done.stdout
    assert figure.is_file()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", pytest.param("latin-1", marks=pytest.mark.slow)])
def test_names_that_are_not_utf_8(
    encoding: str, noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sound, report, figure, notes and errors of caf\\xe9.wav, whatever the terminal can show."""
    length = sf.info(noisy).frames
    odd = Path(os.fsdecode(os.fsencode(noisy.parent) + b"/caf\xe9.wav"))
    noisy.rename(odd)
    with odd.open("rb+") as file:  # the end is missing, which is a note that names the file
        file.truncate(odd.stat().st_size - 400)
    out = Path(os.fsdecode(os.fsencode(noisy.parent) + b"/\xfcber.flac"))
    report, figure = odd.with_suffix(".json"), odd.with_suffix(".png")
    printed = {}
    for name in ("stdout", "stderr"):
        printed[name] = io.BytesIO()
        stream = io.TextIOWrapper(printed[name], encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, name, stream)
    options = ["--model", "a-vae", "--json", report, "--figure", figure]
    assert run(monkeypatch, "enhance", odd, "--out", out, *options) == 0
    assert run(monkeypatch, "enhance", odd.with_name(odd.name + "x")) == cli.USER_ERROR
    said = {name: stream.getvalue() for name, stream in printed.items()}
    name = b"caf\xe9.wav" if encoding == "utf-8" else b"caf\\udce9.wav"
    note, error = said["stderr"].splitlines()
    assert note.startswith(b"note: ")
    assert name in note
    assert b"missing" in note
    assert name + b"x: does not exist" in error
    assert (
        said["stdout"].strip() == os.fsencode(out) if encoding == "utf-8" else b"ber.flac" in said["stdout"]
    )
    assert len(sf.read(os.fsencode(out))[0]) == length - 200
    assert os.fsencode(json.loads(report.read_text(encoding="ascii"))["file"]) == os.fsencode(odd)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert {os.fsencode(path.name) for path in noisy.parent.iterdir()} == {
        b"caf\xe9.wav",
        b"caf\xe9.json",
        b"caf\xe9.png",
        b"\xfcber.flac",
    }


def test_help_of_train_names_every_recipe() -> None:
    from avse.zoo.recipes import RECIPES

    assert set(cli.RECIPE_NAMES) == set(RECIPES)


def test_a_sound_track_that_is_not_there_is_one_line(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "enhance", noisy, "--audio-track", 1) == cli.USER_ERROR
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "track 1" in line


def test_a_recording_may_be_named_as_its_own_video(
    noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is refused is the missing picture, not the name."""
    assert run(monkeypatch, "enhance", noisy, "--video", noisy) == cli.USER_ERROR
    assert "is both" not in capfd.readouterr().err


def test_training_over_the_corpus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--corpus", "folder", "--root", tmp_path, "--out", tmp_path / "."]
    assert run(monkeypatch, "train", "a-vae", *options) == cli.USER_ERROR
    assert "is both" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u2028b", "a\u202eb", "a\rb"])
def test_names_cannot_break_the_line_of_an_error(
    name: str, noisy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a recording that is missing, and of a model folder whose file is named in the message."""
    folder = noisy.with_name(name)
    folder.mkdir()
    (folder / "config.json").write_text("{", encoding="utf-8")
    for options in ([noisy, "--model", folder], [folder / "absent.wav"]):
        assert run(monkeypatch, "enhance", *options, "--out", noisy.with_name("o.wav")) == cli.USER_ERROR
        line = capfd.readouterr().err
        assert line.endswith("\n")
        assert line[:-1].isprintable()
        assert repr(name)[1:-1] in line


def test_names_of_any_script_are_printed_as_they_are() -> None:
    for name in ("می\u200cخواهم.wav", "日本語.wav", "\U0001f469\u200d\U0001f3a4.wav", "caf\udce9.wav"):
        assert cli.one_line(name) == name
