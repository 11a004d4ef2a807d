"""What every model of clean speech is: latent variables, then a zero-mean complex normal spectrum.

    alpha_n, z_n ~ p(alpha, z | v_n)                    `SpeechModel.latent`, one method to override
    s_fn | z_n, v_n ~ N_c(0, sigma_f(z_n, v_n))         `SpeechModel.forward`

Inference needs just one thing of a model: at given z, the log prior and the log variance of the speech, for
every value of alpha. `SpeechModel.evaluate` reads both off a trace of `latent`, so that a model that
overrides nothing but `latent` runs under every algorithm. A model may override it with a closed form that is
equal and quicker; and so for what follows from it: `evaluate_each`, for algorithms that give every value of
alpha a z of its own, and the log joint of clean speech, `bound` and `bound_each`.
"""

from collections.abc import Callable
from typing import NamedTuple

import pyro
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.nn import PyroModule
from torch import Tensor

from avse.models.distributions import PowerSpectrum, spectrum_cost
from avse.models.networks.spectrum import SpectrumDecoder
from avse.models.sites import S, Z, frames_plate


class Evaluation(NamedTuple):
    """A speech model at given z. A is the number of values of alpha, 1 where there is none.

    Attributes:
        log_prior: log p(z, alpha | v), (A, *, N).
        log_variance: log sigma(z, alpha, v) of the speech, (A, *, N, F).
    """

    log_prior: Tensor
    log_variance: Tensor


class SpeechModel(PyroModule):
    """Base of all models of clean speech. A subclass writes `latent`."""

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """Sample alpha (if any) and z inside the frames plate; return the log variance of s, (*, N, F)."""
        raise NotImplementedError(f"{type(self).__name__} must define latent(visual)")

    def fit_scales(self, power: Tensor) -> None:
        """Set fixed scales and starting points from training frames |s|^2 (N, F), before training.

        A `SpectrumDecoder` under the name `decoder` starts at their mean log power.
        """
        decoder = getattr(self, "decoder", None)
        if isinstance(decoder, SpectrumDecoder):
            decoder.fit(power)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """The generative story. Returns the power spectrum of the speech, (*, N, F).

        Args:
            power: observed |s|^2 (*, N, F), or None to sample it.
            visual: lips (*, N, D), where the model has them.
            frames: N, needed when neither `power` nor `visual` is given.
        """
        with frames_plate(power, visual, frames):
            log_variance = self.latent(visual)
            return pyro.sample(S, PowerSpectrum(log_variance).to_event(1), obs=power)

    def evaluate(self, z: Tensor, visual: Tensor | None = None) -> Evaluation:
        """Log prior and speech log variance at z (*, N, L), by one trace of `latent`, alpha enumerated."""
        trace = latent_trace(self, z, visual)
        log_variance = trace.nodes["_RETURN"]["value"]
        log_prior = trace_log_prob(trace)
        if log_prior.dim() < z.dim():
            log_prior = log_prior.unsqueeze(0)
        log_variance = log_variance.expand(*log_prior.shape, log_variance.shape[-1])
        return Evaluation(log_prior, log_variance)

    def evaluate_each(self, z: Tensor, visual: Tensor | None = None) -> Evaluation:
        """As `evaluate`, every alpha at a z of its own: z is (A, *, N, L), and [a] is alpha = a at z[a].

        The diagonal of `evaluate`, A times the work that a mixture need do.
        """
        log_prior, log_variance = self.evaluate(z, visual)
        return Evaluation(each_at_its_own(log_prior), each_at_its_own(log_variance))

    def bound(self, power: Tensor, visual: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """z (*, N, L) -> log p(s, z, alpha | v) at |s|^2 = `power` (*, N, F), for each alpha: (A, *, N).

        The closed form of what a trace of `forward` adds up; what does not depend on z may be computed once.
        """
        return lambda z: log_joint(self.evaluate(z, visual), power)

    def bound_each(self, power: Tensor, visual: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """As `bound`, every value of alpha at a z of its own: z (A, *, N, L) -> (A, *, N)."""
        return lambda z: log_joint(self.evaluate_each(z, visual), power)


def log_joint(evaluation: Evaluation, power: Tensor) -> Tensor:
    """log p(s, z, alpha | v), (A, *, N), at |s|^2 = `power` (*, N, F)."""
    return evaluation.log_prior - spectrum_cost(power, unrepeated(evaluation.log_variance))


def each_at_its_own(values: Tensor) -> Tensor:
    """The diagonal of values (A, A, *), of every alpha (first) at the z of every alpha (second): (A, *)."""
    return values.diagonal(dim1=0, dim2=1).movedim(-1, 0)


def decoder_given(decoder: Callable[..., Tensor], *embedding: Tensor) -> Callable[[Tensor], Tensor]:
    """z -> log sigma(z, v); what does not depend on z is done once by a decoder that is as it came."""
    if isinstance(decoder, SpectrumDecoder) and type(decoder).forward is SpectrumDecoder.forward:
        return decoder.given(*embedding)
    return lambda z: decoder(z, *embedding)


def unrepeated(values: Tensor) -> Tensor:
    """values (A, *), but (1, *) where they are one thing expanded: what all alpha share is computed once."""
    return values if values.stride(0) else values[:1]


def latent_trace(speech: SpeechModel, z: Tensor, visual: Tensor | None = None) -> poutine.Trace:
    """Trace of `speech.latent` at z (*, N, L), alpha enumerated left of everything else."""

    def story() -> Tensor:
        with frames_plate(None, None, z.shape[-2]):
            return speech.latent(visual)

    enumerated = poutine.enum(config_enumerate(story), first_available_dim=-z.dim())
    return poutine.trace(poutine.condition(enumerated, {Z: z})).get_trace()


def trace_log_prob(trace: poutine.Trace) -> Tensor:
    """Sum of the log probabilities of the sample sites of a trace, kept per frame: (*, N)."""
    trace.compute_log_prob()
    terms = [
        node["log_prob"]
        for node in trace.nodes.values()
        if node["type"] == "sample" and "log_prob" in node and not poutine.util.site_is_subsample(node)
    ]
    return sum(terms[1:], start=terms[0])
