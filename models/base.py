"""The base of every model of clean speech: latent variables, then a zero-mean complex normal spectrum.

    alpha_n, z_n ~ p(alpha, z | v_n)                    `SpeechModel.latent`, one method to override
    s_fn | z_n, v_n ~ N_c(0, sigma_f(z_n, v_n))         `SpeechModel.forward`

Inference needs one thing of a model, `SpeechModel.given`: with the lips of a recording, a function of z that
returns the log prior and the log variance of the speech for every value of alpha. By default it is
computed from a trace of `latent`, so that a model that overrides only `latent` runs under every algorithm; a
model may also implement the equivalent `SpeechModel.closed_form`, which is faster.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyro
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor

from avse.models.alpha_chain import AlphaChain
from avse.models.coupling import Coupling
from avse.models.distributions import PowerSpectrum, spectrum_cost
from avse.models.handlers import OneZForAllAlpha
from avse.models.networks.spectrum import SpectrumDecoder
from avse.models.parameters import StoredModule, local_parameters
from avse.models.sites import S, Z, frames_plate

LogJointFn = Callable[[Tensor], Tensor]
"""z (*, N, L) -> log joint density of every frame, for each value of alpha, (A, *, N)."""

TRACE_LOCK = threading.RLock()
"""Lock around traces: Pyro has one stack of effect handlers per process."""


class Evaluation(NamedTuple):
    """The log prior and log variance of a speech model at given z. A is the number of values of alpha, 1
    where there is none.

    Attributes:
        log_prior: log p(z, alpha | v), (A, *, N).
        log_variance: log sigma(z, alpha, v) of the speech, (A, *, N, F).
    """

    log_prior: Tensor
    log_variance: Tensor


class ConditionedSpeech:
    """p(s, z, alpha | v) with the lips of a recording, as a function of z. A subclass writes `__call__`."""

    def __call__(self, z: Tensor) -> Evaluation:
        """Log prior and speech log variance at z (*, N, L), the same z for every alpha."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(z)")

    def each(self, z: Tensor) -> Evaluation:
        """As `__call__`, with a z for every alpha: z is (A, *, N, L), and [a] is alpha = a at z[a].

        By default the diagonal of `__call__`, which costs A times what a mixture needs.
        """
        log_prior, log_variance = self(z)
        return Evaluation(alpha_diagonal(log_prior), alpha_diagonal(log_variance))

    def log_joint_fn(self, power: Tensor) -> LogJointFn:
        """z (*, N, L) -> log p(s, z, alpha | v) at |s|^2 = `power` (*, N, F), for each alpha: (A, *, N)."""
        return lambda z: log_joint(self(z), power)

    def each_log_joint_fn(self, power: Tensor) -> LogJointFn:
        """As `log_joint_fn`, with a z for every alpha: z (A, *, N, L) -> (A, *, N)."""
        return lambda z: log_joint(self.each(z), power)


class SpeechModel(StoredModule):
    """Base of all models of clean speech. A subclass writes `latent`."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """Sample alpha (if any) and z inside the frames plate; return the log variance of s, (*, N, F)."""
        raise NotImplementedError(f"{type(self).__name__} must define latent(visual)")

    def latent_program(self, visual: Tensor | None, frames: Sequence[int]) -> Tensor:
        """`latent` inside the plates of all frames; log variance of s, (*, N, F).

        Args:
            visual: lips (*, N, D), where the model has them.
            frames: (*, N).
        """
        *batch, number = frames
        with frames_plate(None, visual, number, batch):
            return self.latent(visual)

    def fit_scales(self, power: Tensor) -> None:
        """Set fixed scales and initial values from training frames |s|^2 (N, F), before training.

        A `SpectrumDecoder` under the name `decoder` is initialised with their mean log power.
        """
        decoder = getattr(self, "decoder", None)
        if isinstance(decoder, SpectrumDecoder):
            decoder.fit(power)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """The generative model. Returns the power spectrum of the speech, (*, N, F).

        Args:
            power: observed |s|^2 (*, N, F), or None to sample it.
            visual: lips (*, N, D), where the model has them.
            frames: N, needed when neither `power` nor `visual` is given.
        """
        with frames_plate(power, visual, frames), OneZForAllAlpha():
            log_variance = self.latent(visual)
            return pyro.sample(S, PowerSpectrum(log_variance).to_event(1), obs=power)

    @property
    def coupling(self) -> Coupling:
        """How the frames are coupled; a model whose frames are not independent overrides it.

        Then log p(z, alpha | v) of `given` is a term of every frame; their sum is the log prior of all.
        """
        return Coupling.INDEPENDENT

    def component_models(self) -> "list[SpeechModel]":
        """The models of all values of alpha, 0 first, if alpha chooses between whole models; else none."""
        return []

    def log_alpha(self, visual: Tensor | None = None) -> Tensor | None:
        """log p(alpha | v), alpha = 0 first, (A,) or (A, *, N); None for a model without alpha.

        A model whose `component_models` are to be components of a larger mixture defines it; inference reads
        the prior of alpha off a trace.
        """
        return None

    def alpha_chain(self, visual: Tensor | None = None) -> AlphaChain | None:
        """The chain of alpha over time, if it couples the frames (`Coupling.ALPHA`); else None.

        Then log p(alpha | v) of `given` belongs to a frame by itself, and to the chain's first frame.
        """
        return None

    def alpha_logit(self, visual: Tensor | None = None) -> Tensor | None:
        """Logit of the prior probability p(alpha = 1 | v), () or (*, N); None unless alpha has two values."""
        return None

    def given(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """The model with the lips of a recording (*, N, D), as a function of z.

        It uses `closed_form` if that is defined by the class that defines `latent`, or by a subclass of it; a
        subclass that overrides only `latent` is evaluated by traces.
        """
        latent, closed_form = _defining(self, "latent"), _defining(self, "closed_form")
        if closed_form is not SpeechModel and issubclass(closed_form, latent):
            return self.closed_form(visual)
        return TracedSpeech(self, visual)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `given`, without a trace. Optional; what does not depend on z may be computed once."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form")


def _defining(model: SpeechModel, method: str) -> type:
    """The most derived class of the model that defines a method; its own type if the instance does."""
    if method in vars(model):
        return type("Instance", (type(model),), {})
    return next(owner for owner in type(model).__mro__ if method in vars(owner))


def chooses_models(model: SpeechModel) -> bool:
    """Whether alpha chooses between whole models, `component_models`, and nothing else is sampled but z.

    That is so for a mixture whose `latent` is that of the class with the components: a subclass that
    overrides `latent` alone may sample anything.
    """
    owners = _defining(model, "component_models"), _defining(model, "latent")
    return bool(model.component_models()) and issubclass(*owners)


@dataclass(frozen=True)
class TracedSpeech(ConditionedSpeech):
    """A model evaluated by a trace of `latent` at every z, with alpha enumerated.

    Args:
        speech: the model.
        visual: lips (*, N, D), where it has them.
    """

    speech: SpeechModel
    visual: Tensor | None = None

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`."""
        trace = latent_trace(self.speech, z, self.visual)
        log_variance = trace.nodes["_RETURN"]["value"]
        log_prior = trace_log_prob(trace)
        if log_prior.dim() < z.dim():
            log_prior = log_prior.unsqueeze(0)
        log_variance = log_variance.expand(*log_prior.shape, log_variance.shape[-1])
        return Evaluation(log_prior, log_variance)


