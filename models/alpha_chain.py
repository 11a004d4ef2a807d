"""A Markov chain of alpha: its forward algorithm and its smoother, given the density of every frame.

    p(alpha_1, .., alpha_N) = p(alpha_1) prod_n p(alpha_n | alpha_{n-1})

The recursions over frames are products of A x A matrices, computed by a parallel scan in log2 N rounds
instead of N steps: the vectorised form of a program with `pyro.markov` in which alpha is enumerated.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class _Messages(NamedTuple):
    """log p(x_1, .., x_n, alpha_n) and log p(x_{n+1}, .., x_N | alpha_n), each (*, N, A)."""

    forward: Tensor
    backward: Tensor


@dataclass(frozen=True)
class AlphaChain:
    """p(alpha_1) and p(alpha_n | alpha_{n-1}).

    Args:
        log_initial: log p(alpha_1), (A,) or (A, *).
        log_transition: log p(alpha_n = j | alpha_{n-1} = i) at [.., i, j] for n = 2, .., N, (*, N - 1, A, A);
            or (A, A), the same for all of them.
    """

    log_initial: Tensor
    log_transition: Tensor

    def log_evidence(self, log_density: Tensor) -> Tensor:
        """log p(x_n | x_1, .., x_{n-1}) of every frame, (*, N), summing to log p(x), alpha summed out.

        Args:
            log_density: log p(x_n | alpha_n), (A, *, N); x_n stands for all that depends on alpha_n.
        """
        total = self._messages(log_density).forward.logsumexp(-1)
        return torch.cat([total[..., :1], total.diff(dim=-1)], -1)

    def smoothed(self, log_density: Tensor) -> Tensor:
        """p(alpha_n | x_1, .., x_N), (A, *, N), from log p(x_n | alpha_n) (A, *, N)."""
        forward, backward = self._messages(log_density)
        return (forward + backward).softmax(-1).movedim(-1, 0)

    def _messages(self, log_density: Tensor) -> _Messages:
        own = log_density.movedim(0, -1)
        first = self.log_initial.movedim(0, -1) + own[..., 0, :]
        transition = self.log_transition
        if transition.dim() == 2:
            transition = transition.expand(own.shape[-2] - 1, *transition.shape)
        steps = transition + own[..., 1:, :].unsqueeze(-2)  # [.., n, i, j]: from i at n - 1 to j at n
        forward = (first.unsqueeze(-2).unsqueeze(-1) + prefixes(steps)).logsumexp(-2)
        backward = prefixes(steps.mT.flip(-3)).flip(-3).mT.logsumexp(-1)
        return _Messages(
            torch.cat([first.unsqueeze(-2), forward], -2),
            torch.cat([backward, torch.zeros_like(first).unsqueeze(-2)], -2),
        )


def prefixes(matrices: Tensor) -> Tensor:
    """Products M_1 .. M_n of logarithms of matrices (.., N, A, A), for every n, in log2 N rounds."""
    products, span = matrices, 1
    while span < matrices.shape[-3]:
        earlier, later = products[..., :-span, :, :], products[..., span:, :, :]
        joined = (earlier.unsqueeze(-1) + later.unsqueeze(-3)).logsumexp(-2)
        products = torch.cat([products[..., :span, :, :], joined], dim=-3)
        span *= 2
    return products
