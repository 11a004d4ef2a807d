"""A network over frames: dilated convolutions whose output at a frame depends on its neighbours in time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu


class DilatedBlock(nn.Module):
    """h_n + W_2 silu(W_1 [u_{n-d}, u_n, u_{n+d}] + b_1) + b_2 with u = layer norm of h: one residual block.

    Frames before the first and after the last are zero.

    Args:
        channels: C.
        dilation: d.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(channels)
        self.taps = nn.Linear(3 * channels, channels)
        self.mix = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden (B, N, C) -> (B, N, C)."""
        frames = hidden.shape[-2]
        padded = pad(self.norm(hidden), (0, 0, self.dilation, self.dilation))
        taps = [padded[:, k * self.dilation : k * self.dilation + frames] for k in range(3)]
        return hidden + self.mix(silu(self.taps(torch.cat(taps, -1))))


class DilatedNetwork(nn.Module):
    """Features of frames (*, N, D) -> (*, N, E), with a receptive field of 1 + 2 sum_i dilation_i frames.

    Args:
        size_in: D.
        channels: C, of the hidden layers.
        dilations: of the residual blocks in order.
        size_out: E.
    """

    def __init__(self, size_in: int, channels: int, dilations: Sequence[int], size_out: int) -> None:
        super().__init__()
        self.first = nn.Linear(size_in, channels)
        self.blocks = nn.ModuleList(DilatedBlock(channels, dilation) for dilation in dilations)
        self.norm = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, size_out)

    def forward(self, features: Tensor) -> Tensor:
        """(*, N, D) -> (*, N, E)."""
        hidden = self.first(features.reshape(-1, *features.shape[-2:]))
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.last(silu(self.norm(hidden)))
        return out.reshape(*features.shape[:-1], -1)
