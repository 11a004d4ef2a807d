"""The names of sample sites and plates: the papers' symbols, one vocabulary for every model and guide."""

from contextlib import AbstractContextManager
from typing import Final

import pyro
from torch import Tensor

ALPHA: Final = "alpha"
"""Mixture variable, one per frame."""
Z: Final = "z"
"""Latent variable (*, N, L)."""
S: Final = "s"
"""Power spectrum |s|^2 of clean speech (*, N, F)."""
X: Final = "x"
"""Power spectrum |x|^2 of the noisy speech (*, N, F)."""
W: Final = "W"
"""Spectra of the noise, one row a component, (K, F)."""
H: Final = "H"
"""Activations of the noise (K, N)."""
G: Final = "g"
"""Frame gain of the speech (N,)."""
FRAMES: Final = "frames"
"""Plate over frames, dimension -1."""


def frames_plate(
    power: Tensor | None, visual: Tensor | None, frames: int | None = None
) -> AbstractContextManager[object]:
    """The plate over the N frames of `power` (*, N, F), else of `visual` (*, N, D), else of `frames` = N.

    Raises:
        ValueError: the number of frames is not given, or power, visual and frames disagree on it.
    """
    sizes = {data.shape[-2] for data in (power, visual) if data is not None}
    if frames is not None:
        sizes.add(frames)
    if len(sizes) != 1:
        raise ValueError(f"power, visual and frames must agree on one number of frames, not {sorted(sizes)}")
    return pyro.plate(FRAMES, sizes.pop(), dim=-1)
