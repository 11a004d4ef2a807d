"""The code blocks of docs/architecture.md run, and its list of files is that of the tree."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
FOLDERS = ("data", "models", "guides", "inference", "evaluation", "src/avse")


def test_every_block_is_found() -> None:
    assert len(BLOCKS) == TEXT.count("```python\n") == 11


@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_block_runs(title: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks assert the shapes that they state."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    runpy.run_path(str(script))


def test_listed_files_are_those_of_the_tree() -> None:
    listed = {
        f"{folder}/{name}"
        for folder, lines in re.findall(r"^\*\*(\S+)/\*\*\n\n((?:- `.*\n)+)", TEXT, re.MULTILINE)
        for name in re.findall(r"^- `(\S+)`: \S", lines, re.MULTILINE)
    }
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    tree = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    assert listed == tree, (
        f"docs/architecture.md: add {sorted(tree - listed)}, remove {sorted(listed - tree)}"
    )
