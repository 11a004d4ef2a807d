"""Names in code formatting in the glossary are of the package; citations are those of CITATION.cff."""

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data", "models", "guides", "inference", "evaluation", "src/avse")
LETTERS = {"W", "H", "z"}


def defined(path: Path) -> set[str]:
    """Names that a file defines: classes, functions, arguments, attributes, variables, and keys of tables."""
    names = {path.stem}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Dict):
            names |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return names


def test_names_exist() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    used = set(re.findall(r"`([^`]+)`", text))
    known = set().union(*(defined(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")))
    assert len(used) > 80
    assert not used - known - LETTERS, sorted(used - known - LETTERS)


def test_citations_are_those_of_the_file() -> None:
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f"version = {{{citation['version']}}}" in page
    lines = [line for line in page.splitlines() if line.startswith("- ")]
    assert len(lines) == len(citation["references"])
    for line, reference in zip(lines, citation["references"], strict=True):
        assert f"*{reference['title']}*" in line
        assert f"{reference['year']}." in line
        assert reference.get("url", "") in line
        for author in reference["authors"]:
            assert f"{author['given-names']} {author['family-names']}" in line
