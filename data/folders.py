"""Sound files below folders and of patterns, and where their enhanced copies go."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from avse.data.errors import InputError
from avse.data.files import check_source

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mpg", ".avi", ".webm", ".mov")
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", *VIDEO_SUFFIXES)
WRITTEN_SUFFIXES = (".wav", ".flac", ".ogg")
"""Of sound files that can be written; copies of others are .wav files."""


class Copy(NamedTuple):
    """A file and where its enhanced copy goes."""

    source: Path
    output: Path


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file below `root`, or a folder on the way to it, is hidden or made by macOS for its own use.

    Names that begin with a full stop (".Trash", AppleDouble's "._a.wav") and "__MACOSX".
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)


def sound_files(folder: Path, left_out: Path | None = None) -> list[Path]:
    """The sound files and videos below a folder that are not hidden, sorted.

    Args:
        folder: where to look.
        left_out: a folder below it whose files are not listed, such as that of the results.
    """
    hidden = None if left_out is None else Path(os.path.realpath(left_out))
    if hidden is not None and Path(os.path.realpath(folder)) not in hidden.parents:
        hidden = None
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not is_hidden(path, folder)
        and path.is_file()
        and (hidden is None or hidden not in Path(os.path.realpath(path)).parents)
    )


def is_many(source: str | os.PathLike[str]) -> bool:
    """Whether a name stands for several files: a folder, or a pattern that is not itself a file's name."""
    path = Path(source)
    return path.is_dir() or (glob.has_magic(str(source)) and not path.exists())


def files_of(source: str | os.PathLike[str]) -> list[Path]:
    """The sound files of a folder or pattern, sorted, or the file of that name.

    Raises:
        InputError: there are none.
    """
    return [path for path, _ in _members(source, None)]


def copies(sources: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> list[Copy]:
    """All files of the sources with their copies below `out`, each once, in the order of the sources.

    What lies at FOLDER/a/b.wav has its copy at OUT/a/b.wav, for a pattern such as "FOLDER/*/b.wav", too; a
    file that is named by itself has it at OUT/b.wav. Copies of other than .wav, .flac and .ogg files end in
    .wav. A folder `out` that lies below a source is no part of it.

    Args:
        sources: files, folders, and patterns with `*`, `?`, `[...]` and `**`.
        out: folder of the copies.

    Raises:
        InputError: a file is missing or empty, a folder or pattern has no sound file, two files would have
            one copy, or a copy would replace a file of the sources.
    """
    found: dict[Path, Copy] = {}
    for source in sources:
        for path, name in _members(source, Path(out)):
            suffix = path.suffix if path.suffix.lower() in WRITTEN_SUFFIXES else ".wav"
            copy = Copy(path, Path(out) / name.with_suffix(suffix))
            found.setdefault(path, copy)
    _check_apart(list(found.values()))
    return list(found.values())


def _members(source: str | os.PathLike[str], out: Path | None) -> list[tuple[Path, Path]]:
    """The files of a source, each with its name below the folder that is mirrored."""
    path = Path(source)
    if path.is_dir():
        members = [(file, file.relative_to(path)) for file in sound_files(path, out)]
        if not members:
            raise InputError(f"{path}: no sound files in it or below ({', '.join(SUFFIXES)})")
        return members
    if not is_many(source):
        check_source(path, "a sound file or a video, a folder of them, or a pattern such as '*.wav'")
        return [(path, Path(path.name))]
    root = Path(*_before_magic(path.parts))
    if ".." in path.parts[len(root.parts) :]:
        raise InputError(f"{source}: '..' behind a wildcard names files outside of the folder; leave it out")
    results = None if out is None else Path(os.path.realpath(out))
    if results is not None and Path(os.path.realpath(root)) not in results.parents:
        results = None  # not below what the pattern searches
    members = []
    for match in map(Path, sorted(glob.glob(str(source), recursive=True))):
        below = sound_files(match, out) if match.is_dir() else [match]
        members += [
            (file, file.relative_to(root))
            for file in below
            if file.suffix.lower() in SUFFIXES
            and (results is None or results not in Path(os.path.realpath(file)).parents)
        ]
    if not members:
        raise InputError(f"{source}: no sound file has a name of that pattern")
    return members


def _before_magic(parts: tuple[str, ...]) -> tuple[str, ...]:
    count = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return parts[:count]


def _check_apart(planned: list[Copy]) -> None:
    """Every copy has a place of its own, which is none of the sources'."""
    sources = {_place(copy.source): copy.source for copy in planned}
    inodes = {(status.st_dev, status.st_ino) for status in (copy.source.stat() for copy in planned)}
    taken: dict[str, Path] = {}
    for source, output in planned:
        place = _place(output)
        if place in taken:
            raise InputError(
                f"{source}: would have the same output as {taken[place]}, {output}; rename one, or give them "
                "in two calls"
            )
        taken[place] = source
        there = output.exists() and (output.stat().st_dev, output.stat().st_ino) in inodes
        if place in sources or there:
            raise InputError(f"{output}: is both an input and an output; give another folder")


def _place(path: Path) -> str:
    """One text for every spelling of a path, but for upper case, which some file systems do not tell."""
    return os.path.realpath(path).casefold()
