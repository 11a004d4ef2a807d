"""Find faces in a grey image, with their eyes, nose and mouth corners.

Multi-task cascaded convolutional networks: Zhang, Zhang, Li and Qiao, "Joint face detection and alignment
using multitask cascaded convolutional networks", IEEE Signal Processing Letters 2016. The three networks are
implemented here in torch; their weights are files of the package `mtcnn`, which is not imported, so that
TensorFlow is not needed. Deviation: the output of the last network (O-Net) is averaged over every face and
its mirror image.

Positions are in pixels of the frame, from the top left corner of its first pixel: x to the right, y down.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avse.data.errors import InputError

Boxes = NDArray[np.float64]
"""Squares (B, 3): x and y of the centre, and the side."""

MAX_SEARCH_SIDE = 480  # px; longer frames are reduced to it for the search
MIN_FACE_SIDE = 24  # px; side of the smallest face in the reduced frame that is searched for
SCALE_STEP = 0.709  # ratio of successive levels of the pyramid: half the area
PNET_THRESHOLD, RNET_THRESHOLD, ONET_THRESHOLD = 0.6, 0.7, 0.8  # smallest scores of a face
SAME_FACE_OVERLAP = 0.5  # intersection over union above which two squares are one face
_MIRRORED = [1, 0, 2, 4, 3]  # order of the landmarks in a mirror image


class Face(NamedTuple):
    """A face in a frame.

    Attributes:
        box: the square around it, (3,): x and y of the centre, side.
        landmarks: x and y of the left eye, the right eye, the nose, the left and the right corner of the
            mouth, left and right as in the frame, (5, 2).
        score: probability that it is a face.
    """

    box: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    score: float


def detect_faces(frame: NDArray[np.uint8]) -> list[Face]:
    """All faces of a grey image (H, W), in descending order of their scores."""
    boxes = _proposals(frame)
    if len(boxes):
        boxes = _rounded(boxes)
        scores, offsets = _network("rnet")(_patches(frame, boxes, 24))
        kept = scores > RNET_THRESHOLD
        boxes = _refine(boxes[kept.numpy()], offsets[kept])
        boxes = boxes[distinct(boxes, scores[kept].numpy(), 0.7)]
    faces = [face for face in refine_landmarks(frame, boxes) if face.score > ONET_THRESHOLD]
    found = np.array([face.box for face in faces]).reshape(-1, 3)
    return [faces[i] for i in distinct(found, np.array([face.score for face in faces]), SAME_FACE_OVERLAP)]


def refine_landmarks(frame: NDArray[np.uint8], boxes: Boxes) -> list[Face]:
    """Faces found by O-Net in squares (B, 3) of a grey image (H, W): one per square, whatever its score."""
    if not len(boxes):
        return []
    boxes = _rounded(boxes)
    crops = _patches(frame, boxes, 48)
    scores, offsets, points = _network("onet")(torch.cat([crops, crops.flip(-1)]))
    straight, mirrored = points.double().numpy().reshape(2, len(boxes), 2, 5).swapaxes(-1, -2)
    mirrored = mirrored[:, _MIRRORED] * (-1, 1) + (1, 0)
    corner = boxes[:, None, :2] - boxes[:, None, 2:] / 2
    landmarks = corner + (straight + mirrored) / 2 * boxes[:, None, 2:]
    refined = _refine(boxes, offsets[: len(boxes)])
    score = scores.reshape(2, -1).mean(0).tolist()
    return [Face(*face) for face in zip(refined, landmarks, score, strict=True)]


def overlap(box: NDArray[np.float64], boxes: Boxes) -> NDArray[np.float64]:
    """Intersection over union of one square (3,) with others (B, 3): (B,)."""
    low = np.maximum(box[:2] - box[2] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    common = np.maximum(high - low, 0).prod(-1)
    return common / (box[2] ** 2 + boxes[:, 2] ** 2 - common)


def distinct(boxes: Boxes, scores: NDArray[np.floating], threshold: float) -> list[int]:
    """Non-maximum suppression: indices of squares that overlap none of a higher score by > `threshold`."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not kept or overlap(boxes[i], boxes[kept]).max() <= threshold:
            kept.append(int(i))
    return kept


