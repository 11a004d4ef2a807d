"""Networks over frames as the encoder and decoder of a recurrent VAE.

Both are a map of all frames, (*, N, D) -> (*, N, E), with what `GaussianEncoder` and `SpectrumDecoder` have
around theirs. The map is a bidirectional LSTM, or the dilated convolutions of `avse.models.networks.context`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from avse.models.networks.context import DilatedNetwork
from avse.models.networks.spectrum import (
    LOG_VARIANCE_RANGE,
    MAX_ENCODER_MEAN,
    Gaussian,
    log_power_mean,
    log_power_spread,
)


class BiLSTM(nn.Module):
    """A bidirectional LSTM and a linear layer, (*, N, D) -> (*, N, E).

    Args:
        size_in: D.
        hidden: units of each direction.
        size_out: E.
    """

    def __init__(self, size_in: int, hidden: int, size_out: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size_in, hidden, batch_first=True, bidirectional=True)
        self.last = nn.Linear(2 * hidden, size_out)

    def forward(self, features: Tensor) -> Tensor:
        """(*, N, D) -> (*, N, E)."""
        hidden, _ = self.lstm(features.reshape(-1, *features.shape[-2:]))
        out: Tensor = self.last(hidden)
        return out.reshape(*features.shape[:-1], -1)


def lstm(size_in: int, channels: int, dilations: Sequence[int], size_out: int) -> nn.Module:
    """A `BiLSTM` of so many units, whatever the dilations."""
    return BiLSTM(size_in, channels, size_out)


SEQUENCE_NETWORKS: dict[str, Callable[[int, int, Sequence[int], int], nn.Module]] = {
    "dilated": DilatedNetwork,
    "lstm": lstm,
}
"""Name -> builder from D, channels, dilations and E."""


class SequenceEncoder(nn.Module):
    """Features of all frames -> mean and log variance of z, (*, N, L) each.

    Args:
        network: (*, N, D) -> (*, N, 2 L).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Gaussian:
        """Parameters of q(z_n | s_1, .., s_N)."""
        mean, log_variance = self.network(features).chunk(2, -1)
        return Gaussian(
            mean.clamp(-MAX_ENCODER_MEAN, MAX_ENCODER_MEAN), log_variance.clamp(*LOG_VARIANCE_RANGE)
        )


class SequenceDecoder(nn.Module):
    """z of all frames -> log sigma_fn(z_1, .., z_N), scaled and shifted as by `SpectrumDecoder`.

    Args:
        network: (*, N, L) -> (*, N, F).
        bins: F.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, bins: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", torch.zeros(bins))
        self.register_buffer("scale", torch.ones(bins))

    def fit(self, power: Tensor) -> None:
        """Set shift and scale from the frames of `power` (N, F)."""
        self.shift.copy_(log_power_mean(power))
        self.scale.copy_(log_power_spread(power).expand_as(self.scale))

    def forward(self, z: Tensor) -> Tensor:
        """(*, N, L) -> (*, N, F)."""
        log_variance: Tensor = self.network(z) * self.scale + self.shift
        return log_variance
