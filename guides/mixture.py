"""The guide of a mixture: first alpha, the component of a frame, then z from the encoder of that component.

    r(alpha_n)                                responsibilities, enumerated
    z_n | alpha_n = k ~ q_k(z | s_n, v_n)     for example q(z | s_n) at alpha_n = 1, q(z | v_n) at alpha_n = 0

With J(a) = KL(q(z | ., a) || p(z | v, a)) - E_q log p(s | z, v, a) the evidence lower bound of a frame is
sum_a r(a) [log p(a) - log r(a) - J(a)]. It is largest, logsumexp_a(log p(a) - J(a)), at

    r(a) proportional to p(a) exp(-J(a)),    with two components logit r(1) = J(0) - J(1) + logit(pi)

(Sadeghi, Alameda-Pineda, IEEE Transactions on Signal Processing 2021, arXiv 1912.10647), and elsewhere lower
by KL(r || r*). alpha is sampled before z, in the guide, so that every component has its own encoder; if it
were enumerated in the model alone, all components would share one encoder. The K branches are given from
alpha = K - 1 down to alpha = 0, as the components of a VAE-MM.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.guides.wrappers import BandLimitedGuide, Corruption, corrupted
from avse.models.av_vae import Trunk
from avse.models.base import SpeechModel
from avse.models.mixture import SelectedDistribution, distribution_of_alpha
from avse.models.networks.spectrum import LogPower, RawPower
from avse.models.parameters import local_parameters
from avse.models.sites import ALPHA, S, Z, frames_plate

Responsibilities = Callable[..., Tensor]
"""(q(z | alpha = K - 1), .., q(z | alpha = 0), power=(*, N, F), visual=(*, N, D)) -> logit r(alpha = 1) of
two branches, (*, N); of more, log r(alpha) up to a constant in each frame, alpha = 0 first, (K, *, N)."""

MAX_LOG_ODDS = 30.0
"""-J of a branch is at least that of the best branch minus this, nats; r is then 0 or 1 to within 1e-13."""


class MixtureGuide(SpeechGuide):
    """r(alpha | s, v) q(z | s, v, alpha).

        MixtureGuide(a_vae.guide, av_vae.guide, responsibilities=OptimalResponsibilities(model))
        MixtureGuide(a_vae.guide, v_vae.guide, av_vae.guide, responsibilities=OptimalResponsibilities(model))

    To train it on corrupted sound, `corrupted` wraps each branch separately.

    Args:
        guides: q(z | alpha) from alpha = K - 1 down to alpha = 0, in the order of the components of a
            `VAEMM`: of two, an `AudioGuide` and then a `VisualGuide`, for example. The branches of one that
            is a mixture guide take its place; its r(alpha) is not used.
        responsibilities: `OptimalResponsibilities` of the model, or a network that is trained with the
            encoders, such as `AmortisedResponsibilities`.
        start: value of alpha whose encoder gives `posterior`, the initial values of inference in a recording.
            By default 0, that of the lips in the papers, which does not depend on the noise.

    Raises:
        InputError: fewer than two guides, `start` is no value of alpha, or the model of
            `OptimalResponsibilities` is a mixture of another number of models.
    """

    def __init__(self, *guides: SpeechGuide, responsibilities: Responsibilities, start: int = 0) -> None:
        super().__init__()
        # In a list: Pyro would not let a child of a guide that has run be put into a larger guide.
        self.branches = nn.ModuleList(branch for guide in reversed(guides) for branch in branches(guide))
        values = len(self.branches)
        if values < 2:
            raise InputError(f"{values} guide: a mixture guide needs two or more")
        if start not in range(values):
            raise InputError(
                f"start = {start}: alpha is 0 (the last guide) to {values - 1} (the first guide)"
            )
        if isinstance(responsibilities, OptimalResponsibilities):
            models = len(responsibilities.model.component_models())
            if models not in (0, values):
                raise InputError(f"{values} guides for a mixture of {models} models: give one for each")
        self.responsibilities = responsibilities
        self.start = start

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of the branches and of the responsibilities from training frames (N, F)."""
        for branch in self.branches:
            branch.fit_scales(power)  # type: ignore[operator]
        if isinstance(self.responsibilities, AmortisedResponsibilities):
            self.responsibilities.features.fit(power)

    def branch(self, alpha: int) -> SpeechGuide:
        """The guide q(z | s, v, alpha)."""
        return self.branches[alpha]  # type: ignore[return-value]

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s, v, alpha) at alpha = `start`; not a mixture, whose mean may lie between the modes."""
        return self.branch(self.start).posterior(power, visual)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """Sample alpha and then z (*, N, L); same signature and plates as the model.

        Raises:
            InputError: the responsibilities are not those of as many branches.
        """
        parts = [branch.posterior(power, visual) for branch in self.branches]  # type: ignore[operator]
        logits = self.responsibilities(*reversed(parts), power=power, visual=visual)
        if len(parts) == 2:
            logits = torch.stack([torch.zeros_like(logits), logits])
        elif len(logits) != len(parts):
            raise InputError(f"r(alpha) of shape {tuple(logits.shape)}: give ({len(parts)}, *, N)")
        with frames_plate(power, visual, frames):
            alpha = pyro.sample(ALPHA, distribution_of_alpha(logits), infer={"enumerate": "parallel"})
            return pyro.sample(Z, SelectedDistribution(alpha, parts))


@singledispatch
def branches(guide: SpeechGuide) -> list[SpeechGuide]:
    """The guides of every value of alpha, alpha = 0 first; a guide that is no mixture is the only one."""
    return [guide]


@branches.register
def _(guide: MixtureGuide) -> list[SpeechGuide]:
    return list(guide.branches)  # type: ignore[arg-type]


@branches.register
def _(guide: BandLimitedGuide) -> list[SpeechGuide]:
    return [BandLimitedGuide(branch, guide.bins) for branch in branches(guide.guide)]


@corrupted.register
def _(guide: MixtureGuide, corruption: Corruption) -> MixtureGuide:
    parts = [corrupted(branch, corruption) for branch in reversed(branches(guide))]
    return MixtureGuide(*parts, responsibilities=guide.responsibilities, start=guide.start)


class BranchGuide(SpeechGuide):
    """One branch of a mixture guide alone: alpha is known, z is drawn from its encoder.

    Its evidence lower bound, log p(alpha) - J(alpha), is that of the mixture guide with r(alpha) = 1. It
    trains the branch even in frames where r* is close to 0.

    Args:
        guide: guide of the mixture.
        alpha: 0 to K - 1.
    """

    def __init__(self, guide: MixtureGuide, alpha: int) -> None:
        super().__init__()
        self.guide = guide.branch(alpha)
        self.alpha = alpha

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | s, v, alpha)."""
        return self.guide.posterior(power, visual)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """Set alpha and sample z (*, N, L)."""
        q = self.posterior(power, visual)
        with frames_plate(power, visual, frames):
            alpha = torch.full(q.batch_shape, float(self.alpha)).to(q.mean)
            pyro.sample(ALPHA, dist.Delta(alpha))
            return pyro.sample(Z, q)


