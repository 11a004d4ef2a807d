"""From the lips of a video to the shape of the mouth around every frame of the sound.

The other view of the lips beside the pictures of `avse.data.lips.front_end`: what carries over from few
speakers to strangers is how lips move, not how they look. Every frame of the sound at time t is shown, at t
and a few instants around it, the normalised quantities of `avse.data.lips.geometry` and three that tell how
far to trust them; the last number of a frame is the validity, as there.
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

TRUST = ("error", "seen", "change")
"""Names of the quantities that tell how far the shapes are to be trusted: log of the landmarks' mean expected
error over the width of the mouth, + 3; log odds that the lips are seen, / 4; and 1/2 log(1 + 10^4 c), c the
mean square change from the picture before over the variance of the pictures' grey levels, - 2."""

LARGEST = 4.0
"""Of a shape, in deviations of the clip: no mouth goes further."""


@dataclass(frozen=True)
class LipShapeFrontEnd:
    """What a model sees of the shape of the mouth: settings that travel with every trained pair.

    Args:
        instants: P, how many instants a frame is shown, an odd number.
        step: between them, s.

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
        """K + 3, numbers an instant: `SHAPES`, then `TRUST`."""
        return len(SHAPES) + len(TRUST)

    @property
    def size(self) -> int:
        """D, numbers a frame: P (K + 3), and the validity."""
        return self.instants * self.quantities + 1

    def track(self, lips: Lips, frame_times: ArrayLike, offset: float = 0.0) -> LipTrack:
        """As `LipFrontEnd.track`; `LipTrack.pictures` holds the quantities, float32 (T_v, K + 3).

        Pictures in which the network sees no lips are invalid as well (`Reason.HIDDEN`).
        """
        found = find_landmarks(lips.images, lips.valid)
        lips = with_hidden(lips, found)
        described = torch.from_numpy(described_shapes(lips, found))
        kept = interpolate_gaps(replace(lips, images=np.zeros_like(lips.images)))
        index = torch.from_numpy(np.searchsorted(lips.times, kept.times))
        centre = np.asarray(frame_times, np.float64) + offset
        around = (np.arange(self.instants) - self.instants // 2) * self.step
        where = frame_index(kept, centre[:, None] + around)
        middle = where.place[:, self.instants // 2, None]
        return LipTrack(
            described[index],
            torch.from_numpy(np.where(where.valid, where.place, middle)),
            torch.from_numpy(where.valid[:, self.instants // 2].copy()),
        )

    def absent(self, frames: int) -> LipTrack:
        """The track of N `frames` for which there is no video."""
        return LipTrack(
            torch.zeros(1, self.quantities),
            torch.zeros(frames, self.instants, dtype=torch.float64),
            torch.zeros(frames, dtype=torch.bool),
        )

    def visual(self, track: LipTrack) -> Tensor:
        """The frames of a track as the models take them, float32 (N, D)."""
        before = track.place.floor()
        share = (track.place - before).float()[..., None]
        left, right = (track.pictures[end.long()] for end in (before, track.place.ceil()))
        valid = track.valid[:, None].float()
        return torch.cat([torch.lerp(left, right, share).flatten(1) * valid, valid], dim=1)


LipView = LipFrontEnd | LipShapeFrontEnd
"""How lips are shown to a model."""


def with_hidden(lips: Lips, found: Landmarks) -> Lips:
    """The lips, good pictures in which none are seen marked as `Reason.HIDDEN`.

    The log odds of `Landmarks.seen` are smoothed by a running median of three pictures.
    """
    odds = np.pad(found.seen, 1, mode="edge")
    smooth = np.median(np.stack([odds[:-2], odds[1:-1], odds[2:]]), axis=0)
    hidden = lips.valid & (smooth < 0)
    return replace(lips, reasons=np.where(hidden, np.uint8(Reason.HIDDEN), lips.reasons).astype(np.uint8))


def described_shapes(lips: Lips, found: Landmarks) -> NDArray[np.float32]:
    """The quantities of every picture, `SHAPES` and `TRUST`, float32 (T_v, K + 3)."""
    good = lips.valid
    shapes = normalised(mouth_shape(found.points, good), good).clip(-LARGEST, LARGEST)
    width = np.linalg.norm(found.points[:, CORNERS[1]] - found.points[:, CORNERS[0]], axis=-1)
    error = np.log(found.error.mean(1) / max(float(np.median(width)), 1e-3)) + 3
    images = lips.images.astype(np.float32)
    change = np.square(np.diff(images, axis=0, prepend=images[:1])).mean((1, 2))
    change[:1] = change[1:2] if len(change) > 1 else 0
    moved = np.log1p(1e4 * change / max(float(images[good].var()) if good.any() else 1.0, 1.0)) / 2 - 2
    trust = np.stack([error, found.seen.clip(-8, 8) / 4, moved], -1)
    return np.concatenate([shapes, trust], -1).astype(np.float32)


def lip_view(values: dict[str, object]) -> LipView:
    """The inverse of `dataclasses.asdict` for either view.

    Raises:
        TypeError: values of neither.
    """
    kind = LipShapeFrontEnd if "instants" in values else LipFrontEnd
    return kind(**values)  # type: ignore[arg-type]
