"""What a protocol is, and what those have in common that mix speech and noise themselves."""

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from avse.data.corpora.base import check_split
from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.evaluation.benchmark import (
    BROADBAND,
    GENERATED,
    SPEECH_ACTIVE,
    Clip,
    MixtureSpec,
    Samples,
    cross,
    make_mixture,
)
from avse.evaluation.protocols.files import file_lips

LEVELS = (-15.0, -10.0, -5.0, 0.0, 5.0, 10.0)
"""Signal-to-noise ratios in dB at which papers of this family report."""
LEVEL_DEFINITIONS = {"broadband": BROADBAND, "speech-active": SPEECH_ACTIVE}
"""Short names of the definitions that a mixture can be made by."""


class Protocol(typing.Protocol):
    """What an evaluation needs to know of its mixtures: a hashable object that can be pickled."""

    def __hash__(self) -> int:
        """Equal protocols make equal mixtures."""
        ...

    @property
    def name(self) -> str:
        """By which tables call it."""
        ...

    @property
    def level_definition(self) -> str:
        """Of all its levels."""
        ...

    @property
    def has_lips(self) -> bool:
        """Whether speakers are seen."""
        ...

    def arguments(self) -> dict[str, Any]:
        """All that decides about the mixtures, as plain values."""
        ...

    def mixtures(self) -> list[MixtureSpec]:
        """The specifications, in a fixed order, their `mixture` unique.

        Raises:
            InputError: there are none, or what was asked for is not there.
        """
        ...

    def sounds(self, spec: MixtureSpec) -> tuple[Samples, Samples]:
        """Clean speech and mixture, (T,) each, at `RATE`.

        Raises:
            InputError: a file cannot be used.
        """
        ...

    def lips(self, spec: MixtureSpec) -> Lips:
        """The speaker's lips, on the clock of the sound.

        Raises:
            InputError: the speaker is not seen.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What the protocols that mix speech and noise themselves have in common.

    Args:
        root: folder of the corpus.
        split: of the corpus.
        speakers: only these; none for all.
        noises: types; none for all that the protocol has.
        levels: signal-to-noise ratios in dB.
        level_definition: "broadband" over the whole clip, or "speech-active", ITU-T P.56.
        share: keep every so-manyth mixture; noises and levels rotate over the clips.
        seed: of noise excerpts and of the enhancement.

    Raises:
        InputError: an unknown split or level definition, or levels that are no finite numbers.
    """

    root: str = ""
    split: str = "test"
    speakers: tuple[str, ...] = ()
    noises: tuple[str, ...] = ()
    levels: tuple[float, ...] = LEVELS
    level_definition: str = BROADBAND
    share: int = 1
    seed: int = 0

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_split(self.split)
        definition = LEVEL_DEFINITIONS.get(self.level_definition, self.level_definition)
        if definition not in LEVEL_DEFINITIONS.values():
            raise InputError(
                f"level definition {self.level_definition!r}: use {' or '.join(LEVEL_DEFINITIONS)}"
            )
        if self.share < 1:
            raise InputError(f"one mixture in {self.share}: give a whole number of at least 1")
        if not self.levels:
            raise InputError("no level: give some in dB, such as -5,0,5")
        object.__setattr__(self, "level_definition", definition)
        object.__setattr__(self, "levels", checked_levels(self.levels))
        object.__setattr__(self, "root", str(self.root))

    @property
    def has_lips(self) -> bool:
        """Whether speakers are seen."""
        return True

    def arguments(self) -> dict[str, Any]:
        """All that decides about the mixtures, as plain values."""
        root = str(Path(self.root).resolve()) if self.root else ""
        values = {**asdict(self), "root": root}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def sounds(self, spec: MixtureSpec) -> tuple[Samples, Samples]:
        """Clean speech and mixture, (T,) each, at `RATE`."""
        return make_mixture(spec)

    def lips(self, spec: MixtureSpec) -> Lips:
        """The lips in the video of the specification; those found in videos are cached."""
        return file_lips(spec)

    def _of_speakers(self, known: Iterable[str]) -> list[str]:
        """The known speakers that are wanted, sorted."""
        known = set(known)
        if unknown := set(self.speakers) - known:
            raise InputError(
                f"{self.root}: no speech of {', '.join(sorted(unknown))} in the split {self.split!r}; "
                f"it has {', '.join(sorted(known)) or 'none'}"
            )
        return sorted(known & set(self.speakers) if self.speakers else known)

    def _crossed(self, clips: Sequence[Clip], noises: Mapping[str, Sequence[Path]]) -> list[MixtureSpec]:
        speakers = self._of_speakers(clip.speaker for clip in clips)
        own = [clip for clip in clips if clip.speaker in speakers]
        return cross(own, noises, self.levels, self.seed, self.share, self.level_definition)


def checked_levels(levels: Iterable[Any]) -> tuple[float, ...]:
    """Levels in dB as distinct finite floats, in the order given.

    Raises:
        InputError: one is no finite number.
    """
    found = []
    for level in levels:
        try:
            value = float(level)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"level {level!r}: give numbers in dB, such as -5,0,5")
        found.append(value)
    return tuple(dict.fromkeys(found))


def generated_noises() -> dict[str, list[Path]]:
    """The noises that need no file, each with an empty list of files."""
    return {name: [] for name in GENERATED}


def chosen_noises(
    files: Mapping[str, Sequence[Path]], wanted: Sequence[str], place: str
) -> dict[str, Sequence[Path]]:
    """The noises that are wanted.

    Raises:
        InputError: one is not there.
    """
    if unknown := [name for name in wanted if name not in files]:
        raise InputError(f"{place}: no noise {', '.join(unknown)}; use {', '.join(sorted(files))}")
    return {name: files[name] for name in dict.fromkeys(wanted)}