def _proposals(frame: NDArray[np.uint8]) -> Boxes:
    """Squares (B, 3) that may hold a face, by P-Net on a pyramid of the frame within a grey margin."""
    reduction = -(-max(frame.shape) // MAX_SEARCH_SIDE)
    small = functional.avg_pool2d(_normalised(frame), reduction, ceil_mode=True)
    margin = min(small.shape[-2:]) // 4  # a face may fill the whole frame
    framed = functional.pad(small, (margin,) * 4)
    boxes, scores = [np.zeros((0, 3))], [np.zeros(0, np.float32)]
    scale = 12 / MIN_FACE_SIDE
    while min(framed.shape[-2:]) * scale >= 12:
        size = [round(side * scale) for side in framed.shape[-2:]]
        level = functional.interpolate(framed, size, mode="bilinear", antialias=True)
        score, offsets = (out[0] for out in _network("pnet")(level.expand(-1, 3, -1, -1)))
        columns, rows = torch.nonzero(score > PNET_THRESHOLD, as_tuple=True)
        found = score[columns, rows].numpy()
        centres = (torch.stack([columns, rows], -1).double().numpy() * 2 + 6) / scale - margin
        squares = np.column_stack([centres, np.full(len(centres), 12 / scale)]) * reduction
        kept = distinct(squares, found, 0.5)
        boxes.append(_refine(squares[kept], offsets[columns, rows][kept]))
        scores.append(found[kept])
        scale *= SCALE_STEP
    merged = np.concatenate(boxes)
    return merged[distinct(merged, np.concatenate(scores), 0.7)]


def _refine(boxes: Boxes, offsets: Tensor) -> Boxes:
    """Squares (B, 3) around boxes whose left, top, right and bottom edges move by offsets (B, 4) x side."""
    moves = offsets.double().numpy().reshape(-1, 2, 2) * boxes[:, 2:, None]
    centres = boxes[:, :2] + moves.mean(1)
    sides = boxes[:, 2] + (moves[:, 1] - moves[:, 0]).max(-1)
    return np.column_stack([centres, np.maximum(sides, 1)])


def _rounded(boxes: Boxes) -> Boxes:
    """Squares with their edges rounded to whole pixels."""
    return np.round(boxes / (1, 1, 2)) * (1, 1, 2)


def _normalised(frame: NDArray[np.uint8]) -> Tensor:
    """Grey levels (H, W) scaled to [-1, 1]: (1, 1, H, W)."""
    return (torch.from_numpy(frame)[None, None].float() - 127.5) / 128


def _patches(frame: NDArray[np.uint8], boxes: Boxes, size: int) -> Tensor:
    """Squares (B, 3) cropped from a grey image (H, W) and resized: (B, 3, size, size), 0 outside the frame.

    The edges of the squares must be whole pixels.
    """
    height, width = frame.shape
    out = torch.zeros(len(boxes), 1, size, size)
    for patch, (x, y, side) in zip(out, boxes, strict=True):
        left, top = int(x - side / 2), int(y - side / 2)
        right, bottom = left + int(side), top + int(side)
        inside = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if inside.size:
            edges = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
            whole = functional.pad(_normalised(inside), edges)
            patch[:] = functional.interpolate(whole, [size, size], mode="bilinear", antialias=True)[0]
    return out.expand(-1, 3, -1, -1)


class _Network:
    """P-Net, R-Net or O-Net: convolutions with PReLU and pooling, a hidden layer in the last two, heads.

    P-Net is applied to a whole frame: its outputs have dimensions (1, columns, rows) instead of (B,).
    """

    def __init__(self, weights: list[NDArray[np.float32]], pools: tuple[int, ...], heads: int) -> None:
        tensors = [torch.from_numpy(array) for array in weights]
        body, outputs = tensors[: -2 * heads], tensors[-2 * heads :]
        self.convolutions = [
            (body[3 * i].permute(3, 2, 0, 1).contiguous(), body[3 * i + 1], body[3 * i + 2].flatten(), pool)
            for i, pool in enumerate(pools)
        ]
        self.hidden = body[3 * len(pools) :]
        self.heads = [(outputs[2 * i].flatten(0, -2), outputs[2 * i + 1]) for i in range(heads)]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> scores (B,), offsets of the box (B, 4), and landmarks (B, 10) of O-Net."""
        for kernel, bias, slope, pool in self.convolutions:
            x = functional.prelu(functional.conv2d(x, kernel, bias), slope)
            if pool:
                x = functional.max_pool2d(x, pool, 2, ceil_mode=True)
        x = x.permute(0, 3, 2, 1)
        if self.hidden:
            matrix, bias, slope = self.hidden
            x = functional.prelu(x.flatten(1) @ matrix + bias, slope)
        *others, classes = (x @ matrix + bias for matrix, bias in self.heads)
        return [classes.softmax(-1)[..., 1], *others]


_POOLS = {"pnet": (2, 0, 0), "rnet": (3, 3, 0), "onet": (3, 3, 2, 0)}


@cache
def _network(name: str) -> _Network:
    """The network with the weights of the package `mtcnn`.

    Raises:
        InputError: the package is not installed.
    """
    package = find_spec("mtcnn")
    if package is None or package.origin is None:
        raise InputError("lips cannot be found in a video without the package mtcnn; pip install mtcnn")
    import joblib  # it takes long, and sound alone does without faces

    weights = joblib.load(Path(package.origin).parent / "assets" / "weights" / f"{name}.lz4")
    return _Network(weights, _POOLS[name], 3 if name == "onet" else 2)
