"""What objects show of themselves: text, HTML and drawings of the data that they hold."""

import base64
import io
from html.parser import HTMLParser
from typing import Any

import matplotlib
import numpy as np
import pytest
import soundfile as sf
import torch
from matplotlib.figure import Figure

import avse
from avse.data import notebook
from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.data.lips.front_end import LipFrontEnd
from avse.data.lips.geometry import SHAPES
from avse.data.lips.shape_front_end import LipShapeFrontEnd
from avse.enhancement import Enhancement
from avse.zoo.pair import SpeechPair

RATE = 16000
pytestmark = pytest.mark.filterwarnings("ignore::Warning:arviz.*")
matplotlib.use("agg")


class Page(HTMLParser):
    """Checks that tags are closed in order; keeps tags, their attributes and the text."""

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
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def check_whole(self) -> None:
        """Nothing is loaded from elsewhere, and what is seen or heard has a label."""
        assert not {"script", "link", "iframe"} & {name for name, _ in self.tags}
        for _, attrs in self.tags:
            assert str(attrs.get("src", "data:")).startswith("data:")
            assert "href" not in attrs
        assert all(attrs["alt"] for attrs in self.of("img"))
        assert all(attrs["aria-label"] for attrs in self.of("audio"))


def sound(address: str | None) -> tuple[Any, int]:
    assert address is not None
    return sf.read(io.BytesIO(base64.b64decode(address.partition(",")[2])), always_2d=True)


@pytest.fixture(scope="module")
def found() -> Enhancement:
    """Of 0.3 s of noise, by MCEM of two iterations, whose model has a name that is HTML."""
    from dataclasses import replace

    from avse.inference.presets import default_mcem

    pair = avse.load("a-vae")
    pair.name = '<script>"&'
    preset = default_mcem()
    x = 0.1 * np.random.default_rng(0).standard_normal(4800).astype(np.float32)
    return avse.enhance(x, RATE, model=pair, algorithm=replace(preset, em=replace(preset.em, iterations=2)))


def mesh(axes: Any) -> Any:
    """Values of the one mesh on axes, (N, F)."""
    (own,) = axes.collections
    return np.asarray(own.get_array()).T


def test_html_of_an_enhancement(found: Enhancement) -> None:
    page = Page(found._repr_html_())
    page.check_whole()
    assert '<script>"&' in page.text
    assert "0.30 s, 1 channels at 16000 Hz" in page.text
    players = {str(attrs["aria-label"]): attrs["src"] for attrs in page.of("audio")}
    assert list(players) == ["noisy", "enhanced speech", "removed noise"]
    noisy, speech, noise = (sound(address)[0][:, 0] for address in players.values())
    np.testing.assert_allclose(speech, found.speech, atol=2**-15)
    np.testing.assert_allclose(noisy, speech + noise, atol=3 * 2**-15)
    (image,) = page.of("img")
    assert "Spectrograms" in str(image["alt"])


def test_drawings_of_an_enhancement(found: Enhancement) -> None:
    level = 10 * np.log10(found.spectrum[0].abs().square().numpy().clip(1e-20))
    three = found.plot_spectrograms(Figure().subplots(1, 3))
    np.testing.assert_allclose(mesh(three[0]), level - level.max(), atol=1e-3)
    assert [own.get_title() for own in three] == ["noisy", "enhanced speech", "removed noise"]
    with pytest.raises(InputError, match="give 3"):
        found.plot_spectrograms(Figure().subplots(1, 2))

    axes = Figure().add_subplot()
    assert found.plot_wiener_gain(axes) is axes
    np.testing.assert_array_equal(mesh(axes), found.wiener_gain[0].numpy())
    uncertain = mesh(found.plot_uncertainty(Figure().add_subplot()))
    mean = (found.wiener_gain * found.spectrum)[0].abs().numpy()
    np.testing.assert_allclose(uncertain, 20 * np.log10(found.speech_std[0].numpy() / mean), atol=1e-2)
    (line,) = found.plot_cost(Figure().add_subplot()).lines
    assert line.get_ydata().tolist() == found.posterior.costs
    with pytest.raises(InputError, match="no lips"):
        found.plot_lips()
    (drawn,) = (axes for axes in found.figure().axes if axes.get_title() == "enhanced speech")
    np.testing.assert_array_equal(mesh(drawn), mesh(three[1]))  # the figure and the method draw the same


def test_players_are_cut_scaled_and_told_of() -> None:
    rate, length = 48000, notebook.MAX_VALUES
    loud = np.linspace(-2, 2, length * 3, dtype=np.float32).reshape(length, 3)
    page = Page(notebook.players({"<a>": loud, "b": loud / 4}, rate))
    first, second = page.of("audio")
    kept = notebook.MAX_VALUES // 2
    told = f"the first {kept / rate:.1f} s of {length / rate:.1f} s, channels 1 and 2 of 3"
    assert first["aria-label"] == f"<a>, {told}"
    samples, found_rate = sound(first["src"])
    assert (samples.shape, found_rate) == ((kept, 2), rate)
    np.testing.assert_allclose(samples, notebook.PEAK / 2 * loud[:kept, :2], atol=2**-15)
    np.testing.assert_allclose(sound(second["src"])[0], samples / 4, atol=2**-14)
    slow = Page(notebook.players({"a": loud[:10, :1]}, 1000))
    assert "no player" in slow.text
    assert not slow.of("audio")


