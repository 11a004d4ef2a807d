"""The protocol `folder`: any folder of speech with any folder of noises."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from avse.data.corpora.base import SPLITS
from avse.data.errors import InputError
from avse.data.folders import SUFFIXES, VIDEO_SUFFIXES, sound_files
from avse.evaluation.benchmark import MixtureSpec
from avse.evaluation.protocols.base import Mixed, chosen_noises, generated_noises
from avse.evaluation.protocols.files import corpus_folder, first_part, named_clips


@dataclass(frozen=True, kw_only=True)
class Folder(Mixed):
    """Any folder of speech with any folder of noises.

    The first folder below the root names the speaker, below the folder of noises the type of noise; a file
    without one is its own. Videos are talking faces. If the root has folders train, validation and test,
    the split is that folder, else it is all files.

    Args:
        noise_root: folder of noises; none for white noise alone.
    """

    noise_root: str = ""
    name: ClassVar[str] = "folder"

    @property
    def has_lips(self) -> bool:
        """Whether there is a video."""
        return any(path.suffix.lower() in VIDEO_SUFFIXES for path in sound_files(Path(self.root)))

    def arguments(self) -> dict[str, Any]:
        """All that decides about the mixtures, as plain values."""
        noise_root = str(Path(self.noise_root).resolve()) if self.noise_root else ""
        return {**super().arguments(), "noise_root": noise_root}

    def mixtures(self) -> list[MixtureSpec]:
        """All speech files with all noises.

        Raises:
            InputError: a folder is missing or holds no sound files, or a noise is not there.
        """
        root = corpus_folder(self.root, "the folder that holds the speech")
        base = root / self.split if any((root / split).is_dir() for split in SPLITS) else root
        files = [path for path in sound_files(base) if not self._is_noise(path)]
        if not files:
            raise InputError(f"{base}: no sound files in it or below ({', '.join(SUFFIXES)})")
        clips = named_clips([(path, first_part(path, base)) for path in files], base, self.split)
        return self._crossed(clips, self._noise_files())

    def _is_noise(self, path: Path) -> bool:
        return bool(self.noise_root) and Path(self.noise_root).resolve() in path.resolve().parents

    def _noise_files(self) -> dict[str, Sequence[Path]]:
        if not self.noise_root:
            return chosen_noises(generated_noises(), self.noises or ("white",), "generated noises")
        root = corpus_folder(self.noise_root, "the folder that holds the noises")
        files: dict[str, list[Path]] = {}
        for path in sound_files(root):
            files.setdefault(first_part(path, root), []).append(path)
        if not files:
            raise InputError(f"{root}: no sound files in it or below ({', '.join(SUFFIXES)})")
        return chosen_noises({**generated_noises(), **files}, self.noises or tuple(files), str(root))
