"""Evaluation of enhancement on mixtures of speech clips and noises at several levels, from stated seeds."""

import csv
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from avse.data.audio import read_audio, resample
from avse.data.mixing import mix, noise_excerpt, white_noise
from avse.evaluation.metrics import all_metrics

RATE = 16000
"""Sample rate of all mixtures in Hz."""

Samples = NDArray[np.floating]


@dataclass(frozen=True)
class MixtureSpec:
    """The specification of one mixture, from which it is reproduced.

    Attributes:
        clip: speech file.
        noise_type: name of the noise.
        noise_files: files of which one is drawn; white noise is generated if there are none.
        level: broadband signal-to-noise ratio over the whole clip in dB.
        seed: seed of the choice of file and offset, and of the enhancement.
    """

    clip: str
    noise_type: str
    noise_files: tuple[str, ...]
    level: float
    seed: int


Enhancer = Callable[[Samples, MixtureSpec], Samples]
"""(mixture (T,), its specification) -> speech (T,), at `RATE`. Must be picklable. It may use the video of
`MixtureSpec.clip`, but not its sound."""


@dataclass(frozen=True)
class Score:
    """Metrics of one mixture before and after enhancement by one system."""

    clip: str
    noise_type: str
    level: float
    seed: int
    system: str
    noisy: dict[str, float]
    enhanced: dict[str, float]

    def gain(self, metric: str) -> float:
        """Metric of the enhanced speech minus that of the noisy speech."""
        return self.enhanced[metric] - self.noisy[metric]


def cross(
    clips: Sequence[Path],
    noises: dict[str, Sequence[Path]],
    levels: Sequence[float],
    seed: int = 0,
    share: int = 1,
) -> list[MixtureSpec]:
    """Specifications of mixtures of all clips with all noises at all levels.

    Args:
        clips: speech files.
        noises: noise type -> files; white noise is generated for an empty list.
        levels: signal-to-noise ratios in dB.
        seed: combined with the names of clip and noise and the level into the seed of each mixture.
        share: keep every `share`-th mixture; noises and levels rotate over the clips.
    """
    specs = []
    for c, clip in enumerate(clips):
        for n, (noise_type, files) in enumerate(noises.items()):
            for i, level in enumerate(levels):
                if (c + n * len(levels) + i) % share == 0:
                    name = f"{seed}/{clip.name}/{noise_type}/{level:g}"
                    files_as_text = tuple(str(file) for file in files)
                    specs.append(
                        MixtureSpec(str(clip), noise_type, files_as_text, level, zlib.crc32(name.encode()))
                    )
    return specs


@lru_cache(maxsize=64)
def _mono(path: str) -> Samples:
    """Mean of the channels of a file, resampled to `RATE`; damaged blocks are silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audio = read_audio(path)
    return resample(audio.samples.mean(axis=1), audio.sample_rate, RATE)


def make_mixture(spec: MixtureSpec) -> tuple[Samples, Samples]:
    """Clean speech and mixture, (T,) each, at `RATE`."""
    generator = np.random.default_rng(spec.seed)
    speech = _mono(spec.clip)
    if spec.noise_files:
        noise = noise_excerpt(
            _mono(spec.noise_files[generator.integers(len(spec.noise_files))]), len(speech), generator
        )
    else:
        noise = white_noise(len(speech), generator)
    mixture, _ = mix(speech, noise, spec.level)
    return speech, mixture


def score(spec: MixtureSpec, systems: dict[str, Enhancer]) -> list[Score]:
    """Metrics of one mixture for every system; an undefined metric is NaN."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        speech, mixture = make_mixture(spec)
        noisy = all_metrics(speech, mixture, RATE)
        return [
            Score(
                Path(spec.clip).name,
                spec.noise_type,
                spec.level,
                spec.seed,
                name,
                noisy,
                all_metrics(speech, enhancer(mixture, spec), RATE),
            )
            for name, enhancer in systems.items()
        ]


def run(specs: Sequence[MixtureSpec], systems: dict[str, Enhancer], jobs: int = 2) -> list[Score]:
    """Metrics of all mixtures, computed by joblib on `jobs` processes or on its active backend."""
    scored = mapped(score, [(spec, systems) for spec in specs], jobs, "mixtures")
    return [s for scores in scored for s in scores]


def mapped(function: Callable[..., Any], work: Sequence[tuple[Any, ...]], jobs: int, label: str) -> list[Any]:
    """`function(*args)` for every tuple of arguments, in order, on `jobs` processes with a progress bar."""
    results = Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(*each) for each in work)
    return list(track(results, label, total=len(work), console=Console(stderr=True)))


def save_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write scores as JSON Lines, one object per line."""
    path.write_text("".join(json.dumps(asdict(s)) + "\n" for s in scores))


def load_scores(path: Path) -> list[Score]:
    """Read the scores that `save_scores` wrote."""
    return [Score(**json.loads(line)) for line in path.read_text().splitlines()]


def table_rows(table: Path, kind: str, split: str) -> list[tuple[Path, str]]:
    """(path, speaker or type) of the rows of one kind and split in a `splits.csv`."""
    with table.open(newline="") as file:
        return [
            (table.parent / row["path"], row["speaker_or_type"])
            for row in csv.DictReader(file)
            if row["kind"] == kind and row["split"] == split
        ]
