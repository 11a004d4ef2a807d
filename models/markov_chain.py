"""A Markov chain of normal latents as the distribution of site "z" in all frames.

    z_1 ~ N(mu_1(c_1), diag sigma_1(c_1))
    z_n | z_{n-1} ~ N(mu(z_{n-1}, c_n), diag sigma(z_{n-1}, c_n))

It is the vectorised form of the program

    for n in pyro.markov(range(N)):
        z = pyro.sample(f"z_{n}", dist.Normal(*transition(z, c[n])).to_event(1))

in one statement, pyro.sample("z", MarkovChain(transition, c)). Its log probability is log p(z_n | z_{n-1}) of
every frame, (*, N): the frames plate says where a term belongs, and their sum is log p(z). So it serves any
inference that sums the terms; `avse.models.coupling` keeps away what takes them for independent.
"""

from collections.abc import Callable
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from avse.models.networks.spectrum import Gaussian


class Transition(Protocol):
    """p(z_1 | c_1) and p(z_n | z_{n-1}, c_n)."""

    def initial(self, context: Tensor | None) -> Gaussian:
        """Of the first frame: mean and log variance (*, 1, L) or (L,), from c_1 (*, 1, E) or None."""
        ...

    def __call__(self, previous: Tensor, context: Tensor | None) -> Gaussian:
        """Of M frames: (*, M, L) each, from z_{n-1} (*, M, L) and c_n (*, M, E) or None."""
        ...


class MarkovChain(TorchDistribution):
    """p(z_1, .., z_N) above: batch shape (*, N), event shape (L,).

    Without context the batch shape is empty, and the plates that it is sampled in set N.

    Args:
        transition: p(z_1 | c_1) and p(z_n | z_{n-1}, c_n).
        context: c (*, N, E), such as an embedding of the lips, or None.
        batch_shape: (*, N); by default that of the context.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        transition: Transition,
        context: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.transition = transition
        self.context = context
        if batch_shape is None:
            batch_shape = torch.Size() if context is None else context.shape[:-1]
        event_shape = transition.initial(self._context(slice(0, 1))).mean.shape[-1:]
        super().__init__(batch_shape, event_shape, validate_args=False)

    def _context(self, frames: slice) -> Tensor | None:
        return None if self.context is None else self.context[..., frames, :]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MarkovChain":
        """The chain of N frames, and of independent chains left of them."""
        return MarkovChain(self.transition, self.context, torch.Size(batch_shape))

    def conditional(self, z: Tensor) -> dist.TorchDistribution:
        """p(z_n | z_{n-1}) of every frame at z (*, N, L), as normals of batch shape (*, N)."""
        first = self.transition.initial(self._context(slice(0, 1)))
        others = self.transition(z[..., :-1, :], self._context(slice(1, None)))
        parts = [
            torch.cat([own.expand(*rest.shape[:-2], 1, z.shape[-1]), rest], -2)
            for own, rest in zip(first, others, strict=True)
        ]
        p = Gaussian(*parts)
        return dist.Normal(p.mean, p.scale, validate_args=False).to_event(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z_n | z_{n-1}) of every frame at z (*, N, L): (*, N), summing to log p(z)."""
        log_prob: Tensor = self.conditional(value).log_prob(value)
        return log_prob

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws (sample_shape, *, N, L), frame after frame."""
        return self._path(lambda p, shape: p.mean + p.scale * p.mean.new_empty(shape).normal_(), sample_shape)

    @property
    def mean(self) -> Tensor:
        """The path of the transitions' means, each from the mean before it, (*, N, L).

        The means of z_n themselves where mu(z, c) is linear in z.
        """
        return self._path(lambda p, shape: p.mean.expand(shape), ())

    def _path(self, chosen: Callable[[Gaussian, torch.Size], Tensor], sample_shape: Any) -> Tensor:
        """z (sample_shape, *, N, L) of which every frame is `chosen` given the one before."""
        *batch, frames = self.batch_shape
        shape = torch.Size((*sample_shape, *batch, 1, *self.event_shape))
        z = [chosen(self.transition.initial(self._context(slice(0, 1))), shape)]
        for n in range(1, frames):
            z.append(chosen(self.transition(z[-1], self._context(slice(n, n + 1))), shape))
        return torch.cat(z, -2)
