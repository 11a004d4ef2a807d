"""Trunks: networks that map the lips to an embedding (*, N, D) -> (*, N, E).

The last of the D numbers of a frame tells whether the lips are valid (`avse.data.lips.front_end`). Where they
are not, the embedding is a learned vector.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from avse.models.networks.spectrum import ACTIVATIONS, mlp

MAX_EMBEDDING = 8.0
"""Clip embeddings to +-8. Those of mouths stay below 6; images unlike the training data, such as a head in
profile, would give values in the hundreds, and latents and spectra outside the trained range."""


class LipTrunk(nn.Module):
    """Layers over the pixels, and a learned embedding for missing lips.

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
    """d(v), the log odds that the lips of a frame are corrupted: its own trunk, then a bounded linear map.

        d(v) = B tanh(l(v) / B)

    It is initialised at d = 0. Missing lips have a learned d, through the embedding of the trunk for them.
    The limit B keeps the influence of the classifier below that of strong prior odds or evidence, since
    corrupted lips may still be informative and the logit of lips unlike the training data is unreliable.

    Args:
        trunk: visual (*, N, D) -> embedding (*, N, E).
        embedding_size: E.
        largest: limit B of |d(v)|, nats.
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
    """Embeddings by trunk and `visual`, which are kept alive so that their ids stay unique."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], tuple[LipTrunk, Tensor, Tensor]] = {}

    def put(self, trunk: LipTrunk, visual: Tensor, embedding: Tensor) -> None:
        """Store the embedding of `visual` by a trunk."""
        self._entries[id(trunk), id(visual)] = (trunk, visual, embedding)

    def get(self, trunk: LipTrunk, visual: Tensor) -> Tensor:
        """The stored embedding; computed first where there is none."""
        key = (id(trunk), id(visual))
        if key not in self._entries:
            self.put(trunk, visual, trunk._embedding(visual))
        return self._entries[key][2]


_CACHE: ContextVar[EmbeddingCache | None] = ContextVar("embedding cache", default=None)
"""The cache of the running thread or task."""


@contextmanager
def cached_embeddings() -> Iterator[EmbeddingCache]:
    """Inside, every trunk computes its embedding of the same `visual` once.

    Use it where neither the weights nor the lips change: for one recording, or one loss. The
    cache belongs to the running thread; concurrent calls have their own.
    """
    token = _CACHE.set(EmbeddingCache())
    try:
        yield _CACHE.get()  # type: ignore[misc]
    finally:
        _CACHE.reset(token)


def shared_frame_mlp(
    side: int,
    instants: int,
    embedding_size: int,
    features: int = 48,
    hidden: int = 256,
    dropout: float = 0.0,
    activation: str = "silu",
) -> nn.Sequential:
    """Pixels (B, P side^2) -> embedding (B, E): one linear map for all video frames, then layers over time.

    Args:
        side: side of a video frame, pixels.
        instants: number P of instants.
        embedding_size: E.
        features: number of features per video frame.
        hidden: size of the hidden layer.
        dropout: dropout probability before every layer but the first.
        activation: a key of `ACTIVATIONS`.
    """
    act = ACTIVATIONS[activation]
    return nn.Sequential(
        *_each_video_frame(side, instants, features, dropout, act),
        *_over_time(instants * features, hidden, embedding_size, dropout, act),
    )


def motion_mlp(
    side: int,
    instants: int,
    embedding_size: int,
    features: int = 48,
    hidden: int = 256,
    dropout: float = 0.0,
    activation: str = "silu",
) -> nn.Sequential:
    """As `shared_frame_mlp`, with the change from each video frame to the next as further inputs.

    A linear map of the pixels cannot detect whether consecutive video frames are identical.
    """
    act = ACTIVATIONS[activation]
    shared = nn.Sequential(*_each_video_frame(side, instants, features, dropout, act))
    size = instants * features + instants - 1
    return nn.Sequential(
        Concat(shared, FrameDifference(instants)), *_over_time(size, hidden, embedding_size, dropout, act)
    )


def _each_video_frame(
    side: int, instants: int, features: int, dropout: float, act: type[nn.Module]
) -> list[nn.Module]:
    """Pixels (B, P side^2) -> features of all video frames (B, P features)."""
    return [
        nn.Unflatten(1, (instants, side**2)),
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
    """1/2 log(1 + c / floor), where c is the mean square change from one video frame to the next.

    Args:
        instants: number P of instants.
        floor: negligible change: the square of a hundredth of the standard deviation of the grey levels.
    """

    def __init__(self, instants: int, floor: float = 1e-4) -> None:
        super().__init__()
        self.instants = instants
        self.floor = floor

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, P side^2) -> (B, P - 1)."""
        change = pixels.unflatten(-1, (self.instants, -1)).diff(dim=-2).square().mean(-1)
        return torch.log1p(change / self.floor) / 2


class Concat(nn.Module):
    """The concatenated outputs of several modules for one input.

    Args:
        parts: modules, (B, D) -> (B, D_k) each.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (B, sum of D_k)."""
        return torch.cat([part(inputs) for part in self.parts], dim=-1)


def papers_mlp(side: int, instants: int, embedding_size: int = 128) -> nn.Sequential:
    """4489-512-128, ReLU: the trunk of Sadeghi et al., TASLP 2020."""
    return mlp([instants * side**2, 512, embedding_size], "relu")


class Quantities(nn.Module):
    """Some of the numbers of every instant: (B, P Q) -> (B, P K).

    Args:
        each: Q, numbers an instant.
        wanted: which of them, first and one past the last.
    """

    def __init__(self, each: int, wanted: tuple[int, int]) -> None:
        super().__init__()
        self.each, self.wanted = each, wanted

    def forward(self, shapes: Tensor) -> Tensor:
        """Those of every instant, side by side."""
        return shapes.unflatten(-1, (-1, self.each))[..., slice(*self.wanted)].flatten(-2)


def shape_mlp(
    instants: int,
    quantities: int,
    wanted: tuple[int, int],
    embedding_size: int,
    hidden: int = 128,
    dropout: float = 0.0,
    activation: str = "silu",
) -> nn.Sequential:
    """Shapes of the mouth (B, P Q) -> embedding (B, E): a perceptron over the wanted quantities.

    Args:
        instants: P.
        quantities: Q, numbers an instant.
        wanted: which of them, first and one past the last.
        embedding_size: E.
        hidden: size of the hidden layer.
        dropout: after every layer.
        activation: a key of `ACTIVATIONS`.
    """
    size = instants * (wanted[1] - wanted[0])
    return nn.Sequential(
        Quantities(quantities, wanted),
        *_over_time(size, hidden, embedding_size, dropout, ACTIVATIONS[activation]),
    )
