"""VAE-MM: a mixture of two trained models, usually one with lips and one without.

    alpha_n | v_n ~ Bernoulli(sigmoid(logit(pi) + d(v_n)))                  d = 0 in the paper
    z_n | v_n, alpha_n ~ p_1(z | v_n) or p_0(z | v_n)                       prior of the chosen component
    s_fn | z_n, v_n, alpha_n ~ N_c(0, sigma^alpha_f(z_n, v_n))              and its decoder

alpha = 1 is the first component (the papers' A-VAE), alpha = 0 the second (their AV-VAE), so that frames with
corrupted lips are explained by the audio-only component. Sadeghi, Alameda-Pineda, ICASSP 2020 (arXiv
1911.03930).

Differences from the paper: any two speech models without an alpha of their own may be components. d(v) is
the logit of a classifier of corrupted lips (`avse.models.networks.lips.LipCorruptionClassifier`). pi is not
estimated here; inference may set the buffer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from avse.data.errors import InputError
from avse.models.base import TRACE_LOCK, ConditionedSpeech, Evaluation, LogJointFn, SpeechModel
from avse.models.mixture import bounded_logit, given_alpha, mixture_log_prior
from avse.models.networks.lips import LipTrunk, cached_embeddings
from avse.models.programs import distribution_of_z
from avse.models.sites import ALPHA, Z

CorruptionLogit = Callable[[Tensor | None], Tensor]
"""visual (*, N, D) -> logit of the probability that the lips are corrupted, (*, N)."""


class VAEMM(SpeechModel):
    """A mixture of two speech models, frame by frame.

        VAEMM(a_vae.model, av_vae.model)

    Args:
        first: component of alpha = 1, with z (*, N, L) and F bins.
        second: component of alpha = 0, with as many latents and bins.
        pi: probability of alpha = 1 where d(v) = 0, from 0 to 1; at 0 and 1 the mixture equals one of
            its components, for any d(v).
        corruption_classifier: d(v), or None for 0.

    Raises:
        InputError: pi is outside [0, 1], the sizes of the components differ, or a component has its own
            alpha. The sizes of a component whose trunk is not a `LipTrunk` are not checked.
    """

    pi: Tensor

    def __init__(
        self,
        first: SpeechModel,
        second: SpeechModel,
        pi: float = 0.5,
        corruption_classifier: CorruptionLogit | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= pi <= 1:
            raise InputError(f"pi = {pi}: the probability of the first component lies between 0 and 1")
        sizes = [size for size in map(_sizes, (first, second)) if size is not None]
        if len(set(sizes)) > 1:
            raise InputError(
                f"components with {sizes[0][0]} and {sizes[1][0]} latents, {sizes[0][1]} and {sizes[1][1]} "
                "bins: a mixture shares both; train them with one latent_size and one STFT"
            )
        # In a list: Pyro would not let a child of a model that has run be put into a larger model.
        self.components = nn.ModuleList([second, first])
        self.corruption_classifier = corruption_classifier
        self.register_buffer("pi", torch.tensor(float(pi)))

    @property
    def first(self) -> SpeechModel:
        """Component of alpha = 1."""
        return self.components[1]  # type: ignore[return-value]

    @property
    def second(self) -> SpeechModel:
        """Component of alpha = 0."""
        return self.components[0]  # type: ignore[return-value]

    def component_models(self) -> list[SpeechModel]:
        """The components of alpha = 0 and of alpha = 1."""
        return [self.second, self.first]

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of both components from training frames |s|^2 (N, F)."""
        self.first.fit_scales(power)
        self.second.fit_scales(power)

    def alpha_logit(self, visual: Tensor | None = None) -> Tensor:
        """logit(pi) + d(v), () or (*, N)."""
        prior = bounded_logit(self.pi)
        return prior if self.corruption_classifier is None else prior + self.corruption_classifier(visual)

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """alpha ~ p(alpha | v), z ~ p_alpha(z | v); returns log sigma^alpha(z, v)."""
        alpha = pyro.sample(
            ALPHA, dist.Bernoulli(logits=self.alpha_logit(visual)), infer={"enumerate": "parallel"}
        )
        first, second = (_prior(component, visual) for component in (self.first, self.second))
        z = pyro.sample(Z, given_alpha(alpha, first, second))
        of_first, of_second = (_log_variance(component, z, visual) for component in (self.first, self.second))
        return torch.where(alpha.unsqueeze(-1) > 0.5, of_first, of_second)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`, from `given` of both components."""
        return TwoComponents(self.alpha_logit(visual), self.first.given(visual), self.second.given(visual))


@dataclass(frozen=True)
class TwoComponents(ConditionedSpeech):
    """A mixture of two conditioned models, alpha = 0 first: A = 2.

    Args:
        log_odds: log p(alpha = 1 | v) - log p(alpha = 0 | v), () or (*, N).
        first: component of alpha = 1.
        second: component of alpha = 0.
    """

    log_odds: Tensor
    first: ConditionedSpeech
    second: ConditionedSpeech

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`."""
        return self._mixed(self.first(z), self.second(z))

    def each(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.each`; a component is evaluated at its own z (2, *, N, L) alone."""
        return self._mixed(self.first(z[1]), self.second(z[0]))

    def log_joint_fn(self, power: Tensor) -> LogJointFn:
        """As `ConditionedSpeech.log_joint_fn`; no log variances are copied."""
        first, second = self.first.log_joint_fn(power), self.second.log_joint_fn(power)
        of_first, of_second = logsigmoid(self.log_odds), logsigmoid(-self.log_odds)
        return lambda z: torch.cat([second(z) + of_second, first(z) + of_first])

    def _mixed(self, first: Evaluation, second: Evaluation) -> Evaluation:
        return Evaluation(
            mixture_log_prior(self.log_odds, first.log_prior[0], second.log_prior[0]),
            torch.cat([second.log_variance, first.log_variance]),
        )


def _prior(component: SpeechModel, visual: Tensor | None) -> dist.TorchDistribution:
    """p(z | v) of a component, batch shape () or (*, N); no random number is drawn.

    Raises:
        InputError: the component has no z.
    """
    return distribution_of_z(lambda: component.latent(visual), "a component of a mixture")


def _log_variance(component: SpeechModel, z: Tensor, visual: Tensor | None) -> Tensor:
    """log sigma(z, v) of a component, (*, N, F)."""
    with poutine.block():
        log_variance: Tensor = poutine.condition(component.latent, {Z: z})(visual)
        return log_variance


def _sizes(component: SpeechModel) -> tuple[int, int] | None:
    """L and F of a component, from a trace of one frame with missing lips; None if it cannot be traced.

    A component on the meta device, whose weights are about to be loaded, is not traced: that takes seconds.

    Raises:
        InputError: the component samples more than z.
    """
    if any(parameter.is_meta for parameter in component.parameters()):
        return None
    missing = torch.empty(1, 0)
    with torch.no_grad(), TRACE_LOCK, torch.random.fork_rng(devices=[]), cached_embeddings() as cache:
        for part in component.modules():
            if isinstance(part, LipTrunk):
                cache.put(part, missing, part.missing_embedding.unsqueeze(0))
        try:
            with poutine.block():
                trace = poutine.trace(component.latent).get_trace(missing)
        except (ValueError, RuntimeError, IndexError):  # a trunk of another kind, which needs video frames
            return None
    if set(trace.stochastic_nodes) != {Z}:
        raise InputError(
            f"a component that samples {', '.join(trace.stochastic_nodes)}: a mixture needs models of z alone"
        )
    return trace.nodes[Z]["value"].shape[-1], trace.nodes["_RETURN"]["value"].shape[-1]
