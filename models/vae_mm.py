"""VAE-MM: a mixture of trained models, usually one without lips and others with.

    p(alpha_n = k | v_n) proportional to pi_k exp([k = K - 1] d(v_n))       d = 0 in the paper
    z_n | v_n, alpha_n = k ~ p_k(z | v_n)                                   prior of the chosen component
    s_fn | z_n, v_n, alpha_n = k ~ N_c(0, sigma^k_f(z_n, v_n))              and its decoder

The K components are given from alpha = K - 1 down to alpha = 0. With two, alpha = 1 is the first (the papers'
A-VAE) and alpha = 0 the second (their AV-VAE), logit p(alpha = 1 | v) = logit(pi) + d(v), and frames with
corrupted lips are explained by the audio-only component. Sadeghi, Alameda-Pineda, ICASSP 2020 (arXiv
1911.03930); the mixture of A-, V- and AV-VAE is the last future work of the talk.

Differences from the paper: any number of speech models without an alpha of their own may be components, and
mixtures of such models, too: alpha then chooses between all of their components. d(v) is the logit of a
classifier of corrupted lips (`avse.models.networks.lips.LipCorruptionClassifier`). pi is not estimated here;
inference may set the buffer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.models.base import (
    TRACE_LOCK,
    ConditionedSpeech,
    Evaluation,
    LogJointFn,
    SpeechModel,
    chooses_models,
)
from avse.models.coupling import Coupling, coupling_of
from avse.models.mixture import (
    SelectedDistribution,
    bounded_log,
    bounded_logit,
    distribution_of_alpha,
    mixture_log_prior,
    selected,
)
from avse.models.networks.lips import LipTrunk, cached_embeddings
from avse.models.programs import distribution_of_z
from avse.models.sites import ALPHA, Z

CorruptionLogit = Callable[[Tensor | None], Tensor]
"""visual (*, N, D) -> logit of the probability that the lips are corrupted, (*, N)."""

Probabilities = float | Sequence[float]
"""Of the components, in the order of the arguments; a number is that of the first of two."""


class VAEMM(SpeechModel):
    """A mixture of speech models, frame by frame.

        VAEMM(a_vae.model, av_vae.model, pi=0.3)
        VAEMM(a_vae.model, v_vae.model, av_vae.model, pi=(0.4, 0.3, 0.3))

    A component may itself be a mixture of whole models, such as a VAE-MM: its components take its place, with
    probabilities pi_k p(alpha' | v), so that its own pi and d(v) remain.

    Args:
        first: component of the largest alpha, with z (*, N, L) and F bins.
        second: component of the next smaller alpha, with as many latents and bins.
        others: further components; the last one has alpha = 0. pi and the classifier may follow by position.
        pi: probabilities of the components where d(v) = 0, in the order of the arguments, which sum to 1; or
            a number, the probability of the first of two. All are equal by default. At 0 and 1 the mixture
            equals one that lacks the impossible components, for any d(v).
        corruption_classifier: d(v), log odds that are added to those of the first, or None for 0.

    Attributes:
        pi: () for two components, the probability of the first; (K,) for more, in the order of the arguments.

    Raises:
        InputError: pi are no probabilities, the sizes of the components differ, the frames of one are
            coupled, or one has an alpha that does not choose between whole models. The sizes of a component
            whose trunk is not a `LipTrunk` are not checked.
    """

    pi: Tensor

    def __init__(
        self,
        first: SpeechModel,
        second: SpeechModel,
        *others: Any,
        pi: Probabilities | None = None,
        corruption_classifier: CorruptionLogit | None = None,
    ) -> None:
        super().__init__()
        components = [first, second]
        settings = list(others)
        while settings and isinstance(settings[0], SpeechModel):
            components.append(settings.pop(0))
        if settings:
            pi = settings.pop(0)
        if settings:
            corruption_classifier = settings.pop(0)
        if settings:
            raise InputError(f"{settings[0]!r}: after the components come pi and the classifier alone")
        for component in components:
            if coupling_of(component) is not Coupling.INDEPENDENT:
                raise InputError(
                    f"{type(component).__name__}: its frames are {coupling_of(component).value}, and a "
                    "mixture chooses a component frame by frame"
                )
        # In a list: Pyro would not let a child of a model that has run be put into a larger model.
        self.components = nn.ModuleList(reversed(components))
        self.corruption_classifier = corruption_classifier
        self.register_buffer("pi", _probabilities(pi, len(components)))
        sizes = [size for size in map(_sizes, self.component_models()) if size is not None]
        if len(set(sizes)) > 1:
            latents, bins = (" and ".join(map(str, numbers)) for numbers in zip(*sizes, strict=True))
            raise InputError(
                f"components with {latents} latents, {bins} bins: a mixture shares both; train them with one "
                "latent_size and one STFT"
            )

    @property
    def first(self) -> SpeechModel:
        """The first component, of the largest alpha."""
        return self.components[-1]  # type: ignore[return-value]

    @property
    def second(self) -> SpeechModel:
        """The second component, of alpha = 0 where there are two."""
        return self.components[-2]  # type: ignore[return-value]

    def component_models(self) -> list[SpeechModel]:
        """The components, alpha = 0 first; those of a component that is a mixture in its place."""
        return [leaf for component in self.components for leaf in _leaves(component)]  # type: ignore[arg-type]

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of all components from training frames |s|^2 (N, F)."""
        for component in self.components:
            component.fit_scales(power)  # type: ignore[operator]

    def alpha_logits(self, visual: Tensor | None = None) -> Tensor:
        """log p(alpha | v) up to a constant in each frame, alpha = 0 first, (K,) or (K, *, N)."""
        if self.pi.dim():
            logits = list(bounded_log(self.pi).flip(0))
        else:
            logits = [torch.zeros_like(self.pi), bounded_logit(self.pi)]
        if self.corruption_classifier is not None:
            logits[-1] = logits[-1] + self.corruption_classifier(visual)
        parts = []
        for component, logit in zip(self.components, logits, strict=True):
            inner = component.log_alpha(visual) if chooses_models(component) else None  # type: ignore[arg-type, operator]
            parts += [logit] if inner is None else [logit + own for own in inner]
        return torch.stack(torch.broadcast_tensors(*parts))

    def log_alpha(self, visual: Tensor | None = None) -> Tensor:
        """As `SpeechModel.log_alpha`."""
        return self.alpha_logits(visual).log_softmax(0)

    def alpha_logit(self, visual: Tensor | None = None) -> Tensor | None:
        """logit(pi) + d(v), () or (*, N), of two components; None for more."""
        logits = self.alpha_logits(visual)
        return logits[1] - logits[0] if len(logits) == 2 else None

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """alpha ~ p(alpha | v), z ~ p_alpha(z | v); returns log sigma^alpha(z, v)."""
        models = self.component_models()
        alpha = pyro.sample(
            ALPHA, distribution_of_alpha(self.alpha_logits(visual)), infer={"enumerate": "parallel"}
        )
        z = pyro.sample(Z, SelectedDistribution(alpha, [component_prior(model, visual) for model in models]))
        return selected(alpha, [component_log_variance(model, z, visual) for model in models], event_dim=1)

    def closed_form(self, visual: Tensor | None = None) -> ConditionedSpeech:
        """As `SpeechModel.closed_form`, from `given` of all components."""
        return Components(self.log_alpha(visual), [model.given(visual) for model in self.component_models()])


@dataclass(frozen=True)
class Components(ConditionedSpeech):
    """A mixture of K conditioned models without alpha, alpha = 0 first: A = K.

    Args:
        log_alpha: log p(alpha | v), (K,) or (K, *, N).
        components: the models.
    """

    log_alpha: Tensor
    components: Sequence[ConditionedSpeech]

    def __call__(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.__call__`."""
        return self._mixed([component(z) for component in self.components])

    def each(self, z: Tensor) -> Evaluation:
        """As `ConditionedSpeech.each`; a component is evaluated at its own z (K, *, N, L) alone."""
        return self._mixed([component(own) for component, own in zip(self.components, z, strict=True)])

    def log_joint_fn(self, power: Tensor) -> LogJointFn:
        """As `ConditionedSpeech.log_joint_fn`; no log variances are copied."""
        joints = [component.log_joint_fn(power) for component in self.components]
        return lambda z: torch.cat([own(z) + log for own, log in zip(joints, self.log_alpha, strict=True)])

    def _mixed(self, evaluations: Sequence[Evaluation]) -> Evaluation:
        return Evaluation(
            mixture_log_prior(self.log_alpha, [own.log_prior[0] for own in evaluations]),
            torch.cat([own.log_variance for own in evaluations]),
        )


def _probabilities(pi: Probabilities | None, components: int) -> Tensor:
    """pi as it is stored: () for two components, else (K,).

    Raises:
        InputError: not one probability for each component, or their sum is not 1.
    """
    if pi is None:
        pi = [1 / components] * components
    if isinstance(pi, int | float):
        if components > 2:
            raise InputError(f"pi = {pi}: give one probability for each of the {components} components")
        if not 0 <= pi <= 1:
            raise InputError(f"pi = {pi}: the probability of the first component lies between 0 and 1")
        return torch.tensor(float(pi))
    if not isinstance(pi, Sequence) or not all(isinstance(each, int | float) for each in pi):
        raise InputError(f"{pi!r}: neither a speech model nor the probabilities of the components")
    if len(pi) != components or not all(0 <= each <= 1 for each in pi):
        raise InputError(
            f"pi = {pi}: give {components} probabilities, one for each component, between 0 and 1"
        )
    if not math.isclose(sum(pi), 1, abs_tol=1e-4):
        raise InputError(f"pi = {pi}: the probabilities of the components sum to {sum(pi):g}, not to 1")
    return torch.tensor(float(pi[0])) if components == 2 else torch.tensor([float(each) for each in pi])


def _leaves(component: SpeechModel) -> list[SpeechModel]:
    """The models without alpha that a component consists of."""
    return component.component_models() if chooses_models(component) else [component]


def component_prior(component: SpeechModel, visual: Tensor | None) -> dist.TorchDistribution:
    """p(z | v) of a component, batch shape () or (*, N); no random number is drawn.

    Raises:
        InputError: the component has no z.
    """
    return distribution_of_z(lambda: component.latent(visual), "a component of a mixture")


def component_log_variance(component: SpeechModel, z: Tensor, visual: Tensor | None) -> Tensor:
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
