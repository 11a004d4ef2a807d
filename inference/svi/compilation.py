"""The objective of a context guide: inference compilation on simulated recordings.

For simulated x = s + b with latents z* ~ q(z | s), q the encoder of clean speech, q(z | x) minimises

    w_1 E[ log sigma(z) + |s|^2 / sigma(z) ] + w_1 KL( q(z | x) || p(z) ) / F           z ~ q(z | x)
    + w_2 E[ -log q(z* | x) ] / L
    + E[ log v_b + |b|^2 / v_b ]
    + w_3 E[ ( |s|^0.3 - |G_v x|^0.3 )^2 ] + w_4 E[ ( |s|^0.3 - |G_b x|^0.3 )^2 ]

means over frames and bins. The first line is minus the evidence lower bound of the clean speech under a guide
that hears the noisy speech; the second is the cross-entropy of inference compilation (Le, Baydin, Wood,
AISTATS 2017), whose minimum is the posterior; the third is minus the log likelihood of the noise; the
fourth compares amplitudes after the Wiener filters of the guide's noise variance v_b and of the true noise
power smoothed over 7 frames and 3 bins, compressed as loudness is. The models stay as they are.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.guides.context import ContextGuide, context_guide
from avse.guides.mixture import branches
from avse.inference.location import location
from avse.models.base import SpeechModel
from avse.models.distributions import exponential_cost
from avse.models.networks.spectrum import POWER_FLOOR

FAINTEST = 1e-8
"""Smallest power of the compressed amplitudes."""


@dataclass
class InferenceCompilation:
    """The objective above, with the interface of a bound of `avse.inference.svi.training.SVI`.

    Args:
        bound: w_1.
        cross_entropy: w_2.
        filtered: w_3.
        filtered_smooth: w_4.
        component: of a mixture, the value of alpha whose model and guide are meant; None for no mixture.

    Attributes:
        kl_weight: factor of the Kullback-Leibler term.
    """

    bound: float = 0.3
    cross_entropy: float = 0.3
    filtered: float = 10.0
    filtered_smooth: float = 30.0
    component: int | None = None
    kl_weight: float = 1.0

    def differentiable_loss(
        self,
        model: Any,
        guide: Any,
        **batch: Tensor,
    ) -> Tensor:
        """The objective times the number N of frames of a recording, which `SVI` divides by.

        Args:
            model: the speech model.
            guide: its guide of clean speech, with a context guide.
            batch: "power" |x|^2, "clean" |s|^2 and "noise" |b|^2, (B, N, F) each, and "visual" (B, N, D) for
                a context guide that reads lips.

        Raises:
            InputError: a model or guide of another kind, or a guide without a context guide.
        """
        if self.component is not None:
            model, guide = model.component_models()[self.component], branches(guide)[self.component]
        context = context_guide(guide) if isinstance(guide, SpeechGuide) else None
        if not isinstance(model, SpeechModel) or not isinstance(context, ContextGuide):
            raise InputError("inference compilation trains a context guide, and this pair has none")
        power, clean, noise = batch["power"], batch["clean"], batch["noise"]
        with torch.no_grad():
            target = guide.posterior(clean)
            mean, spread = location(target), target.stddev
        q, log_noise_variance = context.estimate(power, batch.get("visual"))
        z = q.mean + q.scale * torch.randn_like(q.mean)
        log_variance = model.given(None)(z).log_variance[0]
        divergence = (0.5 * (q.mean.square() + q.log_variance.exp() - 1 - q.log_variance)).sum(-1)
        surprise = 0.5 * (
            q.log_variance + ((mean - q.mean).square() + spread.square()) * (-q.log_variance).exp()
        )
        bins = power.shape[-1]
        bound = exponential_cost(clean + POWER_FLOOR, log_variance.exp()) / bins
        smooth = avg_pool2d(noise.unsqueeze(1), (7, 3), 1, (3, 1), count_include_pad=False).squeeze(1)
        own = _filtered_error(log_variance - log_noise_variance, power, clean)
        ideal = _filtered_error(log_variance - (smooth + POWER_FLOOR).log(), power, clean)
        noise_cost = exponential_cost(noise + POWER_FLOOR, log_noise_variance.exp()) / bins
        total = (
            self.bound * (bound + self.kl_weight * divergence / bins).mean()
            + self.cross_entropy * surprise.mean()
            + noise_cost.mean()
            + self.filtered * own
            + self.filtered_smooth * ideal
        )
        return total * power.shape[-2]


def _filtered_error(log_ratio: Tensor, power: Tensor, clean: Tensor) -> Tensor:
    """Mean of (|s|^0.3 - |G x|^0.3)^2 with the Wiener gain G = sigmoid(log of speech over noise)."""
    estimate = log_ratio.sigmoid().square() * power
    return (clean.clamp_min(FAINTEST).pow(0.15) - estimate.clamp_min(FAINTEST).pow(0.15)).square().mean()
