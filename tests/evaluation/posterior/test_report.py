"""The page about a posterior: whole, self-contained, and honest about chains that did not mix."""

import base64
import functools
import http.server
import io
import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
import soundfile as sf
import torch

from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, white_noise
from avse.evaluation.posterior.convergence import convergence
from avse.evaluation.posterior.diagnosis import Diagnosis
from avse.evaluation.posterior.figures import trace_plot
from avse.evaluation.posterior.report import PosteriorSummary, posterior_report
from avse.inference.mcmc.kernels import HMC, Info, State
from avse.posterior_run import ChainSettings, summarize_posterior

RATE = 16000
NAME = "<b>&\"'.wav"
VOID = {"meta", "link", "img", "br"}


@functools.cache
def voice() -> np.ndarray:
    """A second of a synthetic voice in white noise, at 16 kHz."""
    speech = utterance_speech(0, speaker=0, index=0)
    clean = speech.samples[: speech.sample_rate]
    mixture, _ = mix(clean, white_noise(len(clean), np.random.default_rng(0)), level_db=0.0)
    return np.interp(np.arange(RATE) / RATE, np.arange(len(clean)) / speech.sample_rate, mixture)


@dataclass(frozen=True)
class Still:
    """A kernel that rejects all, but in the first frame."""

    step_size: float = 0.1

    def init(self, z, log_joint) -> State:
        return State(z, log_joint(z))

    def step(self, state, log_joint, step_size, generator) -> tuple[State, Info]:
        accepted = torch.zeros_like(state.log_joint)
        accepted[..., 0] = 1
        noise = torch.randn(state.z.shape, generator=generator)
        moved = self.init(state.z + step_size[..., None] * accepted[..., None] * noise, log_joint)
        return moved, Info(accepted.bool(), accepted - 1, -moved.log_joint)


@functools.cache
def found(stuck: bool = False) -> PosteriorSummary:
    kernel = Still() if stuck else HMC(0.1, leapfrog_steps=2)
    return summarize_posterior(
        voice(), RATE, model="a-vae", settings=ChainSettings(2, 20, 5, kernel), title=NAME
    )


@functools.cache
def page_of_few_draws() -> str:
    return posterior_report(found())


def mixed() -> PosteriorSummary:
    """The same recording with functionals that are drawn independently: chains that must be said to mix."""
    generator = torch.Generator().manual_seed(0)
    old = found().diagnosis
    functionals = {
        name: torch.randn(4, 250, *draws.shape[2:], generator=generator)
        for name, draws in old.functionals.items()
    }
    quality = {name: convergence(draws) for name, draws in functionals.items()}
    diagnosis = replace(
        old,
        functionals=functionals,
        convergence={**quality, "z": convergence(torch.randn(4, 250, 64, 2, generator=generator))},
        drift=old.drift._replace(nats=0.0, score=0.0),
        acceptance=torch.full((64,), 0.7),
        diverged=torch.zeros(64),
        bfmi=torch.ones(64),
    )
    return replace(found(), diagnosis=diagnosis)


class Page(HTMLParser):
    """Elements of a page; fails where they are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), names
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_page_is_whole_and_needs_nothing_else() -> None:
    text = page_of_few_draws()
    page = Page(text)
    assert not re.search(r"https?://", text)
    assert not page.all("script")
    addresses = [own[key] for _, own in page.elements for key in ("src", "href") if key in own]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert [own["id"] for own in page.all("section")] == [
        *("listen", "where", "chains", "numbers", "predictive", "run")
    ]
    assert len(page.all("table")) == 5
    assert len(page.all("img")) == 5 + 4 + 3 * 3 + 1
    assert all(len(own["alt"]) > 20 for own in page.all("img"))


def test_names_are_escaped() -> None:
    page = Page(page_of_few_draws())
    assert not page.all("b")
    assert "".join(page.texts["span"]) == NAME
    assert "".join(page.texts["title"]) == f"Posterior of {NAME}"


def test_sounds_are_those_of_the_findings_with_one_gain() -> None:
    own = found()
    players = Page(page_of_few_draws()).all("audio")
    assert [player["aria-label"] for player in players] == list(own.sounds)
    assert len(players) == 6
    played = []
    for player in players:
        samples, rate = sf.read(io.BytesIO(base64.b64decode(player["src"].split(",")[1])))
        assert rate == own.stft.sample_rate
        played.append(samples)
    given = np.stack(list(own.sounds.values()))
    gain = np.abs(played).max() / np.abs(given).max()
    assert np.abs(np.stack(played) - gain * given).max() < 1e-4
    noisy, enhanced, noise, *drawn = given
    assert np.abs(noisy - enhanced - noise).max() < 1e-6
    assert len(drawn) == 3
    assert all(np.abs(a - b).max() > 0.01 * np.abs(noisy).max() for a, b in pairwise(drawn))


def verdict_of(page: str) -> tuple[str, str]:
    """Class and text of the verdict on top of a page."""
    match = re.search(r'<div class="verdict (\w+)".*?</div>', page, re.DOTALL)
    assert match is not None
    return match[1], match[0]


@pytest.mark.slow
def test_chains_that_never_move_are_said_not_to_mix() -> None:
    kind, said = verdict_of(posterior_report(found(stuck=True)))
    assert kind == "bad"
    assert "Not mixed" in said
    assert "never moved" in said


def test_few_draws_are_said_not_to_mix() -> None:
    kind, said = verdict_of(page_of_few_draws())
    assert kind == "bad"
    assert "Not mixed" in said


@pytest.mark.slow
def test_chains_that_mixed_are_said_to() -> None:
    kind, said = verdict_of(posterior_report(mixed()))
    assert kind == "good"
    assert "Mixed" in said


@pytest.mark.slow
def test_alpha_is_shown_where_there_is_one() -> None:
    own = found()
    share = torch.rand(2, 20, 64, 1, generator=torch.Generator().manual_seed(0))
    alpha = torch.cat([share, 1 - share], -1)
    old: Diagnosis = own.diagnosis
    diagnosis = replace(
        old,
        functionals={**old.functionals, "alpha": alpha},
        convergence={**old.convergence, "alpha": convergence(alpha)},
    )
    text = posterior_report(replace(own, diagnosis=diagnosis))
    assert len(Page(text).all("img")) == 5 + 1 + 4 + 3 * 3 + 1
    assert "Posterior probability of each value of alpha" in text


def test_plots_are_of_the_quantity_that_is_named() -> None:
    """The trace of a frame at 0.5 s, in lines of ArviZ's plot, is that of the draws."""
    tree = found().inference_data
    at = {"frame": tree["posterior"]["frame"].values[31]}
    draws = tree["posterior"]["log_joint"].sel(at).values
    lines = [line.get_ydata() for axes in trace_plot(tree, "log_joint", at).axes for line in axes.lines]
    for chain in draws:
        assert any(len(line) == len(chain) and np.allclose(line, chain) for line in lines)


