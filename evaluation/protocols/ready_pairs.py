"""The protocol `voicebank-demand`: clean and noisy files of equal names, as its test set has them."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from avse.data.errors import InputError
from avse.data.folders import sound_files
from avse.data.lips import Lips
from avse.evaluation.benchmark import AS_RELEASED, MixtureSpec, Samples, make_mixture
from avse.evaluation.protocols.files import corpus_folder


@dataclass(frozen=True, kw_only=True)
class ReadyPairs:
    """Pairs of clean and noisy files of equal names, such as the test set of VoiceBank-DEMAND.

    The folders are `clean_testset_wav` and `noisy_testset_wav`, or the only two below the root whose names
    begin with "clean" and "noisy". The name up to the first "_" is the speaker. The type of noise is that
    of `log_testset.txt`, which the release has, where there is one.

    Args:
        root: folder of both folders.
        seed: of the enhancement.
        share: keep every so-manyth pair.
        speakers: only these; none for all.
    """

    root: str = ""
    seed: int = 0
    share: int = 1
    speakers: tuple[str, ...] = ()

    name: ClassVar[str] = "voicebank-demand"
    level_definition: ClassVar[str] = AS_RELEASED
    has_lips: ClassVar[bool] = False

    def arguments(self) -> dict[str, Any]:
        """All that decides about the mixtures, as plain values."""
        root = str(Path(self.root).resolve())
        return {"root": root, "seed": self.seed, "share": self.share, "speakers": list(self.speakers)}

    def mixtures(self) -> list[MixtureSpec]:
        """A specification for every name in either folder; one that lacks its partner fails when it is read.

        Raises:
            InputError: the folders are not there, or have no name in common.
        """
        root = corpus_folder(self.root, "the folder that holds clean_testset_wav and noisy_testset_wav")
        clean, noisy = (_only_folder(root, kind) for kind in ("clean", "noisy"))
        names = [{path.relative_to(folder) for path in sound_files(folder)} for folder in (clean, noisy)]
        if not names[0] & names[1]:
            raise InputError(f"{root}: {clean.name} and {noisy.name} have no file name in common")
        known = _noise_types(root / "log_testset.txt")
        specs = []
        for name in sorted(names[0] | names[1]):
            speaker = name.stem.partition("_")[0]
            if self.speakers and speaker not in self.speakers:
                continue
            specs.append(
                MixtureSpec(
                    str(clean / name),
                    known.get(name.stem, AS_RELEASED),
                    (),
                    None,
                    zlib.crc32(f"{self.seed}/{name.name}".encode()),
                    name.with_suffix("").as_posix(),
                    speaker,
                    "test",
                    noisy=str(noisy / name),
                    level_definition=AS_RELEASED,
                )
            )
        if not specs:
            raise InputError(f"{root}: no pair of {', '.join(self.speakers)}")
        return specs[:: self.share]

    def sounds(self, spec: MixtureSpec) -> tuple[Samples, Samples]:
        """Clean and noisy speech, (T,) each, at `RATE`."""
        return make_mixture(spec)

    def lips(self, spec: MixtureSpec) -> Lips:
        """There are none.

        Raises:
            InputError: always.
        """
        raise InputError(f"{spec.name}: {self.name} has no video; use --lips none")


def _only_folder(root: Path, kind: str) -> Path:
    release = root / f"{kind}_testset_wav"
    found = [release] if release.is_dir() else sorted(p for p in root.glob(f"{kind}*") if p.is_dir())
    if len(found) != 1:
        seen = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{root}: expected one folder {kind}_testset_wav or {kind}, found {seen}")
    return found[0]


def _noise_types(log: Path) -> dict[str, str]:
    """File name -> type of noise, from lines such as "p232_001 bus 12.5"."""
    if not log.is_file():
        return {}
    lines = (line.split() for line in log.read_text(encoding="utf-8", errors="replace").splitlines())
    return {parts[0]: parts[1] for parts in lines if len(parts) >= 2}
