"""Speech with exactly timed phonemes, spoken by espeak-ng.

The output of espeak-ng depends on earlier utterances: pitch flutter, gain control and cycle counter are
static variables in C that no call resets. Each utterance is therefore synthesised by a new copy of the
library in its initial state.
"""

import ctypes
import locale
import os
import shutil
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

from avse.data.errors import InputError

LANGUAGES = ("en", "en-us", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
"""English with its accents, as espeak-ng names them."""
PAUSE = "_"
"""Symbol of silence among the phonemes."""

# Values from espeak-ng's speak_lib.h.
_SYNCHRONOUS, _OPTIONS = 2, 0x0001 | 0x8000  # report phonemes, do not exit without data
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_FROM_CHARACTER, _FLAGS = 1, 0x0001 | 0x1000  # UTF-8, pause at the end
_LIST_END, _PHONEME = 0, 7

# espeak_Initialize sets the LC_CTYPE of the process: utterances are serialised, and each restores it.
_LOCK = threading.Lock()


class _Event(ctypes.Structure):
    """`espeak_EVENT`; its union is declared as the phoneme's name, the only member read here."""

    _integers = ("type", "unique_identifier", "text_position", "length", "audio_position", "sample")
    _fields_ = (
        *((name, ctypes.c_int) for name in _integers),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


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
    """Settings of an espeak-ng voice.

    Attributes:
        language: an espeak-ng voice, that is, language and accent, such as "en-us" or "en-gb-scotland".
        variant: an espeak-ng voice variant, that is, a vocal tract, such as "m3" or "f1".
        pitch, pitch_range: 0 to 99; 50 is the default of the variant, range 0 is monotone.
        words_per_minute: 80 to 450.

    Raises:
        InputError: a number is out of range or the variant is unknown.
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
        # espeak-ng would silently ignore an unknown variant.
        known = sorted(os.listdir(os.path.join(espeakng_loader.get_data_path(), "voices", "!v")))
        if self.variant not in known:
            raise InputError(f"unknown voice variant {self.variant!r}: use one of {', '.join(known)}")


@contextmanager
def _fresh_espeak() -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library in its initial state, and its sample rate in Hz."""
    with _LOCK, tempfile.TemporaryDirectory(prefix="avse-espeak-") as folder:
        try:  # a copy, because a file that is already loaded would not be loaded again
            library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))
        except OSError as error:
            raise InputError(f"cannot load espeak-ng ({error}): let TMPDIR name another folder") from error
        process_ctype = locale.setlocale(locale.LC_CTYPE)
        try:
            data = espeakng_loader.get_data_path()
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _OPTIONS)
            if rate <= 0:
                raise InputError(f"espeak-ng cannot read its data in {data}: reinstall espeakng-loader")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath noise, otherwise seeded by the clock
            yield library, rate
        finally:
            library.espeak_Terminate()
            dlclose(library._handle)
            locale.setlocale(locale.LC_CTYPE, process_ctype)


def synthesise(text: str, voice: Voice) -> SyntheticSpeech:
    """Synthesise a text; equal arguments give equal samples, independent of earlier utterances.

    Raises:
        InputError: the text contains no word, or the language of the voice is unknown.
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
    """Timed phonemes from (symbol, first sample) pairs, starting at 0, none empty, with pauses merged."""
    symbols = {0: PAUSE} | {sample: symbol for symbol, sample in events if sample < length}
    phonemes: list[Phoneme] = []
    for sample, symbol in symbols.items():
        name = PAUSE if symbol.startswith(PAUSE) else symbol
        if not (phonemes and name == PAUSE == phonemes[-1].symbol):
            phonemes.append(Phoneme(name, sample / rate))
    return tuple(phonemes)
