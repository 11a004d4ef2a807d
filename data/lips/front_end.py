"""From the lips of a video to what the models see of them, the same way for training and enhancement.

A frame of the sound at time t is shown the mouth at t and a few instants around it: how lips move tells more
than how they stand. The last number of a frame says whether the lips are seen at all; where they are not,
the rest is zero, and the model needs an answer for that (`avse.models.networks.lips.LipTrunk` has one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.data.lips.crop import SIDE
from avse.data.lips.lips import frame_index, interpolate_gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIDDLE, SPREAD = 128.0, 40.0
"""Grey level and deviation that the mouths of a normalised clip are brought to."""


class LipTrack(NamedTuple):
    """Frames of sound and the video frames that they are shown.

    Attributes:
        video_frames: of one or many clips, uint8 (T_v, side, side); or features of them, (T_v, K).
        place: where among the video frames the P instants of each frame fall, (N, P).
        valid: whether the lips are seen in a frame, (N,).
    """

    video_frames: Tensor
    place: Tensor
    valid: Tensor

    def frames(self, part: slice | Tensor | list[int]) -> "LipTrack":
        """Some of the frames, shown the same video frames."""
        return LipTrack(self.video_frames, self.place[part], self.valid[part])

    def __repr__(self) -> str:
        """Sizes and validity in one line."""
        count, *size = self.video_frames.shape
        what = f"{size[0]} x {size[1]} pixels" if len(size) == 2 else f"{size[0]} features"
        seen = float(self.valid.double().mean()) if len(self.valid) else 0.0
        return f"LipTrack({len(self.valid)} frames, {count} video frames of {what}, lips seen in {seen:.0%})"

    def plot_strip(
        self, axes: "Axes | None" = None, *, duration: float | None = None, count: int = 16
    ) -> "Axes":
        """Draw the lips as a model receives them, red where none are seen; returns the axes.

        Of a track of features, as `avse.data.lips.shape_front_end` has them, their curves.

        Args:
            axes: to draw on; by default new ones.
            duration: of the frames, s; by default the axis numbers the frames.
            count: the most video frames; fewer in narrow axes.
        """
        from avse.data.drawing import axes_or_new
        from avse.data.lips.drawing import draw_strip

        axes = axes_or_new(axes, (10.0, 1.2))
        draw_strip(axes, self, len(self.valid) if duration is None else duration, count)
        if duration is None:
            axes.set_xlabel("frame")
        return axes

    def plot_geometry(self, axes: "Axes | None" = None, *, duration: float | None = None) -> "Axes":
        """Draw the shape of the mouth over time that a track of features holds; returns the axes.

        Raises:
            InputError: a track of pixels; `Lips.plot_geometry` finds the shape in them.
        """
        if self.video_frames.dim() != 2:
            raise InputError("this track holds pixels and no shapes: use plot_geometry of the Lips")
        return self.plot_strip(axes, duration=duration)

    def _repr_html_(self) -> str:
        """For a notebook: the strip, and its sizes."""
        from matplotlib.figure import Figure

        from avse.data.notebook import picture, section

        figure = Figure(figsize=(10, 1.5), layout="constrained")
        self.plot_strip(figure.add_subplot())
        return section(repr(self), picture(figure, f"Lips over the frames of the sound: {self!r}."))

    @classmethod
    def joined(cls, tracks: Sequence["LipTrack"]) -> "LipTrack":
        """Several clips, one after the other."""
        starts = np.cumsum([0, *(len(track.video_frames) for track in tracks)])
        return cls(
            torch.cat([track.video_frames for track in tracks]),
            torch.cat([track.place + start for track, start in zip(tracks, starts, strict=False)]),
            torch.cat([track.valid for track in tracks]),
        )


@dataclass(frozen=True)
class LipFrontEnd:
    """What a model sees of the lips: settings that travel with every trained pair.

    Args:
        side: of the video frames, pixels.
        instants: P, the number of instants of the video per STFT frame, odd.
        step: time between instants in s.
        normalised: bring every clip to one mean and spread of grey levels, for light and skin differ;
            otherwise grey levels from 0 to 1, as in the papers.

    Raises:
        InputError: a setting out of range.
    """

    side: int = 24
    instants: int = 15
    step: float = 0.04
    normalised: bool = True

    def __post_init__(self) -> None:
        in_range = 1 <= self.side <= SIDE and self.instants >= 1 and 0 < self.step < np.inf
        if not in_range or self.instants % 2 == 0:
            raise InputError(
                f"lips of side {self.side}, {self.instants} instants {self.step} s apart: "
                f"the side is 1 to {SIDE}, the instants an odd number, the step positive"
            )

    @property
    def size(self) -> int:
        """D, numbers a frame: P side^2 grey levels and the validity."""
        return self.instants * self.side**2 + 1

    def track(self, lips: Lips, frame_times: ArrayLike, offset: float = 0.0) -> LipTrack:
        """The lips for the frames at `frame_times` (N,), s on the clock of the sound.

        An instant before or after the frame at which the lips are not seen is shown what its centre is.

        Args:
            lips: of the whole recording.
            frame_times: s, (N,).
            offset: s by which the video frames come late: what is heard at t is seen at t + offset.
        """
        lips = interpolate_gaps(lips)
        centre = np.asarray(frame_times, np.float64) + offset
        around = (np.arange(self.instants) - self.instants // 2) * self.step
        found = frame_index(lips, centre[:, None] + around)
        middle = found.place[:, self.instants // 2, None]
        return LipTrack(
            self._small(lips),
            torch.from_numpy(np.where(found.valid, found.place, middle)),
            torch.from_numpy(found.valid[:, self.instants // 2].copy()),
        )

    def absent(self, frames: int) -> LipTrack:
        """The track of N `frames` for which there is no video."""
        return LipTrack(
            torch.full((1, self.side, self.side), int(MIDDLE), dtype=torch.uint8),
            torch.zeros(frames, self.instants, dtype=torch.float64),
            torch.zeros(frames, dtype=torch.bool),
        )

    def visual(self, track: LipTrack) -> Tensor:
        """The frames of a track as the models take them, float32 (N, D)."""
        before = track.place.floor()
        share = (track.place - before).float()[..., None, None]
        left, right = (track.video_frames[end.long()].float() for end in (before, track.place.ceil()))
        grey = torch.lerp(left, right, share).flatten(1)
        grey = (grey - MIDDLE) / SPREAD if self.normalised else grey / 255
        valid = track.valid[:, None].float()
        return torch.cat([grey * valid, valid], dim=1)

    def _small(self, lips: Lips) -> Tensor:
        """The video frames at the wanted size and, if wanted, grey level: uint8 (T_v, side, side)."""
        images = torch.from_numpy(lips.images).float()
        if self.side != SIDE:
            images = torch.nn.functional.adaptive_avg_pool2d(images, self.side)
        if self.normalised:
            shown = images[torch.from_numpy(lips.valid)]
            mean, spread = (shown.mean(), shown.std().clamp_min(1.0)) if len(shown) else (MIDDLE, 1.0)
            images = (images - mean) / spread * SPREAD + MIDDLE
        return images.round().clamp(0, 255).to(torch.uint8)
