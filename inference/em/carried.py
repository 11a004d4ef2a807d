"""Inference block by block: the noise model of a window starts where that of the window before ended.

A window holds frames of the past, which the window before had, too, then those of the block, and some frames
after them. H starts at the last H in frames that both windows have, and at its mean over the last of those in
new frames. W starts at

    (1 - NEW) W + NEW P,    P_fk = mean of |x|^2_nf over the new frames n, scaled to sum 1 over f,

since a spectrum that has become 0 in some bin stays so under multiplicative updates. Fitted on, the noise has
no seams, and a noise that changes is followed.
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from avse.inference.em.amortised import AmortisedEM
from avse.models.nmf import NMFNoise, smallest_variance

RECENT = 16
"""Frames whose mean activations new frames start from."""
NEW = 0.05
"""Share of the new frames in the spectra that a window starts from."""


@dataclass(frozen=True)
class CarriedNoise:
    """The noise of the window before as the initial noise model.

    Args:
        noise: of the M frames that both windows have, M >= 1, at the level of the new one.
    """

    noise: NMFNoise

    def __call__(self, power: Tensor, generator: Generator) -> NMFNoise:
        """A noise model for |x|^2 = `power` (*, N, F), N >= M."""
        H, W = self.noise.H, self.noise.W
        new = power.shape[-2] - H.shape[-1]
        floor = smallest_variance(power)
        if new:
            recent = H[..., -RECENT:].mean(-1, keepdim=True)
            H = torch.cat([H, recent.expand(*H.shape[:-1], new)], -1)
            mean = torch.maximum(power[..., -new:, :].mean(-2), floor[..., 0])
            W = torch.lerp(W, (mean / mean.sum(-1, keepdim=True)).unsqueeze(-1), NEW)
        return replace(self.noise, W=W, H=H, frame_gain=torch.ones_like(power[..., 0]), floor=floor)


def later_frames(noise: NMFNoise, begin: int, power_ratio: float) -> NMFNoise:
    """The noise of the frames from `begin` on, its power multiplied by a ratio."""
    return replace(noise, H=noise.H[..., begin:] * power_ratio, frame_gain=noise.frame_gain[..., begin:])


def continued(algorithm: AmortisedEM, noise: NMFNoise, iterations: int) -> AmortisedEM:
    """The algorithm with the noise of the frames before as initial values, and at most so many iterations."""
    fewer = min(iterations, algorithm.iterations)
    return replace(algorithm, noise_init=CarriedNoise(noise), iterations=fewer)
