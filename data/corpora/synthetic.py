"""A corpus that needs no download: random sentences spoken by random espeak-ng voices.

All follows from a seed: an utterance is synthesised when it is asked for. It is clean and exactly labelled
(each phoneme with its time), good for tests and first trainings, no stand-in for human speech in a result.

What espeak-ng says depends on what it said before: pitch flutter, gain control and cycle counter live in C
statics that no call resets. So a fresh copy of the library, in its initial state, speaks each utterance.
"""

import ctypes
import locale
import math
import os
import shutil
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import NamedTuple

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

from avse.data.corpora.base import SPLITS, Split, Utterance, check_split
from avse.data.corpora.mouth_drawing import draw_mouth, random_face
from avse.data.corpora.mouth_shapes import articulation
from avse.data.errors import InputError

# Every change of a list below changes the corpora drawn from it. The variants have no echo.
# fmt: off
LANGUAGES = ("en", "en-us", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
MALE = ("m1", "m3", "m4", "m5", "m6", "m7", "m8", "Michael", "Nguyen", "Mario", "robert", "marcelo")
FEMALE = ("f1", "Annie", "anika", "aunty", "steph", "belinda", "linda")
# A sentence fills a pattern with one choice from each list that the pattern names.
PATTERNS = ("{command} {colour} {place} {letter} {digit} {ending}.", "{person} {did} {thing} {when}.")
WORDS = {
    "command": ("Move", "Turn", "Bring", "Keep", "Push", "Leave"),
    "colour": ("black", "orange", "yellow", "purple", "silver", "brown"),
    "letter": tuple("ABCDEFGHIJKLMNOPQRSTUVXYZ"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "place": ("near", "under", "over", "behind"), "ending": ("today", "slowly", "at once", "once more"),
    "person": ("My sister", "Our neighbour", "The old teacher", "A doctor", "Somebody", "Every child"),
    "did": ("found", "bought", "painted", "forgot", "wanted", "carried", "noticed", "borrowed", "lost"),
    "thing": ("a wooden chair", "the blue umbrella", "two fresh pears", "a very large map", "a thick rope",
              "the garden gate", "a box of matches", "the paper boat", "some warm bread", "an easy puzzle"),
    "when": ("after lunch", "in the kitchen", "before the show", "on the way home", "by the river"),
}
PAUSE = "_"

# Values from espeak-ng's speak_lib.h.
_SYNCHRONOUS, _OPTIONS = 2, 0x0001 | 0x8000  # report phonemes, do not exit without data
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_FROM_CHARACTER, _FLAGS = 1, 0x0001 | 0x1000  # UTF-8, pause at the end
_LIST_END, _PHONEME = 0, 7

# espeak_Initialize sets the LC_CTYPE of the whole process: one utterance at a time, which puts it back.
_LOCK = threading.Lock()


class _Event(ctypes.Structure):
    """`espeak_EVENT`; its union is declared as the phoneme's name, the only member read here."""
    _integers = ("type", "unique_identifier", "text_position", "length", "audio_position", "sample")
    _fields_ = (*((name, ctypes.c_int) for name in _integers),
                ("user_data", ctypes.c_void_p), ("phoneme", ctypes.c_char * 8))


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int,
                             ctypes.POINTER(_Event))
# fmt: on


class Phoneme(NamedTuple):
    """A phoneme and its start in seconds; it lasts until the next one starts, or the audio ends.

    The symbol is espeak-ng's mnemonic without stress marks ("p", "eI", "u:"), or `PAUSE`. A stop starts at
    its burst: the silence of its closure is the end of the phoneme before it.
    """

    symbol: str
    start: float


@dataclass(frozen=True, eq=False)
class SyntheticSpeech:
    """An utterance: samples (T,) float32 in [-1, 1], their rate in Hz, and the timed phonemes.

    The phonemes' starts strictly increase from 0 and stay below T / sample_rate; the last is a pause.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    phonemes: tuple[Phoneme, ...]


@dataclass(frozen=True)
class Voice:
    """How espeak-ng speaks; `InputError` when a number is out of range or the variant unknown.

    Attributes:
        language: an espeak-ng voice, which is a language and accent, as "en-us" or "en-gb-scotland".
        variant: an espeak-ng voice variant, which is a vocal tract, as "m3" or "f1".
        pitch, pitch_range: 0 to 99, 50 being the variant's own; range 0 is monotone.
        words_per_minute: 80 to 450.
    """

    language: str = "en-us"
    variant: str = "m3"
    pitch: int = 50
    pitch_range: int = 50
    words_per_minute: int = 175

    def __post_init__(self) -> None:
        for field, low, high in (("pitch", 0, 99), ("pitch_range", 0, 99), ("words_per_minute", 80, 450)):
            if not low <= (value := getattr(self, field)) <= high:
                raise InputError(f"{field} {value} is out of range: use {low} to {high}")
        # espeak-ng itself would speak without the variant and say nothing.
        known = sorted(os.listdir(os.path.join(espeakng_loader.get_data_path(), "voices", "!v")))
        if self.variant not in known:
            raise InputError(f"unknown voice variant {self.variant!r}: use one of {', '.join(known)}")


@contextmanager
def _fresh_espeak() -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library in its initial state, and its sample rate in Hz."""
    with _LOCK, tempfile.TemporaryDirectory(prefix="avse-espeak-") as folder:
        try:  # a copy: a file that the process already holds would not be loaded anew
            library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))
        except OSError as error:
            raise InputError(f"cannot load espeak-ng ({error}): let TMPDIR name another folder") from error
        process_ctype = locale.setlocale(locale.LC_CTYPE)
        try:
            data = espeakng_loader.get_data_path()
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _OPTIONS)
            if rate <= 0:
                raise InputError(f"espeak-ng cannot read its data in {data}: reinstall espeakng-loader")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath noise; the clock has seeded it
            yield library, rate
        finally:
            library.espeak_Terminate()
            dlclose(library._handle)
            locale.setlocale(locale.LC_CTYPE, process_ctype)


