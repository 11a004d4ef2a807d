"""Degraded lips: video frames that stop showing what is said, while the sound goes on.

For tests with "noisy lips", of which a third is spoilt, and for training. Damage comes in blocks of 0.3 to
1 s, each of one of `KINDS`. Only missing video frames, in which no detector finds a face, are marked invalid.
All others keep their reason, so that it is up to a model to notice; `read_lips` would itself mark some of
them, exact repetitions and heads turned far.

The shipped models were trained with `TRAINING_KINDS`. `HELD_OUT_KINDS` are for tests alone: they show what a
model makes of damage that it does not know.

Not modelled: damage that sets in gradually, two kinds at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from avse.data.errors import InputError
from avse.data.lips import Lips, Reason
from avse.data.lips.crop import SIDE

BLOCK = (0.3, 1.0)  # s, the shortest and the longest block
HEAD = 1.5  # radius of the head at the mouth, in half image sides

TRAINING_KINDS = ("occluded", "frozen", "blurred", "turned", "missing")
HELD_OUT_KINDS = ("noisy", "pixelated", "torn", "dimmed", "lost")
Images = NDArray[np.uint8]
_ROWS, _COLUMNS = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)  # half image sides


def corrupt_lips(
    lips: Lips,
    generator: np.random.Generator,
    fraction: float = 1 / 3,
    kinds: Sequence[str] = TRAINING_KINDS,
) -> tuple[Lips, NDArray[np.bool_]]:
    """Spoil blocks of video frames, placed as by `corrupted_blocks`, each by a random kind of damage.

    A block that is frozen from the very first video frame on repeats that one, which is then as it was.

    Args:
        lips: T_v images; they are left as they are.
        generator: source of the blocks, of their kinds and of the damage.
        fraction: of the video frames to spoil, in [0, 1].
        kinds: names in `KINDS`; one named twice is drawn twice as often.

    Returns:
        Lips of the same times, of the same video frames outside the blocks, and with `Reason.NO_FACE` where
        video frames are missing; and whether a video frame is in a block, (T_v,).

    Raises:
        InputError: the fraction is outside [0, 1], a kind is unknown, or there is none.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise InputError(f"kinds of damage {list(kinds)}: give one or more of {', '.join(KINDS)}")
    images, reasons = lips.images.copy(), lips.reasons.copy()
    spoilt = np.zeros(len(images), bool)
    for start, stop in _blocks(len(images), fraction, generator, lips.fps):
        kind = kinds[int(generator.integers(len(kinds)))]
        before = max(start - 1, 0)  # a frozen block repeats this video frame
        images[start:stop] = KINDS[kind](lips.images[before:stop], generator)[start - before :]
        reasons[start:stop] = Reason.NO_FACE if kind == "missing" else lips.reasons[start:stop]
        spoilt[start:stop] = True
    return replace(lips, images=images, reasons=reasons), spoilt


@dataclass(frozen=True)
class LipCorruption:
    """How the lips of training and validation utterances are spoilt, see `degrade`.

    Args:
        fraction: of the video frames of every utterance.
        copies: of every training utterance, each with damage of its own.
        kinds: names in `KINDS`.
        labelled: batches tell which frames are bad, for an objective that asks.

    Raises:
        InputError: no copy.
    """

    fraction: float = 1 / 3
    copies: int = 1
    kinds: Sequence[str] = TRAINING_KINDS
    labelled: bool = False

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise InputError(f"{self.copies} copies of every utterance: give 1 or more")

    def __call__(self, lips: Lips, generator: np.random.Generator) -> tuple[Lips, NDArray[np.bool_]]:
        """The lips spoilt, and which of the video frames are, (T_v,)."""
        return corrupt_lips(lips, generator, self.fraction, self.kinds)


