"""Have the chains mixed? R-hat, effective sample sizes and Monte Carlo errors, for everything at once.

    rhat      rank-normalised split R-hat: the larger of that of the draws and that of their distances from
              the median, both by ranks (equation 14 on the scores of section 4.1 and 4.2)
    ess_bulk  effective sample size of the rank-normalised draws (section 4.3)
    ess_tail  the smaller of those of the indicators of the 5 % and the 95 % quantile
    mcse      standard error of the mean: standard deviation over the root of the effective sample size
    bfmi      E (energy_d - energy_d-1)^2 / Var energy (Betancourt, arXiv 1604.00695)

Vehtari, Gelman, Simpson, Carpenter, Bürkner, Bayesian Analysis 2021 (arXiv 1903.08008). The numbers are those
of ArviZ, which takes one quantity at a time. Effective sample sizes come from the initial monotone sequence
of Geyer (1992) of split chains.

Draws are (C, D, *): C chains, D draws. Where draws are not finite or fewer than four a chain, and for the
R-hat of a single chain or of draws that are all equal, the answer is NaN.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

AT_ONCE = 2**20
"""Draws that are looked at together: bounds the memory."""


class Convergence(NamedTuple):
    """The four numbers of every quantity, each (*)."""

    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    mcse: Tensor


def convergence(draws: Tensor) -> Convergence:
    """All four of draws (C, D, *), in float64."""

    def all_four(columns: Tensor) -> Tensor:
        halves = _split(columns)
        scores = _normal_scores(halves)
        bulk, tail, error = _effective_size(scores), _tail_size(columns), _standard_error(columns)
        return torch.stack([_rhat(halves, scores), bulk, tail, error])

    return Convergence(*_column_by_column(all_four, draws))


def rhat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat: 1 where chains agree, (C, D, *) -> (*)."""

    def alone(columns: Tensor) -> Tensor:
        halves = _split(columns)
        return _rhat(halves, _normal_scores(halves))

    return _column_by_column(alone, draws)


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective sample size for means and medians, (C, D, *) -> (*)."""
    return _column_by_column(lambda columns: _effective_size(_normal_scores(_split(columns))), draws)


def ess_tail(draws: Tensor) -> Tensor:
    """Effective sample size for the ends of a 90 % interval, (C, D, *) -> (*)."""
    return _column_by_column(_tail_size, draws)


def mcse(draws: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean over all draws, (C, D, *) -> (*)."""
    return _column_by_column(_standard_error, draws)


def bfmi(energy: Tensor) -> Tensor:
    """Bayesian fraction of missing information of every chain, (C, D, *) -> (C, *); below 0.3 is poor."""
    energy = energy.double()
    return energy.diff(dim=1).square().mean(1) / energy.var(1)