def synthesise(text: str, voice: Voice) -> SyntheticSpeech:
    """Speak a text; the same arguments give the same samples, in any process and in any order.

    `InputError` when the text has nothing to speak, or espeak-ng does not know the voice's language.
    """
    values: list[int] = []
    events: list[tuple[str, int]] = []

    @_Callback
    def receive(block, size, event) -> int:  # type: ignore[no-untyped-def,misc]
        values.extend(block[:size])
        for each in takewhile(lambda each: each.type != _LIST_END, event):
            if each.type == _PHONEME:
                events.append((each.phoneme.decode().lstrip("',%"), each.sample))
        return 0

    with _fresh_espeak() as (espeak, rate):
        espeak.espeak_SetSynthCallback(receive)
        if espeak.espeak_SetVoiceByName(f"{voice.language}+{voice.variant}".encode()) != 0:
            raise InputError(f"unknown voice language {voice.language!r}: use one of {', '.join(LANGUAGES)}")
        espeak.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        espeak.espeak_SetParameter(_VOLUME, 50, 0)  # at 100, the default, some variants clip
        espeak.espeak_SetParameter(_PITCH, voice.pitch, 0)
        espeak.espeak_SetParameter(_RANGE, voice.pitch_range, 0)
        unused_size = ctypes.c_size_t(0)
        espeak.espeak_Synth(text.encode(), unused_size, 0, _FROM_CHARACTER, 0, _FLAGS, None, None)

    if all(symbol.startswith(PAUSE) for symbol, _ in events):
        raise InputError(f"nothing to speak in {text!r}: give at least one word")
    samples = np.array(values, dtype=np.float32) / np.float32(32768)
    return SyntheticSpeech(samples, rate, _cover(events, len(samples), rate))


