"""Figures of the examples show what they say they show."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox

from avse.data.lips import Lips
from avse.data.lips.crop import SIDE
from avse.evaluation.figures import (
    Intervals,
    bounds_figure,
    efficiency_figure,
    ellipse_points,
    grouped_bars_figure,
    improvement_figure,
    intervals_figure,
    mean_and_error,
    training_figure,
)
from avse.evaluation.lips_figures import INVALID, lip_weight_figure


def test_ellipse_has_one_mahalanobis_distance() -> None:
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    away = ellipse_points(mean, covariance, 1.5) - mean
    distance = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away))
    np.testing.assert_allclose(distance, 1.5)


def test_standard_error() -> None:
    mean, error = mean_and_error(np.array([[1.0, 2.0, 3.0, 6.0]]))
    assert mean == pytest.approx(3.0)
    assert error == pytest.approx(np.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert np.isnan(mean_and_error(np.ones((2, 1)))[1]).all()


@pytest.mark.parametrize(("epochs", "first"), [(1, 1), (2, 2), (6, 3), (15, 6)])
def test_first_epochs_do_not_set_the_scale(epochs: int, first: int) -> None:
    history = [{"epoch": float(e), "train_loss": 1.0, "validation_loss": 10.0**-e} for e in range(epochs)]
    for figure in (training_figure(history), bounds_figure({"one": history})):
        line = figure.axes[0].lines[-1]
        assert np.asarray(line.get_xdata()).tolist() == list(range(first, epochs + 1))


def test_no_efficiency_of_chains_that_disagree() -> None:
    figure = efficiency_figure({"MH": 3.0, "HMC": 2.0}, {"MH": 1.58, "HMC": 1.02})
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0, 2.0]
    assert [text.get_text() for text in figure.axes[1].texts] == ["not converged", "2"]


def test_all_of_the_truth_is_shown() -> None:
    at, truth = np.arange(4.0), np.array([0.0, -30.0, -79.0, 12.0])
    figure = intervals_figure(
        [Intervals("time (s)", at, truth * 0 - 5, truth * 0, truth * 0 + 5, truth)], "dB"
    )
    low, high = figure.axes[0].get_ylim()
    assert low < 12 - 80 + 1  # levels more than 80 below the highest are left out
    assert high > 12
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["90% interval", "posterior median", "truth"]


def test_differences_are_those_of_the_second_system() -> None:
    own = {"sound": np.array([[1.0, 3.0]]), "lips": np.array([[2.0, 5.0]]), "other": np.array([[0.0, 1.0]])}
    figure = improvement_figure({"si_sdr": own}, [0.0])
    top, bottom = figure.axes
    assert [float(line.get_ydata()[0]) for line in top.lines[:3]] == [2.0, 3.5, 0.5]  # type: ignore[index]
    drawn = [float(bars[0].get_ydata()[0]) for bars in bottom.containers]  # type: ignore[index,union-attr]
    assert drawn == [1.5, 3.0]


def test_every_bar_stands_in_its_group() -> None:
    panels = {"dB": {"a": [1.0, 2.0], "b": [3.0, 4.0]}}
    bars = grouped_bars_figure(panels, ["x", "y"]).axes[0].patches
    found = {(round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in bars}
    assert found == {(0, 1.0), (1, 2.0), (0, 3.0), (1, 4.0)}


def test_corrupted_video_frames_are_red_and_square() -> None:
    count = 60
    lips = Lips(
        np.zeros((count, SIDE, SIDE), np.uint8), np.arange(count) / 25, np.zeros(count, np.uint8), 25.0
    )
    bad = np.arange(count) >= 30
    times = np.linspace(0, 2.3, 100)
    strip = lip_weight_figure(lips, bad, times, {"weight": times / 3}).axes[0]
    boxes = [artist for artist in strip.artists if isinstance(artist, AnnotationBbox)]
    assert boxes
    for box in boxes:
        red = to_hex(box.patch.get_edgecolor()) == INVALID
        assert red == bool(bad[np.abs(lips.times - box.xy[0]).argmin()])
        assert box.offsetbox.get_children()[0].get_array().shape == (SIDE, SIDE)
