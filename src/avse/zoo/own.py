"""A pair of a model and a guide of one's own, in any form that Pyro has."""

from typing import Any

import torch
from torch.distributions import constraints

from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.shape_front_end import LipView
from avse.guides.programs import speech_guide
from avse.models.base import SpeechModel
from avse.models.programs import LatentFunction, SpeechProgram, distribution_of_z, takes_power
from avse.zoo.pair import PairConfig, SpeechPair
from avse.zoo.validation import check_algorithm


class Pair(SpeechPair):
    """A model and a guide of one's own, for `avse.enhance` and all algorithms.

        def model(visual=None):
            return decoder(pyro.sample("z", dist.Laplace(torch.zeros(32), 1.0).to_event(1)))

        avse.enhance("noisy.wav", model=avse.Pair(model))

    What an algorithm takes from a guide is an initial value of z: where the guide has no mean in closed form,
    it comes from draws. Such a pair is not saved, since a function is no file: for that, register a builder
    (`avse.zoo.architectures.register`).

    Args:
        model: a `SpeechModel`, or a Pyro function or module, see `avse.models.programs`.
        guide: a `SpeechGuide`; a Pyro function or module of (power, visual) that samples "z"; an AutoGuide
            such as AutoNormal, which belongs to one recording; or None, the prior of the model.
        front_end: spectra and level that the model expects.
        lips: how lips are given to the model; None for one without lips.
        algorithm: used by "auto", a name in `avse.inference.presets.PRESETS`.
        name: of the pair, in reports.

    Raises:
        InputError: neither function nor module, an unknown algorithm, a model that samples no "z", or one
            whose z is not any real vector, or whose spectrum has another number of bins.
    """

    def __init__(
        self,
        model: Any,
        guide: Any = None,
        front_end: FrontEnd | None = None,
        lips: LipView | None = None,
        algorithm: str = "mcem",
        name: str = "own pair",
    ) -> None:
        if not callable(model) or isinstance(model, type):
            raise InputError(f"model {model!r}: give a function, a Pyro module or a SpeechModel")
        check_algorithm(algorithm)
        front_end = front_end or FrontEnd()
        self.config = PairConfig(name, {}, front_end, lips, algorithm)
        self.card = ""
        self.name = name
        if isinstance(model, SpeechModel):
            self.model = model
        else:
            bins = front_end.stft.bins
            self.model = SpeechProgram(model, bins) if takes_power(model) else LatentFunction(model)
        self.guide = speech_guide(guide, self.model)
        if lips is None:
            _check(self.model, front_end.stft.bins)

    @property
    def algorithm(self) -> str:
        """The preset that was given: no configuration builds the parts, which could therefore not differ."""
        return self.config.algorithm

    def check_restorable(self) -> None:
        """Not possible.

        Raises:
            InputError: always; says how to make a pair that can be saved.
        """
        raise InputError(
            "a pair of functions of one's own cannot be saved: register a function that builds model and "
            "guide (avse.zoo.architectures.register), or save the state_dict of your modules"
        )


def _check(model: SpeechModel, bins: int) -> None:
    """Run a model of sound alone once, on two frames."""
    with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
        prior = distribution_of_z(lambda: model.latent_program(None, (2,)), "a model")
        if len(prior.event_shape) != 1:
            raise InputError(
                f'"z" has the event shape {tuple(prior.event_shape)}: it is a vector, (L,); use .to_event(1)'
            )
        support: Any = prior.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if support is not constraints.real and support is not constraints.real_vector:
            raise InputError(f'"z" lies in {support}: samplers need real vectors; transform it in the model')
        found = model.latent_program(None, (2,)).shape[-1]
    if found != bins:
        raise InputError(f"a model of {found} bins, and a front end of {bins}: give its own front_end")
