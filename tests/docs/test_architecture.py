"""The list of files in docs/architecture.md is that of the tree; test_code_blocks.py runs its blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = ("data", "models", "guides", "inference", "evaluation", "src/avse")


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
