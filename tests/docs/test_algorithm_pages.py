"""The pages of docs/algorithms: one form, and every preset on one of them."""

import re
from pathlib import Path

import pytest

from avse.inference.presets import PRESETS

FOLDER = Path(__file__).parents[2] / "docs" / "algorithms"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md") if path.stem != "index"}
SECTIONS = ["Derivation", "When it fails", "The core", "Settings", "References"]


def _presets(text: str) -> list[str]:
    """Those named in the line of a page that says which are its own."""
    (line,) = re.findall(r"^\*\*Presets:\*\* (.*)$", text, re.MULTILINE)
    return [] if line.startswith("none") else re.findall(r"`([\w-]+)`", line)


def test_every_preset_is_on_one_page() -> None:
    assert sorted(name for text in PAGES.values() for name in _presets(text)) == sorted(PRESETS)


@pytest.mark.parametrize("page", PAGES)
def test_page_has_the_sections(page: str) -> None:
    assert re.findall(r"^## (.*)$", PAGES[page], re.MULTILINE) == SECTIONS
    assert "**Cost**" in PAGES[page]


@pytest.mark.parametrize("page", PAGES)
def test_core_is_compared_with_the_library(page: str) -> None:
    blocks = "".join(re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL))
    assert "from avse." in blocks
    assert blocks.count("assert ") > 1


def test_index_names_every_page() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert {f"{page}.md" for page in PAGES} == set(re.findall(r"\((\w+\.md)\)", index))
