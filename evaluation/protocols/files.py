"""Files of speech, noise and lips below the folders that a user gives."""

from collections.abc import Iterable
from pathlib import Path

from avse.data.caches import LipsCache, default_cache
from avse.data.corpora.folder import file_utterance
from avse.data.corpora.ntcd_timit import FPS
from avse.data.errors import InputError
from avse.data.folders import VIDEO_SUFFIXES
from avse.data.lips import Lips
from avse.data.lips.files import ARRAY_SUFFIXES, load_lips_array
from avse.evaluation.benchmark import Clip, MixtureSpec


def file_lips(spec: MixtureSpec) -> Lips:
    """The lips in the file that a specification names; those found in videos are cached.

    Raises:
        InputError: the clip has no video, or it shows no face.
    """
    if not spec.video:
        raise InputError(f"{spec.clip}: has no video; use --lips none")
    if Path(spec.video).suffix.lower() in ARRAY_SUFFIXES:
        return load_lips_array(spec.video, FPS if spec.video.endswith(".mat") else None)
    return LipsCache(default_cache()).lips(file_utterance(Path(spec.video), spec.speaker, "test"))


def named_clips(files: Iterable[tuple[Path, str]], root: Path, split: str) -> list[Clip]:
    """Clips called speaker/name; where two would share that, by their path below the root."""
    files = list(files)
    names = [f"{speaker}/{path.stem}" if speaker != path.stem else speaker for path, speaker in files]
    clips = []
    for (path, speaker), name in zip(files, names, strict=True):
        unique = name if names.count(name) == 1 else path.relative_to(root).as_posix()
        video = str(path) if path.suffix.lower() in VIDEO_SUFFIXES else ""
        clips.append(Clip(str(path), unique, speaker, split, video))
    return clips


def corpus_folder(root: str, wanted: str) -> Path:
    """The folder of a corpus.

    Raises:
        InputError: none is given, or it is not there.
    """
    if not root:
        raise InputError(f"no folder of the corpus: give {wanted}")
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder; give {wanted}")
    return Path(root)


def first_part(path: Path, root: Path) -> str:
    """The first folder on the way from the root to a file; the name of a file that is in the root."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else path.stem
