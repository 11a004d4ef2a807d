"""Any tree of sound files as a corpus: one speaker a folder, split by speaker."""

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avse.data.audio import read_audio
from avse.data.corpora.base import SPLITS, Split, Utterance, check_split
from avse.data.errors import InputError
from avse.data.folders import SUFFIXES, VIDEO_SUFFIXES, sound_files
from avse.data.lips import read_lips


def load_mono(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (T,) of a file, its channels averaged, and the rate in Hz."""
    audio = read_audio(path)
    return audio.samples.mean(axis=1), audio.sample_rate


def file_utterance(path: Path, speaker: str, split: Split) -> Utterance:
    """The utterance in a file, with its lips if it is a video; its key changes when the file does."""
    status = path.stat()
    key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    lips = partial(read_lips, path) if path.suffix.lower() in VIDEO_SUFFIXES else None
    return Utterance(key, speaker, split, partial(load_mono, path), lips)


@dataclass(frozen=True)
class FolderCorpus:
    """Every sound file under `root` that is not hidden; the first folder below it names the speaker.

    If the tree already has folders named train, validation and test, they are the splits and the speaker is
    the next folder below. Otherwise 80, 10 and 10 % go to train, validation and test by a hash of the name,
    so that a corpus that grows keeps its split: speakers where there are at least 20, else files.

    Args:
        root: folder.

    Raises:
        InputError: no such folder, or no sound file in it.
    """

    root: Path
    name: str = "folder"

    def __post_init__(self) -> None:
        if not Path(self.root).is_dir():
            raise InputError(f"{self.root}: no such folder; give the folder that holds the sound files")
        if not self._files():
            raise InputError(f"{self.root}: no sound files in it or below ({', '.join(SUFFIXES)})")

    def _files(self) -> list[Path]:
        return sound_files(Path(self.root))

    def utterances(self, split: Split) -> list[Utterance]:
        """The files of one split, sorted by path."""
        check_split(split)
        files = [(path, path.relative_to(self.root).parts) for path in self._files()]
        speakers = {parts[0] if len(parts) > 1 else path.stem for path, parts in files}
        found = []
        for path, parts in files:
            if parts[0] in SPLITS:
                own, speaker = parts[0], parts[1] if len(parts) > 2 else path.stem
            else:
                speaker = parts[0] if len(parts) > 1 else path.stem
                own = _share(speaker if len(speakers) >= 20 else "/".join(parts))
            if own == split:
                found.append(file_utterance(path, speaker, split))
        return found


def _share(name: str) -> Split:
    """train, validation or test, by a hash of the name."""
    tenth = int(hashlib.sha256(os.fsencode(name)).hexdigest(), 16) % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"