def test_the_whole_recording_is_summarised_by_arviz() -> None:
    text = page_of_few_draws()
    assert "The whole recording, by ArviZ" in text
    numbers = az.summary(found().inference_data, var_names=["speech_level"])
    assert f">{numbers['ess_bulk'].iloc[0]}</td>" in text


PROBE = """<!DOCTYPE html><html><head><link rel="icon" href="data:,"></head><body><script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const events = (target, ...names) =>
  Promise.race([...names.map((name) => new Promise((done) => (target["on" + name] = done))), wait(10000)]);
async function look(width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:800px;border:0`;
  frame.src = "report.html";
  document.body.append(frame);
  await events(frame, "load");
  const page = frame.contentDocument, sounds = [];
  for (const audio of page.querySelectorAll("audio")) {
    if (audio.readyState < 1) await events(audio, "loadedmetadata", "error");
    audio.muted = true;
    await audio.play();
    for (let tries = 0; tries < 50 && audio.currentTime === 0; tries++) await wait(100);
    sounds.push([audio.duration, audio.currentTime]);
    audio.pause();
  }
  const pictures = [...page.images].map((image) => image.complete && image.naturalWidth > 0);
  return {width: frame.contentWindow.innerWidth, needed: page.documentElement.scrollWidth, sounds, pictures};
}
(async () => {
  const seen = [];
  try { for (const width of [1280, 390]) seen.push(await look(width)); }
  catch (error) { seen.push(String(error)); }
  await fetch("result", {method: "POST", body: JSON.stringify(seen)});
})();
</script></body></html>"""


@contextmanager
def served(report: str) -> Iterator[tuple[str, "queue.Queue[Any]", list[str]]]:
    """A server on this machine with the probe and the report; what the probe tells; what was asked for."""
    told: queue.Queue[Any] = queue.Queue()
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = (report if self.path == "/report.html" else PROBE).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", told, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_browser_shows_and_plays_it(tmp_path: Path) -> None:
    """At the widths of a desktop and of a phone: nothing sticks out, all pictures show, all sounds play."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with served(page_of_few_draws()) as (address, told, asked):
        options = ["--headless", f"--user-data-dir={tmp_path / 'profile'}", "--disable-gpu", "--no-first-run"]
        options += ["--autoplay-policy=no-user-gesture-required", "--enable-logging=stderr"]
        options += ["--window-size=1400,900", "--remote-debugging-port=0"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([browser, *options, address], stdout=log, stderr=log)
            try:
                seen = told.get(timeout=240)
            finally:
                process.terminate()
                process.wait(30)
    assert [own["width"] for own in seen] == [1280, 390], seen
    for own in seen:
        assert own["needed"] <= own["width"]
        assert len(own["pictures"]) == 19
        assert all(own["pictures"])
        assert len(own["sounds"]) == 6
        for duration, position in own["sounds"]:
            assert duration == pytest.approx(1.0, abs=0.01)
            assert position > 0
    assert set(asked) == {"/", "/report.html"}
    assert "CONSOLE" not in (tmp_path / "log").read_text(errors="replace")