def _cover(events: Sequence[tuple[str, int]], length: int, rate: int) -> tuple[Phoneme, ...]:
    """Timed phonemes from (symbol, first sample) pairs: from time 0, none empty, pauses merged."""
    symbols = {0: PAUSE} | {sample: symbol for symbol, sample in events if sample < length}
    phonemes: list[Phoneme] = []
    for sample, symbol in symbols.items():
        name = PAUSE if symbol.startswith(PAUSE) else symbol
        if not (phonemes and name == PAUSE == phonemes[-1].symbol):
            phonemes.append(Phoneme(name, sample / rate))
    return tuple(phonemes)


def _voice(seed: int, speaker: int) -> Voice:
    """The voice of a speaker; odd speakers are female, so that two neighbours are one of each."""
    rng = np.random.default_rng((seed, speaker, 0))
    language, variant = rng.choice(LANGUAGES), rng.choice(FEMALE if speaker % 2 else MALE)
    pitch, pitch_range, words_per_minute = rng.integers((30, 30, 140), (71, 71, 201)).tolist()
    return Voice(str(language), str(variant), pitch, pitch_range, words_per_minute)


def _sentence(seed: int, speaker: int, index: int) -> str:
    rng = np.random.default_rng((seed, speaker, 1 + index))
    words = {name: str(rng.choice(choices)) for name, choices in WORDS.items()}
    return str(rng.choice(PATTERNS)).format(**words)


def utterance_speech(seed: int, speaker: int, index: int) -> SyntheticSpeech:
    """Sentence `index` of a speaker, both counted from 0, in the corpus of this seed."""
    if (least := min(seed, speaker, index)) < 0:
        raise InputError(f"seed, speaker and index count from 0: {least} is none")
    return synthesise(_sentence(seed, speaker, index), _voice(seed, speaker))


def _load_audio(seed: int, speaker: int, index: int) -> tuple[NDArray[np.float32], int]:
    speech = utterance_speech(seed, speaker, index)
    return speech.samples, speech.sample_rate


def synthetic_lips(
    seed: int, speaker: int, index: int, fps: float = 30.0
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Pictures (T, 67, 67) of the mouth that says `utterance_speech(seed, speaker, index)`, and their times.

    Picture k is taken at k / fps seconds on the clock of the samples, as a video file stamps it, and T is
    the duration times fps, rounded up. A speaker keeps one face.
    """
    speech = utterance_speech(seed, speaker, index)
    duration = len(speech.samples) / speech.sample_rate
    times = np.arange(math.ceil(duration * fps)) / fps
    # The last number keeps these draws apart from those of the voice and of the sentence.
    face = random_face(np.random.default_rng((seed, speaker, 0, 1)))
    scene = np.random.default_rng((seed, speaker, 1 + index, 1))
    return draw_mouth(face, articulation(speech.phonemes, duration, times), scene), times


@dataclass(frozen=True)
class SyntheticCorpus:
    """Random speakers, about 2/3, 1/6 and 1/6 of them in each split, with random sentences each.

    What a speaker says depends on the seed alone, not on how many speakers or sentences there are.
    `InputError` below 3 speakers, 1 sentence or seed 0.
    """

    speakers: int = 12
    sentences: int = 20
    seed: int = 0
    name = "synthetic"

    def __post_init__(self) -> None:
        for field, low in (("speakers", 3), ("sentences", 1), ("seed", 0)):
            if (value := getattr(self, field)) < low:
                raise InputError(f"a synthetic corpus cannot have {field}={value}: use at least {low}")

    def utterances(self, split: Split) -> list[Utterance]:
        """The utterances of one split, speaker by speaker."""
        check_split(split)
        held_out = max(1, round(self.speakers / 6))
        edges = (0, self.speakers - 2 * held_out, self.speakers - held_out, self.speakers)
        split_edges = edges[SPLITS.index(split) :][:2]
        return [
            Utterance(
                key=f"synthetic/{self.seed}/{speaker}/{index} {_sentence(self.seed, speaker, index)}",
                speaker=f"speaker{speaker}",
                split=split,
                load_audio=partial(_load_audio, self.seed, speaker, index),
            )
            for speaker in range(*split_edges)
            for index in range(self.sentences)
        ]
