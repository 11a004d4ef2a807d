"""Priors of z that know that lips may mislead: heavier tails around what a prior network says.

    p(z | v) = (1 - epsilon) N(mu(v), diag tau^2 sigma(v)) + epsilon N(0, I)

A network that met few speakers is surer than it should be of strangers: tau widens it, and the second term, a
defensive mixture (Hesterberg, Technometrics 1995), bounds what any lips can cost. With the standard normal
prior of the A-VAE as second term and the A-VAE's own decoder, p(s | v) >= epsilon p(s): in no frame does the
evidence fall more than -log(epsilon) nats below that of the A-VAE, however wrong the lips. tau and epsilon
are chosen on speakers that the network did not meet.
"""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.models.networks.spectrum import GaussianEncoder


class DefensiveMixture(dist.TorchDistribution):
    """(1 - epsilon) N(mean, diag scale^2) + epsilon N(0, I), over the last dimension.

    Args:
        centre: (*, L).
        scale: (*, L), positive.
        epsilon: share of N(0, I), in (0, 1).
    """

    arg_constraints: ClassVar[dict[str, object]] = {}
    has_rsample = False

    def __init__(self, centre: Tensor, scale: Tensor, epsilon: float) -> None:
        self.centre, self.scale, self.epsilon = centre, scale, epsilon
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=False)

    @property
    def support(self) -> object:
        """Every real vector."""
        return dist.constraints.real_vector

    @property
    def mean(self) -> Tensor:
        """Of the first term alone, (*, L): where the lips point to, which is where a chain may start."""
        return self.centre

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "DefensiveMixture":
        """The same over a larger batch."""
        shape = (*batch_shape, *self.event_shape)
        return DefensiveMixture(self.centre.expand(shape), self.scale.expand(shape), self.epsilon)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), (*, L) -> (*)."""
        constant = z.shape[-1] / 2 * math.log(2 * math.pi)
        near = -((z - self.centre) / self.scale).square().sum(-1) / 2 - self.scale.log().sum(-1)
        far = -z.square().sum(-1) / 2
        return torch.logaddexp(near + math.log1p(-self.epsilon), far + math.log(self.epsilon)) - constant

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """z, sample_shape + (*, L)."""
        shape = self._extended_shape(sample_shape)
        unit = torch.randn(shape, dtype=self.centre.dtype, device=self.centre.device)
        far = torch.rand(shape[:-1], dtype=unit.dtype, device=unit.device).unsqueeze(-1) < self.epsilon
        return torch.where(far, unit, self.centre + self.scale * unit)


class RobustPrior(nn.Module):
    """The prior network with a temperature and a defensive share of N(0, I); see the module.

    Args:
        network: embedding (*, N, E) -> mean and log variance of z.
        temperature: tau, of the standard deviations.
        epsilon: share of N(0, I); 0 for none.

    Raises:
        InputError: a temperature that is not positive, or an epsilon outside [0, 1).
    """

    def __init__(self, network: GaussianEncoder, temperature: float = 1.0, epsilon: float = 0.0) -> None:
        super().__init__()
        if not (temperature > 0 and 0 <= epsilon < 1):
            raise InputError(
                f"temperature {temperature}, epsilon {epsilon}: positive, and at least 0, below 1"
            )
        self.network = network
        self.temperature, self.epsilon = temperature, epsilon

    def forward(self, embedding: Tensor) -> dist.TorchDistribution:
        """p(z | v), batch shape (*, N), event shape (L,)."""
        z = self.network(embedding)
        if self.epsilon == 0:
            return dist.Normal(z.mean, self.temperature * z.scale, validate_args=False).to_event(1)
        return DefensiveMixture(z.mean, self.temperature * z.scale, self.epsilon)
