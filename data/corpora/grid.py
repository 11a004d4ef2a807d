"""GRID talking faces, and other trees whose split is given by a table.

GRID (Cooke, Barker, Cunningham, Shao, JASA 2006): 34 speakers, 1000 command sentences of 3 s each, one
folder a speaker (s1/bbaf2n.mpg or .wav). Where the root or its parent has a `splits.csv` with the columns
path, kind, speaker_or_type and split, that table is binding and also brings in the audio-only speech that it
lists; otherwise speakers are split by number.
"""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from avse.data.corpora.base import SPLITS, Split, Utterance, check_split
from avse.data.corpora.folder import file_utterance
from avse.data.errors import InputError
from avse.data.folders import SUFFIXES, is_hidden

VALIDATION_SPEAKERS = frozenset({"s3", "s13", "s32"})
TEST_SPEAKERS = frozenset({"s4", "s14", "s30", "s34"})


@dataclass(frozen=True)
class GridCorpus:
    """GRID, or a tree with a `splits.csv`.

    Args:
        root: folder with one folder a speaker, or with `splits.csv`.
        kinds: with a table, the kinds of rows to take: "av" (talking faces), "speech" (sound alone).

    Raises:
        InputError: no such folder, an incomplete table, or nothing found.
    """

    root: Path
    kinds: Collection[str] = ("av", "speech")
    name: str = "grid"

    def __post_init__(self) -> None:
        if not Path(self.root).is_dir():
            raise InputError(
                f"{self.root}: no such folder; give the folder that holds s1, s2, ... or splits.csv"
            )
        if not any(self._rows()):
            raise InputError(f"{self.root}: no speech found; expected folders s1, s2, ... or a splits.csv")

    def _rows(self) -> list[tuple[Path, str, str]]:
        """(path, speaker, split) of every recording."""
        root = Path(self.root).resolve()
        for folder in (root, root.parent):
            if (folder / "splits.csv").is_file():
                rows = read_split_table(folder / "splits.csv", self.kinds)
                return [row for row in rows if root in row[0].parents]
        return [
            (path, path.parent.name, _split_by_number(path.parent.name))
            for path in sorted(root.glob("s*/*"))
            if path.suffix.lower() in SUFFIXES and not is_hidden(path, root)
        ]

    def utterances(self, split: Split) -> list[Utterance]:
        """The recordings of one split, in the order of the table or of their paths."""
        check_split(split)
        return [file_utterance(path, speaker, split) for path, speaker, own in self._rows() if own == split]


def read_split_table(table: Path, kinds: Collection[str]) -> list[tuple[Path, str, str]]:
    """(path, speaker or noise type, split) of the rows of the given kinds in a `splits.csv`.

    Raises:
        InputError: a column is missing, or a row names no file or no split.
    """
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read as a table ({error}); write it again") from error
    missing = {"path", "kind", "speaker_or_type", "split"} - set(rows[0] if rows else ())
    if missing:
        raise InputError(f"{table}: the columns {', '.join(sorted(missing))} are missing")
    chosen = [row for row in rows if row["kind"] in kinds]
    faults = [f"{row['path']} does not exist" for row in chosen if not (table.parent / row["path"]).is_file()]
    faults += [
        f"{row['path']} has split {row['split']!r}, not {', '.join(SPLITS)}"
        for row in chosen
        if row["split"] not in SPLITS
    ]
    if faults:
        raise InputError(f"{table}: {'; '.join(faults)}; mend the table")
    return [(table.parent / row["path"], row["speaker_or_type"], row["split"]) for row in chosen]


def _split_by_number(speaker: str) -> Split:
    if speaker in TEST_SPEAKERS:
        return "test"
    return "validation" if speaker in VALIDATION_SPEAKERS else "train"