class Density(Protocol):
    """A density with a method log_prob."""

    def log_prob(self, z: Tensor, /) -> Any:
        """z (*, N, L) -> (*, N)."""
        ...


@dataclass(frozen=True)
class SingleComponent(ConditionedSpeech):
    """A model without alpha: one prior and one decoder.

    Args:
        prior: p(z | v) of every frame.
        decode: z (*, N, L) -> log sigma(z, v), (*, N, F).
    """

    prior: Density
    decode: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`, A = 1."""
        return Evaluation(self.prior.log_prob(z).unsqueeze(0), self.decode(z).unsqueeze(0))

    def log_joint_fn(self, power: Tensor) -> LogJointFn:
        """As `ConditionedSpeech.log_joint_fn`."""
        return lambda z: (self.prior.log_prob(z) - spectrum_cost(power, self.decode(z))).unsqueeze(0)


def log_joint(evaluation: Evaluation, power: Tensor) -> Tensor:
    """log p(s, z, alpha | v), (A, *, N), at |s|^2 = `power` (*, N, F)."""
    return evaluation.log_prior - spectrum_cost(power, unexpanded(evaluation.log_variance))


def alpha_diagonal(values: Tensor) -> Tensor:
    """The diagonal of values (A, A, *), of every alpha (first) at the z of every alpha (second): (A, *)."""
    return values.diagonal(dim1=0, dim2=1).movedim(-1, 0)


def decoder_given(decoder: Callable[..., Tensor], *embedding: Tensor) -> Callable[[Tensor], Tensor]:
    """z -> log sigma(z, v); what does not depend on z is computed once by an unmodified `SpectrumDecoder`."""
    if isinstance(decoder, SpectrumDecoder) and type(decoder).forward is SpectrumDecoder.forward:
        return decoder.given(*embedding)
    return lambda z: decoder(z, *embedding)


def unexpanded(values: Tensor) -> Tensor:
    """values (A, *), or (1, *) where they are one tensor expanded over alpha, to compute on it only once."""
    return values if values.stride(0) else values[:1]


def latent_trace(speech: SpeechModel, z: Tensor, visual: Tensor | None = None) -> poutine.Trace:
    """Trace of `speech.latent` at z (*, N, L), alpha enumerated left of everything else."""

    def conditioned_latent() -> Tensor:
        return speech.latent_program(visual, z.shape[:-1])

    enumerated = poutine.enum(config_enumerate(conditioned_latent), first_available_dim=-z.dim())
    with TRACE_LOCK, local_parameters():
        return poutine.trace(poutine.condition(enumerated, {Z: z})).get_trace()


def trace_log_prob(trace: poutine.Trace) -> Tensor:
    """Sum of the log probabilities of the sample sites of a trace, kept per frame: (*, N)."""
    with TRACE_LOCK:
        trace.compute_log_prob()
    terms = [
        node["log_prob"]
        for node in trace.nodes.values()
        if node["type"] == "sample" and "log_prob" in node and not poutine.util.site_is_subsample(node)
    ]
    return sum(terms[1:], start=terms[0])
