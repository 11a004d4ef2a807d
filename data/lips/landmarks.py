"""Where the lips are in their pictures: twelve landmarks from 67x67 grey, by a small network of our own.

    picture (67, 67) -> x and y of 12 landmarks, the expected error of each, and whether the lips are seen

The landmarks are those of the face mesh of MediaPipe with the numbers in `LANDMARKS`. The network learnt them
from that mesh's answers on talking faces, under strong changes of size, place, roll, shape, light, contrast,
sharpness and resolution, behind patches, and on pictures of anything else. It looks twice: the first look,
over all pictures of a clip, tells where, how large and how tilted the mouth is; the pictures are then brought
to one place, size and tilt, and looked at again. So the crop of a clip hardly matters.

Lengths are in sides of the picture, x to the right, y down, (0, 0) in its middle.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from avse.data.lips.crop import SIDE

LANDMARKS = (61, 291, 13, 14, 81, 178, 311, 402, 78, 308, 0, 17)
"""Numbers in the face mesh: outer corners; middle of the inner lips; upper and lower inner lip on the left
and on the right; inner corners; middle of the outer lips. Left, right, upper and lower as in the picture."""

CORNERS, INNER, LEFT, RIGHT, INNER_CORNERS, OUTER = (0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)
"""Where the pairs stand in `LANDMARKS`: left and right, or upper and lower."""

WIDTH = 0.6
"""Distance of the corners, in sides of the picture, that the second look brings a clip's mouth to."""

LOOKED_AT = 512
"""Pictures at a time."""


class Landmarks(NamedTuple):
    """The lips in T_v pictures.

    Attributes:
        points: x and y, in sides of the picture from its middle, float32 (T_v, 12, 2).
        error: expected absolute error of each landmark, likewise, (T_v, 12).
        seen: log odds that the picture shows lips that are not hidden, (T_v,).
    """

    points: NDArray[np.float32]
    error: NDArray[np.float32]
    seen: NDArray[np.float32]


class LandmarkNetwork(nn.Module):
    """Strided convolutions over a picture of mean 0 and deviation 1, a hidden layer, and three heads.

    Args:
        channels: of the convolutions, each of stride 2.
        squeezed: channels that the last of them is mapped to.
        hidden: size of the hidden layer.
    """

    def __init__(
        self, channels: tuple[int, ...] = (16, 32, 64, 64), squeezed: int = 32, hidden: int = 128
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, side = 1, SIDE
        for index, count in enumerate(channels):
            size = 3 if index else 5
            layers += [nn.Conv2d(before, count, size, 2, size // 2), nn.BatchNorm2d(count), nn.SiLU()]
            before, side = count, (side + 1) // 2
        self.features = nn.Sequential(*layers, nn.Conv2d(before, squeezed, 1), nn.SiLU())
        self.hidden = nn.Sequential(nn.Linear(squeezed * side**2, hidden), nn.SiLU())
        self.output = nn.Linear(hidden, 3 * len(LANDMARKS) + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Grey pictures (B, 67, 67) -> points (B, 12, 2), log error (B, 12) and log odds of lips (B,)."""
        deviation, mean = torch.std_mean(images, (1, 2), keepdim=True)
        answer = self.output(
            self.hidden(self.features(((images - mean) / (deviation + 2))[:, None]).flatten(1))
        )
        count = len(LANDMARKS)
        points = answer[:, : 2 * count].reshape(-1, count, 2)
        return points, answer[:, 2 * count : -1].clamp(-6, 1), answer[:, -1]


@torch.no_grad()
def find_landmarks(images: NDArray[np.uint8], shown: NDArray[np.bool_] | None = None) -> Landmarks:
    """The lips in the pictures of one clip.

    Args:
        images: (T_v, 67, 67), the mouth anywhere and of any size that leaves it whole.
        shown: pictures that may show the lips, (T_v,): place, size and tilt are those of these; None for all.
    """
    pictures = torch.from_numpy(np.ascontiguousarray(images)).float()
    points, _, seen = _looked(pictures)
    worth = seen > 0 if shown is None else (seen > 0) & torch.from_numpy(shown)
    size, turn, place = _pose(points[worth] if worth.any() else points)
    matrix = (
        torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])]) * size
    )
    steps = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1) @ matrix.mT + place
    aligned = torch.cat(
        [
            functional.grid_sample(
                part[:, None],
                (2 * grid).expand(len(part), SIDE, SIDE, 2),
                "bilinear",
                "border",
                align_corners=False,
            )[:, 0]
            for part in pictures.split(LOOKED_AT)
        ]
    )
    points, error, again = _looked(aligned)
    back = points @ matrix.mT + place
    return Landmarks(back.numpy(), (error.exp() * size).numpy(), torch.minimum(seen, again).numpy())


def _pose(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Size over the wanted one, roll in radians, and place (2,) of the mouth: medians over pictures."""
    across = points[:, CORNERS[1]] - points[:, CORNERS[0]]
    size = across.norm(dim=-1).median().clamp(0.1, 1.5) / WIDTH
    mean = across.median(0).values
    return (
        size,
        torch.atan2(mean[1], mean[0]).clamp(-1.0, 1.0),
        points.mean(1).median(0).values.clamp(-0.4, 0.4),
    )


def _looked(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the network makes of pictures (T_v, 67, 67)."""
    answers = [landmark_network()(part) for part in pictures.split(LOOKED_AT)]
    points, error, seen = (torch.cat(parts) for parts in zip(*answers, strict=True))
    return points, error, seen


@cache
def landmark_network() -> LandmarkNetwork:
    """The network with the weights in the package."""
    weights = load_file(Path(str(files("avse"))) / "zoo" / "weights" / "lip-landmarks" / "model.safetensors")
    with torch.random.fork_rng(devices=[]):
        network = LandmarkNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    return network.eval().requires_grad_(False)
