"""Mean improvements of every system for every kind of lips, noise and level: what figures and tables show."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avse.data.errors import InputError
from avse.evaluation.comparison import Comparison, compare
from avse.evaluation.measures import measure
from avse.evaluation.outcomes import Outcomes, by_lips, improvements
from avse.evaluation.statistics import FEWEST_CLUSTERS, Clustering, bootstrap_means, clustering, win_rate
from avse.evaluation.store import DONE

if TYPE_CHECKING:
    import pandas as pd

Place = tuple[str, str, str | None, float | None, str]
"""Lips, system, noise (None: all), level in dB (None: all), metric."""


@dataclass(frozen=True)
class Cell:
    """Improvement of one metric by one system over some mixtures.

    Attributes:
        lips, system: what was run.
        noise, level: of the mixtures; None stands for all.
        metric: its name.
        mean, lower, upper: improvement and its interval, in the metric's unit; NaN where undefined.
        count: mixtures for which the improvement is defined.
        undefined: enhanced mixtures for which it is not.
        win_rate: share of mixtures that are better than the input.
        noisy, enhanced: means of the metric itself over the `count` mixtures.
    """

    lips: str
    system: str
    noise: str | None
    level: float | None
    metric: str
    mean: float
    lower: float
    upper: float
    count: int
    undefined: int
    win_rate: float
    noisy: float
    enhanced: float


@dataclass(frozen=True)
class Summary:
    """All cells of an evaluation.

    Attributes:
        outcomes: the evaluation.
        lips, systems, noises, levels, metrics: that occur among enhanced mixtures, in the order shown.
        cells: by place.
        clusters: what was resampled; None where nothing was enhanced.
        comparisons: of every other system with the baseline, by lips and system.
        baseline: the system that the others are compared with.
    """

    outcomes: Outcomes
    lips: tuple[str, ...]
    systems: tuple[str, ...]
    noises: tuple[str, ...]
    levels: tuple[float, ...]
    metrics: tuple[str, ...]
    cells: dict[Place, Cell]
    clusters: Clustering | None
    baseline: str
    comparisons: dict[tuple[str, str], Comparison] = field(default_factory=dict)

    def cell(
        self, lips: str, system: str, metric: str, noise: str | None = None, level: float | None = None
    ) -> Cell | None:
        """The cell of a place; None where no mixture of that place was enhanced."""
        return self.cells.get((lips, system, noise, level, metric))

    def table(self) -> "pd.DataFrame":
        """The cells as a table, a row for each; an empty noise or level stands for all."""
        import pandas as pd

        return pd.DataFrame([asdict(cell) for cell in self.cells.values()])

    def intervals_text(self, cells: Iterable[Cell | None] = ()) -> str:
        """What the intervals are, for the caption of some cells; which of these have none."""
        if self.clusters is None:
            return ""
        count, unit = self.clusters.size, self.clusters.unit
        counted = f"{count} {unit}{'' if count == 1 else 's'}"
        if count < FEWEST_CLUSTERS:
            said = [f"No intervals: {counted} cannot be resampled."]
        else:
            said = [f"95 % intervals from a bootstrap of {counted}."]
            if any(cell is not None and cell.count and np.isnan(cell.lower) for cell in cells):
                said.append(f"Means of fewer than {FEWEST_CLUSTERS} {unit}s have none.")
        return " ".join([*said, *([self.clusters.why] if self.clusters.why else [])])


def summarized(own: Outcomes, baseline: str | None = None, seed: int = 0) -> Summary:
    """Summarise an evaluation.

    Args:
        own: the evaluation.
        baseline: the system that the others are compared with; default the first.
        seed: of the bootstrap.

    Raises:
        InputError: there is no such baseline.
    """
    done = own.done
    base = own.systems[0] if baseline is None else str(own.rows_of(baseline)["system"].iloc[0])
    parts = {lips: rows[rows["status"] == DONE] for lips, rows in by_lips(own).items()}
    parts = {lips: rows for lips, rows in parts.items() if len(rows)}
    noises = tuple(sorted(set(done["noise_type"].dropna())))
    levels = tuple(sorted(set(done["level"].dropna())))
    systems = tuple(system for system in own.systems if (done["system"] == system).any())
    clusters = None
    if len(done):
        clusters = clustering(list(done["speaker"]), list(done["clip"]), list(done["mixture"]))
    cells = _cells(own, parts, (systems, noises, levels), clusters, seed) if clusters else {}
    return Summary(
        own,
        tuple(parts),
        systems,
        noises,
        levels,
        own.metrics,
        cells,
        clusters,
        base,
        dict(_comparisons(own, parts, base, seed)),
    )


def _cells(
    own: Outcomes,
    parts: "dict[str, pd.DataFrame]",
    axes: tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]],
    clusters: Clustering,
    seed: int,
) -> dict[Place, Cell]:
    systems, noises, levels = axes
    labels = np.full(len(own.frame), -1)
    labels[own.done.index] = clusters.labels
    gains = np.stack([improvements(own.frame, metric) for metric in own.metrics], axis=1)
    noisy, enhanced = (
        own.frame[[f"{sound}_{metric}" for metric in own.metrics]].to_numpy(np.float64)
        for sound in ("noisy", "enhanced")
    )
    groups: list[tuple[str, str, str | None, float | None, NDArray[np.intp]]] = []
    for (lips, rows), system in product(parts.items(), systems):
        ours = rows[rows["system"] == system]
        index, own_noise, own_level = (
            each.to_numpy() for each in (ours.index, ours["noise_type"], ours["level"])
        )
        for noise, level in product((None, *noises), (None, *levels)):
            some = np.full(len(ours), True) if noise is None else own_noise == noise
            some = some if level is None else some & (own_level == level)
            if some.any():
                groups.append((lips, system, noise, level, index[some]))
    shape = (clusters.size, len(groups) * len(own.metrics))
    sums, counts = np.zeros(shape), np.zeros(shape)
    for g, (*_, some) in enumerate(groups):
        columns = slice(g * len(own.metrics), (g + 1) * len(own.metrics))
        np.add.at(sums[:, columns], labels[some], np.nan_to_num(gains[some]))
        np.add.at(counts[:, columns], labels[some], ~np.isnan(gains[some]))
    means = bootstrap_means(sums, counts, np.random.default_rng(seed))
    cells: dict[Place, Cell] = {}
    for k, ((lips, system, noise, level, some), (m, metric)) in enumerate(
        product(groups, enumerate(own.metrics))
    ):
        defined = some[~np.isnan(gains[some, m])]
        cells[lips, system, noise, level, metric] = Cell(
            lips,
            system,
            noise,
            level,
            metric,
            float(means.mean[k]),
            float(means.lower[k]),
            float(means.upper[k]),
            len(defined),
            len(some) - len(defined),
            win_rate(measure(metric).sign * gains[defined, m]),
            float(noisy[defined, m].mean()) if len(defined) else float("nan"),
            float(enhanced[defined, m].mean()) if len(defined) else float("nan"),
        )
    return cells


def _comparisons(
    own: Outcomes, parts: "dict[str, pd.DataFrame]", baseline: str, seed: int
) -> Iterator[tuple[tuple[str, str], Comparison]]:
    for lips, rows in parts.items():
        for system in own.systems:
            if system != baseline and {system, baseline} <= set(rows["system"]):
                try:
                    yield (
                        (lips, system),
                        compare(own, model=system, baseline=baseline, lips=lips, seed=seed),
                    )
                except InputError:  # no mixture was enhanced by both
                    continue
