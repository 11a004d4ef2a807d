"""Follow the faces of a video from frame to frame, and choose the speaker's.

O-Net looks where each known face was; the whole cascade searches again twice a second, and while the
foremost face is lost. The speaker is the face that is large, central and there for long.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from avse.data.lips.face_detector import (
    ONET_THRESHOLD,
    Boxes,
    Face,
    detect_faces,
    distinct,
    overlap,
    refine_landmarks,
)

SEARCH_EVERY, SEARCH_LOST = 0.5, 0.1  # s between searches: always, and while the foremost face is lost
CENTRAL = 0.5  # of the frame's width and height: a face that far from the middle weighs 1 / e
FOLLOWED = 4  # faces at a time
NEAR = 0.2  # overlap of a face found with where a track was last, to be its continuation
RIVAL = 0.25  # of the speaker's weight, from which on another face is warned of


@dataclass
class Track:
    """One face through a video.

    Attributes:
        box: the square (3,) where it was seen last.
        landmarks: (5, 2) as in `Face`, by the number of the frame; frames without the face are missing.
        weight: what speaks for it: the sides of its squares, summed over the frames, central ones first.
    """

    box: NDArray[np.float64]
    landmarks: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    weight: float = 0.0

    def add(self, index: int, face: Face, shape: tuple[int, ...]) -> None:
        """Take the face from frame number `index`, which has that shape (H, W)."""
        self.box = face.box
        self.landmarks[index] = face.landmarks
        off = (face.box[:2] / shape[::-1] - 0.5) / CENTRAL
        self.weight += float(face.box[2] * np.exp(-(off @ off)))


class Tracker:
    """Follows all faces of the frames that it is shown, one after the other."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.shown = 0
        self._searched = -np.inf

    def show(self, frame: NDArray[np.uint8], time: float) -> None:
        """Find the known faces in the next frame, grey (H, W), at `time` in s, and perhaps new ones."""
        tracks = sorted(self.tracks, key=lambda track: -track.weight)[:FOLLOWED]
        seen = [
            (track, face)
            for track, face in zip(tracks, refine_landmarks(frame, _boxes(tracks)), strict=True)
            if face.score > ONET_THRESHOLD
        ]
        weights = np.array([track.weight for track, _ in seen])
        for i in distinct(_boxes([face for _, face in seen]), weights, 0.5):
            track, face = seen[i]
            track.add(self.shown, face, frame.shape)
        lost = not tracks or self.shown not in tracks[0].landmarks
        if time - self._searched >= (SEARCH_LOST if lost else SEARCH_EVERY):
            self._searched = time
            self._search(frame)
        self.shown += 1

    def speaker(self, name: str) -> Track | None:
        """The track with the greatest weight; warns of others that come near it, in the video `name`."""
        ranked = sorted(self.tracks, key=lambda track: -track.weight)
        if not ranked:
            return None
        rivals = sum(track.weight > RIVAL * ranked[0].weight for track in ranked[1:])
        if rivals:
            x, y = np.median([points.mean(0) for points in ranked[0].landmarks.values()], axis=0)
            warnings.warn(
                f"{name}: {rivals + 1} faces; the lips are those of the one around pixel ({x:.0f}, {y:.0f}), "
                "the larger, more central or longer seen. Crop the video to follow another",
                stacklevel=3,
            )
        return ranked[0]

    def _search(self, frame: NDArray[np.uint8]) -> None:
        for face in detect_faces(frame):
            overlaps = overlap(face.box, _boxes(self.tracks))
            near = [self.tracks[i] for i in np.argsort(-overlaps) if overlaps[i] > NEAR]
            if any(self.shown in track.landmarks for track in near):
                continue
            track = near[0] if near else Track(face.box)
            if not near:
                self.tracks.append(track)
            track.add(self.shown, face, frame.shape)


def _boxes(items: list[Track] | list[Face]) -> Boxes:
    return np.array([item.box for item in items]).reshape(-1, 3)
