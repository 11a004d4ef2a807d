"""Draw video frames of a talking mouth: grey 67 x 67 images, like those that lip trackers crop.

Every part (lips, opening, teeth, chin) is a curve y(x) or a smooth spot on the plane of the face, and a pixel
takes the grey level of a part in proportion to its depth inside. All video frames of a block are computed
together.

Coordinates are in half images: x to the right, y down, (0, 0) between the lips of a centred upright face, so
that the image spans -1 to 1. The skin below the lips moves down with the jaw as the mouth opens.

Not modelled: turning of the head, cast shadows, changes of exposure and focus.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SIZE = 67
"""Height and width of the video frames in pixels."""

_BLOCK = 32  # video frames computed together; their arrays fit into the CPU cache
_HALF = (SIZE - 1) / 2  # pixels per unit of length
_TEXTURE = 256  # side of the texture, which spans twice the image

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Face:
    """Appearance of a mouth region and properties of the camera.

    Grey levels are on a scale from 0 to 255, lengths in half images, angles in radians.

    Attributes:
        skin, lips, teeth, cavity: grey levels in uniform light.
        mouth: half the width of the resting mouth.
        opening: largest distance between the lips.
        upper_lip, lower_lip: their thickness in the middle, at rest.
        bow: depth of the notch of the upper lip, as a part of its thickness.
        chin: distance from the mouth to the edge of the chin.
        nose: distance from the mouth to the nostrils.
        folds: strength of the folds from the nose to the corners, 0 to 1.
        stubble: density of the beard, 0 to 1.
        texture: seed of the pattern of skin and stubble.
        centre: x and y of the middle of the mouth in the image.
        tilt: clockwise tilt of the head.
        light: direction of the light source, 0 from the right, pi/2 from below.
        contrast: contrast of the light across the face, 0 for uniform light.
        gloss: gloss of the lips, 0 to 1.
        motion: standard deviation of the slow motion of the head.
        blur: standard deviation of the blur of the lens in pixels.
        noise: standard deviation of the camera noise in grey levels.
    """

    skin: float
    lips: float
    teeth: float
    cavity: float
    mouth: float
    opening: float
    upper_lip: float
    lower_lip: float
    bow: float
    chin: float
    nose: float
    folds: float
    stubble: float
    texture: int
    centre: tuple[float, float]
    tilt: float
    light: float
    contrast: float
    gloss: float
    motion: float
    blur: float
    noise: float


def random_face(generator: np.random.Generator) -> Face:
    """A random face; its attributes are independent, except that the grey of the lips depends on the skin."""
    uniform = generator.uniform
    skin = uniform(95, 205)
    return Face(
        skin=skin,
        lips=skin * uniform(0.55, 0.78),
        teeth=uniform(185, 240),
        cavity=uniform(10, 30),
        mouth=uniform(0.52, 0.68),
        opening=uniform(0.5, 0.75),
        upper_lip=uniform(0.13, 0.24),
        lower_lip=uniform(0.18, 0.3),
        bow=uniform(0.1, 0.4),
        chin=uniform(0.85, 1.15),
        nose=uniform(0.75, 0.95),
        folds=uniform(0, 1),
        stubble=max(0.0, uniform(-1, 1)),
        texture=int(generator.integers(2**31)),
        centre=(uniform(-0.08, 0.08), uniform(-0.12, 0.04)),
        tilt=uniform(-0.12, 0.12),
        light=uniform(-np.pi, 0),
        contrast=uniform(0.05, 0.3),
        gloss=uniform(0.1, 0.8),
        motion=uniform(0.005, 0.02),
        blur=uniform(0.5, 0.9),
        noise=uniform(1, 4),
    )


def draw_mouth(
    face: Face, articulation: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Video frames (T, 67, 67) for aperture, width, protrusion and teeth, each in [0, 1], (T, 4).

    The generator draws the motion of the head, with periods of 40 to 200 video frames, and the camera noise.
    """
    count = len(articulation)
    frames = np.empty((count, SIZE, SIZE), dtype=np.uint8)
    pose = _head_motion(face, count, generator)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        grey = _render(face, articulation[block].astype(np.float32), pose[block])
        grey = ndimage.gaussian_filter(grey, (0, face.blur, face.blur), mode="nearest", truncate=3)
        grey += np.float32(face.noise) * generator.standard_normal(grey.shape, dtype=np.float32)
        frames[block] = np.clip(np.rint(grey), 0, 255)
    return frames


