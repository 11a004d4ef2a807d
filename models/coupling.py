"""How the frames of a model are coupled: what a sampler may take for independent.

    INDEPENDENT   p(x, z) = prod_n p(x_n | z_n) p(z_n)
    MARKOV        p(x, z) = prod_n p(x_n | z_n) p(z_n | z_{n-1})
    SEQUENCE      anything else, such as a decoder that reads the z of many frames
    ALPHA         p(x, z, alpha) = p(alpha_1, .., alpha_N) prod_n p(x_n | z_n, alpha_n) p(z_n | alpha_n)

Everything is given the lips. A model states its coupling, an inference method states those that it can serve,
and `check_serves` compares them before anything runs. In the first three the log joint is a sum of terms, one
a frame; only where the frames are independent is a term the log density of its own frame. In the last one a
term holds at a given alpha, which has to be summed out over its paths: `SpeechModel.alpha_chain`.
"""

from enum import Enum
from typing import Any, Final

from avse.data.errors import InputError


class Coupling(Enum):
    """Of the frames of a model; the value is the word for it in messages."""

    INDEPENDENT = "independent"
    MARKOV = "coupled to their neighbours"
    SEQUENCE = "coupled over the whole recording"
    ALPHA = "coupled by their alpha"


INDEPENDENT_FRAMES: Final = frozenset({Coupling.INDEPENDENT})
"""What a method serves that says nothing else."""
NEIGHBOURS: Final = frozenset({Coupling.INDEPENDENT, Coupling.MARKOV})
EVERY_COUPLING: Final = frozenset({Coupling.INDEPENDENT, Coupling.MARKOV, Coupling.SEQUENCE})
"""Of z; what sums the terms of a joint serves it."""
BY_ALPHA: Final = frozenset({Coupling.INDEPENDENT, Coupling.ALPHA})


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
    coupling = coupling_of(model)
    if coupling not in getattr(method, "couplings", INDEPENDENT_FRAMES):
        mend = 'algorithm "mcem" or "amortised", or a kernel of avse.inference.mcmc.coupled'
        raise InputError(
            f"the frames of this model are {coupling.value}, for which {type(method).__name__} is not valid: "
            f"use {SUMS_PATHS if coupling is Coupling.ALPHA else mend}"
        )


SUMS_PATHS: Final = 'algorithm "mcem-mixture"'
"""What sums over the paths of alpha."""


def check_alpha(model: Any) -> None:
    """Refuse a model whose alpha is a chain, where alpha is summed out or drawn frame by frame.

    Raises:
        InputError: it is one.
    """
    if coupling_of(model) is Coupling.ALPHA:
        raise InputError(
            f"the frames of this model are {Coupling.ALPHA.value}, which is not summed out frame by frame: "
            f"use {SUMS_PATHS}"
        )
