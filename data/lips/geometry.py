"""The shape of a mouth over time, in quantities that hardly depend on camera, skin, light and crop.

From twelve landmarks (`avse.data.lips.landmarks`) come seven distances, `SHAPES`, in units of the median
width of the mouth in the clip. Widths are Euclidean; heights are along the normal of the line
through the corners of the mouth in the same video frame, so that no roll, shift or scale changes them:

    open_middle    of the inner lips in the middle
    open_sides     of the inner lips, mean of left and right
    outer_height   of the outer lips in the middle
    width          of the outer corners
    inner_width    of the inner corners
    upper_lip      thickness of the upper lip in the middle
    lower_lip      of the lower

Faces at rest differ as much as one face moves: `normalised` subtracts from every quantity its median in the
clip and divides by its standard deviation there, or by a typical one where the mouth hardly moves.
"""

import numpy as np
from numpy.typing import NDArray

from avse.data.lips.landmarks import CORNERS, INNER, INNER_CORNERS, LEFT, OUTER, RIGHT

SHAPES = ("open_middle", "open_sides", "outer_height", "width", "inner_width", "upper_lip", "lower_lip")
"""Names of the K quantities."""

TYPICAL_STD = np.array([0.06, 0.05, 0.08, 0.06, 0.06, 0.02, 0.03])
"""Standard deviation of each quantity in talking mouths, in mouth widths."""

STD_FLOOR = 0.3
"""Fraction of `TYPICAL_STD` whose square is added to the variance of the clip, so that a mouth at rest is not
scaled to that of a talking mouth."""


def mouth_shape(points: NDArray[np.floating], good: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """The quantities of `SHAPES` from landmarks (T_v, 12, 2): (T_v, K), in median mouth widths.

    Args:
        points: in any units.
        good: video frames of which the median width is taken, (T_v,); all of them for None or if none is.
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
    """(shape - median) / sqrt(variance + (STD_FLOOR TYPICAL_STD)^2), over the `good` video frames of a clip.

    Args:
        shape: (T_v, K), of `mouth_shape`.
        good: video frames that show the lips, (T_v,); all count where there is none.
    """
    seen = shape[good] if good.any() else shape
    middle = np.median(seen, axis=0)
    low, high = np.percentile(seen, (2.5, 97.5), axis=0)
    spread = np.clip(seen, low, high).std(axis=0)
    return (shape - middle) / np.sqrt(spread**2 + (STD_FLOOR * TYPICAL_STD) ** 2)
