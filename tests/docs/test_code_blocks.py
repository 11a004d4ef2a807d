"""Every code block of the documentation runs, and every command line in it exists.

Pages are found by glob. Blocks of a page run in order in one namespace; those of the pages in `STANDALONE`
are meant to be copied one by one and run alone. Pages with code cells are executed whole, as the site does.
Only the pages in `QUICK` belong to the quick tests.
"""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from avse.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
STANDALONE = ("architecture.md", "quickstart.md")
QUICK = ("architecture.md", "quickstart.md")
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Code of fenced blocks; those in lists are indented."""
    found = re.findall(
        rf"^( *)```{language}[^\n]*\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def cases(pages: list[Path]) -> list[object]:
    return [
        pytest.param(page, id=name(page), marks=[] if name(page) in QUICK else [pytest.mark.slow])
        for page in pages
    ]


def titled(page: Path) -> list[tuple[str, str]]:
    """Blocks with the heading above each."""
    title, result = "", []
    text = page.read_text(encoding="utf-8")
    for heading, code in re.findall(r"^## ([^\n]+)|^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if heading:
            title = heading
        else:
            result.append((title, code))
    return result


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.chdir(folder)
    script = folder / "block.py"
    script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script))


IN_ORDER = [page for page in PAGES if name(page) not in STANDALONE and blocks(page, "python")]
ALONE = [
    pytest.param(code, id=f"{page}: {title}", marks=[] if page in QUICK else [pytest.mark.slow])
    for page in STANDALONE
    for title, code in titled(DOCS / page)
]


def test_every_standalone_block_is_found() -> None:
    counts = {page: len(titled(DOCS / page)) for page in STANDALONE}
    assert counts == {page: len(blocks(DOCS / page, "python")) for page in STANDALONE}
    assert all(counts.values())


@pytest.mark.parametrize("code", ALONE)
def test_block_runs_alone(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks assert the shapes that they state."""
    run(code, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", cases(IN_ORDER))
def test_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("\n\n".join(blocks(page, "python")), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=name(page)) for page in PAGES if blocks(page, "{code-cell}")]
)
def test_cells_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel, as when the site is built; a cell that may fail says so by the tag raises-exception."""
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = jupytext.read(page)
    assert any(cell.cell_type == "code" for cell in notebook.cells)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()


@pytest.mark.slow
def test_the_prior_is_swapped_in_fifteen_lines(tmp_path: Path) -> None:
    """Copied into an empty file in an empty folder, in a process of its own."""
    (code,) = [code for title, code in titled(DOCS / "quickstart.md") if title == "Swap the prior"]
    assert len(code.splitlines()) <= 15
    script = tmp_path / "swap.py"
    script.write_text(code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "enhanced.wav").stat().st_size > 1000


def shell_lines(page: Path) -> list[list[str]]:
    """Commands of the bash blocks, without comments, those that go on in the next line joined."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [parts for line in text.splitlines() if (parts := shlex.split(line, comments=True))]


COMMANDS_OF_AVSE = typer.main.get_command(app).commands  # type: ignore[attr-defined]
UsageError = typer.BadParameter.__base__
"""Of the click that typer uses, its own or the package."""


def check(parts: list[str]) -> None:
    """A command line of the documentation: the options of `avse`, targets of make, files of Python."""
    program = Path(parts[0]).name
    if program == "avse" and parts[1:2] != ["--help"]:
        assert parts[1] in COMMANDS_OF_AVSE, f"avse {parts[1]}: no such command"
        if "--help" not in parts:
            COMMANDS_OF_AVSE[parts[1]].make_context(parts[1], parts[2:])
    elif program == "make":
        assert parts[1] in MAKE_TARGETS, f"make {parts[1]}"
    elif program == "python" and parts[1] != "-m":
        assert (ROOT / parts[1]).is_file(), parts[1]


COMMANDS = [page for page in (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md") if shell_lines(page)]


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_command_lines_exist(page: Path) -> None:
    for parts in shell_lines(page):
        check(parts)


@pytest.mark.parametrize("line", ["avse enhance a.wav --no-such-option", "avse enhance a.wav --jobs many"])
def test_wrong_command_lines_are_found(line: str) -> None:
    with pytest.raises(UsageError):
        check(shlex.split(line))
