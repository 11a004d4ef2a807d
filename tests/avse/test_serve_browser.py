"""The page in Chromium, at the widths of a desk and of a phone, served by the command line."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

from avse.serve.uploads import MAX_BYTES  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 120_000
"""ms for a result, on a busy machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


class Served(NamedTuple):
    """A running `avse demo --serve`."""

    address: str
    process: subprocess.Popen[str]
    temporary: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-c", "from avse.cli.app import main; main()"]
    process = subprocess.Popen(
        [*command, "demo", "--serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    yield Served(process.stdout.readline().split()[0], process, temporary)
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as own:
        started = own.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def faults(page: "playwright.Page") -> list[str]:
    """Serious and critical faults of accessibility."""
    found = axe.Axe().run(page).response["violations"]
    return [each["id"] for each in found if each["impact"] in ("serious", "critical")]


def until(page: "playwright.Page", expression: str) -> None:
    """Wait until it holds; `wait_for_function` would need what the page's security policy forbids."""
    for _ in range(WAIT // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    pytest.fail(expression)


def show_result(page: "playwright.Page") -> None:
    page.click("#enhance")
    page.wait_for_selector("#result:not([hidden]), #error:not(:empty)", timeout=WAIT)
    assert page.inner_text("#error") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_first_press_shows_and_plays_a_result(
    served: Served, browser: "playwright.Browser", width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(served.address)
    assert faults(page) == []
    show_result(page)
    until(page, "[...document.querySelectorAll('audio[src]')].every((player) => player.duration > 1)")
    assert page.evaluate("document.querySelectorAll('audio[src]').length") == 7  # with the clean speech
    pictures = page.evaluate(
        "[...document.images].map((one) => [one.naturalWidth > 100, one.alt.length > 10])"
    )
    assert pictures == [[True, True]] * 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faults(page) == []
    assert [url for url in asked if not url.startswith((served.address, "data:", "blob:"))] == []
    assert said == []
    assert str(served.temporary) not in page.content()
    page.close()


def test_another_prior_is_chosen_and_named(served: Served, browser: "playwright.Browser") -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(served.address)
    assert page.is_disabled("#prior")  # of the automatic choice
    page.select_option("#model", "a-vae")
    page.select_option("#algorithm", "mcem")
    page.select_option("#prior", "two-normals")
    show_result(page)
    assert "N(0, 1.5² I)" in page.inner_text("#facts")
    assert "alpha" in page.inner_text("#alpha-title")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_a_file_that_is_too_large_or_no_sound_is_refused(
    served: Served, browser: "playwright.Browser", tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(served.address)
    page.check("input[value=file]")
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    page.set_input_files("#file", large)
    page.click("#enhance")
    page.wait_for_selector("#error:not(:empty)")
    assert "larger than the 50 MB" in page.inner_text("#error")
    (tmp_path / "text.wav").write_text("no sound")
    page.set_input_files("#file", tmp_path / "text.wav")
    page.click("#enhance")
    until(page, "document.getElementById('error').textContent.includes('the recording')")
    assert "/" not in page.inner_text("#error")
    assert faults(page) == []
    assert [path for path in served.temporary.rglob("*") if path.is_file()] == []
    page.close()


def test_ctrl_c_ends_it_and_leaves_nothing(served: Served) -> None:
    """The last test of this module, as it ends the server."""
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 130
    assert list(served.temporary.iterdir()) == []
