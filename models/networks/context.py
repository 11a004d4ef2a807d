"""Networks over frames: dilated convolutions whose output at a frame depends on its neighbours in time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from avse.models.networks.spectrum import Gaussian


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

    def hidden(self, features: Tensor) -> Tensor:
        """Output of the last hidden layer: (*, N, D) -> (*, N, C)."""
        hidden = self.first(features.reshape(-1, *features.shape[-2:]))
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = silu(self.norm(hidden))
        return out.reshape(*features.shape[:-1], -1)

    def forward(self, features: Tensor) -> Tensor:
        """(*, N, D) -> (*, N, E)."""
        out: Tensor = self.last(self.hidden(features))
        return out


class LipRefinement(nn.Module):
    """How the lips change a normal distribution of z that was estimated from the sound.

        (d mu_n, d log sigma_n^2) = valid_n W silu(norm(blocks(A [h_n, mu_n] + B e(v_n))))

    e is one layer with dropout, h the hidden features of the sound, mu its mean of z. Initialised at W = 0,
    no change. Frames without valid lips keep what the sound gives, though their neighbours may have lips.

    Args:
        hidden_size: C, of h.
        latent_size: L.
        visual_size: D, whose last number is the validity.
        embedding_size: E, of e.
        channels: of the residual blocks.
        dilations: of the residual blocks, frames.
        dropout: of e.
    """

    def __init__(
        self,
        hidden_size: int,
        latent_size: int,
        visual_size: int,
        embedding_size: int,
        channels: int,
        dilations: Sequence[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(visual_size, embedding_size), nn.SiLU(), nn.Dropout(dropout))
        self.sound = nn.Linear(hidden_size + latent_size, channels)
        self.lips = nn.Linear(embedding_size, channels)
        self.blocks = nn.ModuleList(DilatedBlock(channels, dilation) for dilation in dilations)
        self.norm = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, 2 * latent_size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, hidden: Tensor, mean: Tensor, visual: Tensor) -> Gaussian:
        """Changes of mean and log variance, (*, N, L) each, of h (*, N, C), mu (*, N, L) and v (*, N, D)."""
        seen = visual.expand(*hidden.shape[:-1], -1)
        merged = self.sound(torch.cat([hidden, mean], -1)) + self.lips(self.embedding(seen))
        flat = merged.reshape(-1, *merged.shape[-2:])
        for block in self.blocks:
            flat = block(flat)
        change = self.last(silu(self.norm(flat))).reshape(*merged.shape[:-1], -1) * seen[..., -1:]
        return Gaussian(*change.chunk(2, -1))
