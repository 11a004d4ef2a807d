"""Checks of the files that a command reads and writes, made before any work is done."""

import os
import unicodedata
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from avse.data.errors import InputError


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths name one file, by link, spelling or (on any file system) by upper and lower case."""
    if os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second):
        return True
    return _folded(first) == _folded(second)


def check_distinct(inputs: Mapping[str, Path | None], outputs: Mapping[str, Path | None]) -> None:
    """Check that no output is an input or another output.

    Args:
        inputs: name of the argument -> path, None where it was not given.
        outputs: the same of what is written.

    Raises:
        InputError: two paths name one file.
    """
    read = {name: path for name, path in inputs.items() if path is not None}
    written = {name: path for name, path in outputs.items() if path is not None}
    pairs = [(own, other) for own in written.items() for other in read.items()]
    for (name, path), (other, kept) in [*pairs, *combinations(written.items(), 2)]:
        if same_file(path, kept):
            raise InputError(f"{path}: {name} and {other} are the same file; give another name")


def enhanced_name(noisy: Path) -> Path:
    """Default output: talk.wav -> talk_enhanced.wav, talk.mp4 -> talk.mp4_enhanced.wav.

    Only a .wav loses its suffix, so that files that differ by the suffix alone do not share an output.
    """
    return noisy.with_name(f"{noisy.stem if noisy.suffix == '.wav' else noisy.name}_enhanced.wav")


def lips_name(video: Path) -> Path:
    """Where lips go by default: talk.mp4 -> talk_lips.npz, talk.mkv -> talk.mkv_lips.npz."""
    return video.with_name(f"{video.stem if video.suffix == '.mp4' else video.name}_lips.npz")


def printable(path: Path) -> str:
    """The name of a path for titles and reports; bytes that are no UTF-8 become replacement characters."""
    return unicodedata.normalize("NFC", os.fsencode(path).decode("utf-8", "replace"))


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
