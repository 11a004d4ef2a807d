"""Means with bootstrap intervals over clusters of mixtures, and win rates.

Mixtures of one speaker are not independent: a speaker whose voice suits a model gains in all of them. What is
resampled is therefore a cluster: a speaker with all of its mixtures (Davison and Hinkley, "Bootstrap Methods
and their Application", 1997, section 3.8). Letters: M mixtures, S clusters, K quantities, B resamples.

The interval is the mean plus and minus

    t_{(1 + confidence) / 2, S - 1} sqrt(S / (S - 1)) (bootstrap standard error),

with the quantile of Student's t. The percentiles of the resamples themselves would be too narrow where
speakers are few: S resampled values underestimate the variance by (S - 1) / S and have no more than normal
tails (Hesterberg, The American Statistician 69(4), 2015); percentiles at 95 % cover 85 % for 6 speakers.
Effects that are very skewed are covered less often than stated: 91 % for exponential effects of 6 speakers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

FEWEST_CLUSTERS = 5
"""With fewer clusters the resamples are too few for an interval, and NaN is given."""
CONFIDENCE = 0.95
RESAMPLES = 4999
_COLUMNS = 256  # quantities whose resamples are in memory at a time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Means of K quantities and their intervals, (K,) each.

    Attributes:
        mean: over the mixtures with a defined value; NaN where there is none.
        lower, upper: ends of the interval; NaN with fewer than `FEWEST_CLUSTERS` clusters.
        count: mixtures with a defined value.
        clusters: clusters with a defined value.
    """

    mean: Array
    lower: Array
    upper: Array
    count: NDArray[np.int64]
    clusters: NDArray[np.int64]


@dataclass(frozen=True)
class Clustering:
    """The cluster of every mixture.

    Attributes:
        labels: of the clusters, from 0, (M,).
        unit: what a cluster is: "speaker", "clip" or "mixture".
        why: a sentence on why the unit is not the speaker; empty where it is.
    """

    labels: NDArray[np.int64]
    unit: str
    why: str = ""

    @property
    def size(self) -> int:
        """Number of clusters."""
        return len(np.unique(self.labels))


def clustering(speakers: Sequence[Any], clips: Sequence[Any], mixtures: Sequence[Any]) -> Clustering:
    """Clusters of mixtures: speakers; clips where the speakers are fewer than `FEWEST_CLUSTERS`.

    Args:
        speakers: of the mixtures, (M,); None or NaN where unknown.
        clips: the speech of the mixtures, (M,); clips of two speakers differ, whatever their names.
        mixtures: names of the mixtures, (M,), which stand for clips that are unknown.
    """
    known = [_known(speaker) for speaker in speakers]
    if all(known):
        labels, count = _numbered(speakers)
        if count >= FEWEST_CLUSTERS:
            return Clustering(labels, "speaker")
        people = "1 speaker is" if count == 1 else f"{count} speakers are"
        why = f"{people} too few to be resampled"
    else:
        why = "speakers are unknown"
    if all(_known(clip) for clip in clips):
        names = [(str(s) if k else "", str(clip)) for s, k, clip in zip(speakers, known, clips, strict=True)]
        labels, _ = _numbered(names)
        return Clustering(labels, "clip", f"Clips are resampled, because {why}.")
    labels, _ = _numbered(mixtures)
    return Clustering(labels, "mixture", f"Mixtures are resampled, because {why}, and so are clips.")


def _known(value: Any) -> bool:
    return value is not None and value == value


def _numbered(names: Sequence[Any]) -> tuple[NDArray[np.int64], int]:
    """A number for each name, from 0 in order of appearance, and how many there are."""
    numbers: dict[Any, int] = {}
    labels = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    return labels, len(numbers)


