"""Scores of systems that are functions, for scripts that try what is no model of the zoo.

The mixtures are listed, and every function enhances all of them, by `avse.evaluation.runner`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.evaluation import store
from avse.evaluation.benchmark import BROADBAND, MixtureSpec, Samples, make_mixture
from avse.evaluation.processes import in_processes
from avse.evaluation.protocols.files import file_lips
from avse.evaluation.runner import Unit, result_row

Enhancer = Callable[[Samples, MixtureSpec], Samples]
"""(mixture (T,), its specification) -> speech (T,), at 16 kHz. Must be picklable. It may use the video of
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


@dataclass(frozen=True)
class Listed:
    """A protocol of mixtures that are listed elsewhere."""

    level_definition: str = BROADBAND
    name: str = "listed"
    has_lips: bool = False

    def arguments(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def mixtures(self) -> list[MixtureSpec]:
        """There are none of its own."""
        return []

    def sounds(self, spec: MixtureSpec) -> tuple[Samples, Samples]:
        """Clean speech and mixture, (T,) each."""
        return make_mixture(spec)

    def lips(self, spec: MixtureSpec) -> Lips:
        """The lips in the video of the specification."""
        return file_lips(spec)


@dataclass(frozen=True)
class FunctionSystem:
    """A function as a system.

    Attributes:
        model: name.
        function: enhances.
    """

    model: str
    function: Enhancer
    algorithm: str = "auto"
    uses_lips: bool = False
    weights: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """None that are known."""
        return {}

    def __call__(self, noisy: Samples, lips: Lips | None, spec: MixtureSpec) -> Samples:
        """Speech (T,) of a mixture (T,)."""
        return self.function(noisy, spec)


def scored(
    specs: Sequence[MixtureSpec],
    systems: Mapping[str, Enhancer],
    jobs: int = 2,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Score]:
    """Metrics of all mixtures for every system, mixture by mixture; an undefined metric is NaN.

    Args:
        specs: of the mixtures.
        systems: by name.
        jobs: processes.
        progress: told the fraction that is done.

    Raises:
        InputError: a mixture cannot be made, or a system fails; names it.
    """
    own = [FunctionSystem(name, function) for name, function in systems.items()]
    work = [(Unit(Listed(), spec, store.NO_LIPS, system),) for spec in specs for system in own]
    scores = []
    for (unit,), row in zip(work, in_processes(result_row, work, jobs, ordered=True), strict=True):
        if row["status"] == store.FAILED:
            raise InputError(f"{row['mixture']}, {row['model']}: {row['reason']}")
        noisy, enhanced = (
            {name: row[f"{sound}_{name}"] for name in store.METRIC_NAMES} for sound in ("noisy", "enhanced")
        )
        level = float("nan") if unit.spec.level is None else unit.spec.level
        scores.append(
            Score(row["clip"], row["noise_type"], level, row["seed"], row["model"], noisy, enhanced)
        )
        progress(len(scores) / len(work))
    return scores


def save_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write scores as JSON Lines, one object per line."""
    path.write_text("".join(json.dumps(asdict(s)) + "\n" for s in scores))


def load_scores(path: Path) -> list[Score]:
    """Read the scores that `save_scores` wrote."""
    return [Score(**json.loads(line)) for line in path.read_text().splitlines()]
