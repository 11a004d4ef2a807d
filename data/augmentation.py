"""Training frames that were not recorded: other levels, microphones, light, and lips that are not seen.

Each is drawn anew in every step, from the global generator, which training seeds by the number of the step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from avse.data.datamodule import Batch
from avse.data.lips.front_end import LipFrontEnd
from avse.data.lips.geometry import SHAPES
from avse.data.lips.shape_front_end import LipShapeFrontEnd
from avse.data.synthetic_noise import cosine_series

Augmentation = Callable[[Batch], Batch]


def _each(power: Tensor) -> tuple[int, ...]:
    """Shape of one number for each of the B first indices of power (B, .., F), to be broadcast with it."""
    return (len(power), *[1] * (power.dim() - 1))


@dataclass(frozen=True)
class LevelAugmentation:
    """Multiply every frame's power by a random gain, uniform in dB, so that loud and quiet are both modelled.

    All frames of a sequence get the same one.

    Args:
        low: smallest gain, dB.
        high: largest gain, dB.
    """

    low: float = -20.0
    high: float = 5.0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with "power" (B, F) or (B, N, F) scaled."""
        power = batch["power"]
        level = torch.empty(_each(power), device=power.device, dtype=power.dtype)
        return {**batch, "power": power * 10 ** (level.uniform_(self.low, self.high) / 10)}


@dataclass(frozen=True)
class EqualiserAugmentation:
    """Filter every frame with a random smooth response: microphones, rooms and voices that were not recorded.

    The response in dB is sum_j c_j cos(pi j f / (F - 1)), j = 1..order, with c_j ~ N(0, deviation^2).

    Args:
        deviation: of each coefficient, dB.
        order: number of cosines.
    """

    deviation: float = 2.0
    order: int = 4

    def __call__(self, batch: Batch) -> Batch:
        """The batch with "power" (B, F) or (B, N, F) filtered, all frames of a sequence alike."""
        power = batch["power"]
        coefficients = torch.randn(len(power), self.order, device=power.device, dtype=power.dtype)
        response = cosine_series(self.deviation * coefficients, power.shape[-1])
        response = response.reshape(*_each(power)[:-1], -1)
        return {**batch, "power": power * 10 ** (response / 10)}


@dataclass(frozen=True)
class LipAugmentation:
    """Move, scale, turn and light the pictures of every frame at random, and hide some, which are then bad.

    Args:
        front_end: how the lips are shown.
        hidden: share of the frames whose lips are not seen, so that the model learns its answer to that.
        shift: largest shift of either direction, as a share of the picture's side.
        zoom: largest change of the size, a share.
        turn: largest turn, radians.
        contrast: standard deviation of the logarithm of the contrast.
        brightness: standard deviation of the grey level, in units of the pictures.
    """

    front_end: LipFrontEnd
    hidden: float = 0.15
    shift: float = 0.08
    zoom: float = 0.1
    turn: float = 0.1
    contrast: float = 0.1
    brightness: float = 0.2

    def __call__(self, batch: Batch) -> Batch:
        """The batch with "visual" (B, D) changed, and "bad" (B,), if there, where lips are hidden."""
        visual = batch["visual"]
        count, side = len(visual), self.front_end.side
        pictures = visual[:, :-1].reshape(count, -1, side, side)
        pictures = torch.nn.functional.grid_sample(
            pictures, self._grid(pictures), padding_mode="border", align_corners=False
        )
        contrast, brightness = torch.randn(2, count, 1).to(visual)
        grey = pictures.flatten(1) * (self.contrast * contrast).exp() + self.brightness * brightness
        seen = visual[:, -1:] * (torch.rand(count, 1).to(visual) >= self.hidden)
        changed = {"visual": torch.cat([grey * seen, seen], dim=1)}
        if "bad" in batch:
            changed["bad"] = torch.maximum(batch["bad"], 1 - seen[:, 0])
        return {**batch, **changed}

    def _grid(self, pictures: Tensor) -> Tensor:
        """Where each pixel of each picture comes from, (B, side, side, 2)."""
        count = len(pictures)
        uniform = (2 * torch.rand(4, count) - 1).to(pictures)
        angle, size = self.turn * uniform[0], 1 + self.zoom * uniform[1]
        cosine, sine = size * angle.cos(), size * angle.sin()
        across, down = 2 * self.shift * uniform[2:]
        turn = torch.stack([cosine, -sine, across, sine, cosine, down], dim=-1).reshape(count, 2, 3)
        grid: Tensor = torch.nn.functional.affine_grid(turn, list(pictures.shape), align_corners=False)
        return grid


