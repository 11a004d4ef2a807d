"""Bootstrap intervals cover at their stated rate; win rates and counts are exact."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from avse.evaluation.statistics import (
    FEWEST_CLUSTERS,
    cluster_contrast,
    cluster_means,
    clustering,
    win_rate,
)

TRIALS = 10_000
MARGIN = 0.0125
"""Of the coverage of `TRIALS` intervals, whose standard deviation is 0.0022 (five of them are 0.011). Trials
of a batch share resamples, whose standard errors have an error of 2 %, independent between batches."""


def coverage(speakers: int, by: str) -> float:
    """Share of intervals that contain the mean, 0; speakers vary as much as mixtures of one speaker."""
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(speakers), 10)
    clusters = labels if by == "speaker" else np.arange(len(labels))
    covered = []
    for _ in range(20):
        effects = generator.standard_normal((speakers, TRIALS // 20))[labels]
        values = effects + generator.standard_normal((len(labels), TRIALS // 20))
        found = cluster_means(values, clusters, generator, resamples=999)
        covered.append((found.lower <= 0) & (found.upper >= 0))
    return float(np.mean(covered))


@pytest.mark.parametrize("speakers", [5, 9, 20])
def test_intervals_cover_at_their_stated_rate(speakers: int) -> None:
    """Of 95 %; false alarms are rarer than 1e-5, see `MARGIN`."""
    assert abs(coverage(speakers, "speaker") - 0.95) < MARGIN


def test_mixtures_as_clusters_cover_too_rarely() -> None:
    """The control: intervals from resampled mixtures of 9 speakers cover in 6 of 10 trials; false alarms
    are rarer than 1e-9."""
    assert coverage(9, "mixture") < 0.75


def test_standard_error_agrees_with_scipy() -> None:
    """The ratio estimator for clusters of unequal sizes; both standard errors have a relative Monte Carlo
    error of 1 %, and a difference of 9 % is a false alarm below 1e-8."""
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(12), np.arange(4, 16))
    values = generator.exponential(size=len(labels)) + 0.3 * labels
    ours = cluster_means(values, labels, generator)
    sums, counts = np.bincount(labels, values), np.bincount(labels).astype(float)

    def ratio(y: NDArray[np.float64], c: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return y.sum(axis) / c.sum(axis)

    theirs = stats.bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=4999,
        method="percentile",
        random_state=generator,
    )
    width = 2 * stats.t.ppf(0.975, 11) * (12 / 11) ** 0.5 * theirs.standard_error
    assert ours.mean[0] == pytest.approx(values.mean(), rel=1e-12)
    assert ours.upper[0] - ours.lower[0] == pytest.approx(width, rel=0.09)
    assert ours.upper[0] + ours.lower[0] == pytest.approx(2 * ours.mean[0], rel=1e-12)


def test_confidence_sets_the_width() -> None:
    values, clusters = np.random.default_rng(5).standard_normal(40), np.repeat(np.arange(8), 5)
    narrow, wide = (cluster_means(values, clusters, np.random.default_rng(0), c) for c in (0.5, 0.99))
    ratio = (wide.upper - wide.lower) / (narrow.upper - narrow.lower)
    assert ratio[0] == pytest.approx(stats.t.ppf(0.995, 7) / stats.t.ppf(0.75, 7), rel=1e-9)


def test_contrast_covers() -> None:
    """800 contrasts of 8 speakers, of whom each adds the same to both means, in unequal numbers of mixtures.

    At 95 % fewer than 720 that contain the truth are a false alarm below 1e-8, at 90 % more than 790, too.
    """
    generator = np.random.default_rng(7)
    one, other = np.repeat(np.arange(8), np.arange(3, 11)), np.repeat(np.arange(8), 6)
    covered = 0
    for _ in range(800):
        added = generator.standard_normal(8)
        values = [added[labels] + generator.standard_normal(len(labels)) for labels in (one, other)]
        found = cluster_contrast(0.3 + values[0], one, values[1], other, generator, resamples=199)
        covered += found.lower[0] <= 0.3 <= found.upper[0]
    assert 720 < covered < 791


def test_contrast_of_equal_clusters_is_that_of_paired_means() -> None:
    generator = np.random.default_rng(8)
    clusters = np.repeat(np.arange(9), 4)
    first, second = generator.standard_normal((2, 36))
    paired = cluster_means(first - second, clusters, np.random.default_rng(0))
    found = cluster_contrast(first, clusters, second, clusters, np.random.default_rng(0))
    assert found.mean[0] == pytest.approx(paired.mean[0])
    assert (found.lower[0], found.upper[0]) == pytest.approx((paired.lower[0], paired.upper[0]))
    few = cluster_contrast(first, clusters % 3, second, clusters % 3, generator)
    assert few.mean[0] == pytest.approx(paired.mean[0])
    assert np.isnan([few.lower[0], few.upper[0]]).all()
    nothing = cluster_contrast([np.nan], [0], second, clusters, generator)
    assert np.isnan(nothing.mean[0])
    assert nothing.count[0] == 0


def test_undefined_values_are_left_out_and_counted() -> None:
    values = np.arange(24.0).reshape(12, 2)
    values[:2, 0] = np.nan  # all of cluster 0
    values[3, 1] = np.nan
    found = cluster_means(values, np.repeat(np.arange(6), 2), np.random.default_rng(0))
    assert found.count.tolist() == [10, 11]
    assert found.clusters.tolist() == [5, 6]
    np.testing.assert_allclose(found.mean, np.nanmean(values, axis=0))
    assert (found.lower < found.mean).all()
    assert (found.mean < found.upper).all()


def test_few_clusters_have_a_mean_without_an_interval() -> None:
    found = cluster_means([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3], np.random.default_rng(0))
    assert (found.mean[0], found.count[0]) == (2.5, 4)
    assert np.isnan([found.lower[0], found.upper[0]]).all()
    nothing = cluster_means([np.nan] * 9, range(9), np.random.default_rng(0))
    assert np.isnan([nothing.mean[0], nothing.lower[0]]).all()
    assert nothing.count[0] == 0


def test_equal_values_have_an_interval_without_width() -> None:
    found = cluster_means(np.full(8, 0.5), range(8), np.random.default_rng(0))
    assert (found.lower[0], found.mean[0], found.upper[0]) == (0.5, 0.5, 0.5)


def test_generator_decides_the_interval() -> None:
    values, clusters = np.random.default_rng(5).standard_normal(40), np.repeat(np.arange(8), 5)
    first, again, other = (cluster_means(values, clusters, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.lower[0] == again.lower[0] != other.lower[0]


def test_clusters_are_speakers_or_clips() -> None:
    many = clustering([f"s{i % 6}" for i in range(12)], ["c"] * 12, range(12))
    assert (many.unit, many.size, many.why) == ("speaker", 6, "")
    few = clustering(["s1", "s2"] * 6, [f"c{i // 2}" for i in range(12)], range(12))
    assert (few.unit, few.size) == ("clip", 12)  # clips of one name, of two speakers
    assert few.why == "Clips are resampled, because 2 speakers are too few to be resampled."
    unknown = clustering([None, float("nan")], [None, "c"], ["m1", "m2"])
    assert (unknown.unit, unknown.size) == ("mixture", 2)
    assert "speakers are unknown" in unknown.why
    assert FEWEST_CLUSTERS == 5


def test_win_rate_counts_ties_as_halves() -> None:
    assert win_rate([1.0, -1.0, 0.0, np.nan]) == 0.5
    assert win_rate([2.0, 0.1]) == 1.0
    assert np.isnan(win_rate([np.nan]))
