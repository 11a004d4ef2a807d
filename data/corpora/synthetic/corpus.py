"""Synthetic corpus: random sentences spoken by random espeak-ng voices, with drawn lips; no download needed.

An utterance is a function of the seed and is synthesised when it is loaded. The speech is clean and its
phonemes have exact times. The corpus is meant for tests and first trainings; results need human speech.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from avse.data.corpora.base import SPLITS, Split, Utterance, check_split
from avse.data.corpora.synthetic.espeak import LANGUAGES, SyntheticSpeech, Voice, synthesise
from avse.data.corpora.synthetic.mouth import draw_mouth, random_face
from avse.data.corpora.synthetic.visemes import articulation
from avse.data.errors import InputError
from avse.data.lips import Lips, Reason

FPS = 30.0  # video frames per second of the lips

# Changing a list below, or LANGUAGES, changes all corpora. The voice variants are those without echo.
# fmt: off
MALE = ("m1", "m3", "m4", "m5", "m6", "m7", "m8", "Michael", "Nguyen", "Mario", "robert", "marcelo")
FEMALE = ("f1", "Annie", "anika", "aunty", "steph", "belinda", "linda")
# A sentence is a pattern whose fields are replaced by random words of the lists of the same name.
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
# fmt: on


def _voice(seed: int, speaker: int) -> Voice:
    """The voice of a speaker; speakers of odd index are female, those of even index male."""
    rng = np.random.default_rng((seed, speaker, 0))
    language, variant = rng.choice(LANGUAGES), rng.choice(FEMALE if speaker % 2 else MALE)
    pitch, pitch_range, words_per_minute = rng.integers((30, 30, 140), (71, 71, 201)).tolist()
    return Voice(str(language), str(variant), pitch, pitch_range, words_per_minute)


def _sentence(seed: int, speaker: int, index: int) -> str:
    rng = np.random.default_rng((seed, speaker, 1 + index))
    words = {name: str(rng.choice(choices)) for name, choices in WORDS.items()}
    return str(rng.choice(PATTERNS)).format(**words)


def utterance_speech(seed: int, speaker: int, index: int) -> SyntheticSpeech:
    """Sentence `index` of a speaker, both counted from 0, in the corpus of this seed.

    Raises:
        InputError: a number is below 0.
    """
    if (least := min(seed, speaker, index)) < 0:
        raise InputError(f"seed, speaker and index count from 0: {least} is none")
    return synthesise(_sentence(seed, speaker, index), _voice(seed, speaker))


def _load_audio(seed: int, speaker: int, index: int) -> tuple[NDArray[np.float32], int]:
    speech = utterance_speech(seed, speaker, index)
    return speech.samples, speech.sample_rate


def synthetic_lips(
    seed: int, speaker: int, index: int, fps: float = FPS
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Video frames (T, 67, 67) of the mouth in `utterance_speech(seed, speaker, index)`, and times in s.

    Frame k is at k / fps seconds relative to the first sample, and T is the duration times fps, rounded up.
    All utterances of a speaker show the same face.

    Raises:
        InputError: a number is below 0, or fps is not positive and finite.
    """
    if not 0 < fps < math.inf:
        raise InputError(f"a mouth at {fps} video frames per second: give a positive number")
    speech = utterance_speech(seed, speaker, index)
    duration = len(speech.samples) / speech.sample_rate
    times = np.arange(math.ceil(duration * fps)) / fps
    # The last number makes these seeds differ from those of the voice and of the sentence.
    face = random_face(np.random.default_rng((seed, speaker, 0, 1)))
    scene = np.random.default_rng((seed, speaker, 1 + index, 1))
    return draw_mouth(face, articulation(speech.phonemes, duration, times), scene), times


def _load_lips(seed: int, speaker: int, index: int) -> Lips:
    images, times = synthetic_lips(seed, speaker, index, FPS)
    return Lips(images, times, np.full(len(images), Reason.GOOD, np.uint8), FPS)


@dataclass(frozen=True)
class SyntheticCorpus:
    """Random speakers with random sentences; about 2/3, 1/6 and 1/6 of the speakers are in each split.

    The sentences and the face of a speaker depend on the seed alone, not on the number of speakers or
    sentences. All lips, at 30 video frames per second, are valid.

    Args:
        speakers: number of speakers, at least 3.
        sentences: number of sentences per speaker, at least 1.
        seed: seed of all random numbers, at least 0.

    Raises:
        InputError: a number is out of range.
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
        """The utterances of one split, ordered by speaker."""
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
                load_lips=partial(_load_lips, self.seed, speaker, index),
            )
            for speaker in range(*split_edges)
            for index in range(self.sentences)
        ]
