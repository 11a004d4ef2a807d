"""Where a distribution lies, and draws of it from an explicit generator.

The location is the mean, or the median of draws where there is no mean in closed form.

Flows (`TransformedDistribution`), mixtures of diagonal normals and heavy tails have none. The draws come from
a seed of their own, and the global generators are left as they were.
"""

from threading import Lock

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Generator, Tensor

_GLOBAL_GENERATORS = Lock()
"""Held while draws come from the global generators, so that threads do not take each other's."""
DRAWS = 65
"""Number of draws; odd, so that the median is one of them."""


def location(distribution: TorchDistribution, seed: int = 0) -> Tensor:
    """The mean of a distribution, or the median of `DRAWS` draws, batch shape + event shape.

    Args:
        distribution: any that can be sampled.
        seed: of the draws.
    """
    try:
        mean: Tensor = distribution.mean
        if bool(mean.isfinite().all()):
            return mean
    except NotImplementedError:
        pass
    return _draws(distribution, DRAWS, seed).median(0).values


def sampled(distribution: TorchDistribution, count: int, generator: Generator) -> Tensor:
    """`count` independent draws, (count, batch shape, event shape).

    Args:
        distribution: any that can be sampled.
        count: of the draws.
        generator: source of the seed of the draws.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return _draws(distribution, count, seed)


def _draws(distribution: TorchDistribution, count: int, seed: int) -> Tensor:
    base = distribution.base_dist if type(distribution) is Independent else distribution
    if type(base) is Normal:  # the same numbers, without the global generators
        generator = torch.Generator(base.loc.device).manual_seed(seed)
        loc, scale = base.loc.detach(), base.scale.detach()
        return torch.stack([torch.normal(loc, scale, generator=generator) for _ in range(count)])
    devices = range(torch.cuda.device_count())
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        # One by one: Pyro's mixtures take no sample shape beside a batch.
        return torch.stack([distribution.sample() for _ in range(count)])
