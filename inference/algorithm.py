"""The interface of test-time inference: a function from a noisy recording to a `Posterior`."""

from collections.abc import Callable
from typing import Protocol

from torch import Generator, Tensor

from avse.guides.base import SpeechGuide
from avse.inference.posterior import Posterior
from avse.models.base import SpeechModel

Progress = Callable[[float], None]
"""Callback that receives the fraction of the work that is done, in [0, 1]."""


class Algorithm(Protocol):
    """Posterior inference in a recording, for any speech model.

    An algorithm whose draws cannot be read as Markov chains on p(z | x) says so by class attributes, which
    `avse.posterior_run` asks for: `draws_are_chains = False` where they are of a guide, of a variational
    factor or of components that are mixed afterwards; `weights_lips = True` where they are mixed with a
    weight of the lips, for a mixture and a recording with lips.
    """

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and the lips `visual` (*, N, D)."""
        ...