@dataclass(frozen=True)
class OptimalResponsibilities:
    """r*, which maximises the evidence lower bound (ELBO), with J estimated from separate draws.

    The draws are not those of the ELBO, which would be biased upwards if r depended on the draw that it
    weights. Any r is valid, and the derivative at r* is zero, so that no gradient is recorded.

    Args:
        model: p(s, z, alpha | v); not a submodule of the guide, so that no weight is saved twice.
    """

    model: SpeechModel

    def __call__(self, *parts: dist.TorchDistribution, power: Tensor | None, visual: Tensor | None) -> Tensor:
        """log p(a) - J(a), where -J(a) is at most `MAX_LOG_ODDS` below the largest, as `Responsibilities`.

        Args:
            parts: q(z | alpha) from alpha = K - 1 down to alpha = 0.
            power: |s|^2 (*, N, F).
            visual: lips (*, N, D), where the model has them.

        Raises:
            ValueError: no power was given.
        """
        if power is None:
            raise ValueError("the responsibilities need the power spectrum of the speech")
        # Not under no_grad: `cached_embeddings` keeps embeddings that are differentiated later.
        found = [
            _branch(self.model, alpha, q, power, visual)
            for alpha, q in reversed(list(enumerate(reversed(parts))))
        ]
        costs, priors = (
            torch.stack(torch.broadcast_tensors(*each)) for each in zip(*found[::-1], strict=True)
        )
        if len(parts) == 2:
            return ((costs[0] - costs[1]).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS) + priors[1] - priors[0]).detach()
        return ((costs.amin(0) - costs).clamp_min(-MAX_LOG_ODDS) + priors).detach()


def _branch(
    model: SpeechModel, alpha: int, q: dist.TorchDistribution, power: Tensor, visual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """J(alpha) with one draw for the reconstruction, and log p(alpha): (*, N) each."""
    z = q.sample()
    given = {ALPHA: torch.full(power.shape[:-1], float(alpha)).to(power), Z: z}
    with poutine.block(), local_parameters():
        trace = poutine.trace(poutine.condition(model, given)).get_trace(power=power, visual=visual)
    trace.compute_log_prob()
    try:
        divergence = torch.distributions.kl_divergence(q, trace.nodes[Z]["fn"])
    except NotImplementedError:
        divergence = q.log_prob(z) - trace.nodes[Z]["log_prob"]
    return divergence - trace.nodes[S]["log_prob"], trace.nodes[ALPHA]["log_prob"]


class AmortisedResponsibilities(nn.Module):
    """r(alpha | s, v) from a network that is trained by the evidence lower bound.

    Args:
        features: power (*, N, F) -> features (*, N, F).
        layers: features, concatenated with the embedding -> logit r(alpha = 1), (*, N, 1), for two branches;
            for K branches log r(alpha) up to a constant, alpha = 0 first, (*, N, K).
        lips: trunk, visual (*, N, D) -> embedding (*, N, E), or None for audio alone.
    """

    def __init__(self, features: RawPower | LogPower, layers: nn.Module, lips: Trunk | None = None) -> None:
        super().__init__()
        self.features = features
        self.layers = layers
        self.lips = lips

    def forward(self, *parts: dist.TorchDistribution, power: Tensor | None, visual: Tensor | None) -> Tensor:
        """log r, as `Responsibilities`. The branches `parts` are not used.

        Raises:
            ValueError: no power was given.
        """
        if power is None:
            raise ValueError("the responsibilities need the power spectrum of the speech")
        inputs = self.features(power)
        if self.lips is not None:
            embedding = self.lips(visual)
            inputs = torch.cat([inputs, embedding.expand(*inputs.shape[:-1], -1)], dim=-1)
        logits: Tensor = self.layers(inputs)
        return logits.squeeze(-1) if logits.shape[-1] == 1 else logits.movedim(-1, 0)
