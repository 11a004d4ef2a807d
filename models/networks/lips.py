"""Trunks: what a model sees of the lips, made an embedding (*, N, D) -> (*, N, E).

The last of the D numbers of a frame tells whether the lips are seen (`avse.data.lips.front_end`). Where they
are not, the embedding is a learned vector of its own, and what follows answers as it learnt to without lips.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from avse.models.networks.spectrum import ACTIVATIONS, mlp

MAX_EMBEDDING = 8.0
"""Of an embedding. Mouths stay below 6; pictures unlike any mouth, such as a head turned far aside, would
give hundreds, and latents and spectra out of all range."""


class LipTrunk(nn.Module):
    """Layers over the pixels, and an embedding for lips that are not seen.

    Args:
        layers: pixels (B, D - 1) -> embedding (B, E).
        embedding_size: E.
    """

    def __init__(self, layers: nn.Module, embedding_size: int) -> None:
        super().__init__()
        self.layers = layers
        self.missing_embedding = nn.Parameter(torch.zeros(embedding_size))

    def forward(self, visual: Tensor | None) -> Tensor:
        """Embedding of every frame, (*, N, E).

        Raises:
            ValueError: `visual` is None.
        """
        if visual is None:
            raise ValueError("this model needs lips: give visual (*, N, D)")
        cache = _CACHE.get()
        return self._embedding(visual) if cache is None else cache.get(self, visual)

    def _embedding(self, visual: Tensor) -> Tensor:
        pixels, valid = visual[..., :-1], visual[..., -1:]
        embedding = self.layers(pixels.reshape(-1, pixels.shape[-1])).reshape(*visual.shape[:-1], -1)
        embedding = embedding.clamp(-MAX_EMBEDDING, MAX_EMBEDDING)
        return torch.lerp(self.missing_embedding.expand_as(embedding), embedding, valid)


class LipCorruptionClassifier(nn.Module):
    """d(v), the log odds that the lips of a frame are bad: a trunk of its own, then a linear map, bounded.

        d(v) = B tanh(l(v) / B)

    It starts at d = 0. Lips that are not seen have a learned d through the trunk's embedding for them. The
    bound leaves the last word to the prior odds and the evidence: bad lips are not always useless, and lips
    like none that were seen in training should convince nobody.

    Args:
        trunk: visual (*, N, D) -> embedding (*, N, E).
        embedding_size: E.
        largest: B, nats.
    """

    def __init__(self, trunk: LipTrunk, embedding_size: int, largest: float = 4.0) -> None:
        super().__init__()
        self.trunk = trunk
        self.largest = largest
        self.logit = nn.Linear(embedding_size, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)

    def forward(self, visual: Tensor | None) -> Tensor:
        """d(v), (*, N)."""
        logit: Tensor = self.logit(self.trunk(visual)).squeeze(-1)
        return self.largest * torch.tanh(logit / self.largest)


class EmbeddingCache:
    """Embeddings by trunk and `visual`, which are kept alive so that their identities stay theirs."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], tuple[LipTrunk, Tensor, Tensor]] = {}

    def put(self, trunk: LipTrunk, visual: Tensor, embedding: Tensor) -> None:
        """Store what a trunk computed."""
        self._entries[id(trunk), id(visual)] = (trunk, visual, embedding)

    def get(self, trunk: LipTrunk, visual: Tensor) -> Tensor:
        """The stored embedding; computed first where there is none."""
        key = (id(trunk), id(visual))
        if key not in self._entries:
            self.put(trunk, visual, trunk._embedding(visual))
        return self._entries[key][2]


_CACHE: ContextVar[EmbeddingCache | None] = ContextVar("embedding cache", default=None)
"""Of the running thread or task."""


@contextmanager
def cached_embeddings() -> Iterator[EmbeddingCache]:
    """Inside, every trunk computes its embedding of the same `visual` once.

    For a stretch of work in which neither the weights nor the lips change: one recording, or one loss. The
    cache belongs to the running thread; concurrent calls have their own.
    """
    token = _CACHE.set(EmbeddingCache())
    try:
        yield _CACHE.get()  # type: ignore[misc]
    finally:
        _CACHE.reset(token)


def shared_frame_mlp(
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
        *_each_picture(side, pictures, features, dropout, act),
        *_over_time(pictures * features, hidden, embedding_size, dropout, act),
    )


def motion_mlp(
    side: int,
    pictures: int,
    embedding_size: int,
    features: int = 48,
    hidden: int = 256,
    dropout: float = 0.0,
    activation: str = "silu",
) -> nn.Sequential:
    """As `shared_frame_mlp`, with the change from each video frame to the next as further inputs.

    No linear map tells a picture that stands still from one that moves.
    """
    act = ACTIVATIONS[activation]
    seen = nn.Sequential(*_each_picture(side, pictures, features, dropout, act))
    size = pictures * features + pictures - 1
    return nn.Sequential(
        Concat(seen, FrameDifference(pictures)), *_over_time(size, hidden, embedding_size, dropout, act)
    )


def _each_picture(
    side: int, pictures: int, features: int, dropout: float, act: type[nn.Module]
) -> list[nn.Module]:
    """Pixels (B, P side^2) -> features of all pictures (B, P features)."""
    return [
        nn.Unflatten(1, (pictures, side**2)),
        nn.Linear(side**2, features),
        act(),
        nn.Flatten(),
        nn.Dropout(dropout),
    ]


def _over_time(
    size: int, hidden: int, embedding_size: int, dropout: float, act: type[nn.Module]
) -> list[nn.Module]:
    """(B, size) -> embedding (B, E)."""
    return [
        nn.Linear(size, hidden),
        act(),
        nn.Dropout(dropout),
        nn.Linear(hidden, embedding_size),
        act(),
        nn.Dropout(dropout),
    ]


class FrameDifference(nn.Module):
    """1/2 log(1 + c / floor), where c is the mean square change from one picture to the next.

    Args:
        pictures: P.
        floor: change that is next to none: a hundredth of the deviation of a clip's grey levels, squared.
    """

    def __init__(self, pictures: int, floor: float = 1e-4) -> None:
        super().__init__()
        self.pictures = pictures
        self.floor = floor

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, P side^2) -> (B, P - 1)."""
        change = pixels.unflatten(-1, (self.pictures, -1)).diff(dim=-2).square().mean(-1)
        return torch.log1p(change / self.floor) / 2


class Concat(nn.Module):
    """What several parts make of one input, side by side.

    Args:
        parts: (B, D) -> (B, D_k) each.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (B, sum of D_k)."""
        return torch.cat([part(inputs) for part in self.parts], dim=-1)


def papers_mlp(side: int, pictures: int, embedding_size: int = 128) -> nn.Sequential:
    """4489-512-128, ReLU: the trunk of Sadeghi et al., TASLP 2020."""
    return mlp([pictures * side**2, 512, embedding_size], "relu")
