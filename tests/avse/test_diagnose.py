"""`avse diagnose`: one page that needs nothing else, a true verdict, and answers to mistakes."""

import html
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from avse import cli, zoo
from avse.data.corpora.synthetic import utterance_speech
from avse.data.errors import InputError
from avse.data.mixing import mix, white_noise
from avse.diagnose import LongChains, findings
from avse.evaluation.posterior_report import posterior_report
from avse.inference.diagnosis import verdict
from avse.inference.kernels import RandomWalk

RATE = 16000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def voice(seconds: float = 0.6) -> tuple[np.ndarray, int]:
    """A synthetic voice in white noise at 0 dB."""
    speech = utterance_speech(0, speaker=0, index=0)
    samples = speech.samples[: round(seconds * speech.sample_rate)]
    mixture, _ = mix(samples, white_noise(len(samples), np.random.default_rng(0)), 0.0)
    return mixture, speech.sample_rate


class Page(HTMLParser):
    """What is on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def text() -> str:
    samples, rate = voice()
    found = findings(samples, rate, model="a-vae", long=LongChains(2, 10, 5), title="<b>&.wav")
    return posterior_report(found)


def test_the_page_is_whole_and_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert not page.open  # every tag is closed
    assert "http://" not in re.sub(r"http://www\.w3\.org/\S+", "", text)
    sources = [attrs["src"] for tag, attrs in page.tags if "src" in attrs]
    assert all(source.startswith("data:") for source in sources)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert len([tag for tag, _ in page.tags if tag == "audio"]) == 6
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) >= 4
    assert all(attrs["alt"] for attrs in pictures)
    sections = {attrs["id"] for tag, attrs in page.tags if tag == "section"}
    assert sections == {"listen", "where", "chains", "numbers", "predictive", "run"}


def test_a_name_is_text_and_not_markup(text: str) -> None:
    assert html.escape("<b>&.wav") in text
    assert "<b>" not in text


def test_alpha_of_a_mixture_is_shown() -> None:
    samples, rate = voice(0.4)
    lips = np.full((12, 67, 67), 128, np.uint8)
    found = findings(samples, rate, video=lips, fps=25.0, model="min-vae-v1", long=LongChains(2, 6, 2))
    assert "alpha" in found.diagnosis.functionals
    assert "alpha = 1" in posterior_report(found) or "Which part of the mixture" in posterior_report(found)


def test_chains_that_never_moved_get_a_page_that_says_so() -> None:
    samples, rate = voice()
    stuck = LongChains(2, 10, 0, kernel=RandomWalk(1e4))
    found = findings(samples, rate, model="a-vae", long=stuck)
    assert not found.diagnosis.mixed
    assert found.diagnosis.stuck.all()
    assert "Not mixed" in verdict(found.diagnosis)
    assert 'class="verdict bad"' in posterior_report(found)


def test_the_verdict_follows_the_diagnosis(text: str) -> None:
    """The head of the page is coloured by what the chains did: ten draws of two chains have not mixed."""
    assert 'class="verdict bad"' in text
    assert "Not mixed" in Page(text).words


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["avse", "diagnose", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy, out = tmp_path / "noisy.wav", tmp_path / "report.html"
    sf.write(noisy, *voice(1.0))
    tiny = ("--chains", 2, "--draws", 6, "--warm-up", 2, "--seconds", 0.5)
    assert run(monkeypatch, noisy, "--out", out, *tiny) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out)
    assert "ixed" in printed.err
    assert "Only the first 0.5 s" in out.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"noisy": "absent.wav"}, "absent.wav"),
        ({"noisy": "silent.wav"}, "silen"),
        ({"noisy": "short.wav"}, "short"),
        ({"out": "report.pdf"}, "html"),
        ({"out": "nowhere/report.html"}, "nowhere"),
        ({"--chains": "1"}, "at least 2"),
        ({"--draws": "3"}, "at least 4"),
        ({"--warm-up": "-1"}, "warm-up"),
        ({"--seconds": "0"}, "seconds"),
        ({"--model": "av-vae"}, "video"),
        ({"--model": "nobody"}, "nobody"),
    ],
)
def test_mistakes_get_one_line_and_leave_what_was_there(
    change: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    sf.write("noisy.wav", *voice(0.5))
    sf.write("silent.wav", np.zeros(RATE), RATE)
    sf.write("short.wav", voice(0.1)[0], RATE)
    Path("report.html").write_text("old")
    given = {"noisy": "noisy.wav", "out": "report.html", **change}
    options = [word for name, value in change.items() if name.startswith("--") for word in (name, value)]
    assert run(monkeypatch, given["noisy"], "--out", given["out"], *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("avse:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert Path("report.html").read_text() == "old"


def test_a_long_run_of_one_segment_at_most() -> None:
    samples, rate = voice()
    with pytest.raises(InputError, match="at most"):
        findings(samples, rate, model=zoo.load("a-vae"), seconds=31.0)


PROBE = """<script>
const problems = [];
window.addEventListener("error", e => problems.push(String(e.message)));
window.addEventListener("load", async () => {
  const players = [];
  for (const player of document.querySelectorAll("audio")) {
    player.muted = true;
    try { await player.play(); } catch (e) { problems.push(String(e)); }
    await new Promise(done => setTimeout(done, 300));
    players.push([player.duration, player.currentTime]);
    player.pause();
  }
  const broken = [...document.images].filter(image => image.naturalWidth == 0).length;
  const overflow = document.documentElement.scrollWidth - window.innerWidth;
  parent.postMessage({players, broken, problems, overflow, width: window.innerWidth}, "*");
});
</script>"""
FRAME = """<body><iframe src="page.html" width="WIDTH" height="900" allow="autoplay"></iframe><script>
window.addEventListener("message", e => fetch("/", {method: "POST", body: JSON.stringify(e.data)}));
</script></body>"""


def answer_of_the_browser(folder: Path) -> dict[str, Any]:
    """What frame.html in the folder posts."""
    answers: Queue[dict[str, Any]] = Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"),
        *("--autoplay-policy=no-user-gesture-required", f"--user-data-dir={folder / 'profile'}"),
        *("--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/frame.html"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            return answers.get(timeout=60)
        finally:
            browser.terminate()
            server.shutdown()
            server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(text: str, width: int, tmp_path: Path) -> None:
    """Nothing goes wrong, nothing sticks out, and every player plays, on a desktop and on a phone."""
    (tmp_path / "page.html").write_text(text.replace("</head>", f"{PROBE}</head>"))
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    found = answer_of_the_browser(tmp_path)
    assert found["width"] == width
    assert found["problems"] == []
    assert found["broken"] == 0
    assert found["overflow"] <= 0
    assert len(found["players"]) == 6
    for duration, place in found["players"]:
        assert 0.3 < duration < 2
        assert place > 0
