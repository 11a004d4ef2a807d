"""VAE-MM: a mixture of two trained models, one of which may trust the lips and the other not.

    alpha_n | v_n ~ Bernoulli(sigmoid(logit(pi) + d(v_n)))                  d = 0 in the paper
    z_n | v_n, alpha_n ~ p_1(z | v_n) or p_0(z | v_n)                       prior of the chosen component
    s_fn | z_n, v_n, alpha_n ~ N_c(0, sigma^alpha_f(z_n, v_n))              and its decoder

alpha = 1 is the first component (the papers' A-VAE), alpha = 0 the second (their AV-VAE), so that frames with
damaged lips are explained by sound alone. Sadeghi, Alameda-Pineda, ICASSP 2020 (arXiv 1911.03930).

Deviations: any two speech models without an alpha of their own are components, not just these two. d(v) is
the logit of a classifier of corrupted lips (`avse.models.networks.lips.LipCorruptionClassifier`). pi is not
estimated here; inference may set the buffer.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from avse.data.errors import InputError
from avse.models.base import Evaluation, SpeechModel
from avse.models.networks.lips import LipTrunk, cached_embeddings
from avse.models.sites import ALPHA, Z
from avse.models.switch import Switch, log_odds_of, mixture_log_prior

CorruptionLogit = Callable[[Tensor | None], Tensor]
"""visual (*, N, D) -> logit of the probability that the lips are corrupted, (*, N)."""


class VAEMM(SpeechModel):
    """A mixture of two speech models, frame by frame.

        VAEMM(a_vae.model, av_vae.model)

    Args:
        first: component of alpha = 1, with z (*, N, L) and F bins.
        second: component of alpha = 0, with as many latents and bins.
        pi: probability of alpha = 1 where d(v) = 0, from 0 to 1; at the ends, whatever d(v), the mixture is
            one of its components.
        corruption_classifier: d(v), or None for 0.

    Raises:
        InputError: pi out of range, components of other sizes than each other, or with an alpha of their own.
            Where a component looks at lips through something else than a `LipTrunk`, its sizes show only
            when it is used.
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

    def fit_scales(self, power: Tensor) -> None:
        """Those of both components."""
        self.first.fit_scales(power)
        self.second.fit_scales(power)

    def log_odds(self, visual: Tensor | None = None) -> Tensor:
        """logit(pi) + d(v), () or (*, N)."""
        prior = log_odds_of(self.pi)
        return prior if self.corruption_classifier is None else prior + self.corruption_classifier(visual)

    def latent(self, visual: Tensor | None = None) -> Tensor:
        """alpha ~ p(alpha | v), z ~ p_alpha(z | v); returns log sigma^alpha(z, v)."""
        odds = self.log_odds(visual)
        alpha = pyro.sample(ALPHA, dist.Bernoulli(logits=odds), infer={"enumerate": "parallel"})
        first, second = (_prior(component, visual) for component in (self.first, self.second))
        z = pyro.sample(Z, Switch(alpha, first, second))
        heard, seen = (_log_variance(component, z, visual) for component in (self.first, self.second))
        return torch.where(alpha.unsqueeze(-1) > 0.5, heard, seen)

    def evaluate(self, z: Tensor, visual: Tensor | None = None) -> Evaluation:
        """As `SpeechModel.evaluate`, by the components' own: A = 2, alpha = 0 first."""
        if type(self).latent is not VAEMM.latent:
            return super().evaluate(z, visual)
        return self._mixed(self.first.evaluate(z, visual), self.second.evaluate(z, visual), visual)

    def evaluate_each(self, z: Tensor, visual: Tensor | None = None) -> Evaluation:
        """As `SpeechModel.evaluate_each`; a component is asked for its own z (2, *, N, L) alone."""
        if type(self).latent is not VAEMM.latent:
            return super().evaluate_each(z, visual)
        return self._mixed(self.first.evaluate(z[1], visual), self.second.evaluate(z[0], visual), visual)

    def bound(self, power: Tensor, visual: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """As `SpeechModel.bound`, by the components' own."""
        if type(self).latent is not VAEMM.latent:
            return super().bound(power, visual)
        first, second = (component.bound(power, visual) for component in (self.first, self.second))
        log_odds = self.log_odds(visual)
        heard, seen = logsigmoid(log_odds), logsigmoid(-log_odds)
        return lambda z: torch.cat([second(z) + seen, first(z) + heard])

    def _mixed(self, first: Evaluation, second: Evaluation, visual: Tensor | None) -> Evaluation:
        return Evaluation(
            mixture_log_prior(self.log_odds(visual), first.log_prior[0], second.log_prior[0]),
            torch.cat([second.log_variance, first.log_variance]),
        )


def _story(component: SpeechModel, visual: Tensor | None) -> poutine.Trace:
    """What a component samples on its own, unseen by whatever watches the mixture."""
    with poutine.block():
        return poutine.trace(component.latent).get_trace(visual)


def _prior(component: SpeechModel, visual: Tensor | None) -> dist.TorchDistribution:
    """p(z | v) of a component, batch shape () or (*, N)."""
    return _story(component, visual).nodes[Z]["fn"]


def _log_variance(component: SpeechModel, z: Tensor, visual: Tensor | None) -> Tensor:
    """log sigma(z, v) of a component, (*, N, F)."""
    with poutine.block():
        log_variance: Tensor = poutine.condition(component.latent, {Z: z})(visual)
        return log_variance


def _sizes(component: SpeechModel) -> tuple[int, int] | None:
    """L and F of a component, from the story of one frame with lips that are not seen; None if it has none.

    Raises:
        InputError: the component samples more than z.
    """
    unseen = torch.empty(1, 0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), cached_embeddings(component):
        for part in component.modules():
            if isinstance(part, LipTrunk):
                part.seen = {id(unseen): (unseen, part.missing_embedding.unsqueeze(0))}
        try:
            trace = _story(component, unseen)
        except (ValueError, RuntimeError, IndexError):  # a trunk of another kind, that wants pixels
            return None
    if set(trace.stochastic_nodes) != {Z}:
        raise InputError(
            f"a component that samples {', '.join(trace.stochastic_nodes)}: a mixture needs models of z alone"
        )
    return trace.nodes[Z]["value"].shape[-1], trace.nodes["_RETURN"]["value"].shape[-1]
