"""What is slow to read, kept on disk: power spectra and lips of utterances, safe under several processes."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avse.data.audio import resample
from avse.data.corpora.base import Utterance
from avse.data.errors import InputError
from avse.data.files import atomic_path
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips
from avse.data.lips.files import load_lips_array, save_lips

LIPS_READER = 1
"""Counts the changes of `avse.data.lips.read_lips` that change its answers."""


def default_cache() -> Path:
    """The folder for cached spectra: $XDG_CACHE_HOME/avse, by default ~/.cache/avse."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avse"


def utterance_power(utterance: Utterance, front_end: FrontEnd, speed: float = 1.0) -> Tensor:
    """|X|^2 (N, F) of an utterance at the common level, played `speed` times as fast (and as high)."""
    samples, rate = utterance.load_audio()
    signal = torch.from_numpy(resample(samples, round(rate * speed), front_end.stft.sample_rate))
    return front_end.analysis(signal).values.abs().square()


@dataclass(frozen=True)
class SpectrumCache:
    """Power spectra of utterances on disk, one file each, safe under several processes.

    Args:
        folder: where the files are; made when missing.
        front_end: analysis settings, part of the name of every file.
    """

    folder: Path
    front_end: FrontEnd

    def power(self, utterance: Utterance, speed: float = 1.0) -> Tensor:
        """|X|^2 (N, F) of the utterance at a speed, read from disk or computed and written."""
        settings = f"{utterance.key}|{self.front_end}|{speed}"
        name = hashlib.sha256(settings.encode()).hexdigest()
        path = Path(self.folder) / f"{name}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        power = utterance_power(utterance, self.front_end, speed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.save(temporary, power.numpy())
        return power


@dataclass(frozen=True)
class LipsCache:
    """Lips of utterances on disk, one file each, safe under several processes.

    Args:
        folder: where the files are; made when missing.
    """

    folder: Path

    def lips(self, utterance: Utterance) -> Lips:
        """The lips of the utterance, read from disk or found in its video and written.

        Raises:
            InputError: the utterance has no video, or its video no lips.
        """
        if utterance.load_lips is None:
            raise InputError(f"{utterance.key}: has no video")
        name = hashlib.sha256(f"{utterance.key}|lips {LIPS_READER}".encode()).hexdigest()
        path = Path(self.folder) / f"{name}.npz"
        if path.exists():
            return load_lips_array(path)
        lips = utterance.load_lips()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_lips(path, lips)
        return lips
