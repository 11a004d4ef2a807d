"""Pareto smoothed importance sampling (PSIS) of many sets of weights at once.

The largest ratios are replaced by the expected order statistics of a generalised Pareto distribution fitted
to them. Its shape k measures the reliability of the weights: below 0.5 their variance is finite, up to 0.7
weighted means are still reliable, above 0.7 they are not, and above 1 the mean of the weights is infinite.

Vehtari, Simpson, Gelman, Yao, Gabry, JMLR 2024 (arXiv 1507.02646); the fit is that of Zhang and Stephens,
Technometrics 2009, with the prior of the paper. The values equal those of ArviZ unless ratios are tied.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_PARETO_K = 0.7
"""Weights with a larger Pareto k are unreliable."""


class Smoothed(NamedTuple):
    """Normalised log weights (S, *) and their Pareto k (*), NaN if all weights are equal."""

    log_weights: Tensor
    k: Tensor


def psis(log_ratios: Tensor) -> Smoothed:
    """Smooth log importance ratios (S, *) in float64; the tail has min(S / 5, 3 sqrt(S)) ratios.

    Raises:
        ValueError: there are fewer than 25 ratios, too few to fit a tail.
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
    excess = torch.maximum(excess, 1e-10 * largest)  # ratios tied with the cutoff
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
