"""The protocol `grid`: talking faces and noises of a tree whose split is given by a table."""

from dataclasses import dataclass
from typing import ClassVar

from avse.data.corpora.grid import read_split_table
from avse.data.errors import InputError
from avse.evaluation.benchmark import MixtureSpec, table_rows
from avse.evaluation.protocols.base import Mixed, chosen_noises, generated_noises
from avse.evaluation.protocols.files import corpus_folder, named_clips

GRID_NOISES = ("cafe", "street", "babble", "car", "domestic_other", "white")
"""Types like the six of NTCD-TIMIT; domestic sounds stand in for its living room."""


@dataclass(frozen=True, kw_only=True)
class Grid(Mixed):
    """Talking faces and noises of a tree with `splits.csv`.

    By default a ninth of all combinations of clip, noise and level, in which every noise and level occurs
    equally often.
    """

    share: int = 9
    name: ClassVar[str] = "grid"

    def mixtures(self) -> list[MixtureSpec]:
        """Clips of the split with the noises of the table.

        Raises:
            InputError: no table, no clip of the split or of a speaker, or a noise that the table lacks.
        """
        root = corpus_folder(self.root, "the folder that holds splits.csv")
        table = next((f / "splits.csv" for f in (root, root.parent) if (f / "splits.csv").is_file()), None)
        if table is None:
            raise InputError(
                f"{root}: no splits.csv in it or beside it; for any folders of speech and noise use "
                "the protocol folder"
            )
        rows = read_split_table(table, ("av",))
        own = [(path, speaker) for path, speaker, split in rows if split == self.split]
        clips = named_clips(own, table.parent, self.split)
        if not clips:
            raise InputError(f"{table}: no talking faces in the split {self.split!r}")
        files = generated_noises()
        for path, noise in table_rows(table, "noise", "all"):
            files.setdefault(noise, []).append(path)
        wanted = self.noises or GRID_NOISES
        return self._crossed(clips, chosen_noises(files, wanted, str(table)))
