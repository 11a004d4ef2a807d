"""The names of sample sites and plates: the papers' symbols, one vocabulary for every model and guide."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import pyro
from pyro.distributions.util import broadcast_shape
from torch import Tensor

from avse.data.errors import InputError

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
CHANNELS: Final = "channels"
"""Plate over the channels of a recording, dimension -2."""
RECORDINGS: Final = "recordings"
"""Plate over recordings, dimension -3."""


@contextmanager
def frames_plate(
    power: Tensor | None,
    visual: Tensor | None,
    frames: int | None = None,
    batch: Sequence[int] = (),
) -> Iterator[None]:
    """The plates over all frames: of N frames, and of every dimension left of N.

    N is that of `power` (*, N, F), of `visual` (*, N, D) or `frames`; the dimensions * are those of power,
    visual and `batch` together, so that lips (N, D) serve all channels of a power (C, N, F). Frames,
    channels and recordings are independent: every site inside has its own value for each, (*, N). The plates
    are "frames" at dimension -1, "channels" at -2, "recordings" at -3, and "batch_4" and so on left of those.

    Raises:
        ValueError: the number of frames is not given, or power, visual and frames disagree on it.
        InputError: the dimensions left of N disagree, or power or visual has none for the frames.
    """
    given = [data for data in (power, visual) if data is not None]
    if any(data.dim() < 2 for data in given):
        raise InputError(f"data of shape {[tuple(data.shape) for data in given]}: give (*, N, F), (*, N, D)")
    sizes = {data.shape[-2] for data in given}
    if frames is not None:
        sizes.add(frames)
    if len(sizes) != 1:
        raise ValueError(f"power, visual and frames must agree on one number of frames, not {sorted(sizes)}")
    shapes = [tuple(batch), *(tuple(data.shape[:-2]) for data in given)]
    try:
        leading = broadcast_shape(*shapes)  # torch.broadcast_shapes imports sympy, which takes seconds
    except ValueError as error:
        raise InputError(
            f"batches of shapes {' and '.join(str(shape) for shape in shapes if shape)}: power, visual and "
            "latents need the same channels and recordings, or none"
        ) from error
    with ExitStack() as plates:
        for index, size in enumerate(leading):
            dim = index - len(leading) - 1
            plates.enter_context(pyro.plate(_plate_name(dim), size, dim=dim))
        plates.enter_context(pyro.plate(FRAMES, sizes.pop(), dim=-1))
        yield


def _plate_name(dim: int) -> str:
    """Of the plate at a dimension left of the frames."""
    return {-2: CHANNELS, -3: RECORDINGS}.get(dim, f"batch_{-dim}")
