"""The base of every guide of clean speech: the plates and arguments of its model, and q(z | s, v)."""

import pyro
import pyro.distributions as dist
from torch import Tensor

from avse.models.parameters import StoredModule
from avse.models.sites import Z, frames_plate


class SpeechGuide(StoredModule):
    """Base of the amortised guides. A subclass writes `posterior`.

    In Pyro's parameter store its parameters are under "guide.": model and guide may use the same names.
    """

    def __init__(self) -> None:
        super().__init__("guide")

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s, v) of every frame: batch shape (*, N), event shape (L,)."""
        raise NotImplementedError(f"{type(self).__name__} must define posterior(power, visual)")

    def fit_scales(self, power: Tensor) -> None:
        """Set fixed scales and initial values from training frames |s|^2 (N, F), before training."""

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """Sample z (*, N, L) from the posterior; same signature and plates as the model."""
        with frames_plate(power, visual, frames):
            return pyro.sample(Z, self.posterior(power, visual))
