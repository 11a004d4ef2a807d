"""What is slow to read, kept on disk: power spectra and lips of utterances, safe under several processes."""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avse.data.arrays import read_npy
from avse.data.audio import resample
from avse.data.corpora.base import Utterance
from avse.data.errors import InputError
from avse.data.files import atomic_path, check_source, made_folder
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips
from avse.data.lips.files import load_lips_array, save_lips

LIPS_READER = 1
"""Counts the changes of `avse.data.lips.read_lips` that change its answers."""


def default_cache() -> Path:
    """The folder for cached spectra: $XDG_CACHE_HOME/avse, by default ~/.cache/avse.

    Raises:
        InputError: neither $XDG_CACHE_HOME nor a home folder is known.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "avse"
    except RuntimeError as error:
        raise InputError("no home folder is known; set XDG_CACHE_HOME to a folder for the cache") from error


def utterance_power(utterance: Utterance, front_end: FrontEnd, speed: float = 1.0) -> Tensor:
    """|X|^2 (N, F) of an utterance at the common level, played `speed` times as fast (and as high)."""
    samples, rate = utterance.load_audio()
    signal = torch.from_numpy(resample(samples, round(rate * speed), front_end.stft.sample_rate))
    return front_end.analysis(signal).values.abs().square()


@dataclass(frozen=True)
class SpectrumCache:
    """Power spectra of utterances on disk, one file each, safe under several processes.

    Damaged files are written anew. Where the folder cannot be written, a `UserWarning` says so, and nothing
    is kept.

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
        with suppress(InputError):  # missing, truncated or damaged: computed anew
            check_source(path, "a spectrum")
            stored = read_npy(path)
            bins = self.front_end.stft.bins
            if stored.dtype == np.float32 and stored.ndim == 2 and stored.shape[1] == bins:
                return torch.from_numpy(stored)
        power = utterance_power(utterance, self.front_end, speed)
        _keep(path, lambda: _save(path, power))
        return power


@dataclass(frozen=True)
class LipsCache:
    """Lips of utterances on disk, one file each, safe under several processes.

    Damaged files are written anew. Where the folder cannot be written, a `UserWarning` says so, and nothing
    is kept.

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
        with suppress(InputError):  # missing, truncated or damaged: found anew
            return load_lips_array(path)
        lips = utterance.load_lips()
        _keep(path, lambda: save_lips(path, lips))
        return lips


def _save(path: Path, power: Tensor) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, power.numpy())


def _keep(path: Path, write: Callable[[], None]) -> None:
    """Write a file into a cache; a `UserWarning` where the folder cannot be used."""
    try:
        made_folder(path.parent)
        write()
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        warnings.warn(f"nothing is kept in the cache {path.parent}: {reason}", stacklevel=4)
