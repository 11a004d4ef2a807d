"""Relative links of the documentation lead to files that exist, and anchors to headings in them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts
)


def prose(page: Path) -> str:
    """The page without its code."""
    text = re.sub(
        r"^ *(`{3,}|:{3,}).*?^ *\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Those that headings get, on GitHub and in MyST alike, and those that are written out as targets."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    result: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        numbered = (f"{slug}-{number}" for number in range(1, 100))
        result.add(slug if slug not in result else next(other for other in numbered if other not in result))
    return result | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def broken(page: Path) -> list[str]:
    """Links of the page that lead nowhere."""
    result = []
    for link in re.findall(r"\]\(<?((?!\w+:)[^)\s>]+)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            result.append(link)
    return result


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Some `title`, here\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#some-title-here) [b](other.md#nowhere) [c](none.md)\n"
        "[d](https://x.org) `[e](f)` [g](#own)\n\n# Own\n",
        encoding="utf-8",
    )
    assert broken(page) == ["other.md#nowhere", "none.md"]
