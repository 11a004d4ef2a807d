"""Landmarks of drawn mouths, and shapes that size, place and roll do not change."""

import numpy as np
import torch

from avse.data.lips import Lips, Reason
from avse.data.lips.geometry import SHAPES, mouth_shape, normalised
from avse.data.lips.landmarks import LANDMARKS, find_landmarks
from avse.data.lips.shape_front_end import LipShapeFrontEnd, lip_view


def mouths(count: int = 20, seed: int = 0) -> np.ndarray:
    """Landmarks (T_v, 12, 2) of a mouth whose opening and width change at random."""
    generator = np.random.default_rng(seed)
    opening, width = generator.uniform(0, 0.1, count), generator.uniform(0.5, 0.6, count)
    zero = np.zeros(count)
    x = [-width / 2, width / 2, zero, zero, -width / 6, -width / 6, width / 6, width / 6]
    x += [-width / 2.2, width / 2.2, zero, zero]
    y = [zero, zero, -opening / 2, opening / 2, -opening / 3, opening / 3, -opening / 3, opening / 3]
    y += [zero, zero, -opening / 2 - 0.05, opening / 2 + 0.08]
    return np.stack([np.stack(x, -1), np.stack(y, -1)], -1)


def drawn(openings: np.ndarray) -> np.ndarray:
    """Grey pictures (T_v, 67, 67) of lips around a dark opening, skin around, nostrils above."""
    rows, columns = np.mgrid[:67, :67] / 67 - 0.49
    images = []
    for opening in openings:
        face = 170 - 25 * np.hypot(rows, columns)
        lips = np.hypot(columns / 0.3, rows / (0.09 + opening / 2)) < 1
        inside = np.hypot(columns / 0.24, rows / (0.012 + opening / 2)) < 1
        nostrils = np.hypot((np.abs(columns) - 0.09) / 0.05, (rows + 0.33) / 0.03) < 1
        images.append(np.where(inside, 40, np.where(lips, 110, np.where(nostrils, 70, face))))
    return np.array(images).astype(np.uint8)


def test_shape_of_known_mouth() -> None:
    points = mouths()
    shape = mouth_shape(points)
    unit = np.median(points[:, 1, 0] - points[:, 0, 0])
    np.testing.assert_allclose(
        shape[:, SHAPES.index("open_middle")], (points[:, 3] - points[:, 2])[:, 1] / unit
    )
    np.testing.assert_allclose(shape[:, SHAPES.index("lower_lip")], 0.08 / unit)
    np.testing.assert_allclose(shape[:, SHAPES.index("upper_lip")], 0.05 / unit)


def test_size_place_and_roll_change_nothing() -> None:
    points, angle = mouths(), 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = 1.7 * points @ turn.T + [3.0, -2.0]
    np.testing.assert_allclose(mouth_shape(moved), mouth_shape(points), atol=1e-12)


def test_mouth_at_rest_stays_at_rest() -> None:
    still = np.full((30, len(SHAPES)), 0.3) + 1e-4 * np.random.default_rng(0).standard_normal(
        (30, len(SHAPES))
    )
    assert np.abs(normalised(still, np.ones(30, bool))).max() < 0.1


def test_landmarks_follow_the_opening_of_drawn_mouths() -> None:
    openings = 0.04 + 0.04 * np.sin(np.arange(24) / 2)
    found = find_landmarks(drawn(openings))
    assert found.points.shape == (24, len(LANDMARKS), 2)
    opening = mouth_shape(found.points)[:, SHAPES.index("open_middle")]
    assert np.corrcoef(opening, openings)[0, 1] > 0.8


def test_noise_and_grey_show_no_lips() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 67, 67)).astype(np.uint8)
    grey = np.full((12, 67, 67), 128, np.uint8)
    for pictures in (noise, grey):
        lips = Lips(pictures, np.arange(12) / 25, np.zeros(12, np.uint8), 25.0)
        assert float(LipShapeFrontEnd().track(lips, np.arange(20) / 50).valid.float().mean()) < 0.1


def test_track_and_visual_have_the_stated_sizes() -> None:
    front_end = LipShapeFrontEnd(instants=5)
    pictures = drawn(0.04 + 0.04 * np.sin(np.arange(24) / 2))
    reasons = np.zeros(24, np.uint8)
    reasons[10:16] = Reason.NO_FACE
    track = front_end.track(Lips(pictures, np.arange(24) / 25, reasons, 25.0), np.arange(48) / 50)
    visual = front_end.visual(track)
    assert visual.shape == (48, front_end.size)
    assert not track.valid[22:30].any()
    assert torch.equal(visual[24], torch.zeros(front_end.size))
    assert lip_view({"instants": 5, "step": 0.04}) == front_end