def test_posterior(found: Enhancement) -> None:
    posterior = found.posterior
    page = Page(posterior._repr_html_())
    page.check_whole()
    chains, draws = posterior.z.shape[:2]
    assert f"{chains} x {draws}" in page.text
    assert len(repr(posterior)) < 100
    own = posterior.plot_wiener_gain(Figure().add_subplot())
    np.testing.assert_array_equal(mesh(own), posterior.wiener_gain[0].numpy())
    assert own.get_xlabel() == "frame"

    two = Figure().subplots(1, 2, squeeze=False)
    posterior.plot_trace("z", {"frame": 3, "latent": 5}, two)
    traces = [line.get_ydata() for line in two[0, 1].lines]
    for chain in range(chains):
        expected = posterior.z[chain, :, 0, 3, 5].numpy()
        assert any(len(each) == draws and np.allclose(each, expected) for each in traces)
    axes = Figure().add_subplot()
    found.plot_rank("mean_wiener_gain", axes=axes)
    assert "mean_wiener_gain" in axes.get_title()
    with pytest.raises(InputError, match="no variable 'y'"):
        posterior.plot_trace("y")
    with pytest.raises(InputError, match="no dimension bin"):
        posterior.plot_trace("z", {"bin": 1})


def test_responsibilities_are_drawn_as_they_are(found: Enhancement) -> None:
    from dataclasses import replace

    share = torch.rand(1, 1, len(found.posterior.wiener_gain[0]))
    posterior = replace(found.posterior, responsibilities=torch.cat([share, 1 - share]))
    axes = posterior.plot_responsibilities(Figure().add_subplot(), stft=found.stft)
    first, second = axes.lines
    np.testing.assert_array_equal(first.get_ydata(), share[0, 0].numpy())
    np.testing.assert_array_equal(second.get_ydata(), 1 - share[0, 0].numpy())
    np.testing.assert_allclose(first.get_xdata(), found.stft.frame_times(share.shape[-1]).numpy())
    assert "p(alpha | x)" in str(Page(posterior._repr_html_()).of("img")[0]["alt"])


def clip() -> Lips:
    images = np.random.default_rng(0).integers(0, 255, (10, 67, 67), dtype=np.uint8)
    reasons = np.zeros(10, np.uint8)
    reasons[7:] = 1
    return Lips(images, 0.5 + np.arange(10) / 25, reasons, 25.0)


def test_lips() -> None:
    lips = clip()
    assert repr(lips) == "Lips(10 images at 25 per second, 0.50 to 0.86 s, 7 show the lips)"
    axes = lips.plot_strip(Figure(figsize=(10, 1)).add_axes((0, 0, 1, 1)))
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), np.concatenate(list(lips.images), axis=1))
    np.testing.assert_allclose(image.get_extent(), (0.48, 0.88, 0, 1))
    red = sorted(round(patch.get_x(), 6) for patch in axes.patches)
    np.testing.assert_allclose(red, [0.76, 0.80, 0.84])
    page = Page(lips._repr_html_())
    page.check_whole()
    assert "no face" in page.text
    with pytest.raises(InputError, match="no shape smile"):
        lips.plot_geometry(names=("smile",))
    curves = lips.plot_geometry(Figure().add_subplot())
    assert [line.get_label() for line in curves.lines] == ["open middle", "width"]
    assert np.isnan(curves.lines[0].get_ydata()[7:]).all()


def test_lip_tracks() -> None:
    track = LipFrontEnd(side=24).track(clip(), 0.5 + np.arange(12) / 30)
    assert repr(track) == "LipTrack(12 frames, 10 video frames of 24 x 24 pixels, lips seen in 67%)"
    axes = track.plot_strip(Figure(figsize=(12, 1)).add_axes((0, 0, 1, 1)), duration=0.4, count=12)
    middle = track.place[:, track.place.shape[1] // 2].round().long()
    expected = np.concatenate(list(track.video_frames[middle].numpy()), axis=1)
    np.testing.assert_array_equal(axes.images[0].get_array(), expected)
    assert len(axes.patches) == int((~track.valid).sum())
    Page(track._repr_html_()).check_whole()
    with pytest.raises(InputError, match="pixels"):
        track.plot_geometry()
    shapes = LipShapeFrontEnd().absent(4)
    drawn = shapes.plot_geometry(Figure().add_subplot())
    assert drawn.get_xlabel() == "frame"
    assert np.isnan(drawn.lines[0].get_ydata()).all()
    assert "features" in repr(shapes)
    assert "open_middle" in SHAPES


def test_pair(tiny_pair: SpeechPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avse.story.svg", lambda source: "<svg></svg>")
    tiny_pair.name = "<i>/folder"
    page = Page(tiny_pair._repr_html_())
    page.check_whole()
    assert "<i>/folder" in page.text
    assert "i" not in {tag for tag, _ in page.tags}
    assert "33 bins" in page.text
    assert len(page.of("img")) == 3
    count = sum(own.numel() for own in tiny_pair.modules().state_dict().values())
    assert f"{count:,}" in page.text
    drawn = []
    monkeypatch.setattr("avse.story.draw_diagram", lambda axes, source: drawn.append(source) or axes)
    axes = Figure().add_subplot()
    assert tiny_pair.plot_model(axes, "guide") is axes
    assert drawn == [avse.show(tiny_pair).stories["guide"].dot]