def cluster_means(
    values: ArrayLike,
    clusters: ArrayLike,
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Means:
    """Means over mixtures with intervals from a bootstrap of clusters; see `bootstrap_means`.

    Args:
        values: (M, K) or (M,), K = 1; NaN where undefined.
        clusters: label of each mixture, (M,).
        generator: of the resamples.
        confidence: probability that the interval contains the mean of all clusters there could be.
        resamples: B.
    """
    array = np.asarray(values, np.float64)
    array = array.reshape(len(array), -1)
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    defined = ~np.isnan(array)
    sums, counts = (np.zeros((int(labels.max(initial=-1)) + 1, array.shape[1])) for _ in range(2))
    np.add.at(sums, labels, np.where(defined, array, 0.0))
    np.add.at(counts, labels, defined)
    return bootstrap_means(sums, counts, generator, confidence, resamples)


def bootstrap_means(
    sums: ArrayLike,
    counts: ArrayLike,
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Means:
    """Ratios sum_s y_s / sum_s c_s over clusters s, with intervals; see the module.

    A resample draws as many clusters as there are, with replacement, each with all of its mixtures.

    Args:
        sums: y, sum of the defined values of each cluster, (S, K).
        counts: c, number of defined values, (S, K); clusters without any do not count.
        generator: of the resamples; quantities that are defined in the same clusters share them.
        confidence: of the interval.
        resamples: B.
    """
    y, c = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    total = c.sum(0)
    clusters = (c > 0).sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.where(total > 0, y.sum(0) / total, np.nan)
    lower, upper = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    patterns, which = np.unique(c > 0, axis=1, return_inverse=True)
    for number, present in enumerate(patterns.T):
        size = int(present.sum())
        if size < FEWEST_CLUSTERS:
            continue
        weights = _resampled(size, resamples, generator)
        reach = _reach(size, confidence)
        columns = np.flatnonzero(which.ravel() == number)
        for some in np.split(columns, range(_COLUMNS, len(columns), _COLUMNS)):
            block = np.ix_(present, some)
            drawn = (weights @ y[block]) / (weights @ c[block])
            half = reach * drawn.std(0, ddof=1)
            lower[some], upper[some] = mean[some] - half, mean[some] + half
    return Means(mean, lower, upper, total.astype(np.int64), clusters.astype(np.int64))


def cluster_contrast(
    first: ArrayLike,
    first_clusters: ArrayLike,
    second: ArrayLike,
    second_clusters: ArrayLike,
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Means:
    """Mean of `first` minus mean of `second`, values of different mixtures of the same clusters; K = 1.

    Both means are of the same resampled clusters, so that what a cluster adds to both cancels as far as its
    numbers of values are alike. The interval is that of the module; resamples in which one of the means has
    no value are left out.

    Args:
        first, second: values, (M1,) and (M2,); NaN where undefined.
        first_clusters, second_clusters: label of each value.
        generator: of the resamples.
        confidence: of the interval.
        resamples: B.
    """
    values = [np.asarray(each, np.float64) for each in (first, second)]
    names = [
        np.asarray(each)[~np.isnan(v)]
        for each, v in zip((first_clusters, second_clusters), values, strict=True)
    ]
    values = [each[~np.isnan(each)] for each in values]
    _, labels = np.unique(np.concatenate(names), return_inverse=True)
    size = int(labels.max(initial=-1)) + 1
    count = np.array([min(map(len, values))])
    if not count[0]:
        nothing = np.array([np.nan])
        return Means(nothing, nothing, nothing, count, np.array([size]))
    mean = np.array([values[0].mean() - values[1].mean()])
    if size < FEWEST_CLUSTERS:
        return Means(mean, mean * np.nan, mean * np.nan, count, np.array([size]))
    weights = _resampled(size, resamples, generator)
    drawn = np.zeros(resamples)
    parts = np.split(labels, [len(names[0])])
    for sign, own, which in zip((1, -1), values, parts, strict=True):
        sums = weights @ np.bincount(which, own, size)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn += sign * sums / (weights @ np.bincount(which, minlength=size))
    drawn = drawn[np.isfinite(drawn)]
    half = _reach(size, confidence) * drawn.std(ddof=1)
    return Means(mean, mean - half, mean + half, count, np.array([size]))


def _resampled(size: int, resamples: int, generator: np.random.Generator) -> Array:
    """How often each of S clusters is drawn in each resample of S clusters, (B, S)."""
    return generator.multinomial(size, np.full(size, 1 / size), resamples).astype(np.float64)


def _reach(size: int, confidence: float) -> float:
    """Half the width of the interval of S clusters, in bootstrap standard errors; see the module."""
    return float(t.ppf((1 + confidence) / 2, size - 1)) * (size / (size - 1)) ** 0.5


def win_rate(differences: ArrayLike) -> float:
    """Share of positive differences, ties counted as one half; undefined ones (NaN) are left out."""
    values = np.asarray(differences, np.float64)
    values = values[~np.isnan(values)]
    return float(((values > 0) + (values == 0) / 2).mean()) if values.size else float("nan")
