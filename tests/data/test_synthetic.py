import ctypes
import hashlib
import locale
import pickle
import subprocess
import sys
import time
from _ctypes import dlclose
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
from numpy.typing import NDArray

from avse.data.corpora.base import SPLITS, Corpus
from avse.data.corpora.synthetic import SyntheticCorpus, synthetic_lips, utterance_speech
from avse.data.corpora.synthetic import corpus as synthetic
from avse.data.corpora.synthetic.espeak import LANGUAGES, PAUSE, SyntheticSpeech, Voice, synthesise
from avse.data.corpora.synthetic.visemes import APERTURE, articulation
from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT

TEXT = "Push purple over F six once more."
# Flutter and gain; breath noise (random numbers) and echo; another synthesiser; random consonant noise.
VOICES = [Voice(), Voice("en", "f5"), Voice("en-029", "robosoft"), Voice("en-us", "klatt")]


def digest(speech: SyntheticSpeech) -> str:
    return hashlib.sha256(speech.samples.tobytes() + repr(speech.phonemes).encode()).hexdigest()


def segments(speech: SyntheticSpeech) -> list[tuple[str, NDArray[np.float32]]]:
    """The samples of each phoneme."""
    starts = [round(phoneme.start * speech.sample_rate) for phoneme in speech.phonemes]
    ends = [*starts[1:], len(speech.samples)]
    symbols = [phoneme.symbol for phoneme in speech.phonemes]
    return [(s, speech.samples[a:b]) for s, a, b in zip(symbols, starts, ends, strict=True)]


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.variant)
def test_repeats_after_anything_else(voice: Voice) -> None:
    first = digest(synthesise(TEXT, voice))
    synthesise("Something else, at another speed!", Voice("en-gb-scotland", "m7", 80, 10, 300))
    assert digest(synthesise(TEXT, voice)) == first


@pytest.mark.slow
def test_repeats_in_another_process(tmp_path: Path) -> None:
    """The same phonemes at the same times, and the same samples but for rounding."""
    code = (
        "import numpy as np\n"
        "from avse.data.corpora.synthetic.espeak import Voice, synthesise\n"
        f"for index, voice in enumerate({VOICES!r}):\n"
        f"    speech = synthesise({TEXT!r}, voice)\n"
        f"    np.save({str(tmp_path)!r} + f'/{{index}}.npy', speech.samples)\n"
        "    print(repr(speech.phonemes))\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    time.sleep(1.1)  # left alone, espeak-ng would seed its noise from the clock, in seconds
    # Here in the opposite order.
    here = [synthesise(TEXT, voice) for voice in reversed(VOICES)][::-1]
    assert output.splitlines() == [repr(speech.phonemes) for speech in here]
    for index, speech in enumerate(here):
        there = np.load(tmp_path / f"{index}.npy")
        np.testing.assert_allclose(there, speech.samples, rtol=0, atol=1e-3)


def test_repeats_in_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda voice: digest(synthesise(TEXT, voice)), VOICES * 3))
    assert threaded == [digest(synthesise(TEXT, voice)) for voice in VOICES] * 3


def test_repeats_while_another_user_holds_the_library() -> None:
    held = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        assert len({digest(synthesise(TEXT, Voice())) for _ in range(3)}) == 1
    finally:
        dlclose(held._handle)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the memory map of Linux")
def test_unloads_its_copy_of_the_library() -> None:
    synthesise(TEXT, Voice())
    assert "libespeak" not in Path("/proc/self/maps").read_text()


def test_leaves_the_locale_alone() -> None:
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        synthesise(TEXT, Voice())
        assert locale.setlocale(locale.LC_CTYPE) == "C"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.parametrize(
    "other",
    [
        Voice(language="en-gb-scotland"),
        Voice(variant="f1"),
        Voice(pitch=70),
        Voice(pitch_range=20),
        Voice(words_per_minute=150),
    ],
)
def test_each_voice_setting_is_heard(other: Voice) -> None:
    assert digest(synthesise(TEXT, other)) != digest(synthesise(TEXT, Voice()))


