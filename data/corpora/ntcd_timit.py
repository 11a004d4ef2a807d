"""NTCD-TIMIT: volunteers reading TIMIT sentences, clean and with six noises, and images of their lips.

Abdelaziz, Interspeech 2017; Zenodo 260228, CC BY-NC 4.0. The archives, unpacked into one folder, by what
published code reads:

    Clean/volunteers/01M/straightcam/sa1.wav         clean, 16 kHz
    Babble/-5/volunteers/01M/straightcam/sa1.wav     noise, nominal level in dB (-5, 0, 5, 10, 15, 20)
    matlab_raw/train/01M/sa1.mat                     lips, see `avse.data.lips.files`; train, dev or test

The noises may also stay in Noisy_TCDTIMIT or u/drspeech/data/TCDTIMIT/Noisy_TCDTIMIT, as some code has them.
The three professional lipspeakers are left out. A nominal level is not the broadband SNR, which is lower for
babble and much lower for the car, and some of the mixtures are rescaled.

Speakers are split as the folders of matlab_raw say: 39, 8 and 9 for training, validation and test, by
Golmakani, Sadeghi and Serizel (ICASSP 2023). A speaker without a folder there goes to the test if in
`TEST_SPEAKERS`, the list of their code, to the validation if in `VALIDATION_SPEAKERS`, else to the training.
We know no published list for validation: ours is every fifth of the other 50 volunteers, by name, from the
third on. So without matlab_raw the 59 volunteers of TCD-TIMIT are split 40, 10 and 9. Unpack matlab_raw
whole, or some speakers change sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from avse.data.corpora.base import Split, Utterance, check_split
from avse.data.corpora.folder import load_mono
from avse.data.errors import InputError
from avse.data.folders import is_hidden
from avse.data.lips.files import load_lips_array

NOISES = ("Babble", "Cafe", "Car", "LR", "Street", "White")
"""Names of the noises; LR is a living room."""

FPS = 30000 / 1001
"""Video frames per second of the videos of TCD-TIMIT. Papers round it to 30: 5 ms more or less after 5 s."""

TEST_SPEAKERS = frozenset({"09F", "24M", "26M", "27M", "33F", "40F", "47M", "49F", "56M"})
VALIDATION_SPEAKERS = frozenset({"03F", "08F", "14M", "19M", "25M", "32F", "38F", "44F", "51F", "57M"})

_SPLITS: dict[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_NOISY = (".", "Noisy_TCDTIMIT", "u/drspeech/data/TCDTIMIT/Noisy_TCDTIMIT")


@dataclass(frozen=True)
class NTCDUtterance(Utterance):
    """One sentence of one volunteer.

    Attributes:
        sentence: name of the TIMIT sentence, as "sa1" or "sx105".
    """

    sentence: str = ""


@dataclass(frozen=True)
class NTCDTimitCorpus:
    """The clean speech of NTCD-TIMIT with its lips; `noisy` gives the same sentences in noise.

    Args:
        root: folder that holds Clean and, for lips and noise, matlab_raw and the folders of the noises.
        fps: video frames per second of the lips, the first one at 0 s.

    Raises:
        InputError: no such folder, or no clean speech in it.
    """

    root: Path
    fps: float = FPS
    name: str = "ntcd-timit"

    def __post_init__(self) -> None:
        if not Path(self.root).is_dir():
            raise InputError(f"{self.root}: no such folder; give the folder that holds Clean and matlab_raw")
        if not any(self._clean()):
            raise InputError(
                f"{self.root}: no speech found; expected Clean/volunteers/<speaker>/straightcam/*.wav"
            )

    def _clean(self) -> Iterator[Path]:
        root = Path(self.root)
        found = root.glob("Clean/volunteers/*/straightcam/*.wav")
        return (path for path in found if not is_hidden(path, root))

    def _released(self) -> dict[str, tuple[Split, Path]]:
        """Split and folder of lips of every speaker in matlab_raw."""
        folders = sorted(Path(self.root).glob("matlab_raw/*/*/"))
        return {f.name: (_SPLITS[f.parent.name], f) for f in folders if f.parent.name in _SPLITS}

    def utterances(self, split: Split) -> list[NTCDUtterance]:
        """The clean sentences of one split, sorted by speaker and name; without lips where no .mat is."""
        check_split(split)
        released = self._released()
        found = []
        for path in sorted(self._clean()):
            speaker = path.parent.parent.name
            own, folder = released.get(speaker, (_split_by_name(speaker), None))
            if own != split:
                continue
            key, lips = _stamp(path), None
            if folder is not None and (mat := folder / f"{path.stem}.mat").is_file():
                key, lips = f"{key}|{_stamp(mat)}|{self.fps}", partial(load_lips_array, mat, self.fps)
            found.append(NTCDUtterance(key, speaker, split, partial(load_mono, path), lips, path.stem))
        return found

    def levels(self, noise: str) -> tuple[int, ...]:
        """The nominal levels in dB at which the folder has a noise, from low to high.

        Raises:
            InputError: the noise is not one of `NOISES`, or not in the folder.
        """
        names = [folder.name for folder in self._noise_folder(noise).iterdir() if folder.is_dir()]
        return tuple(sorted(int(name) for name in names if name.removeprefix("-").isdecimal()))

    def noisy(self, utterance: NTCDUtterance, noise: str, level: int) -> NTCDUtterance:
        """The same sentence and lips with the sound in noise, under a key of its own.

        Args:
            utterance: one of this corpus.
            noise: one of `NOISES`.
            level: nominal level in dB, one of `levels(noise)`.

        Raises:
            InputError: the noise is unknown or not in the folder, the level is not, or the recording is not.
        """
        folder = self._noise_folder(noise)
        if level not in (levels := self.levels(noise)):
            known = ", ".join(map(str, levels)) or "none"
            raise InputError(f"{folder}: no level of {level} dB; the folder has {known}")
        path = self.noisy_path(utterance, noise, level)
        if not path.is_file():
            raise InputError(f"{path}: no such recording; unpack the {noise} archive again")
        return replace(utterance, key=f"{_stamp(path)}|{utterance.key}", load_audio=partial(load_mono, path))

    def noisy_path(self, utterance: NTCDUtterance, noise: str, level: int) -> Path:
        """Where the release has a sentence in noise; it is not checked whether the file is there.

        Raises:
            InputError: the noise is not one of `NOISES`, or not in the folder.
        """
        name = f"{level}/volunteers/{utterance.speaker}/straightcam/{utterance.sentence}.wav"
        return self._noise_folder(noise) / name

    def clean_path(self, utterance: NTCDUtterance) -> Path:
        """Where the clean sound of a sentence is."""
        return Path(self.root, f"Clean/volunteers/{utterance.speaker}/straightcam/{utterance.sentence}.wav")

    def lips_path(self, utterance: NTCDUtterance) -> Path | None:
        """Where the lips of a sentence are, if they are there."""
        found = sorted(Path(self.root).glob(f"matlab_raw/*/{utterance.speaker}/{utterance.sentence}.mat"))
        return found[0] if found else None

    def _noise_folder(self, noise: str) -> Path:
        if noise not in NOISES:
            raise InputError(f"{self.root}: has no noise {noise!r}; use one of {', '.join(NOISES)}")
        for base in _NOISY:
            if (folder := Path(self.root, base, noise)).is_dir():
                return folder
        raise InputError(f"{Path(self.root, noise)}: no such folder; unpack the {noise} archive there")


def _split_by_name(speaker: str) -> Split:
    if speaker in TEST_SPEAKERS:
        return "test"
    return "validation" if speaker in VALIDATION_SPEAKERS else "train"


def _stamp(path: Path) -> str:
    """Changes when the file does."""
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
