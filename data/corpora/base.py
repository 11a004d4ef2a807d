"""What every corpus gives: utterances, each knowing its speaker, its split and how to load its sound
and, where there is a video, its lips.

A corpus is any object with a `name` and `utterances(split)`. Nothing is read until a loader is called,
so a corpus of any size is cheap to make, to filter and to send to another process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from avse.data.errors import InputError

if TYPE_CHECKING:
    from avse.data.lips import Lips

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Utterance:
    """One recording of one speaker.

    Attributes:
        key: names the content uniquely (a path with its size and time, or a seed and a text); caches use it.
        speaker: speaker name, unique within the corpus.
        split: "train", "validation" or "test".
        load_audio: returns the mono samples (T,), float32 in [-1, 1], and their rate in Hz. Must be
            picklable (a `functools.partial` of a module-level function), so that workers can call it.
        load_lips: returns the speaker's lips on the clock of the sound; None where nobody saw them.
            Picklable, too, and may raise `InputError` for a video that shows no face.
    """

    key: str
    speaker: str
    split: Split
    load_audio: Callable[[], tuple[NDArray[np.float32], int]]
    load_lips: "Callable[[], Lips] | None" = None


class Corpus(Protocol):
    """Anything that lists utterances by split."""

    @property
    def name(self) -> str:
        """What the corpus is called."""
        ...

    def utterances(self, split: Split) -> Sequence[Utterance]:
        """The utterances of one split, in a fixed order."""
        ...


def check_split(split: str) -> None:
    """Raise `InputError` unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