def test_settings_go_the_right_way() -> None:
    def pitch_hz(pitch: int) -> float:
        """From the autocorrelation of a long vowel in a monotone voice."""
        speech = synthesise("Far", Voice(variant="f1", pitch=pitch, pitch_range=0))
        vowel = next(part for symbol, part in segments(speech) if symbol.startswith("A"))
        vowel = vowel[len(vowel) // 4 :][:1600]
        lags = np.correlate(vowel, vowel, "full")[len(vowel) - 1 :]
        return 22050 / (73 + int(np.argmax(lags[73:315])))  # between 70 and 300 Hz

    assert pitch_hz(40) > 1.1 * pitch_hz(30)
    assert pitch_hz(70) > 1.3 * pitch_hz(40)
    slow, fast = (synthesise(TEXT, Voice(words_per_minute=rate)).samples for rate in (120, 240))
    assert len(slow) > 1.4 * len(fast)


def test_phonemes_name_the_text_in_order() -> None:
    assert [phoneme.symbol for phoneme in synthesise("Papa, see me.", Voice()).phonemes] == [
        *(PAUSE, "p", "A:", "p", "@", PAUSE),
        *("s", "i:", "m", "i:", PAUSE),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_phonemes_cover_the_utterance(language: str) -> None:
    speech = synthesise("We carried a wooden chair, two fresh pears and zero. Then J nine!", Voice(language))
    starts = np.array([phoneme.start for phoneme in speech.phonemes])
    assert len(starts) > 30
    assert starts[0] == 0
    assert np.all(np.diff(starts) > 0)
    assert starts[-1] < len(speech.samples) / speech.sample_rate
    assert speech.phonemes[-1].symbol == PAUSE
    assert all(phoneme.symbol and phoneme.symbol[0] not in "',%" for phoneme in speech.phonemes)


def test_energy_is_where_the_phonemes_are() -> None:
    speech = synthesise("Papa, baby. A pat at two.", Voice())
    parts = [(symbol, float(np.sqrt(np.mean(part**2)))) for symbol, part in segments(speech)]
    pauses = [level for symbol, level in parts if symbol == PAUSE]
    vowels = [level for symbol, level in parts if symbol[0] in "Aa@eiu"]
    assert len(pauses) == 4
    assert len(vowels) == 8
    assert max(pauses) < 1e-3
    assert min(vowels) > 0.02
    # A stop starts at its burst: loud at once, after the silence of its closure.
    for (_, before), (symbol, part) in zip(segments(speech), segments(speech)[1:], strict=False):
        if symbol == "p":
            assert np.abs(part[:110]).max() > 20 * np.abs(before[-110:]).max()


def test_trailing_silence() -> None:
    symbol, tail = segments(synthesise(TEXT, Voice()))[-1]
    assert symbol == PAUSE
    assert len(tail) > 0.1 * 22050
    assert np.abs(tail[220:]).max() < 1e-3


@pytest.mark.parametrize("variant", [*synthetic.MALE, *synthetic.FEMALE])
def test_level_in_range(variant: str) -> None:
    voice = Voice("en-gb-x-gbclan", variant, 60, 60, 180)
    speech = synthesise("Could you buy a box of matches, zero six Y, at the fair?", voice)
    assert speech.samples.dtype == np.float32
    assert speech.sample_rate == 22050
    assert 0.1 < np.abs(speech.samples).max() < 0.9  # heard, and not clipped
    assert 0.01 < speech.samples.std() < 0.2


@pytest.mark.parametrize(
    ("speakers", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (12, (8, 2, 2)), (60, (40, 10, 10))]
)
def test_splits_share_no_speaker(speakers: int, sizes: tuple[int, int, int]) -> None:
    corpus: Corpus = SyntheticCorpus(speakers, sentences=2)
    groups = [{utterance.speaker for utterance in corpus.utterances(split)} for split in SPLITS]
    assert tuple(map(len, groups)) == sizes
    assert len(set.union(*groups)) == speakers
    for split in SPLITS:
        assert {utterance.split for utterance in corpus.utterances(split)} == {split}


def test_keys_name_the_content() -> None:
    def keys(**fields: int) -> list[str]:
        corpus = SyntheticCorpus(**fields)
        return [utterance.key for split in SPLITS for utterance in corpus.utterances(split)]

    assert keys() == keys()
    assert len(set(keys())) == 12 * 20
    assert not set(keys()) & set(keys(seed=1))
    assert set(keys(sentences=5)) < set(keys())
    assert {key.split()[0] for key in keys(speakers=3, sentences=1, seed=7)} == {
        "synthetic/7/0/0",
        "synthetic/7/1/0",
        "synthetic/7/2/0",
    }


def test_key_carries_the_text_that_is_spoken() -> None:
    utterance = SyntheticCorpus(seed=3).utterances("test")[4]
    name, text = utterance.key.split(" ", 1)
    seed, speaker, index = map(int, name.split("/")[1:])
    spoken = synthesise(text, synthetic._voice(seed, speaker))
    assert digest(spoken) == digest(utterance_speech(seed, speaker, index))
    np.testing.assert_array_equal(utterance.load_audio()[0], spoken.samples)


def test_seeds_speakers_and_sentences_differ() -> None:
    base = digest(utterance_speech(0, 0, 0))
    assert base == digest(utterance_speech(0, 0, 0))
    assert base not in {digest(utterance_speech(*which)) for which in ((1, 0, 0), (0, 1, 0), (0, 0, 1))}
    # With the same text too: the voices themselves differ.
    assert len({synthetic._voice(seed, speaker) for seed in range(3) for speaker in range(20)}) == 60


def test_grammar_has_thousands_of_sentences() -> None:
    drawn = {synthetic._sentence(0, speaker, index) for speaker in range(20) for index in range(100)}
    # Birthday bound: 2000 draws, half from 2700 everyday sentences, half from 144000 commands.
    assert len(drawn) > 1700
    assert not any("{" in text for text in drawn)


def test_utterances_can_be_pickled() -> None:
    utterance = SyntheticCorpus().utterances("validation")[0]
    samples, rate = pickle.loads(pickle.dumps(utterance)).load_audio()
    expected, expected_rate = utterance.load_audio()
    np.testing.assert_array_equal(samples, expected)
    assert rate == expected_rate == 22050


def lips_digest(lips: Lips) -> str:
    parts = lips.images.tobytes() + lips.times.tobytes() + lips.reasons.tobytes()
    return hashlib.sha256(parts + lips.fps.hex().encode()).hexdigest()


@pytest.mark.parametrize("which", [(0, 0), (3, 1), (5, 2)])
def test_lips_move_with_the_sound(which: tuple[int, int]) -> None:
    """The mouth is darkest where the phonemes open it, at the time that they are heard."""
    speaker, index = which
    utterance = SyntheticCorpus(12, 3, seed=4).utterances("train")[3 * speaker + index]
    assert utterance.load_lips is not None
    lips = utterance.load_lips()
    samples, rate = utterance.load_audio()
    duration = len(samples) / rate
    phonemes = utterance_speech(4, speaker, index).phonemes
    dark = -lips.images[:, 18:50, 15:52].mean((1, 2))
    shifts = np.arange(-6, 7) / 120  # a quarter of a picture each
    apertures = [articulation(phonemes, duration, lips.times + shift)[:, APERTURE] for shift in shifts]
    likeness = [np.corrcoef(dark, aperture)[0, 1] for aperture in apertures]
    assert max(likeness) > 0.6  # bright teeth fill a small opening
    assert abs(shifts[np.argmax(likeness)]) < 0.5 / 30


def test_lips_cover_the_sound() -> None:
    stft = STFT()
    for utterance in SyntheticCorpus(3, 2).utterances("test"):
        assert utterance.load_lips is not None
        lips = utterance.load_lips()
        samples, rate = utterance.load_audio()
        duration = len(samples) / rate
        assert lips.fps == 30
        np.testing.assert_allclose(lips.times, np.arange(len(lips.images)) / 30)
        assert lips.times[-1] < duration <= lips.times[-1] + 1.001 / 30
        assert lips.valid.all()
        frames = stft.frame_times(stft.frames(round(duration * stft.sample_rate)))
        view = LipFrontEnd(side=67, instants=1, normalised=False)
        track = view.track(lips, frames)
        images, valid = view.visual(track)[:, :-1].numpy(), track.valid
        assert valid[:-2].all()  # the last frames may be centred behind the last picture
        assert images.std(0).max() > 0.1


@pytest.mark.slow
def test_lips_repeat_in_another_process_and_order() -> None:
    """The loaders themselves are sent there. Equal to within one grey level."""
    loaders = [utterance.load_lips for utterance in SyntheticCorpus(3, 3).utterances("validation")]
    code = (
        "import pickle, sys\n"
        "tracks = [load() for load in pickle.load(sys.stdin.buffer)]\n"
        "pickle.dump(tracks, sys.stdout.buffer)\n"
    )
    backwards = pickle.dumps(loaders[::-1])
    done = subprocess.run([sys.executable, "-c", code], input=backwards, capture_output=True, check=True)
    here = [load() for load in loaders if load is not None]
    assert len({lips.images.tobytes() for lips in here}) == 3
    for there, lips in zip(pickle.loads(done.stdout), here[::-1], strict=True):
        np.testing.assert_allclose(there.images.astype(float), lips.images, rtol=0, atol=1)
        np.testing.assert_allclose(there.times, lips.times)
        np.testing.assert_array_equal(there.reasons, lips.reasons)
        assert there.fps == pytest.approx(lips.fps)


def test_lips_speak_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = []

    def counted(text: str, voice: Voice) -> SyntheticSpeech:
        spoken.append(text)
        return synthesise(text, voice)

    monkeypatch.setattr(synthetic, "synthesise", counted)
    utterance = SyntheticCorpus(3, 1).utterances("train")[0]
    assert utterance.load_lips is not None
    assert not spoken
    utterance.load_lips()
    assert spoken == [utterance.key.split(" ", 1)[1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SyntheticCorpus(speakers=2), "at least 3"),
        (lambda: SyntheticCorpus(sentences=0), "at least 1"),
        (lambda: SyntheticCorpus(seed=-1), "at least 0"),
        (lambda: SyntheticCorpus().utterances("dev"), "train, validation, test"),  # type: ignore[arg-type]
        (lambda: utterance_speech(0, 0, -1), "from 0"),
        (lambda: synthetic_lips(0, 0, 0, 0.0), "0.0 video frames per second: give a positive"),
        (lambda: synthetic_lips(0, 0, 0, -25.0), "give a positive"),
        (lambda: synthetic_lips(0, 0, 0, float("inf")), "give a positive"),
        (lambda: synthetic_lips(0, 0, 0, float("nan")), "give a positive"),
        (lambda: synthesise("", Voice()), "at least one word"),
        (lambda: synthesise(" ... ", Voice()), "at least one word"),
        (lambda: synthesise(TEXT, Voice(language="en-moon")), "en-gb-scotland"),
        (lambda: Voice(variant="m99"), "m3"),
        (lambda: Voice(variant=""), "m3"),
        (lambda: Voice(pitch=100), "0 to 99"),
        (lambda: Voice(pitch_range=-1), "0 to 99"),
        (lambda: Voice(words_per_minute=500), "80 to 450"),
    ],
)
def test_errors_name_the_mend(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        make()


def test_speaks_on_after_an_error() -> None:
    expected = digest(synthesise(TEXT, Voice()))
    with pytest.raises(InputError):
        synthesise(TEXT, Voice(language="en-moon"))
    assert digest(synthesise(TEXT, Voice())) == expected
