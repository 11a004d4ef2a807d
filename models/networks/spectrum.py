"""The networks inside models and guides: each returns parameters of a distribution and never samples.

Audio features are maps of the power spectrum (*, N, F) to the input of the encoder. The papers use the power
itself; its logarithm gives loud and quiet frames a similar scale.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

POWER_FLOOR = 1e-6
"""Power below which speech is negligible, 60 dB below the mean of a recording at the common level."""

LOG_VARIANCE_RANGE = (-12.0, 4.0)
"""Clip the log variance of an encoder to this range, for inputs unlike the training data."""

MAX_ENCODER_MEAN = 16.0
"""Clip the mean of an encoder to +-16, for the same inputs; latents of speech lie within +-12."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


class Gaussian(NamedTuple):
    """Parameters of a diagonal normal: mean and log variance, each (*, L)."""

    mean: Tensor
    log_variance: Tensor

    @property
    def scale(self) -> Tensor:
        """Standard deviation, exp(log variance / 2)."""
        return torch.exp(self.log_variance / 2)


def log_power_mean(power: Tensor, floor: float = POWER_FLOOR) -> Tensor:
    """Mean over frames of log(power + floor), (F,)."""
    return torch.log(power + floor).mean(0)


def log_power_spread(power: Tensor, floor: float = POWER_FLOOR) -> Tensor:
    """Standard deviation of log(power + floor) about its mean in every bin, one number."""
    return (torch.log(power + floor) - log_power_mean(power, floor)).std()


class RawPower(nn.Module):
    """The power spectrum as it is: the papers' encoder input."""

    def fit(self, power: Tensor) -> None:
        """Do nothing: there are no scales to set."""

    def forward(self, power: Tensor) -> Tensor:
        """Return `power` (*, F)."""
        return power


class LogPower(nn.Module):
    """log(power + floor), shifted in every bin to mean 0 and scaled by one number to variance 1.

    Args:
        bins: F.
        floor: power added before the logarithm.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, bins: int, floor: float = POWER_FLOOR) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("shift", torch.zeros(bins))
        self.register_buffer("scale", torch.ones(bins))

    def fit(self, power: Tensor) -> None:
        """Set shift and scale from the frames of `power` (N, F)."""
        self.shift.copy_(log_power_mean(power, self.floor))
        self.scale.copy_(log_power_spread(power, self.floor).expand_as(self.scale))

    def forward(self, power: Tensor) -> Tensor:
        """Return (log(power + floor) - shift) / scale, (*, F)."""
        return (torch.log(power + self.floor) - self.shift) / self.scale


def mlp(sizes: Sequence[int], activation: str, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of the given sizes, each followed by its activation (and dropout)."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def conditioned(layers: nn.Sequential, inputs: Tensor, shift: Tensor | None) -> Tensor:
    """An MLP with `shift` (*, H) added before its first activation.

    The sum of two linear maps into one hidden layer equals one linear map of the concatenated inputs, as in
    the papers.
    """
    if shift is None:
        return layers(inputs)
    first, *rest = layers
    hidden = first(inputs) + shift
    for layer in rest:
        hidden = layer(hidden)
    return hidden


class GaussianEncoder(nn.Module):
    """features (and an embedding of the lips) -> hidden layers -> mean and log variance of z, (*, L) each.

    Args:
        size_in: number of features.
        hidden: sizes of the hidden layers; none makes mean and log variance linear in the features.
        latent_size: L.
        activation: of the hidden layers, a key of `ACTIVATIONS`.
        dropout: of the hidden layers.
        embedding_size: E of an embedding that is concatenated with the features; 0 for none.
    """

    def __init__(
        self,
        size_in: int,
        hidden: Sequence[int],
        latent_size: int,
        activation: str = "tanh",
        dropout: float = 0.0,
        embedding_size: int = 0,
    ) -> None:
        super().__init__()
        self.trunk = mlp([size_in, *hidden], activation, dropout)
        self.condition = nn.Linear(embedding_size, hidden[0], bias=False) if embedding_size else None
        size = [size_in, *hidden][-1]
        self.mean = nn.Linear(size, latent_size)
        self.log_variance = nn.Linear(size, latent_size)

    def forward(self, features: Tensor, embedding: Tensor | None = None) -> Gaussian:
        """Parameters of q(z | features, embedding): (*, size_in) and (*, E)."""
        shift = self.condition(embedding) if self.condition is not None else None
        hidden = conditioned(self.trunk, features, shift)
        return Gaussian(
            self.mean(hidden).clamp(-MAX_ENCODER_MEAN, MAX_ENCODER_MEAN),
            self.log_variance(hidden).clamp(*LOG_VARIANCE_RANGE),
        )


class SpectrumDecoder(nn.Module):
    """z (*, L) (and an embedding of the lips) -> hidden layers -> log sigma(z), (*, F).

    The output of the last layer is multiplied by `scale` and shifted by `shift`, the standard deviation and
    mean of the log power of the training frames, so that it trains as fast as the layers before it.

    Args:
        latent_size: L.
        hidden: sizes of the hidden layers.
        bins: F.
        activation: of the hidden layers, a key of `ACTIVATIONS`.
        embedding_size: E of an embedding that is concatenated with z; 0 for none.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_size: int,
        hidden: Sequence[int],
        bins: int,
        activation: str = "tanh",
        embedding_size: int = 0,
    ) -> None:
        super().__init__()
        self.trunk = mlp([latent_size, *hidden], activation)
        self.condition = nn.Linear(embedding_size, hidden[0], bias=False) if embedding_size else None
        self.output = nn.Linear(hidden[-1], bins)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("shift", torch.zeros(bins))
        self.register_buffer("scale", torch.ones(bins))

    def fit(self, power: Tensor) -> None:
        """Set shift and scale from the frames of `power` (N, F)."""
        self.shift.copy_(log_power_mean(power))
        self.scale.copy_(log_power_spread(power).expand_as(self.scale))

    def forward(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        """log sigma_f(z, v), from z (*, N, L) and the embedding of the lips (*, N, E)."""
        return self.given(embedding)(z)

    def given(self, embedding: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """`forward` as a function of z alone, at the current weights; terms without z are computed once."""
        shift = None if self.condition is None else self.condition(embedding)
        first, *rest = self.trunk
        output = self._output()

        def log_variance(z: Tensor) -> Tensor:
            # In two dimensions a linear layer is one fused product.
            if shift is None:
                batch, hidden = z.shape[:-1], first(z.reshape(-1, z.shape[-1]))
            else:
                hidden = first(z) + shift
                batch, hidden = hidden.shape[:-1], hidden.reshape(-1, hidden.shape[-1])
            for layer in rest:
                hidden = layer(hidden)
            return output(hidden).reshape(*batch, -1)

        return log_variance

    def _output(self) -> Callable[[Tensor], Tensor]:
        """The last layer in units of the log power, hidden (B, H) -> (B, F); folded if frozen."""
        if self.output.weight.requires_grad:
            return lambda hidden: self.output(hidden).mul_(self.scale).add_(self.shift)
        # Folded anew each time: a change of the weights through `.data` leaves no trace to go by.
        weight = (self.output.weight * self.scale[:, None]).mT.contiguous()
        bias = self.output.bias * self.scale + self.shift
        return lambda hidden: (hidden @ weight).add_(bias)
