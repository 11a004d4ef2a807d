"""`avse report` and `avse compare`: what they write and say, and how they answer mistakes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from avse.cli import app as cli

Make = Callable[..., pd.DataFrame]
Save = Callable[..., Path]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["avse", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


@pytest.fixture
def runs(made_results: Make, save: Save, tmp_path: Path) -> tuple[Path, Path]:
    """A run of two systems, and a later one in which the second has lost 3 dB."""
    settings = {"clips": 1, "noises": ["cafe"]}
    return (
        save(tmp_path / "old", made_results({"a-vae:auto": 0.0, "av-vae:auto": 1.0}, **settings)),
        save(tmp_path / "new", made_results({"a-vae:auto": 0.0, "av-vae:auto": -2.0}, **settings)),
    )


def test_report(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("report", runs[0], "--export", tmp_path / "paper", "--baseline", "av-vae")
    assert run(monkeypatch, *arguments) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written[0] == runs[0] / "report.html"
    assert tmp_path / "paper" / "overall.tex" in written
    assert all(path.is_file() for path in written)
    assert "Differences to av-vae" in written[0].read_text(encoding="utf-8")


def test_report_replaces_a_page_as_a_whole(
    made_results: Make,
    fail: Make,
    save: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = made_results(speakers=1, clips=1)
    folder, page = save(tmp_path / "run", fail(table, range(len(table)))), tmp_path / "page.html"
    assert run(monkeypatch, "report", folder, "--out", page) == 0
    assert capsys.readouterr().out.split() == [str(page)]
    before = page.read_bytes()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run(monkeypatch, "report", folder, "--out", page) == 2
    error = capsys.readouterr().err
    assert error.strip() == "avse: jinja2 is not installed; pip install 'avse[evaluation]'"
    assert page.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}


def test_compare(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = tmp_path / "values.json"
    assert run(monkeypatch, "compare", *runs, "--model", "av-vae", "--json", values) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f"av-vae of {runs[1]} is 3.00 dB worse in SI-SDR than av-vae of {runs[0]} on 12 "
    )
    (found,) = json.loads(values.read_text())["comparisons"]
    assert found["differences"]["si_sdr"]["verdict"] == "worse"
    assert found["sentences"] == lines
    assert run(monkeypatch, "compare", *runs) == 0
    assert capsys.readouterr().out.startswith(f"a-vae of {runs[1]} and a-vae of {runs[0]} are equal")
    assert run(monkeypatch, "compare", runs[0]) == 0
    assert capsys.readouterr().out.startswith("av-vae is")


def test_significant_losses_fail_when_asked(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "compare", *runs, "--fail-on-loss", "si_sdr, stoi") == 1
    said = capsys.readouterr().err
    assert said.count("note: loss:") == 2
    assert run(monkeypatch, "compare", *reversed(runs), "--fail-on-loss", "si_sdr") == 0
    assert run(monkeypatch, "compare", *runs, "--model", "a-vae", "--fail-on-loss", "si_sdr") == 0


def test_new_failures_are_a_loss(
    made_results: Make,
    fail: Make,
    save: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = made_results(clips=1, noises=["cafe"])
    before, after = save(tmp_path / "a", table), save(tmp_path / "b", fail(table, [3]))
    assert run(monkeypatch, "compare", before, after, "--fail-on-loss", "si_sdr") == 1
    assert "failed on 1 that" in capsys.readouterr().err
    assert run(monkeypatch, "compare", after, before, "--fail-on-loss", "si_sdr") == 0


def test_mistakes_end_in_one_line(
    runs: tuple[Path, Path],
    made_results: Make,
    save: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    single = save(tmp_path / "single", made_results(clips=1, noises=["cafe"], speakers=1))
    damaged = save(tmp_path / "damaged", made_results(clips=1, noises=["cafe"], speakers=1))
    (damaged / "results.sqlite").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    other = save(tmp_path / "other", made_results(clips=1, noises=["cafe"], protocol="ntcd-timit"))
    cases: list[tuple[tuple[object, ...], str]] = [
        (("report", tmp_path / "absent"), "no such folder"),
        (("report", tmp_path / "empty"), "holds no"),
        (("report", damaged), "is damaged"),
        (("report", runs[0], "--out", "report.pdf"), "let the name end in .html"),
        (("report", runs[0], "--out", tmp_path / "absent" / "p.html"), "does not exist"),
        (("report", runs[0], "--baseline", "v-vae"), "no system 'v-vae'"),
        (("report", runs[0], "--export", runs[0] / "results.sqlite"), "no folder can be used"),
        (("compare", runs[0], tmp_path / "empty"), "holds no"),
        (("compare", single), "has one system"),
        (("compare", runs[0], other), "protocol"),
        (("compare", *runs, "--model", "v-vae"), "no system 'v-vae'"),
        (("compare", *runs, "--fail-on-loss", "mos"), "no metric 'mos'"),
        (("compare", single, single, "--fail-on-loss", "sdr"), "cannot be judged"),
    ]
    for arguments, said in cases:
        code = run(monkeypatch, *arguments)
        error = capsys.readouterr().err
        assert (code, len(error.splitlines())) == (2, 1), (arguments, error)
        assert said in error
    assert not (runs[0] / "report.html").exists()


@pytest.mark.slow
def test_commands_are_listed_without_pandas_or_matplotlib() -> None:
    code = (
        "import sys; sys.argv = ['avse', '--help']\n"
        "from avse.cli import app\n"
        "try:\n    app.main()\nfinally:\n    print({'pandas', 'matplotlib', 'jinja2'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "compare" in done.stdout
    assert "report" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"
