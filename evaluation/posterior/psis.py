"""Pareto smoothed importance sampling, for many sets of weights at once.

The largest ratios are replaced by expected order statistics of a generalised Pareto distribution that is
fitted to them. Its shape k tells whether to believe the weights: below 0.5 they have a variance, up to 0.7
means are still reliable, above they are not, and above 1 not even a mean exists.

Vehtari, Simpson, Gelman, Yao, Gabry, JMLR 2024 (arXiv 1507.02646); the fit is that of Zhang and Stephens,
Technometrics 2009, with the prior of the paper. The numbers are those of ArviZ where no ratios are tied.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

GOOD_K = 0.7
"""Weights of a larger shape are not to be believed."""


class Smoothed(NamedTuple):
    """Normalised log weights (S, *) and the shape k of their tail (*), NaN where all weights are equal."""

    log_weights: Tensor
    k: Tensor


def psis(log_ratios: Tensor) -> Smoothed:
    """Smooth log importance ratios (S, *), S at least 25, in float64; the tail is min(S / 5, 3 sqrt(S)) long.

    Raises:
        ValueError: fewer than 25 ratios have no tail to speak of.
    """
    size = log_ratios.shape[0]
    if size < 25:
        raise ValueError(f"{size} importance ratios: smoothing their tail needs at least 25")
    length = math.ceil(min(0.2 * size, 3 * size**0.5))
    log_ratios = log_ratios.double() - log_ratios.amax(0).double()
    largest = log_ratios.topk(length + 1, dim=0)
    cutoff = largest.values[-1:].exp()
    order = largest.indices[:-1].flip(0)  # ascending
    excess = largest.values[:-1].flip(0).exp() - cutoff
    k, sigma = _pareto_fit(excess)
    probability = (torch.arange(length, dtype=excess.dtype, device=excess.device) + 0.5) / length
    probability = probability.reshape(-1, *[1] * (excess.dim() - 1))
    expected = sigma * torch.expm1(-k * torch.log1p(-probability)) / k
    tail = (expected + cutoff).log().clamp_max(0)
    tail = tail.where(tail.isfinite(), largest.values[:-1].flip(0))
    smoothed = log_ratios.scatter(0, order, tail)
    return Smoothed(smoothed - smoothed.logsumexp(0), k)


def _pareto_fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape k and scale sigma of a generalised Pareto distribution of ascending excesses (M, *), each (*)."""
    length = excess.shape[0]
    largest = excess[-1]
    excess = torch.maximum(excess, 1e-10 * largest)  # those tied with the cutoff
    grid = 30 + math.isqrt(length)
    quartile = excess[int(length / 4 + 0.5) - 1]

    def shape(b: Tensor) -> Tensor:
        return torch.log1p(-b * excess).mean(0)

    steps = [1 - (grid / (i + 0.5)) ** 0.5 for i in range(grid)]
    candidates = torch.stack([step / (3 * quartile) + 1 / largest for step in steps])
    shapes = torch.stack([shape(b) for b in candidates])
    weights = (length * ((-candidates / shapes).log() - shapes - 1)).softmax(0)
    b = (weights * candidates).sum(0)
    k = shape(b)
    return (length * k + 10 * 0.5) / (length + 10), -k / b
