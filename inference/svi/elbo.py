"""The evidence lower bound with enumerated alpha and, where it exists, the closed-form Kullback-Leibler term.

    sum_alpha r(alpha) [ E_q log p(s | z, v, alpha) - KL(q(z | s, v, alpha) || p(z | v, alpha)) ]
        - KL(r(alpha) || p(alpha))

Pyro's `TraceEnum_ELBO` replaces the inner KL by its value at the one z that was drawn. Both estimates
have the same mean; the closed form removes that Monte Carlo noise from the gradient of the encoder.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.enum import get_importance_trace
from torch.nn.functional import binary_cross_entropy_with_logits

from avse.data.errors import InputError
from avse.models.parameters import local_parameters
from avse.models.vae_mm import VAEMM


class AnalyticKLTraceEnumELBO(TraceEnum_ELBO):
    """`TraceEnum_ELBO` that replaces log q(z) - log p(z) by KL(q || p) at every site where torch has a closed
    form.

    The guide must sample the discrete sites before the continuous ones that depend on them, so that the KL of
    a site holds at every enumerated value. Sites whose KL has no closed form keep their Monte Carlo term.

    Attributes:
        kl_weight: factor of every closed-form KL; 1 gives the evidence lower bound. Smaller values early in
            training prevent posterior collapse of latents that the decoder does not use yet.
    """

    kl_weight: float = 1.0

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        model_trace, guide_trace = get_importance_trace(
            "flat", self.max_plate_nesting, model, guide, args, kwargs
        )
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name in model_trace.nodes:
                _put_closed_form(site, model_trace.nodes[name], self.kl_weight)
        guide_trace.pack_tensors()
        model_trace.pack_tensors(guide_trace.plate_to_symbol)
        return model_trace, guide_trace


def _put_closed_form(guide_site: dict[str, Any], model_site: dict[str, Any], weight: float) -> None:
    """Make the pair of sites contribute -weight KL(q || p) to the ELBO, if the KL has a closed form."""
    if poutine.util.site_is_subsample(guide_site) or not guide_site["fn"].has_rsample:
        return
    # Of a Markov chain the divergence is that of every transition, from the z before that was drawn.
    conditional = getattr(model_site["fn"], "conditional", None)
    p = model_site["fn"] if conditional is None else conditional(model_site["value"])
    try:
        divergence = weight * torch.distributions.kl_divergence(guide_site["fn"], p)
    except NotImplementedError:
        return
    if divergence.shape != guide_site["log_prob"].shape:
        return  # p depends on a site that is enumerated in the model alone
    for site, log_prob in ((guide_site, divergence), (model_site, torch.zeros_like(divergence))):
        site["unscaled_log_prob"] = log_prob
        site["log_prob"] = scale_and_mask(log_prob, site["scale"], site["mask"])
    # Packing takes the cost of a guide site from here, not from "log_prob".
    guide_site["score_parts"] = guide_site["score_parts"]._replace(log_prob=guide_site["log_prob"])


class Objective(Protocol):
    """A lower bound whose negative is minimised."""

    kl_weight: float

    def differentiable_loss(self, model: Any, guide: Any, **batch: torch.Tensor) -> torch.Tensor:
        """Minus the lower bound, summed over frames, nats."""
        ...


class MeanOfRecordings:
    """A bound of several recordings (*, N, F), divided by their number, so that it is that of one.

    Args:
        bound: summed over recordings.
    """

    def __init__(self, bound: Objective) -> None:
        self.bound = bound

    @property
    def kl_weight(self) -> float:
        """Factor of the closed-form KL; 1 gives the evidence lower bound."""
        return self.bound.kl_weight

    @kl_weight.setter
    def kl_weight(self, weight: float) -> None:
        self.bound.kl_weight = weight

    def differentiable_loss(self, model: Any, guide: Any, **batch: torch.Tensor) -> torch.Tensor:
        """Minus the mean bound, summed over the frames of a recording, nats."""
        recordings = math.prod(batch["power"].shape[:-2])
        return self.bound.differentiable_loss(model, guide, **batch) / recordings


class SumOfBounds:
    """The sum of bounds of pairs that share no parameters, which are then trained as if each were alone.

    The components of a mixture, each with its own guide, before alpha chooses between them.

    Args:
        parts: model, guide and bound of each pair.
    """

    def __init__(self, parts: Sequence[tuple[Callable[..., Any], Callable[..., Any], Objective]]) -> None:
        self.parts = parts

    @property
    def kl_weight(self) -> float:
        """Factor of the closed-form KL; 1 gives the evidence lower bounds."""
        return self.parts[0][2].kl_weight

    @kl_weight.setter
    def kl_weight(self, weight: float) -> None:
        for _, _, bound in self.parts:
            bound.kl_weight = weight

    def differentiable_loss(self, model: Any, guide: Any, **batch: Any) -> torch.Tensor:
        """Minus the sum of the bounds, summed over frames, nats; the mixture and its guide are not used."""
        losses = [bound.differentiable_loss(*pair, **batch) for *pair, bound in self.parts]
        return torch.stack(losses).sum()


class AlphaLikelihood:
    """Objective of a VAE-MM's classifier of corrupted lips: sum_n log p(alpha_n = bad_n | v_n), pi = 1/2.

    alpha = 1 selects the audio-only component, for corrupted lips. After training, d(v) is the log odds of
    corrupted lips if they are as frequent as in training, and pi may still be set. No other parameters of the
    model are trained.
    """

    kl_weight: float = 1.0

    def differentiable_loss(self, model: VAEMM, guide: Any, **batch: Any) -> torch.Tensor:
        """Minus the log likelihood, summed over frames, nats.

        Args:
            model: a VAE-MM with a `corruption_classifier`.
            guide: not used.
            batch: lips "visual" (*, N, D) and labels "bad" (*, N), 0 or 1.

        Raises:
            InputError: the model has no classifier of corrupted lips.
        """
        if model.corruption_classifier is None:
            raise InputError("this model has no classifier of corrupted lips to train")
        return binary_cross_entropy_with_logits(
            model.corruption_classifier(batch["visual"]), batch["bad"], reduction="sum"
        )


class PriorMixedELBO:
    """The objective of the conditional VAE: (1 - w) ELBO under the guide + w ELBO under a second guide.

    With the model's own prior p(z | v) as the second guide the KL is zero and the ELBO is
    E_{p(z|v)} log p(s | z, v), so that the prior network learns to predict speech from the lips (Sadeghi et
    al., TASLP 2020, equation 12, whose alpha is 1 - w). A mix of two lower bounds is a lower bound.

    Args:
        prior_guide: the second guide.
        prior_weight: w, from 0 to 1.
        elbo: computes both lower bounds.

    Raises:
        InputError: w is outside [0, 1].
    """

    def __init__(
        self,
        prior_guide: Callable[..., Any],
        prior_weight: float = 0.1,
        elbo: AnalyticKLTraceEnumELBO | None = None,
    ) -> None:
        if not 0 <= prior_weight <= 1:
            raise InputError(f"prior weight {prior_weight}: it must lie between 0 and 1")
        self.prior_guide = prior_guide
        self.prior_weight = prior_weight
        self.elbo = elbo or AnalyticKLTraceEnumELBO(max_plate_nesting=1)

    @property
    def kl_weight(self) -> float:
        """Factor of the closed-form KL; 1 gives the evidence lower bound."""
        return self.elbo.kl_weight

    @kl_weight.setter
    def kl_weight(self, weight: float) -> None:
        self.elbo.kl_weight = weight

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], **batch: Any
    ) -> torch.Tensor:
        """Minus the weighted mean of the two lower bounds, summed over frames, nats."""
        w = self.prior_weight
        with local_parameters():  # both guides may have parameters of the same name
            elbo = self.elbo.differentiable_loss(model, guide, **batch)
            if w == 0:
                return elbo
            return (1 - w) * elbo + w * self.elbo.differentiable_loss(model, self.prior_guide, **batch)
