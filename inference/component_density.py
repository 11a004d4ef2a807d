"""A speech model as variational EM uses it: the density of clean speech and z given alpha, for every alpha.

It is evaluated for all alpha at the same z, or for each alpha at its own z. `closed` and `traced` compute the
same log joint: from `SpeechModel.given`, and from a trace of the whole model in which the expected power of
the speech is observed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pyro.poutine.util import site_is_subsample
from torch import Tensor

from avse.inference.mcmc.log_density import LogJoint, frame_log_joint
from avse.inference.responsibilities import MIN_LOG_PROB
from avse.models.base import (
    ConditionedSpeech,
    Evaluation,
    LogJointFn,
    SpeechModel,
    TracedSpeech,
    alpha_diagonal,
    latent_trace,
    trace_log_prob,
)
from avse.models.sites import Z

Conditioning = Callable[[SpeechModel, Tensor | None], ConditionedSpeech]
"""(speech model, visual) -> the model conditioned on these lips, as a function of z."""


def closed(speech: SpeechModel, visual: Tensor | None) -> ConditionedSpeech:
    """The conditioned model, by `SpeechModel.given`."""
    return speech.given(visual)


def traced(speech: SpeechModel, visual: Tensor | None) -> ConditionedSpeech:
    """The conditioned model, by traces of the whole model."""
    return TracedJoint(speech, visual)


class TracedJoint(TracedSpeech):
    """A model whose log joint is computed from a trace of the whole model, with the power observed."""

    def log_joint_fn(self, power: Tensor) -> LogJointFn:
        """As `ConditionedSpeech.log_joint_fn`."""
        return lambda z: frame_log_joint(self.speech, z, power=power, visual=self.visual)

    def each_log_joint_fn(self, power: Tensor) -> LogJointFn:
        """As `ConditionedSpeech.each_log_joint_fn`."""
        return lambda z: alpha_diagonal(frame_log_joint(self.speech, z, power=power, visual=self.visual))


def log_alpha(speech: SpeechModel, z: Tensor, visual: Tensor | None = None) -> Tensor:
    """log p(alpha | v) of a model, from every site except z: (A, *, N), zeros (1, *, N) without alpha.

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


@dataclass(frozen=True)
class ComponentDensity:
    """The density p(s, z | alpha, v): a conditioned speech model divided by its prior of alpha.

    Args:
        speech: the model conditioned on the lips of a recording.
        log_alpha: the model's log p(alpha | v), (A, *, N).
    """

    speech: ConditionedSpeech
    log_alpha: Tensor

    def log_joint(self, power: Tensor) -> LogJoint:
        """z (.., *, N, L) -> log p(power, z | alpha, v), (A, .., *, N)."""
        return self._without_alpha(self.speech.log_joint_fn(power))

    def log_joint_each(self, power: Tensor) -> LogJoint:
        """z (A, .., *, N, L), one for each alpha -> log p(power, z | alpha, v), (A, .., *, N)."""
        return self._without_alpha(self.speech.each_log_joint_fn(power))

    def evaluate(self, z: Tensor) -> Evaluation:
        """log p(z | alpha, v) (A, .., *, N), and log sigma (A, .., *, N, F), at z (.., *, N, L)."""
        log_prior, log_variance = self.speech(z)
        return Evaluation(less(log_prior, self._possible), log_variance)

    def evaluate_each(self, z: Tensor) -> Evaluation:
        """As `evaluate`, at z (A, .., *, N, L), one for each alpha."""
        log_prior, log_variance = self.speech.each(z)
        return Evaluation(less(log_prior, self._possible), log_variance)

    def _without_alpha(self, log_joint: LogJoint) -> LogJoint:
        if len(self.log_alpha) == 1:  # one value has probability 1
            return log_joint
        log_alpha = self._possible
        return lambda z: less(log_joint(z), log_alpha)

    @cached_property
    def _possible(self) -> Tensor:
        return possible(self.log_alpha)


def possible(log_alpha: Tensor) -> Tensor:
    """log p(alpha | v), but 0 where alpha is impossible, so that its subtraction keeps values finite."""
    return log_alpha.where(log_alpha > MIN_LOG_PROB, 0.0)


def less(values: Tensor, log_alpha: Tensor) -> Tensor:
    """values (A, .., *, N) - log_alpha (A, *, N)."""
    return values - aligned(log_alpha, values.dim())


def aligned(values: Tensor, dims: int) -> Tensor:
    """(A, *, N) as (A, 1, .., *, N) of so many dimensions."""
    return values.reshape(values.shape[0], *[1] * (dims - values.dim()), *values.shape[1:])
