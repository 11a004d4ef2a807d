"""How the frames of a model are coupled: what a sampler may take for independent.

    INDEPENDENT   p(x, z) = prod_n p(x_n | z_n) p(z_n)
    MARKOV        p(x, z) = prod_n p(x_n | z_n) p(z_n | z_{n-1})
    SEQUENCE      anything else, such as a decoder that reads the z of many frames

Everything is given the lips. A model states its coupling, an inference method states those that it can serve,
and `check_serves` compares them before anything runs. In all three the log joint is a sum of terms, one a
frame; only where the frames are independent is a term the log density of its own frame.
"""

from enum import Enum
from typing import Any, Final

from avse.data.errors import InputError


class Coupling(Enum):
    """Of the frames of a model; the value is the word for it in messages."""

    INDEPENDENT = "independent"
    MARKOV = "coupled to their neighbours"
    SEQUENCE = "coupled over the whole recording"


INDEPENDENT_FRAMES: Final = frozenset({Coupling.INDEPENDENT})
"""What a method serves that says nothing else."""
NEIGHBOURS: Final = frozenset({Coupling.INDEPENDENT, Coupling.MARKOV})
EVERY_COUPLING: Final = frozenset(Coupling)


def coupling_of(model: Any) -> Coupling:
    """The coupling that a model, or a function made of one, states; independent if it states none."""
    stated: Coupling = getattr(model, "coupling", Coupling.INDEPENDENT)
    return stated


def check_serves(method: Any, model: Any) -> None:
    """Compare what a method serves, its attribute `couplings`, with the coupling of a model.

    Args:
        method: kernel, E-step or algorithm; one without the attribute serves independent frames.
        model: a model or a log joint.

    Raises:
        InputError: the method is not valid for the model.
    """
    if coupling_of(model) not in getattr(method, "couplings", INDEPENDENT_FRAMES):
        raise InputError(
            f"the frames of this model are {coupling_of(model).value}, for which {type(method).__name__} is "
            'not valid: use algorithm "mcem" or "amortised", or a kernel of avse.inference.mcmc.coupled'
        )
