import numpy as np
import pytest
from numpy.typing import NDArray

from avse.data.corpora.synthetic import utterance_speech
from avse.data.corpora.synthetic.espeak import SyntheticSpeech, Voice, synthesise
from avse.data.corpora.synthetic.visemes import APERTURE, PROTRUSION, TEETH, WIDTH, articulation, visemes

PICTURE = 1 / 30  # s
TEXT = "Bob may pop a big map. Who moved it? My father had five very good hats, we saw."


@pytest.fixture(scope="module", params=["en", "en-us", "en-gb-scotland"])
def speech(request: pytest.FixtureRequest) -> SyntheticSpeech:
    return synthesise(TEXT, Voice(request.param))


def shapes(speech: SyntheticSpeech, times: NDArray[np.float64]) -> NDArray[np.float64]:
    return articulation(speech.phonemes, len(speech.samples) / speech.sample_rate, times)


def spans(speech: SyntheticSpeech, symbols: str) -> NDArray[np.float64]:
    """Start and end of the phonemes among the symbols, (P, 2)."""
    ends = [*(each.start for each in speech.phonemes[1:]), len(speech.samples) / speech.sample_rate]
    wanted = symbols.split()
    pairs = zip(speech.phonemes, ends, strict=True)
    found = [(each.start, end) for each, end in pairs if each.symbol in wanted]
    assert found
    return np.array(found)


def peaks(speech: SyntheticSpeech, symbols: str, column: int) -> NDArray[np.float64]:
    """Largest value of an articulator in each phoneme among the symbols."""
    found = spans(speech, symbols)
    return np.array([shapes(speech, np.linspace(start, end, 20))[:, column].max() for start, end in found])


def test_lips_close_in_time_for_the_burst(speech: SyntheticSpeech) -> None:
    starts = spans(speech, "p b m")[:, 0]
    starts = starts[starts > PICTURE]
    before = starts[:, None] - np.linspace(0, PICTURE, 10)  # a picture falls among any of these times
    assert shapes(speech, before.ravel())[:, APERTURE].max() < 1e-6


def test_lips_stay_closed_in_m(speech: SyntheticSpeech) -> None:
    for start, end in spans(speech, "m"):
        assert shapes(speech, np.linspace(start, end - 0.01, 20))[:, APERTURE].max() < 1e-6


def test_mouth_opens_in_open_vowels(speech: SyntheticSpeech) -> None:
    assert peaks(speech, "a aa A: aI 0 O:", APERTURE).min() > 0.4


def test_lips_round(speech: SyntheticSpeech) -> None:
    assert peaks(speech, "u: w", PROTRUSION).min() > 0.6
    for start, end in spans(speech, "aI a i:"):
        assert shapes(speech, np.array([(start + end) / 2]))[0, PROTRUSION] < 0.5


def test_teeth_meet_the_lip(speech: SyntheticSpeech) -> None:
    assert peaks(speech, "f v", TEETH).min() > 0.8
    middle = shapes(speech, spans(speech, "f v").mean(1))
    assert middle[:, APERTURE].max() < 0.2


def test_shapes_depend_on_neighbours() -> None:
    spread, rounded = (
        articulation([("_", 0.0), ("s", 0.3), (vowel, 0.4), ("_", 0.6)], 1.0, np.array([0.35]))[0]
        for vowel in ("i:", "u:")
    )
    assert rounded[PROTRUSION] - spread[PROTRUSION] > 0.2  # "sue" is rounded before its vowel begins
    assert spread[WIDTH] - rounded[WIDTH] > 0.2


def test_diphthongs_move() -> None:
    track = articulation([("_", 0.0), ("aU", 0.2), ("_", 0.4)], 0.6, np.array([0.25, 0.36]))
    assert track[0, APERTURE] - track[1, APERTURE] > 0.2
    assert track[1, PROTRUSION] - track[0, PROTRUSION] > 0.1


def test_pauses_rest(speech: SyntheticSpeech) -> None:
    ends = spans(speech, "_")
    long = ends[ends[:, 1] - ends[:, 0] > 0.25]
    assert np.abs(shapes(speech, long.mean(1)) - [0.04, 0.45, 0.15, 0]).max() < 0.05


def test_moves_are_bounded() -> None:
    for index in range(10):
        speech = utterance_speech(0, index, index)
        times = np.arange(0, len(speech.samples) / speech.sample_rate, 0.001)
        track = shapes(speech, times)
        assert track.min() >= 0
        assert track.max() <= 1
        # In 1 ms; a whole closure takes 45 ms or more, half as long at its steepest.
        assert np.abs(np.diff(track, axis=0)).max() < 0.05
        lips = [start for symbol, start in speech.phonemes if symbol[:1] in "pbmfv"]
        near = np.abs(times[:, None] - lips).min(1) < 0.18
        step = np.abs(track[33:] - track[:-33]).max(1)
        assert step[~near[33:]].max(initial=0) < 0.55  # in 33 ms


def test_aperture_follows_the_level() -> None:
    correlations = []
    for index in range(12):
        speech = utterance_speech(1, index, 0)
        hop = round(speech.sample_rate * PICTURE)
        blocks = speech.samples[: len(speech.samples) // hop * hop].reshape(-1, hop)
        level = np.sqrt(np.mean(blocks**2, axis=1))
        times = (np.arange(len(blocks)) + 0.5) * hop / speech.sample_rate
        correlations.append(np.corrcoef(level, shapes(speech, times)[:, APERTURE])[0, 1])
    assert np.mean(correlations) > 0.4
    assert np.mean(np.array(correlations) > 0.2) > 0.8


def test_any_order_and_rate(speech: SyntheticSpeech) -> None:
    times = np.random.default_rng(0).uniform(-1, 10, 50)  # s, also outside the sentence
    one_by_one = np.concatenate([shapes(speech, times[k : k + 1]) for k in range(50)])
    assert np.allclose(shapes(speech, times), one_by_one, atol=1e-12)
    assert shapes(speech, times[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [("t#", "alveolar"), ("r-", "retroflex"), ("tS2", "hushing"), ("u:", "round close"), ("Q7", "schwa")],
)
def test_unlisted_symbols(symbol: str, expected: str) -> None:
    assert visemes(symbol) == (expected,)


def test_symbols_that_mean_nothing() -> None:
    track = articulation([("", 0.0), ("\u00e9", 0.001), ("???", 5.0)], 20.0, np.arange(0, 20, 0.01))
    assert np.isfinite(track).all()