def corrupted_blocks(
    count: int, fraction: float, generator: np.random.Generator, *, fps: float = 30.0
) -> NDArray[np.bool_]:
    """Whether each of `count` video frames is in a block, (count,): exactly round(fraction * count) are.

    Blocks last 0.3 to 1 s, and less only where there are too few video frames for that. They touch only where
    there are too few good video frames to part them.

    Args:
        count: of all video frames, >= 0.
        fraction: of the video frames that are in a block, in [0, 1].
        generator: source of how many blocks there are, how long and where.
        fps: video frames per second.

    Raises:
        InputError: the count is negative, the fraction outside [0, 1], or `fps` not positive and finite.
    """
    blocks = _blocks(count, fraction, generator, fps)
    mask = np.zeros(count, bool)
    for start, stop in blocks:
        mask[start:stop] = True
    return mask


def _blocks(count: int, fraction: float, generator: np.random.Generator, fps: float) -> list[tuple[int, int]]:
    """The first video frame of each block and the one after its last, in order."""
    if not (count >= 0 and 0 <= fraction <= 1 and 0 < fps < np.inf):
        given = f"a fraction of {fraction} of {count} video frames at {fps} a second"
        raise InputError(f"cannot spoil {given}; give a fraction from 0 to 1")
    bad = round(fraction * count)
    good = count - bad
    shortest, longest = (max(1, round(seconds * fps)) for seconds in BLOCK)
    fewest = -(-bad // longest)
    most = max(fewest, min(bad // shortest, good + 1))
    blocks = int(generator.integers(fewest, most + 1))
    shortest = min(shortest, bad // max(blocks, 1))
    lengths: list[int] = []
    for others in range(blocks)[::-1]:
        rest = bad - sum(lengths)
        low, high = max(shortest, rest - others * longest), min(longest, rest - others * shortest)
        lengths.append(int(generator.integers(low, high + 1)))
    lengths = generator.permutation(lengths).tolist()
    # A block goes before a good frame or after the last one: no place is used twice while there are others.
    places = np.sort(np.resize(generator.permutation(good + 1), blocks))
    ends = (places + np.cumsum(lengths, dtype=int)).tolist()
    return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _occluded(images: Images, generator: np.random.Generator) -> Images:
    """Behind one to three patches: a large one that drifts over the mouth, and small ones anywhere."""
    for size, spread in [(0.5, 0.7)] * int(generator.integers(3)) + [(1.0, 0.12)]:
        images = _patched(images, size, spread, generator)
    return images


def _patched(images: Images, size: float, spread: float, generator: np.random.Generator) -> Images:
    """Behind one textured ellipse or rectangle; lengths in half image sides."""
    uniform = generator.uniform
    waves = 2 * np.pi * (np.arange(len(images))[:, None] / uniform(40, 200, 2) + uniform(0, 1, 2))
    places = uniform(-spread, spread, 2) + 0.12 * np.sin(waves)
    right, down = places.astype(np.float32).T[:, :, None, None]
    tilt, width, height = uniform(0, np.pi), size * uniform(0.65, 0.9), size * uniform(0.5, 0.7)
    x = ((_COLUMNS - right) * np.cos(tilt) + (_ROWS - down) * np.sin(tilt)) / width
    y = ((_ROWS - down) * np.cos(tilt) - (_COLUMNS - right) * np.sin(tilt)) / height
    outward = np.maximum(np.abs(x), np.abs(y)) if generator.random() < 0.5 else np.hypot(x, y)
    inside = np.clip((1 - outward) * size * SIDE / 4 + 0.5, 0, 1)  # the edge is a pixel or two wide
    texture = ndimage.gaussian_filter(generator.standard_normal((SIDE, SIDE)), uniform(0.7, 4), mode="wrap")
    at = tuple(np.rint(z * SIDE / 3).astype(int) % SIDE for z in (y, x))
    patch = uniform(20, 235) + uniform(0, 40) * (texture / texture.std())[at]
    return _rounded(images + inside * (patch - images))


def _frozen(images: Images, generator: np.random.Generator) -> Images:
    """The first video frame again and again."""
    return np.repeat(images[:1], len(images), axis=0)


def _blurred(images: Images, generator: np.random.Generator) -> Images:
    """Blurred by a Gaussian of standard deviation 4 to 8 pixels; a mouth is some 40 wide."""
    sigma = generator.uniform(4, 8)
    return _rounded(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma), mode="nearest"))


def _turned(images: Images, generator: np.random.Generator) -> Images:
    """The head turned aside by 40 to 60 degrees, as an upright cylinder before a plain background.

    A point at r sin(b) is seen at r sin(b + a) once the head is turned by a. The middle of the mouth, b = 0,
    stays in the middle of the image.
    """
    angle = generator.choice([-1, 1]) * np.deg2rad(generator.uniform(40, 60))
    seen = _COLUMNS[0] / HEAD + np.sin(angle)
    source = HEAD * np.sin(np.arcsin(np.clip(seen, -1, 1)) - angle)
    place = np.clip((source + 1) * (SIDE - 1) / 2, 0, SIDE - 1)
    left = np.minimum(place.astype(int), SIDE - 2)
    share = (place - left).astype(np.float32)
    face = (1 - share) * images[..., left] + share * images[..., left + 1]
    return _rounded(np.where(np.abs(seen) < 1, face, generator.uniform(20, 235)))


def _missing(images: Images, generator: np.random.Generator) -> Images:
    """Black or noise."""
    if generator.random() < 0.5:
        return np.zeros_like(images)
    return generator.integers(256, size=images.shape, dtype=np.uint8)


def _noisy(images: Images, generator: np.random.Generator) -> Images:
    """Behind the noise of a camera in the dark, of standard deviation 50 to 100 grey levels."""
    return _rounded(images + generator.uniform(50, 100) * generator.standard_normal(images.shape))


def _pixelated(images: Images, generator: np.random.Generator) -> Images:
    """Squares of 12 to 20 pixels a side, each of the grey level in its middle: a mouth is some 40 wide."""
    size = int(generator.integers(12, 21))
    middle = np.minimum(np.arange(SIDE) // size * size + size // 2, SIDE - 1)
    return images[:, middle[:, None], middle]


def _torn(images: Images, generator: np.random.Generator) -> Images:
    """Bands of 3 to 8 rows, each shifted sideways by up to half the image, anew in every video frame."""
    band = np.arange(SIDE) // int(generator.integers(3, 9))
    shifts = generator.integers(-(SIDE // 2), SIDE // 2 + 1, (len(images), SIDE))[:, band]
    columns = (np.arange(SIDE) + shifts[..., None]) % SIDE
    return np.take_along_axis(images, columns, axis=2)


def _dimmed(images: Images, generator: np.random.Generator) -> Images:
    """Almost black or almost white: a contrast of 1 to 3 per cent is left."""
    level = generator.choice([5.0, 250.0])
    return _rounded(level + generator.uniform(0.01, 0.03) * (images - images.mean()))


def _lost(images: Images, generator: np.random.Generator) -> Images:
    """The tracker follows something 30 to 45 pixels from the mouth; beyond the image, its edge goes on."""
    angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(30, 45)
    across, down = np.rint(distance * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    rows, columns = (np.clip(np.arange(SIDE) + shift, 0, SIDE - 1) for shift in (down, across))
    return images[:, rows[:, None], columns]


def _rounded(grey: NDArray[np.floating]) -> Images:
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


KINDS: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "occluded": _occluded,
    "frozen": _frozen,
    "blurred": _blurred,
    "turned": _turned,
    "missing": _missing,
    "noisy": _noisy,
    "pixelated": _pixelated,
    "torn": _torn,
    "dimmed": _dimmed,
    "lost": _lost,
}
"""Damage to video frames of a block, uint8 (T, 67, 67), T >= 1, which stay as they are; returns as many."""
