"""The shape of a mouth over time, in quantities that camera, skin, light and crop hardly change.

From twelve landmarks (`avse.data.lips.landmarks`) come seven distances, `SHAPES`, in units of the usual
(median) width of the mouth in the clip. Widths are Euclidean; heights are along the normal of the line
through the corners of the mouth in the same picture, so that no roll, shift or scale changes them:

    open_middle    of the inner lips in the middle
    open_sides     of the inner lips, mean of left and right
    outer_height   of the outer lips in the middle
    width          of the outer corners
    inner_width    of the inner corners
    upper_lip      thickness of the upper lip in the middle
    lower_lip      of the lower

A face at rest differs from face to face as much as it moves: every quantity is taken about its median in the
clip, and divided by its deviation there or, where the mouth hardly moves, by the usual one (`normalised`).
"""

import numpy as np
from numpy.typing import NDArray

from avse.data.lips.landmarks import CORNERS, INNER, INNER_CORNERS, LEFT, OUTER, RIGHT

SHAPES = ("open_middle", "open_sides", "outer_height", "width", "inner_width", "upper_lip", "lower_lip")
"""Names of the K quantities."""

USUAL = np.array([0.06, 0.05, 0.08, 0.06, 0.06, 0.02, 0.03])
"""Deviation of each in talking mouths, in mouth widths."""

STILL = 0.3
"""Of the usual deviation: what is added, in squares, to that of the clip, lest a mouth at rest seem to
talk."""


def mouth_shape(points: NDArray[np.floating], good: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """The quantities of `SHAPES` from landmarks (T_v, 12, 2): (T_v, K), in median mouth widths.

    Args:
        points: in any units.
        good: pictures of which the median width is taken, (T_v,); all where there is none, or None is given.
    """
    points = np.asarray(points, np.float64)
    across = points[:, CORNERS[1]] - points[:, CORNERS[0]]
    width = np.maximum(np.linalg.norm(across, axis=-1), 1e-6)
    unit = np.median(width[good] if good is not None and good.any() else width)
    normal = np.stack([-across[:, 1], across[:, 0]], -1) / width[:, None]

    def height(upper: int, lower: int) -> NDArray[np.float64]:
        return ((points[:, lower] - points[:, upper]) * normal).sum(-1)

    inner_width = np.linalg.norm(points[:, INNER_CORNERS[1]] - points[:, INNER_CORNERS[0]], axis=-1)
    shape = [
        height(*INNER),
        (height(*LEFT) + height(*RIGHT)) / 2,
        height(*OUTER),
        width,
        inner_width,
        height(OUTER[0], INNER[0]),
        height(INNER[1], OUTER[1]),
    ]
    return np.stack(shape, -1) / unit


def normalised(shape: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(shape - median) / sqrt(variance + (STILL USUAL)^2), both over the `good` pictures of the clip.

    Args:
        shape: (T_v, K), of `mouth_shape`.
        good: pictures that show the lips, (T_v,); all count where there is none.
    """
    seen = shape[good] if good.any() else shape
    middle = np.median(seen, axis=0)
    low, high = np.percentile(seen, (2.5, 97.5), axis=0)
    spread = np.clip(seen, low, high).std(axis=0)
    return (shape - middle) / np.sqrt(spread**2 + (STILL * USUAL) ** 2)
