"""Guides of other forms: plain Pyro functions, AutoGuides, and no guide at all."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.models.base import TRACE_LOCK, SpeechModel
from avse.models.programs import Program, call, distribution_of_z
from avse.models.sites import Z, frames_plate

DRAWS = 16
"""Number of draws of an AutoGuide from which mean and variance are taken."""


class GuideProgram(SpeechGuide):
    """A function that samples z in its own plates, with the arguments of the model.

    Args:
        program: (power, visual) -> anything; it samples "z".
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution of its site "z"; an alpha before it is drawn.

        Raises:
            InputError: it samples no z.
        """
        with TRACE_LOCK, _own_draws():
            return distribution_of_z(lambda: call(self.program, power=power, visual=visual), "a guide")

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Any:
        """Run the program."""
        return call(self.program, power=power, visual=visual, frames=frames)


class DrawnGuide(SpeechGuide):
    """An AutoGuide of Pyro, such as `AutoNormal`, which is fitted to one recording.

    One that has not run yet is copied for every call, so that it stays free for a recording of any length.

    Args:
        guide: of a model called with power and visual.
    """

    def __init__(self, guide: AutoGuide) -> None:
        super().__init__()
        self.guide = (guide,)  # its model has the same parameters as the pair's, which are saved there

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """The normal with mean and variances of `DRAWS` draws of the guide.

        Raises:
            InputError: no power, no z, or a guide that was fitted to a recording of another length.
        """
        if power is None:
            raise InputError("an AutoGuide needs the power spectrum of the speech")
        (guide,) = self.guide
        guide = guide if guide.prototype_trace is not None else _copied(guide)
        # A store of its own: the values are those of the guide itself, and none is left behind.
        with TRACE_LOCK, _own_draws(), torch.no_grad(), poutine.block(), pyro.get_param_store().scope():
            draws = [guide(power=power, visual=visual) for _ in range(DRAWS)]
        if Z not in draws[0]:
            raise InputError(f'this {type(guide).__name__} draws no "z"')
        z = torch.stack([draw[Z] for draw in draws])
        if z.shape[1:-1].numel() != power.shape[:-1].numel():
            raise InputError(
                f"this {type(guide).__name__} is fitted to frames {tuple(z.shape[1:-1])}, the recording has "
                f"{tuple(power.shape[:-1])}: fit one to this recording, or give a guide that reads the power"
            )
        z = z.reshape(len(z), *power.shape[:-1], -1)  # one channel may have no dimension of its own
        return dist.Normal(z.mean(0), z.std(0) + 1e-6).to_event(1)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Any:
        """Run the guide."""
        (guide,) = self.guide
        return guide(power=power, visual=visual)


class PriorGuide(SpeechGuide):
    """No guide: z is drawn from the prior p(z | v), alpha (if any) from its own.

    Args:
        model: of the pair; not a submodule, so that no weight is saved twice.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = (model,)

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """p(z | v), batch shape (*, N).

        Raises:
            InputError: neither power nor visual is given.
        """
        data = visual if power is None else power
        if data is None:
            raise InputError("give the power or the lips, which tell the number of frames")
        (model,) = self.model
        with TRACE_LOCK, _own_draws():
            return distribution_of_z(lambda: model.latent_program(visual, data.shape[:-1]), "a model")

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """As `SpeechGuide.forward`; the model has opened and closed the same plates before."""
        prior = self.posterior(power, visual)
        with frames_plate(power, visual, frames):
            return pyro.sample(Z, prior)


def speech_guide(guide: Any, model: SpeechModel) -> Any:
    """A guide in the form that the algorithms use: one with a method `posterior` is returned as it is.

    Args:
        guide: a `SpeechGuide`, an AutoGuide, a Pyro function or module that samples "z", or None.
        model: of the same pair.

    Raises:
        InputError: none of these.
    """
    if isinstance(guide, AutoGuide):
        return DrawnGuide(guide)
    if guide is None:
        return PriorGuide(model)
    if callable(getattr(guide, "posterior", None)):
        return guide
    if not callable(guide) or inspect.isclass(guide):
        raise InputError(f"guide {guide!r}: give a function, an AutoGuide or a SpeechGuide")
    return GuideProgram(guide)


def _copied(guide: AutoGuide) -> AutoGuide:
    """A copy of an AutoGuide of the same model: Pyro's own copy takes the model away from both."""
    model = guide.model
    copied = deepcopy(guide)
    guide._model = copied._model = (model,)
    return copied


@contextmanager
def _own_draws() -> Iterator[None]:
    """Inside, draws are the same every time, and the global generators are left as they were."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield
