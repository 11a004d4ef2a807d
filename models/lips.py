"""Trunks: what a model sees of the lips, made an embedding (*, N, D) -> (*, N, E).

The last of the D numbers of a frame tells whether the lips are seen (`avse.data.lip_front_end`). Where they
are not, the embedding is a learned vector of its own, and what follows answers as it learnt to without lips.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from avse.models.networks import ACTIVATIONS, perceptron


class LipTrunk(nn.Module):
    """Layers over the pixels, and an embedding for lips that are not seen.

    Args:
        layers: pixels (B, D - 1) -> embedding (B, E).
        embedding_size: E.
    """

    def __init__(self, layers: nn.Module, embedding_size: int) -> None:
        super().__init__()
        self.layers = layers
        self.unseen = nn.Parameter(torch.zeros(embedding_size))
        self.seen: dict[int, tuple[Tensor, Tensor]] | None = None

    def forward(self, visual: Tensor | None) -> Tensor:
        """Embedding of every frame, (*, N, E).

        Raises:
            ValueError: `visual` is None.
        """
        if visual is None:
            raise ValueError("this model looks at lips: give visual (*, N, D)")
        if self.seen is None:
            return self._embedding(visual)
        if id(visual) not in self.seen:
            self.seen[id(visual)] = (visual, self._embedding(visual))
        return self.seen[id(visual)][1]

    def _embedding(self, visual: Tensor) -> Tensor:
        pixels, valid = visual[..., :-1], visual[..., -1:]
        embedding = self.layers(pixels.reshape(-1, pixels.shape[-1])).reshape(*visual.shape[:-1], -1)
        return torch.lerp(self.unseen.expand_as(embedding), embedding, valid)


@contextmanager
def one_look(*modules: nn.Module) -> Iterator[None]:
    """Inside, every trunk of the modules looks at the same `visual` once and remembers what it made of it.

    For a stretch of work in which neither the weights nor the lips change: one recording, or one loss.
    """
    trunks = {part for module in modules for part in module.modules() if isinstance(part, LipTrunk)}
    for trunk in trunks:
        trunk.seen = {}
    try:
        yield
    finally:
        for trunk in trunks:
            trunk.seen = None


def shared_map(
    side: int,
    pictures: int,
    embedding_size: int,
    features: int = 48,
    hidden: int = 256,
    dropout: float = 0.0,
    activation: str = "silu",
) -> nn.Sequential:
    """Pixels (B, P side^2) -> embedding (B, E): one linear map for all pictures, then layers over time.

    Args:
        side: of the pictures, pixels.
        pictures: P.
        embedding_size: E.
        features: numbers that a picture becomes.
        hidden: size of the hidden layer.
        dropout: before every layer but the first.
        activation: a key of `ACTIVATIONS`.
    """
    act = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Unflatten(1, (pictures, side**2)),
        nn.Linear(side**2, features),
        act(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(pictures * features, hidden),
        act(),
        nn.Dropout(dropout),
        nn.Linear(hidden, embedding_size),
        act(),
        nn.Dropout(dropout),
    )


def papers_layers(side: int, pictures: int, embedding_size: int = 128) -> nn.Sequential:
    """4489-512-128, ReLU: the trunk of Sadeghi et al., TASLP 2020."""
    return perceptron([pictures * side**2, 512, embedding_size], "relu")
