"""Visual features for every STFT frame from the shape of the mouth, instead of video frames.

An alternative to the pixels of `avse.data.lips.front_end`: for few training speakers, the movement of the
lips generalises better to other speakers than their appearance. The features of an STFT frame at time t are,
at t and at a few instants around it, the normalised shape quantities of `avse.data.lips.geometry` and three
quantities that measure their reliability; the last feature is the validity, as in `avse.data.lips.front_end`.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avse.data.errors import InputError
from avse.data.lips.front_end import LipFrontEnd, LipTrack
from avse.data.lips.geometry import SHAPES, mouth_shape, normalised
from avse.data.lips.landmarks import CORNERS, Landmarks, find_landmarks
from avse.data.lips.lips import Lips, Reason, frame_index, interpolate_gaps

RELIABILITY = ("landmark_error", "visibility", "frame_change")
"""Names of the quantities that measure the reliability of the shapes: 3 + the logarithm of the mean expected
error of the landmarks over the width of the mouth; a quarter of the log odds that the lips are visible; and
-2 + log(1 + 10^4 c) / 2 with c the mean squared change from the previous video frame over the variance of the
grey levels of the clip."""

MAX_SHAPE = 4.0
"""Limit to which normalised shape quantities are clipped, in standard deviations of the clip."""


@dataclass(frozen=True)
class LipShapeFrontEnd:
    """Settings of the shape features; they are saved with every trained pair.

    Args:
        instants: P, the number of instants per STFT frame, odd.
        step: time between instants in s.

    Raises:
        InputError: a setting out of range.
    """

    instants: int = 15
    step: float = 0.04

    def __post_init__(self) -> None:
        if not (self.instants >= 1 and self.instants % 2 and 0 < self.step < np.inf):
            raise InputError(
                f"shapes at {self.instants} instants {self.step} s apart: an odd number, and a positive time"
            )

    @property
    def quantities(self) -> int:
        """K + 3, the number of quantities per instant: `SHAPES`, then `RELIABILITY`."""
        return len(SHAPES) + len(RELIABILITY)

    @property
    def size(self) -> int:
        """D = P (K + 3) + 1, the number of features per STFT frame."""
        return self.instants * self.quantities + 1

    def track(self, lips: Lips, frame_times: ArrayLike, offset: float = 0.0) -> LipTrack:
        """As `LipFrontEnd.track`; `LipTrack.video_frames` contains the quantities, float32 (T_v, K + 3).

        Video frames in which the landmark network finds no lips are also invalid (`Reason.HIDDEN`).
        """
        found = find_landmarks(lips.images, lips.valid)
        lips = with_hidden(lips, found)
        described = torch.from_numpy(described_shapes(lips, found))
        kept = interpolate_gaps(replace(lips, images=np.zeros_like(lips.images)))
        index = torch.from_numpy(np.searchsorted(lips.times, kept.times))
        centre = np.asarray(frame_times, np.float64) + offset
        offsets = (np.arange(self.instants) - self.instants // 2) * self.step
        where = frame_index(kept, centre[:, None] + offsets)
        middle = where.place[:, self.instants // 2, None]
        return LipTrack(
            described[index],
            torch.from_numpy(np.where(where.valid, where.place, middle)),
            torch.from_numpy(where.valid[:, self.instants // 2].copy()),
        )

    def absent(self, frames: int) -> LipTrack:
        """The track of N STFT `frames` without a video."""
        return LipTrack(
            torch.zeros(1, self.quantities),
            torch.zeros(frames, self.instants, dtype=torch.float64),
            torch.zeros(frames, dtype=torch.bool),
        )

    def visual(self, track: LipTrack) -> Tensor:
        """Visual features of a track, float32 (N, D)."""
        before = track.place.floor()
        share = (track.place - before).float()[..., None]
        left, right = (track.video_frames[end.long()] for end in (before, track.place.ceil()))
        valid = track.valid[:, None].float()
        return torch.cat([torch.lerp(left, right, share).flatten(1) * valid, valid], dim=1)


LipView = LipFrontEnd | LipShapeFrontEnd
"""Either front end for the visual input of a model."""


def with_hidden(lips: Lips, found: Landmarks) -> Lips:
    """The lips, with valid video frames in which the lips are not visible marked as `Reason.HIDDEN`.

    The log odds of `Landmarks.seen` are smoothed by a running median over three video frames.
    """
    odds = np.pad(found.seen, 1, mode="edge")
    smooth = np.median(np.stack([odds[:-2], odds[1:-1], odds[2:]]), axis=0)
    hidden = lips.valid & (smooth < 0)
    return replace(lips, reasons=np.where(hidden, np.uint8(Reason.HIDDEN), lips.reasons).astype(np.uint8))


def described_shapes(lips: Lips, found: Landmarks) -> NDArray[np.float32]:
    """`SHAPES` and `RELIABILITY` of every video frame, float32 (T_v, K + 3)."""
    valid = lips.valid
    shapes = normalised(mouth_shape(found.points, valid), valid).clip(-MAX_SHAPE, MAX_SHAPE)
    width = np.linalg.norm(found.points[:, CORNERS[1]] - found.points[:, CORNERS[0]], axis=-1)
    error = np.log(found.error.mean(1) / max(float(np.median(width)), 1e-3)) + 3
    images = lips.images.astype(np.float32)
    change = np.square(np.diff(images, axis=0, prepend=images[:1])).mean((1, 2))
    change[:1] = change[1:2] if len(change) > 1 else 0
    frame_change = (
        np.log1p(1e4 * change / max(float(images[valid].var()) if valid.any() else 1.0, 1.0)) / 2 - 2
    )
    reliability = np.stack([error, found.seen.clip(-8, 8) / 4, frame_change], -1)
    return np.concatenate([shapes, reliability], -1).astype(np.float32)


def lip_view(values: dict[str, object]) -> LipView:
    """The inverse of `dataclasses.asdict` for either front end.

    Raises:
        TypeError: the values are not those of either front end.
    """
    kind = LipFrontEnd if "side" in values else LipShapeFrontEnd
    return kind(**values)  # type: ignore[arg-type]
