"""Plain Pyro functions as speech models.

def model(visual=None):                             # of the latents: z of one frame, returns log sigma(z)
    return decoder(pyro.sample("z", dist.Laplace(torch.zeros(32), 1.0).to_event(1)))

def model(power=None, visual=None):                 # of the whole, with plates and spectrum of its own
    with pyro.plate("frames", power.shape[-2], dim=-1):
        z = pyro.sample("z", dist.Laplace(torch.zeros(32), 1.0).to_event(1))
        pyro.sample("s", PowerSpectrum(decoder(z)).to_event(1), obs=power)

A function that couples the frames says so in an attribute, `model.coupling = Coupling.MARKOV`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from avse.data.errors import InputError
from avse.models.base import SpeechModel
from avse.models.coupling import Coupling, coupling_of
from avse.models.distributions import PowerSpectrum
from avse.models.sites import S, Z

Program = Callable[..., Any]
"""A Pyro function or module."""


class LatentFunction(SpeechModel):
    """A function that samples z (and alpha) of a frame and returns the log variance of the speech.

    Args:
        function: () or (visual) -> log variance (*, N, F).
    """

    def __init__(self, function: Program) -> None:
        super().__init__()
        self.function = function

    @property
    def coupling(self) -> Coupling:
        """The attribute `coupling` of the function, independent if it has none."""
        return coupling_of(self.function)

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """As `SpeechModel.latent`."""
        log_variance: Tensor = call(self.function, visual=visual)
        return log_variance


class SpeechProgram(SpeechModel):
    """A function that samples z (and alpha) and the power spectrum of the speech, "s", in its own plates.

    Args:
        program: (power) or (power, visual) -> anything; "s" is a `PowerSpectrum` or an exponential.
        bins: F.
    """

    def __init__(self, program: Program, bins: int) -> None:
        super().__init__()
        self.program, self.bins = program, bins

    @property
    def coupling(self) -> Coupling:
        """The attribute `coupling` of the program, independent if it has none."""
        return coupling_of(self.program)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Any:
        """Run the program. `frames` is for programs that take it."""
        return call(self.program, power=power, visual=visual, frames=frames)

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """Not possible: the program opens its plates itself.

        Raises:
            InputError: always.
        """
        raise InputError(
            "a function of power has plates of its own and cannot run inside those of noisy speech: write it "
            'as a function of visual that samples "z" and returns the log variance'
        )

    def latent_program(self, visual: Tensor | None, frames: Sequence[int]) -> Tensor:
        """Log variance of s, (*, N, F), at a trace of the program from which "s" is left out.

        Raises:
            InputError: the program samples no "s", or one of another distribution.
        """
        device = next((parameter.device for parameter in self.parameters()), None)
        silence = torch.zeros(*frames, self.bins, device=device if visual is None else visual.device)
        with _SpeechSite() as site:
            call(self.program, power=silence, visual=visual)
        if site.found is None:
            raise InputError('this model samples no power spectrum "s" of the speech')
        return _log_variance(site.found)


class _SpeechSite(Messenger):
    """Records the distribution of "s" and hides the site."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dist.TorchDistribution | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == S:
            self.found, msg["stop"] = msg["fn"], True


def _log_variance(distribution: Any) -> Tensor:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    if isinstance(distribution, PowerSpectrum):
        return distribution.log_variance
    if isinstance(distribution, torch.distributions.Exponential):
        return -distribution.rate.log()
    raise InputError(
        f'"s" is a {type(distribution).__name__}: the power of a complex normal is a PowerSpectrum '
        "(avse.models.distributions) or an Exponential"
    )


def call(program: Program, **data: Any) -> Any:
    """Call a program with those of the arguments that it takes by name."""
    takes = inspect.signature(program.forward if isinstance(program, torch.nn.Module) else program).parameters
    every = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    return program(**{name: value for name, value in data.items() if name in takes or every})


def takes_power(program: Program) -> bool:
    """Whether a program is one of the whole speech, and not of its latents alone."""
    forward = program.forward if isinstance(program, torch.nn.Module) else program
    return "power" in inspect.signature(forward).parameters


class _Found(Exception):
    """Stops a program at site z."""


class _CaptureZ(Messenger):
    """Records the distribution of site z, and stops the program before it is sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dist.TorchDistribution | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == Z:
            self.found = msg["fn"]
            raise _Found


def distribution_of_z(program: Callable[[], object], what: str) -> dist.TorchDistribution:
    """The distribution of site z in a program, which is stopped there; z is not drawn.

    Args:
        program: run once.
        what: it is, for the error.

    Raises:
        InputError: it samples no z.
    """
    capture = _CaptureZ()
    try:
        with poutine.block(), capture:
            program()
    except _Found:
        pass
    if capture.found is None:
        raise InputError(f'{what} samples "z", the latent vector of a frame; this one does not')
    return capture.found
