"""The noise: a non-negative matrix factorisation of its variance, fitted to the recording at hand.

    b_fn ~ N_c(0, (W H)_fn),    W (F, K) spectra,  H (K, N) activations,  g_n frame gain
    p(H) proportional to exp( -lambda sum_kn [ h_kn / h_k,n+1 + h_k,n+1 / h_kn - 2 ] )

The prior on H encodes that noise changes less from frame to frame than speech does. It depends only on
ratios, so that the scale of W and H is free; lambda = 0 is the papers' noise model.

Given draws of the speech variance S_r, both factors are updated by majorise-minimise steps, which never
increase

    C = sum_fn mean_r [ log V_r + P / V_r ] - log p(H),    V_r = g S_r + W H,  P = |x|^2.

In a Pyro model, `NMFNoise` holds the estimates of three deterministic sites, and `NMFParameters` holds them
as parameters that `pyro.infer.SVI` trains. Priors that are sampled are in `avse.models.bayesian_nmf`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Generator, Tensor, nn

from avse.data.errors import InputError
from avse.models import sites
from avse.models.distributions import exponential_cost
from avse.models.parameters import StoredModule

Draws = Tensor | Sequence[Tensor]
"""Draws of (*, N, F): a tensor (R, *, N, F) or a sequence of R tensors."""

PERTURBATION_SEED = 0
"""Of the perturbation that sets the components of `QuantileInit` apart."""
FLOOR = 1e-10
"""Smallest noise variance relative to the mean power of the recording; it prevents division by zero."""


@dataclass(frozen=True)
class NMFNoise:
    """The noise variance W H and the frame gain of the speech: estimates that EM updates.

    Calling it puts the sites "W" (*, K, F), "H" (*, K, N) and "g" (*, N) into a Pyro model.

    Args:
        W: spectra (*, F, K), powers.
        H: activations (*, K, N).
        frame_gain: frame gain g of the speech (*, N).
        smoothness: lambda of the prior on H.
        floor: smallest noise variance, a power, () or (*, 1, 1).
    """

    W: Tensor
    H: Tensor
    frame_gain: Tensor
    smoothness: float = 0.0
    floor: Tensor | float = 0.0

    def __call__(self) -> "NMFNoise":
        """Register the sites, and log p(H) as a factor where lambda > 0; return the noise of their values.

        The sites are deterministic, with the estimates as values; `pyro.condition` replaces them.
        """
        if not am_i_wrapped():
            return self
        estimates = {sites.W: self.W.mT, sites.H: self.H, sites.G: self.frame_gain}
        values = {name: pyro.deterministic(name, value) for name, value in estimates.items()}
        noise = self
        if any(values[name] is not value for name, value in estimates.items()):
            noise = replace(self, W=values[sites.W].mT, H=values[sites.H], frame_gain=values[sites.G])
        noise.smoothness_factor(self.H.dim() - 2)
        return noise

    def smoothness_factor(self, channels: int = 0) -> None:
        """log p(H) as the factor "smoothness" of a Pyro model under inference, where lambda > 0.

        Args:
            channels: number of dimensions left of K over which log p(H) is summed, as the site is outside of
                their plates.
        """
        if self.smoothness > 0 and am_i_wrapped():
            log_prior = -self.neg_log_smoothness_prior()
            pyro.factor("smoothness", log_prior.sum(tuple(range(-channels, 0))) if channels else log_prior)

    def variance(self) -> Tensor:
        """V_b = W H as (*, N, F), computed once."""
        return self._variance

    @cached_property
    def _variance(self) -> Tensor:
        return (self.H.mT @ self.W.mT).add_(self.floor)

    def joined(self, channels: Sequence["NMFNoise"]) -> "NMFNoise":
        """Noise models of one channel each, (1, ..), as one of C channels; all share `smoothness`."""
        floors = [torch.as_tensor(each.floor).reshape(-1, 1, 1) for each in channels]
        return replace(
            self,
            W=torch.cat([each.W for each in channels]),
            H=torch.cat([each.H for each in channels]),
            frame_gain=torch.cat([each.frame_gain for each in channels]),
            floor=torch.cat(floors),
        )

    def neg_log_smoothness_prior(self) -> Tensor:
        """-log p(H) up to a constant, one number for each leading dimension, (*)."""
        if self.smoothness == 0:
            return torch.zeros_like(self.H[..., 0, 0])
        ratio = self.H[..., 1:] / self.H[..., :-1]
        return self.smoothness * (ratio + 1 / ratio - 2).sum((-2, -1))

    def updated_spectra(self, power: Tensor, speech_variance: Draws, weights: Tensor) -> "NMFNoise":
        """One majorise-minimise step of W, then columns of W scaled to sum 1.

        Args:
            power: P = |x|^2, (*, N, F).
            speech_variance: S_r without the frame gain, (R, *, N, F) as one tensor or one per draw.
            weights: weights of the draws, summing to 1 over them, (R, *, N).
        """
        quotient, precision = self._statistics(power, speech_variance, weights)
        W = self.W * torch.sqrt((quotient.mT @ self.H.mT) / (precision.mT @ self.H.mT))
        scale = W.sum(-2, keepdim=True)
        shape = torch.where(scale > _tiny(W), W / scale, self.W)  # zero power: keep the spectrum
        return replace(self, W=shape, H=(self.H * scale.mT).clamp_min(_tiny(W)))

    def updated_activations(self, power: Tensor, speech_variance: Draws, weights: Tensor) -> "NMFNoise":
        """One majorise-minimise step of H under its prior: even frames first, then odd ones.

        Given its neighbours, h minimises a / h + b h with a = h_old^2 (W'(P N2))_kn + lambda (h_- + h_+) and
        b = (W' N1)_kn + lambda (1 / h_- + 1 / h_+), so that h = sqrt(a / b).
        """
        quotient, precision = self._statistics(power, speech_variance, weights)
        rise = (self.W.mT @ quotient.mT) * self.H.square()
        fall = self.W.mT @ precision.mT
        H = self.H
        if self.smoothness == 0 or H.shape[-1] == 1:
            return replace(self, H=torch.sqrt(rise / fall).clamp_min(_tiny(H)))
        even = torch.arange(H.shape[-1], device=H.device) % 2 == 0
        for parity in (even, ~even):
            neighbours = _neighbour_sum(H)
            inverses = _neighbour_sum(1 / H)
            step = torch.sqrt((rise + self.smoothness * neighbours) / (fall + self.smoothness * inverses))
            H = torch.where(parity, step.clamp_min(_tiny(H)), H)
        return replace(self, H=H)

    def updated_frame_gain(self, power: Tensor, speech_variance: Draws, weights: Tensor) -> "NMFNoise":
        """One majorise-minimise step of g: g sqrt( sum_f P mean_r S_r / V_r^2 / sum_f mean_r S_r / V_r )."""
        rise, fall = torch.zeros_like(self.frame_gain), torch.zeros_like(self.frame_gain)
        for speech, weight in zip(speech_variance, weights, strict=True):
            variance = self._noisy_variance(speech)
            share = speech / variance
            fall += weight * share.sum(-1)
            rise += weight * share.mul_(power).div_(variance).sum(-1)
        return replace(self, frame_gain=self.frame_gain * torch.sqrt(rise / fall))

    def cost(self, power: Tensor, speech_variance: Draws, weights: Tensor) -> Tensor:
        """The cost C above, (*), nats."""
        total = self.neg_log_smoothness_prior()
        for speech, weight in zip(speech_variance, weights, strict=True):
            frames = exponential_cost(power, self._noisy_variance(speech))
            total = total + (weight * frames).sum(-1)
        return total

    def _noisy_variance(self, speech_variance: Tensor) -> Tensor:
        return torch.addcmul(self.variance(), speech_variance, self.frame_gain.unsqueeze(-1))

    def _statistics(self, power: Tensor, speech_variance: Draws, weights: Tensor) -> tuple[Tensor, Tensor]:
        """P N2 = P mean_r 1 / V_r^2 and N1 = mean_r 1 / V_r, each (*, N, F)."""
        first, second = torch.zeros_like(power), torch.zeros_like(power)
        # One draw at a time, so that its arrays fit in the processor cache.
        for speech, weight in zip(speech_variance, weights.unsqueeze(-1), strict=True):
            precision = self._noisy_variance(speech).reciprocal_()
            first.addcmul_(weight, precision)
            second.addcmul_(weight, precision.square_())
        return second.mul_(power), first


class NMFParameters(StoredModule):
    """W, H and g as positive parameters of a Pyro module, for gradient methods such as `pyro.infer.SVI`.

        model = NoisySpeech(speech.requires_grad_(False), NMFParameters(QuantileInit()(power, generator)))
        SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceEnum_ELBO()).step(power=power)
        model.noise.noise().variance()                      # (*, N, F)

    With the factor log p(H) of `NMFNoise` this is a maximum a posteriori estimate, at lambda = 0 one of
    maximum likelihood. The parameters are the logarithms. The module reads its own, whatever Pyro's store has
    under their names; a step of `SVI` on a second recording is refused until the store is cleared.

    Args:
        noise: initial values, whose smoothness and floor are kept.
        frame_gain: train g; else it is kept.
    """

    log_gain: Tensor

    def __init__(self, noise: NMFNoise, frame_gain: bool = False) -> None:
        super().__init__()
        least = _tiny(noise.H)
        self.log_spectra = nn.Parameter(noise.W.clamp_min(least).log())
        self.log_activations = nn.Parameter(noise.H.clamp_min(least).log())
        log_gain = noise.frame_gain.clamp_min(least).log()
        if frame_gain:
            self.log_gain = nn.Parameter(log_gain)
        else:
            self.register_buffer("log_gain", log_gain)
        self.smoothness, self.floor = noise.smoothness, noise.floor

    @property
    def frame_gain(self) -> Tensor:
        """Frame gain g of the speech, (*, N)."""
        return self.log_gain.exp()

    def noise(self) -> NMFNoise:
        """The noise of the current parameters, differentiable in them."""
        W, H = self.log_spectra.exp(), self.log_activations.exp()
        return NMFNoise(W, H, self.frame_gain, self.smoothness, self.floor)

    def forward(self) -> NMFNoise:
        """As `NMFNoise.__call__`, at the current parameters."""
        return self.noise()()

    def variance(self) -> Tensor:
        """V_b = W H (*, N, F)."""
        return self.noise().variance()


def _neighbour_sum(H: Tensor) -> Tensor:
    """Sum of the left and the right neighbour of every frame, (*, K, N); the ends have one."""
    total = torch.zeros_like(H)
    total[..., 1:] += H[..., :-1]
    total[..., :-1] += H[..., 1:]
    return total


def _tiny(like: Tensor) -> float:
    """A positive number whose square is still one: keeps factors, and their ratios, finite."""
    return torch.finfo(like.dtype).tiny ** 0.5


def _checked_floor(power: Tensor, rank: int) -> Tensor:
    """`smallest_variance`, for noise of at least one component."""
    if rank < 1:
        raise InputError(f"NMF rank {rank}: it must be at least 1")
    return smallest_variance(power)


def smallest_variance(power: Tensor) -> Tensor:
    """The smallest noise variance of each recording |x|^2 (*, N, F), (*, 1, 1); positive also for silence."""
    mean = power.mean((-2, -1), keepdim=True)
    return FLOOR * torch.where(mean > _tiny(power) / FLOOR, mean, torch.ones_like(mean))


@dataclass(frozen=True)
class RandomInit:
    """W and H uniform at random, scaled to the power of the recording: the papers' initialisation.

    Args:
        rank: K.
        smoothness: lambda of the prior on H.
    """

    rank: int = 10
    smoothness: float = 0.0

    def __call__(self, power: Tensor, generator: Generator) -> NMFNoise:
        """A noise model for |x|^2 = `power` (*, N, F)."""
        floor = _checked_floor(power, self.rank)
        *batch, frames, bins = power.shape
        source: dict[str, Any] = {"generator": generator, "dtype": power.dtype, "device": power.device}
        W = torch.rand(*batch, bins, self.rank, **source) + 0.1
        H = torch.rand(*batch, self.rank, frames, **source) + 0.1
        W = W / W.sum(-2, keepdim=True)
        scale = torch.maximum(power.mean((-2, -1), keepdim=True), floor) / (W @ H).mean(
            (-2, -1), keepdim=True
        )
        return NMFNoise(W, H * scale, torch.ones_like(power[..., 0]), self.smoothness, floor)


@dataclass(frozen=True)
class QuantileInit:
    """W and H near a stationary noise: a low quantile over time of the power in each bin, times a factor.

    Speech is weak in most bins of most frames, so that a low quantile depends on the noise alone. The 20 %
    quantile of an exponential power lies at 0.22 of its mean, which a factor above 1 compensates.

    The components start from the same quantile, and a perturbation of log W and log H sets them apart. It is
    the same for every recording: the start of EM depends on the recording alone, and the seed changes
    nothing but the draws of z.

    Args:
        rank: K; every component starts from the quantile, perturbed by `spread`.
        quantile: in [0, 1].
        factor: multiplies the quantile.
        spread: standard deviation of the perturbation of log W and log H.
        smoothness: lambda of the prior on H.
    """

    rank: int = 8
    quantile: float = 0.2
    factor: float = 3.0
    spread: float = 0.3
    smoothness: float = 20.0

    def __call__(self, power: Tensor, generator: Generator) -> NMFNoise:
        """A noise model for |x|^2 = `power` (*, N, F); the generator is not used."""
        floor = _checked_floor(power, self.rank)
        *batch, frames, bins = power.shape
        rank_in_time = max(1, round(self.quantile * frames))
        level = self.factor * torch.maximum(
            power.kthvalue(rank_in_time, dim=-2).values, floor[..., 0]
        )  # (*, F)
        fixed = Generator().manual_seed(PERTURBATION_SEED)
        change_of_W = torch.randn(bins, self.rank, generator=fixed, dtype=torch.float32).to(power)
        change_of_H = torch.randn(self.rank, frames, generator=fixed, dtype=torch.float32).to(power)
        W = level.unsqueeze(-1) * torch.exp(self.spread * change_of_W)
        H = torch.exp(self.spread * change_of_H).expand(*batch, -1, -1)
        scale = W.sum(-2, keepdim=True)
        return NMFNoise(
            W / scale, H * scale.mT / self.rank, torch.ones_like(power[..., 0]), self.smoothness, floor
        )
