"""A speech model as variational EM asks it: the density of clean speech and z given alpha, for every alpha.

`closed` and `traced` are two ways to the same log joint: from the model's `evaluate`, and from a trace of the
whole model in which the expected power of the speech stands as if observed.
"""

from collections.abc import Callable
from typing import NamedTuple

from pyro.poutine.util import site_is_subsample
from torch import Tensor

from avse.inference.joint import frame_log_joint
from avse.inference.mean_field import IMPOSSIBLE
from avse.models.distributions import PowerSpectrum
from avse.models.sites import Z
from avse.models.speech import Evaluation, SpeechModel, latent_trace, trace_log_prob

Joint = Callable[[SpeechModel, Tensor, Tensor | None], Callable[[Tensor], Tensor]]
"""(speech model, power (*, N, F), visual) -> [z -> log p(power, z, alpha | v), (A, *, N)]."""


def closed(speech: SpeechModel, power: Tensor, visual: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The log joint of clean speech of `power`, from the model's `evaluate`."""

    def log_joint(z: Tensor) -> Tensor:
        log_prior, log_variance = speech.evaluate(z, visual)
        return log_prior + PowerSpectrum(log_variance, validate_args=False).log_prob(power).sum(-1)

    return log_joint


def traced(speech: SpeechModel, power: Tensor, visual: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The same, read off a trace of the whole model with the power observed."""
    return lambda z: frame_log_joint(speech, z, power=power, visual=visual)


def log_alpha(speech: SpeechModel, z: Tensor, visual: Tensor | None = None) -> Tensor:
    """log p(alpha | v) of a model, (A, *, N): of every site but z. Zeros (1, *, N) where there is none.

    Args:
        speech: the model.
        z: any latents (*, N, L).
        visual: lips, where the model has them.
    """
    trace = latent_trace(speech, z, visual)
    trace.remove_node(Z)
    if all(site_is_subsample(trace.nodes[name]) for name in trace.stochastic_nodes):
        return z.new_zeros(1, *z.shape[:-1])
    log_prob = trace_log_prob(trace)
    return log_prob.expand(log_prob.shape[0], *z.shape[:-1])


class GivenAlpha(NamedTuple):
    """A speech model with the lips of a recording, its prior of alpha taken out.

    Attributes:
        speech: the model.
        visual: lips, or None.
        log_alpha: the model's log p(alpha | v), (A, *, N).
        joint: `closed` or `traced`.
    """

    speech: SpeechModel
    visual: Tensor | None
    log_alpha: Tensor
    joint: Joint = closed

    def log_joint(self, power: Tensor) -> Callable[[Tensor], Tensor]:
        """z (.., *, N, L) -> log p(power, z | alpha, v), (A, .., *, N)."""
        log_joint = self.joint(self.speech, power, self.visual)
        return lambda z: self._without_alpha(log_joint(z))

    def evaluate(self, z: Tensor) -> Evaluation:
        """log p(z | alpha, v) (A, .., *, N), and log sigma (A, .., *, N, F)."""
        log_prior, log_variance = self.speech.evaluate(z, self.visual)
        return Evaluation(self._without_alpha(log_prior), log_variance)

    def _without_alpha(self, log_prob: Tensor) -> Tensor:
        possible = self.log_alpha.where(self.log_alpha > IMPOSSIBLE, 0.0)
        return log_prob - aligned(possible, log_prob.dim())


def aligned(values: Tensor, dims: int) -> Tensor:
    """(A, *, N) as (A, 1, .., *, N) of so many dimensions."""
    return values.reshape(values.shape[0], *[1] * (dims - values.dim()), *values.shape[1:])
