"""Mixtures of speech clips and noises at several levels, from stated seeds."""

import csv
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avse.data.audio import read_audio, resample
from avse.data.errors import InputError
from avse.data.mixing import mix, mix_active, noise_excerpt, pink_noise, white_noise

RATE = 16000
"""Sample rate of all mixtures in Hz."""

Samples = NDArray[np.floating]

BROADBAND, SPEECH_ACTIVE, AS_RELEASED = "broadband", "speech-active (ITU-T P.56)", "as released"
"""Definitions of level: of `avse.data.mixing.mix`, of `mix_active`, and of mixtures that are ready."""
GENERATED: dict[str, Callable[[int, np.random.Generator], Samples]] = {
    "white": white_noise,
    "pink": pink_noise,
}
"""Noises that need no file."""


@dataclass(frozen=True)
class Clip:
    """A recording of clean speech.

    Attributes:
        path: of its sound.
        name: by which tables call it, unique within an evaluation.
        speaker: name.
        split: of the corpus that it belongs to.
        video: file that shows the speaker, or empty.
    """

    path: str
    name: str
    speaker: str = ""
    split: str = ""
    video: str = ""


@dataclass(frozen=True)
class MixtureSpec:
    """The specification of one mixture, from which it is reproduced.

    Attributes:
        clip: speech file.
        noise_type: name of the noise.
        noise_files: files of which one is drawn; a noise of `GENERATED` has none.
        level: signal-to-noise ratio in dB by `level_definition`; None for a ready mixture of unknown level.
        seed: seed of the choice of file and offset, and of the enhancement.
        name: of the clip, unique within an evaluation.
        speaker: name.
        split: of the corpus.
        video: file that shows the speaker, or empty.
        noisy: file of the same speech in noise. With the level definition "as released" it is the mixture;
            else the noise is taken from it.
        level_definition: `BROADBAND`, `SPEECH_ACTIVE` or `AS_RELEASED`.
    """

    clip: str
    noise_type: str
    noise_files: tuple[str, ...]
    level: float | None
    seed: int
    name: str = ""
    speaker: str = ""
    split: str = ""
    video: str = ""
    noisy: str = ""
    level_definition: str = BROADBAND

    @property
    def mixture(self) -> str:
        """Readable and unique, as "s30/bbaf2n cafe -5 dB"; for a ready mixture the name alone."""
        name = self.name or Path(self.clip).stem
        return name if self.level is None else f"{name} {self.noise_type} {self.level:g} dB"


def cross(
    clips: Sequence[Path | Clip],
    noises: Mapping[str, Sequence[Path]],
    levels: Sequence[float],
    seed: int = 0,
    share: int = 1,
    level_definition: str = BROADBAND,
) -> list[MixtureSpec]:
    """Specifications of mixtures of all clips with all noises at all levels.

    Args:
        clips: speech.
        noises: noise type -> files; none for a noise of `GENERATED`.
        levels: signal-to-noise ratios in dB.
        seed: combined with the names of clip and noise and the level into the seed of each mixture.
        share: keep every `share`-th mixture; noises and levels rotate over the clips.
        level_definition: of the levels.
    """
    specs = []
    for c, clip in enumerate(clips):
        own = clip if isinstance(clip, Clip) else Clip(str(clip), clip.stem)
        for n, (noise_type, files) in enumerate(noises.items()):
            for i, level in enumerate(levels):
                if (c + n * len(levels) + i) % share == 0:
                    specs.append(
                        MixtureSpec(
                            own.path,
                            noise_type,
                            tuple(str(file) for file in files),
                            level,
                            zlib.crc32(f"{seed}/{Path(own.path).name}/{noise_type}/{level:g}".encode()),
                            own.name,
                            own.speaker,
                            own.split,
                            own.video,
                            level_definition=level_definition,
                        )
                    )
    return specs


@lru_cache(maxsize=64)
def mono(path: str) -> Samples:
    """Mean of the channels of a file, resampled to `RATE`; damaged blocks are silent."""
    return _mono_and_rate(path)[0]


def _mono_and_rate(path: str) -> tuple[Samples, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audio = read_audio(path)
    return resample(audio.samples.mean(axis=1), audio.sample_rate, RATE), audio.sample_rate


def make_mixture(spec: MixtureSpec) -> tuple[Samples, Samples]:
    """Clean speech and mixture, (T,) each, at `RATE`.

    Raises:
        InputError: a file cannot be read, or see `add_noise`.
    """
    if spec.level_definition == AS_RELEASED:
        return _released_pair(spec)
    speech = mono(spec.clip)
    return speech, add_noise(speech, spec)


def add_noise(speech: Samples, spec: MixtureSpec) -> Samples:
    """The mixture (T,) of speech (T,) with the noise of a specification.

    Raises:
        InputError: a file cannot be read, the noise is unknown, or speech or noise is silent.
    """
    generator = np.random.default_rng(spec.seed)
    if spec.noisy:
        noise = _released_noise(speech, spec)
    elif spec.noise_files:
        file = spec.noise_files[generator.integers(len(spec.noise_files))]
        noise = noise_excerpt(mono(file), len(speech), generator)
    elif spec.noise_type in GENERATED:
        noise = GENERATED[spec.noise_type](len(speech), generator)
    else:
        raise InputError(f"noise {spec.noise_type!r}: has no file; generated ones are {', '.join(GENERATED)}")
    if spec.level is None:
        raise InputError(f"{spec.mixture}: no level is given; give one in dB")
    if spec.level_definition == SPEECH_ACTIVE:
        return mix_active(speech, noise, spec.level, RATE)[0]
    return mix(speech, noise, spec.level)[0]


def _released_pair(spec: MixtureSpec) -> tuple[Samples, Samples]:
    """Clean and noisy speech of files that belong together.

    Raises:
        InputError: a file cannot be read, or their rates or lengths differ.
    """
    (clean, clean_rate), (noisy, noisy_rate) = _mono_and_rate(spec.clip), _mono_and_rate(spec.noisy)
    if clean_rate != noisy_rate:
        raise InputError(
            f"{spec.noisy}: has {noisy_rate} Hz, its clean speech {clean_rate} Hz; export both alike"
        )
    if clean.shape != noisy.shape:
        raise InputError(
            f"{spec.noisy}: has {len(noisy)} samples at {RATE} Hz, its clean speech {len(clean)}; "
            "cut both to the same part"
        )
    return clean, noisy


def _released_noise(speech: Samples, spec: MixtureSpec) -> Samples:
    """The noise in a released mixture x = a s + b of unknown gain: x minus its projection on the speech s."""
    noisy = mono(spec.noisy)
    if noisy.shape != speech.shape:
        raise InputError(
            f"{spec.noisy}: has {len(noisy)} samples at {RATE} Hz, its clean speech {len(speech)}; "
            "copy it again"
        )
    gain = np.vdot(speech, noisy) / max(np.vdot(speech, speech), np.finfo(np.float32).tiny)
    return noisy - gain * speech


def table_rows(table: Path, kind: str, split: str) -> list[tuple[Path, str]]:
    """(path, speaker or type) of the rows of one kind and split in a `splits.csv`."""
    with table.open(newline="") as file:
        return [
            (table.parent / row["path"], row["speaker_or_type"])
            for row in csv.DictReader(file)
            if row["kind"] == kind and row["split"] == split
        ]