def _head_motion(face: Face, count: int, generator: np.random.Generator) -> Array:
    """Shift right, shift down and clockwise rotation of each video frame, (T, 3): three slow sines each."""
    periods = generator.uniform(40, 200, (3, 3, 1))
    phases = generator.uniform(0, 2 * np.pi, (3, 3, 1))
    waves = np.sin(2 * np.pi * np.arange(count) / periods + phases).sum(0) * np.sqrt(2 / 3)
    rest = np.array([*face.centre, face.tilt])
    return (rest + face.motion * waves.T).astype(np.float32)


def _render(face: Face, articulation: Array, pose: Array) -> Array:
    """Greys (T, 67, 67), without blur and noise."""
    right, down, tilt = pose.T[:, :, None, None]
    rows, columns = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)
    x = (columns - right) * np.cos(tilt) + (rows - down) * np.sin(tilt)
    y = (rows - down) * np.cos(tilt) - (columns - right) * np.sin(tilt)

    aperture, width, protrusion, teeth = articulation.T[:, :, None, None]
    half = face.mouth * (0.92 + 0.2 * width - 0.32 * protrusion)
    gap = face.opening * aperture
    u2 = (x / half) ** 2
    arch = np.maximum(1 - u2, 0)  # 1 in the middle, 0 at the corners
    # Heights of the seam of the closed lips, of the edges of the opening and of the outlines.
    seam = 0.012 * arch * np.cos(9 * x) + 0.05 * (width - 0.4) * (1 - np.minimum(u2, 1.5))
    hole = np.maximum(1 - u2 / 0.85, 0) ** (0.8 - 0.3 * protrusion - 0.15 * aperture)
    top, bottom = seam - 0.3 * gap * hole, seam + 0.7 * gap * hole
    fullness = 0.8 + 0.2 * np.minimum(aperture / 0.04, 1) + 0.25 * protrusion - 0.15 * width
    notch = 1 - face.bow * np.exp(-((x / 0.09) ** 2))
    above = top - face.upper_lip * fullness * arch**0.8 * notch
    below = bottom + face.lower_lip * fullness * arch**0.5 * (1 - 0.1 * aperture)

    grey = _skin(face, x, y, above, below, half, gap)
    grey = _over(grey, _lips(face, y, arch, top, bottom, above, below), _inside(y, above, below))
    grey = _over(grey, _cavity(face, x, y, top, bottom, half, gap, teeth), _inside(y, top, bottom))
    touching = (u2 < 1) * np.exp(-(bottom - top) / 0.04)
    grey *= 1 - 0.55 * touching * _ridge(y, (top + bottom) / 2, 0.035)
    grey *= 1 - 0.35 * _ridge(np.abs(x), 0.97 * half, 0.07) * _ridge(y, seam, 0.05)
    return grey * (1 + face.contrast * (math.cos(face.light) * x + math.sin(face.light) * y))


def _skin(face: Face, x: Array, y: Array, above: Array, below: Array, half: Array, gap: Array) -> Array:
    """Cheeks, nose, chin, what is under it, and beard; half and gap are (T, 1, 1)."""
    skinward = y - 0.6 * gap * _step((y + 0.1) / 0.5)  # the place on the skin: it hangs on the jaw
    fine, coarse = _texture(face.texture)
    at = tuple(np.clip(((z + 2) * (_TEXTURE / 4)).astype(np.intp), 0, _TEXTURE - 1) for z in (skinward, x))
    grey = face.skin * (1 - 0.12 * x**2) + 5 * coarse[at] + 2 * fine[at]
    # The groove under the nose, the fold under the lower lip, the chin's height, the nostrils.
    over = (y < 0) * _step(-y / 0.2)
    grey *= 1 + 0.06 * over * (_ridge(np.abs(x), 0.1, 0.05) - 1.2 * _ridge(x, 0, 0.06))
    grey *= 1 - 0.28 * _ridge(y, below + 0.06, 0.1) * _ridge(x, 0, 0.35)
    grey *= 1 + 0.1 * _ridge(skinward, 0.68, 0.2) * _ridge(x, 0, 0.35)
    grey *= 1 - 0.6 * _ridge(y, -face.nose, 0.08) * _ridge(np.abs(x), 0.17, 0.1)
    grey *= 1 - 0.25 * _ridge(y, -face.nose + 0.08, 0.08) * _ridge(x, 0, 0.3)
    # A line runs from each wing of the nose round the corner of the mouth; a wide mouth deepens it.
    line = 0.38 + 0.3 * _step((y + face.nose) / 1.1) + 0.35 * (half - face.mouth)
    grey *= 1 - 0.16 * face.folds * _ridge(np.abs(x), line, 0.09) * (y < 0.25) * _step((0.35 - y) / 0.3)
    beard = face.stubble * np.maximum(_step((skinward - 0.1) / 0.3), _step((y + 0.75) / 0.2) * over)
    grey *= 1 - beard * (0.22 + 0.12 * fine[at])
    chin = face.chin - 0.3 * x**2
    return grey * (1 - 0.5 * _step((skinward - chin) / 0.12))


