"""`avse train`: what it refuses, what it goes on without, and what it prints."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile as sf

from avse.cli import app as cli
from avse.data.datamodule import FrameDataModule
from avse.zoo.pair import CARD

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
]

RECIPE = "a-vae-paper"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: list[str]


class Command:
    """The command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> Ended:
        self.monkeypatch.setattr(sys, "argv", ["avse", "train", *map(str, arguments)])
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = self.capfd.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err.strip().splitlines())


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


@pytest.fixture
def corpus(tmp_path: Path) -> Sequence[object]:
    for number, split in enumerate(("train", "validation")):
        path = tmp_path / "speech" / split / "s" / "a.wav"
        path.parent.mkdir(parents=True)
        sf.write(path, 0.1 * np.random.default_rng(number).standard_normal(16000), 16000)
    return ["--corpus", "folder", "--root", tmp_path / "speech"]


def one_line(ended: Ended, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one line that holds the words."""
    assert ended.code == cli.USER_ERROR, ended
    assert ended.out == ""
    (line,) = ended.err
    assert line.startswith("avse: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", -1], "seed -1"),
        (["--seed", 99999999999999999999], "seed 99999999999999999999"),
        (["--epochs", 0], "--epochs 0"),
        (["--epochs", -3], "--epochs -3"),
        (["--resume"], "last.ckpt"),
        (["--licence", ""], "licence"),
        (["--licence", "mit\nlicense: other"], "licence"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    options: list[object], words: str, corpus: Sequence[object], train: Command, tmp_path: Path
) -> None:
    one_line(train(RECIPE, "--out", tmp_path / "run", *corpus, *options), words)


def test_a_run_is_kept_apart_from_other_runs_and_survives_damage(
    corpus: Sequence[object], train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One short run; what may not be resumed, and what a bad cache or checkpoint leads to."""
    (tmp_path / "file").write_bytes(b"no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    usual = ["--out", tmp_path / "run", "--epochs", 2, *corpus]
    first = train(RECIPE, *usual, "--licence", "cc-by-4.0")
    assert first.code == 0, first
    assert json.loads(first.out)["epochs"] == 2
    assert any("nothing is kept in the cache" in line for line in first.err), first
    card = (tmp_path / "run" / "pair" / CARD).read_text(encoding="utf-8")
    assert 'license: "cc-by-4.0"\n' in card
    pair = {path: path.read_bytes() for path in (tmp_path / "run" / "pair").iterdir()}

    one_line(train("a-vae", *usual, "--resume"), "another recipe")
    one_line(train(RECIPE, *usual, "--resume", "--seed", 5), "another settings")
    one_line(train(RECIPE, *usual, "--resume", "--epochs", 3), "another settings")

    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    resumed = train(RECIPE, *usual, "--resume", "--cache", tmp_path / "file")
    assert resumed.code == 0, resumed
    assert json.loads(resumed.out)["epochs"] == 2
    assert any("resumed from" in line for line in resumed.err), resumed
    for path in checkpoints:
        path.write_bytes(b"")
    one_line(train(RECIPE, *usual, "--resume"), "damaged checkpoint", str(tmp_path / "run"))
    assert {path.name for path in pair} == {path.name for path in (tmp_path / "run" / "pair").iterdir()}


def test_an_interrupted_run_keeps_the_older_pair_and_can_go_on(
    corpus: Sequence[object], train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ["--out", tmp_path / "run", "--epochs", 3, "--cache", tmp_path / "cache", *corpus]
    assert train(RECIPE, *usual).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "pair").iterdir()}

    @contextmanager
    def interrupting(label: str) -> Iterator[Callable[[float], None]]:
        """A bar of training at which somebody types control-C after the first epoch."""
        yield lambda fraction: signal.raise_signal(signal.SIGINT) if fraction > 0.4 else None

    with monkeypatch.context() as patched:
        patched.setattr("avse.zoo.recipes.progress_bar", interrupting)
        interrupted = train(RECIPE, *usual)
    assert interrupted.code == 128 + signal.SIGINT, interrupted
    assert interrupted.out == ""
    (note,) = [line for line in interrupted.err if "interrupted" in line]
    assert "--resume" in note
    assert "Traceback" not in "".join(interrupted.err)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "pair").iterdir()} == before
    resumed = train(RECIPE, *usual, "--resume")
    assert resumed.code == 0, resumed
    assert json.loads(resumed.out)["epochs"] == 3
    history = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["history"]
    assert [row["epoch"] for row in history] == [0, 1, 2]


def test_an_output_that_is_no_folder_is_one_line(
    corpus: Sequence[object], train: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        one_line(train(RECIPE, "--out", out, *corpus), str(out))
    assert (tmp_path / "file").read_bytes() == b"no folder"


def test_a_root_that_is_a_file_is_one_line(train: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    for corpus in ("folder", "grid", "ntcd-timit"):
        options = ["--corpus", corpus, "--root", tmp_path / "file"]
        one_line(train(RECIPE, "--out", tmp_path / "run", *options), str(tmp_path / "file"))


def test_bars_are_on_stderr_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever trains from Python finds stdout as it was, on a terminal, too."""
    from avse.data.corpora.folder import FolderCorpus
    from avse.data.front_end import FrontEnd
    from avse.progress import progress_bar

    for number, split in enumerate(("train", "validation")):
        path = tmp_path / "speech" / split / "s" / "a.wav"
        path.parent.mkdir(parents=True)
        sf.write(path, 0.1 * np.random.default_rng(number).standard_normal(16000), 16000)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal
    FrameDataModule([FolderCorpus(tmp_path / "speech")], FrontEnd(), cache=tmp_path / "cache").setup("fit")
    with progress_bar("enhancing") as progress:
        progress(0.5)
    printed = capfd.readouterr()
    assert printed.out == ""
    for label in ("spectra (train)", "spectra (validation)", "enhancing"):
        assert label in printed.err


def test_corruption_can_be_left_out_where_there_is_one(train: Command, tmp_path: Path) -> None:
    ended = train(RECIPE, "--out", tmp_path / "run", "--no-corruption")
    assert ended.code == 2
    assert "clean sound already" in "".join(ended.err)
    assert not (tmp_path / "run").exists()
