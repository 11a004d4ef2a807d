"""The site builds without a warning, is read without network, fits a telephone and is accessible to axe."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CHROMIUM = Path("/usr/bin/chromium")
VIEWS = ((1280, "dark"), (390, "light"))
KINDS = ("index", "quickstart", "architecture", "math", "results", "glossary", "citing", "contributing")
"""Pages of their own kind; of each folder one is looked at, besides."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; pages that were executed before are not executed again."""
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site")
    cache = DOCS / "_build" / ".jupyter_cache"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += [
        "-D",
        f"nb_execution_cache_path={cache}",
        "-d",
        str(out / "doctrees"),
        str(DOCS),
        str(out / "html"),
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    return out / "html"


def pages(site: Path) -> list[Path]:
    return sorted(page for page in site.rglob("*.html") if not page.is_relative_to(site / "_static"))


def looked_at(site: Path) -> list[Path]:
    folders = [
        sorted((site / name).glob("*.html"))[-1:] for name in ("models", "algorithms", "course", "api")
    ]
    return [site / f"{name}.html" for name in KINDS] + [page for folder in folders for page in folder]


def test_every_page_of_the_docs_is_there(site: Path) -> None:
    sources = [path.relative_to(DOCS) for path in DOCS.rglob("*.md") if "_build" not in path.parts]
    assert not [source for source in sources if not (site / source).with_suffix(".html").is_file()]


def test_reading_needs_no_network(site: Path) -> None:
    """Scripts, styles, pictures and fonts are files of the site."""
    loads = re.compile(
        r"<(?:script|img|audio|video|source|iframe)\b[^>]*\bsrc=\"(https?:)?//|<link\b(?![^>]*rel=\"(?:canonical|license)\")[^>]*\bhref=\"(https?:)?//"
    )
    for page in pages(site):
        found = loads.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page}: {found[0] if found else ''}"


def test_no_link_leads_to_a_file_that_is_not_there(site: Path) -> None:
    for page in pages(site):
        for link in re.findall(r"(?:href|src)=\"([^\"#?]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"\w+:", link):
                assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_pages_fit_and_are_accessible(site: Path, browser: Any, width: int, scheme: str) -> None:
    """No page is wider than the window, and axe finds nothing serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    faults = []
    viewport = {"width": width, "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    for path in looked_at(site):
        page.goto(path.as_uri())
        name = path.relative_to(site)
        wide = page.evaluate("document.scrollingElement.scrollWidth")
        if wide > width:
            faults.append(f"{name}: {wide} px wide")
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:150] for node in violation["nodes"][:3]]
                faults.append(f"{name}: {violation['id']} ({len(violation['nodes'])}): {nodes}")
    context.close()
    assert not faults, "\n".join(faults)


def test_axe_finds_a_fault(browser: Any) -> None:
    """A picture without text, as a control."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page()
    page.set_content('<html lang="en"><title>t</title><img src="a.png"></html>')
    assert "image-alt" in {violation["id"] for violation in axe.run(page).response["violations"]}
    page.close()