def _lips(face: Face, y: Array, arch: Array, top: Array, bottom: Array, above: Array, below: Array) -> Array:
    """The upper lip faces down and is darker; the lower one shines."""
    middle = (top + bottom) / 2
    part = np.clip((y - bottom) / np.maximum(below - bottom, 0.02), 0, 1)  # 0 at the opening, 1 at the skin
    lower = 1.08 - 0.25 * part**2 + 0.5 * face.gloss * arch * _ridge(part, 0.4, 0.25)
    part = np.clip((top - y) / np.maximum(top - above, 0.02), 0, 1)
    upper = 0.8 + 0.22 * part
    return face.lips * np.where(y < middle, upper, lower)


def _cavity(
    face: Face, x: Array, y: Array, top: Array, bottom: Array, half: Array, gap: Array, teeth: Array
) -> Array:
    """Between the lips: the dark, the tongue on the floor, the upper teeth, and an edge of the lower ones."""
    floor = 0.7 * gap
    tongue = (1 - 0.6 * teeth) * _ridge(y, floor - 0.04, 0.16) * _ridge(x, 0, 0.6 * half)
    grey: Array = face.cavity + tongue * max(0.85 * face.lips - face.cavity, 0.0)
    shade = (0.4 + 0.5 * teeth) * np.maximum(1 - 0.8 * (x / half) ** 2, 0)
    enamel = face.teeth * shade * (1 - 0.2 * _ridge((x / 0.15) % 1, 0.5, 0.12))
    edge = top + 0.2 * teeth * np.maximum(1 - 0.5 * (x / half) ** 2, 0)
    grey = _over(grey, enamel * (0.75 + 0.25 * _step((y - top) / 0.08)), _inside(y, top, edge))
    rim = bottom - 0.12 * np.maximum(teeth - 0.6, 0)
    return _over(grey, 0.8 * enamel, _inside(y, rim, bottom))


@lru_cache(maxsize=64)
def _texture(seed: int) -> tuple[Array, Array]:
    """Fine and coarse patterns (256, 256) of mean 0 and standard deviation 1."""
    noise = np.random.default_rng(seed).standard_normal((2, _TEXTURE, _TEXTURE), dtype=np.float32)
    fine, coarse = (ndimage.gaussian_filter(n, s, mode="wrap") for n, s in zip(noise, (1.5, 12), strict=True))
    return fine / fine.std(), coarse / coarse.std()


def _inside(y: Array, upper: Array, lower: Array) -> Array:
    """How much of a pixel lies between two heights: half at an edge, at most their distance."""
    depth = np.minimum(np.minimum(y - upper, lower - y) * _HALF + 0.5, (lower - upper) * _HALF)
    return np.clip(depth, 0, 1)


def _over(grey: Array, part: Array, coverage: Array) -> Array:
    return grey + coverage * (part - grey)


def _ridge(z: Array, centre: Array | float, width: Array | float) -> Array:
    return np.exp(-(((z - centre) / width) ** 2))


def _step(z: Array) -> Array:
    """0 below 0, 1 above 1, and smooth between."""
    z = np.clip(z, 0, 1)
    return z * z * (3 - 2 * z)
