"""Where the mouth is over time, smoothed, and the images cut out there.

A network would see a box that trembles by a pixel. So the landmarks are smoothed over time:

    mouth(t) = fast[c](t) + R(t) size(t) slow[R^-1 (m - c) / size](t)

with c the mean of eyes and nose, which follows the head and not what it says; m the middle between the
corners of the mouth; size the mean of the distance of the eyes and the distance from between them to m; R the
rotation by the angle of the line through the eyes; size and R smoothed slowly. Smoothing is a running median,
then a Gaussian. Frames without the face are interpolated by straight lines first.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

SIDE = 67  # pixels along a side of an image of the lips
CROP = 1.25  # side of what is cut out, over the size of the face: closed lips are some 6/10 as wide
HEAD_SMOOTHING, SHAPE_SMOOTHING = 0.08, 0.8  # s, standard deviations of the Gaussians: fast and slow
MEDIAN_FRAMES = 5  # frames


class Path(NamedTuple):
    """The square around the mouth in every frame.

    Attributes:
        centre: x and y in pixels, (T, 2).
        side: pixels, (T,).
        angle: radians from the x axis of the frame towards its y axis, to the line through the eyes, (T,).
        yaw: distance of the nose from the middle between the eyes along that line, over the distance of the
            eyes, (T,): 0 for a face from the front; a running median.
        seen: whether the face was found, (T,).
    """

    centre: NDArray[np.float64]
    side: NDArray[np.float64]
    angle: NDArray[np.float64]
    yaw: NDArray[np.float64]
    seen: NDArray[np.bool_]


def mouth_path(landmarks: dict[int, NDArray[np.float64]], times: NDArray[np.float64], fps: float) -> Path:
    """The path of a mouth from the landmarks (5, 2) of a face, by number of frame.

    Args:
        landmarks: as in `Face`; one frame at least.
        times: s, of all frames, (T,).
        fps: frames per second, for the smoothing.
    """
    known = np.array(sorted(landmarks))
    points = np.stack([landmarks[index] for index in known])
    flat = points.reshape(len(known), -1)
    interpolated = np.stack([np.interp(times, times[known], column) for column in flat.T], -1).reshape(
        -1, 5, 2
    )
    eyes, mouth = interpolated[:, :2].mean(1), interpolated[:, 3:].mean(1)
    across = interpolated[:, 1] - interpolated[:, 0]
    between = np.linalg.norm(across, axis=-1)
    nose = ((interpolated[:, 2] - eyes) * across).sum(-1) / np.maximum(between, 1e-9) ** 2

    angle = _smooth(np.arctan2(across[:, 1], across[:, 0]), SHAPE_SMOOTHING * fps)
    size = _smooth((between + np.linalg.norm(mouth - eyes, axis=-1)) / 2, SHAPE_SMOOTHING * fps)
    head = interpolated[:, :3].mean(1)
    below = _smooth(_turned(mouth - head, -angle) / size[:, None], SHAPE_SMOOTHING * fps)
    centre = _smooth(head, HEAD_SMOOTHING * fps) + _turned(below * size[:, None], angle)
    yaw = _running_median(nose)
    return Path(centre, CROP * size, angle, yaw, np.isin(np.arange(len(times)), known))


def cut_out(
    frame: NDArray[np.uint8], centre: NDArray[np.float64], side: float, angle: float
) -> NDArray[np.uint8]:
    """The square of a grey image (H, W) around `centre` (2,), turned upright: (67, 67).

    Bicubic; a square of 101 or more pixels a side is averaged over blocks first. Outside the frame, its
    edge goes on.
    """
    reduction = max(1, round(side / SIDE))
    reach = int(side) + 2 * reduction  # more than the diagonal of the square, to either side
    left, top = (max(0, int(middle) - reach) for middle in centre)
    near = frame[top : max(top, int(centre[1])) + reach, left : max(left, int(centre[0])) + reach]
    if not near.size:
        near, left, top = frame, 0, 0
    source = torch.from_numpy(near).to(torch.float64)[None, None]
    source = functional.avg_pool2d(source, reduction, ceil_mode=True)
    steps = ((np.arange(SIDE) + 0.5) / SIDE - 0.5) * side
    grid = np.stack(np.meshgrid(steps, steps), -1)  # x and y of each pixel
    position = (centre + _turned(grid, np.full(grid.shape[:2], angle)) - (left, top)) / reduction
    normalised = torch.from_numpy(position / source.shape[:1:-1] * 2 - 1)[None]
    image = functional.grid_sample(source, normalised, "bicubic", "border", align_corners=False)
    return image[0, 0].round().clamp(0, 255).to(torch.uint8).numpy()


def fraction_inside(path: Path, index: int, shape: tuple[int, ...]) -> float:
    """Fraction of the square of a frame, seen upright, that lies in the frame of that shape (H, W)."""
    low = np.maximum(path.centre[index] - path.side[index] / 2, 0)
    high = np.minimum(path.centre[index] + path.side[index] / 2, shape[::-1])
    return float(np.maximum(high - low, 0).prod() / path.side[index] ** 2)


def _smooth(series: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Running median and Gaussian along the first dimension; the deviation is in frames."""
    from scipy.ndimage import gaussian_filter1d  # its import takes long, and sound alone does without lips

    smooth: NDArray[np.float64] = gaussian_filter1d(
        _running_median(series), deviation, axis=0, mode="nearest"
    )
    return smooth


def _running_median(series: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import median_filter

    size = (MEDIAN_FRAMES,) + (1,) * (series.ndim - 1)
    median: NDArray[np.float64] = median_filter(series, size, mode="nearest")
    return median


def _turned(vectors: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors (..., 2) turned by angles (...) from the x axis towards the y axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)