def _column_by_column(statistic: Callable[[Tensor], Tensor], draws: Tensor) -> Tensor:
    """`statistic`, a function (B, C, D) -> (.., B) in float64, of draws (C, D, *): (.., *)."""
    chains, length, *rest = draws.shape
    columns = draws.reshape(chains, length, -1)
    if length < 4:
        columns = columns.new_full((chains, 4, columns.shape[-1]), torch.nan)
    parts = []
    for part in columns.split(max(1, AT_ONCE // (chains * length)), -1):
        known = part.isfinite().all(1).all(0)
        parts.append(statistic(part.movedim(-1, 0).double().contiguous()).where(known, torch.nan))
    values = torch.cat(parts, -1)
    return values.reshape(*values.shape[:-1], *rest)


def _rhat(halves: Tensor, scores: Tensor) -> Tensor:
    """The larger one of the draws, by their `scores`, and of their distances from the median: (*)."""
    if halves.shape[-2] < 4:  # one chain
        return torch.full_like(halves[..., 0, 0], torch.nan)
    bulk = _scale_reduction(scores)
    tail = _scale_reduction(_normal_scores((halves - _median(halves)).abs()))
    return torch.where(tail > bulk, tail, bulk)


def _tail_size(columns: Tensor) -> Tensor:
    """The smaller effective size of being below the 5 % and the 95 % quantile, (*, C, D) -> (*)."""
    ends = columns.flatten(-2).quantile(columns.new_tensor([0.05, 0.95]), dim=-1)
    return _effective_size(_split((columns <= ends[..., None, None]).to(columns))).amin(0)


def _standard_error(columns: Tensor) -> Tensor:
    """Of the mean, (*, C, D) -> (*)."""
    return columns.flatten(-2).std(-1) / _effective_size(_split(columns)).sqrt()


def _split(columns: Tensor) -> Tensor:
    """First and last half of every chain as chains of their own: (*, C, D) -> (*, 2 C, D // 2)."""
    half = columns.shape[-1] // 2
    return torch.cat([columns[..., :half], columns[..., -half:]], dim=-2)


def _median(columns: Tensor) -> Tensor:
    """Over chains and draws, the mean of the two middle values: (*, C, D) -> (*, 1, 1)."""
    ordered = columns.flatten(-2).sort(-1).values
    middle = ordered[..., [(ordered.shape[-1] - 1) // 2, ordered.shape[-1] // 2]]
    return middle.mean(-1)[..., None, None]


def _normal_scores(columns: Tensor) -> Tensor:
    """Phi^-1((rank - 3/8) / (C D + 1/4)) with the mean rank of equal values, (*, C, D)."""
    flat = columns.flatten(-2)
    size = flat.shape[-1]
    ordered, order = flat.sort(-1)
    position = torch.arange(1.0, size + 1, dtype=flat.dtype, device=flat.device).expand_as(flat)
    differs = ordered[..., 1:] != ordered[..., :-1]
    ends = differs.new_ones(*differs.shape[:-1], 1)
    first = position.where(torch.cat([ends, differs], -1), 0).cummax(-1).values
    last = position.where(torch.cat([differs, ends], -1), size + 1).flip(-1).cummin(-1).values.flip(-1)
    ranks = torch.empty_like(flat).scatter_(-1, order, (first + last) / 2)
    return torch.special.ndtri((ranks - 3 / 8) / (size + 1 / 4)).reshape(columns.shape)


def _scale_reduction(columns: Tensor) -> Tensor:
    """sqrt((B / W + n - 1) / n) of chains of n draws: (*, C, n) -> (*)."""
    length = columns.shape[-1]
    between = length * columns.mean(-1).var(-1)
    within = columns.var(-1).mean(-1)
    return ((between / within + length - 1) / length).sqrt()


def _effective_size(columns: Tensor) -> Tensor:
    """C n / tau, at most C n log10(C n), of chains of n draws: (*, C, n) -> (*).

    tau = -1 + 2 sum_t rho_t over the pairs (rho_2k, rho_2k+1) whose sums are positive and made to decrease.
    """
    chains, length = columns.shape[-2:]
    size = chains * length
    means = columns.mean(-1, keepdim=True)
    transform = torch.view_as_real(torch.fft.rfft(columns - means, n=2 * length))
    spectrum = transform.square().sum(-1).mean(-2)
    covariance = torch.fft.irfft(spectrum, n=2 * length)[..., :length] / length
    total = covariance[..., :1]
    within = total * length / (length - 1)
    if chains > 1:
        total = total + means[..., 0].var(-1, keepdim=True)
    rho = 1 - (within - covariance) / total
    rho[..., 0] = 1.0

    last = max(0, (length - 3) // 2)  # pair
    pairs = rho[..., 0 : 2 * last + 2 : 2] + rho[..., 1 : 2 * last + 2 : 2]
    counted = (pairs[..., :-1] > 0).long().cumprod(-1)
    monotone = (pairs[..., :-1].cummin(-1).values if last else pairs[..., :-1]) * counted
    stop = counted.sum(-1, keepdim=True)
    even, pair = rho.gather(-1, 2 * stop)[..., 0], pairs.gather(-1, stop)[..., 0]
    tau = -1 + 2 * monotone.sum(-1) + even.where((even > 0) | (pair >= 0), 0)
    effective = size / tau.clamp_min(1 / math.log10(size))
    spread = columns.amax((-2, -1)) - columns.amin((-2, -1))
    return effective.where(spread >= torch.finfo(columns.dtype).resolution, float(size))