@dataclass(frozen=True)
class ShapeAugmentation:
    """Other mouths, other cameras: the shapes of every frame scaled, shifted, tilted over time and made
    noisy at random; some quantities left out, and some frames hidden, which are then bad.

    Args:
        front_end: how the lips are shown.
        hidden: share of the frames whose lips are not seen.
        scale: standard deviation of the logarithm of the scale, of each quantity and of all.
        shift: standard deviation of the shift of each quantity, in deviations of the clip.
        tilt: of the shift at the ends of the instants, rising linearly over time from minus that.
        noise: largest standard deviation of independent errors.
        dropped: share of the quantities that are left out of a frame.
    """

    front_end: LipShapeFrontEnd
    hidden: float = 0.1
    scale: float = 0.15
    shift: float = 0.2
    tilt: float = 0.1
    noise: float = 0.2
    dropped: float = 0.05

    def __call__(self, batch: Batch) -> Batch:
        """The batch with "visual" (B, D) changed, and "bad" (B,), if there, where lips are hidden."""
        visual = batch["visual"]
        count, instants = len(visual), self.front_end.instants
        every = visual[:, :-1].unflatten(1, (instants, self.front_end.quantities))
        shapes = every[..., : len(SHAPES)]

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape).to(visual)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape).to(visual)

        size = len(SHAPES)
        scaled = shapes * (self.scale * (normal(1, size) + normal(1, 1))).exp()
        time = torch.linspace(-1, 1, instants).to(visual)[:, None]
        moved = scaled + self.shift * normal(1, size) + self.tilt * normal(1, size) * time
        noisy = moved + self.noise * uniform(1, 1) * normal(instants, size)
        kept = noisy * (uniform(1, size) >= self.dropped)
        seen = visual[:, -1:] * (uniform(1) >= self.hidden)
        shown = torch.cat([kept, every[..., size:]], -1).flatten(1)
        changed = {"visual": torch.cat([shown * seen, seen], dim=1)}
        if "bad" in batch:
            changed["bad"] = torch.maximum(batch["bad"], 1 - seen[:, 0])
        return {**batch, **changed}


@dataclass(frozen=True)
class ColouredNoise:
    """Add complex normal noise of a random level and smooth colour to some frames: a corruption for guides.

    |s + b|^2 with b_f ~ N_c(0, v_f), where log v_f is a level below or above the frame's mean power plus a
    sum of cosines over frequency, as in `EqualiserAugmentation`.

    Args:
        share: of the frames that are corrupted.
        low, high: range of the speech-to-noise ratio of a frame, dB.
        deviation: of the coefficients of the colour, dB.
        order: number of cosines.
    """

    share: float = 2 / 3
    low: float = -10.0
    high: float = 25.0
    deviation: float = 6.0
    order: int = 3

    def __call__(self, power: Tensor) -> Tensor:
        """Power (N, F) of the noisy frames."""
        count = len(power)
        flat = {"power": torch.ones_like(power)}
        colour = EqualiserAugmentation(self.deviation, self.order)(flat)["power"]
        ratio = torch.empty(count, 1).uniform_(self.low, self.high).to(power)
        level = power.mean(-1, keepdim=True) * 10 ** (-ratio / 10)
        variance = level * colour / colour.mean(-1, keepdim=True)
        real, imaginary = torch.randn(2, *power.shape).to(power) * (variance / 2).sqrt()
        noisy = (power.sqrt() + real).square() + imaginary.square()
        return torch.where(torch.rand(count, 1).to(power) < self.share, noisy, power)


@dataclass(frozen=True)
class UniformNoise:
    """Add scale * U(0, 1) to every bin of some frames: the corruption of the papers' MIN-VAE.

    Args:
        share: of the frames that are corrupted; one third in the papers.
        scale: in units of the power spectrum; the papers' 50 is for recordings of largest absolute sample 1.
    """

    share: float = 1 / 3
    scale: float = 50.0

    def __call__(self, power: Tensor) -> Tensor:
        """Power (N, F) of the noisy frames."""
        noisy = power + self.scale * torch.rand(power.shape).to(power)
        return torch.where(torch.rand(len(power), 1).to(power) < self.share, noisy, power)
