"""Training pieces: consecutive frames of one utterance, for models whose frames are coupled.

As in all training, quiet frames are left out first: over a pause, the frame after it follows the one before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avse.data.corpora.base import Corpus, Split
from avse.data.datamodule import Batch, EpochSampler, FrameDataModule, FrameDataset, no_utterances
from avse.data.front_end import FrontEnd


class SequenceDataset(Dataset[Batch]):
    """Pieces of M frames. Indexed by a list of B pieces, it gives a batch of (B, M, ..).

    Args:
        frames: all frames.
        starts: first frame of every piece.
        length: M.
    """

    def __init__(self, frames: FrameDataset, starts: Tensor, length: int) -> None:
        self.frames, self.starts, self.length = frames, starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, pieces: list[int]) -> Batch:
        at = self.starts[pieces].unsqueeze(-1) + torch.arange(self.length)
        batch = self.frames[at.flatten().tolist()]
        return {name: values.unflatten(0, tuple(at.shape)) for name, values in batch.items()}


class SequenceDataModule(FrameDataModule):
    """Pieces of consecutive frames of the train and validation splits; shorter utterances are left out.

    Args:
        corpora: where the speech comes from.
        front_end: analysis settings.
        batch_size: pieces a batch.
        piece_frames: M, frames of a piece.
        epoch_pieces: random training pieces of an epoch.
        settings: further arguments of `FrameDataModule`; its `balance` weights the speakers.

    Raises:
        InputError: as `FrameDataModule`, or no utterance is as long as a piece.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        front_end: FrontEnd,
        batch_size: int = 32,
        piece_frames: int = 64,
        epoch_pieces: int = 2000,
        **settings: Any,
    ) -> None:
        super().__init__(corpora, front_end, batch_size, **settings)
        self.piece_frames, self.epoch_pieces = piece_frames, epoch_pieces

    def pieces(self, split: Split) -> SequenceDataset:
        """The pieces of a split: in training one from every frame on, in validation one after the other."""
        frames, length = self.frames(split), self.piece_frames
        step = 1 if split == "train" else length
        starts, first = [], 0
        for count in self.lengths(split):
            starts.append(torch.arange(first, max(first, first + count - length + 1), step))
            first += count
        found = torch.cat([own for own in starts if len(own)] or [torch.zeros(0, dtype=torch.long)])
        if not len(found):
            raise no_utterances(self.corpora, split, f"utterance of {length} frames")
        return SequenceDataset(frames, found, length)

    @property
    def train_frames(self) -> int:
        """Frames of one epoch."""
        return self.epoch_pieces * self.piece_frames

    def train_dataloader(self) -> DataLoader[Batch]:
        """Random pieces, others in every epoch."""
        pieces = self.pieces("train")
        weights = None if self._weights is None else self._weights[pieces.starts]
        sampler = EpochSampler(len(pieces), self.batch_size, self.epoch_pieces, self.seed, weights)
        return DataLoader(pieces, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation pieces, always in one order."""
        pieces = self.pieces("validation")
        batches = torch.arange(len(pieces)).split(64)
        return DataLoader(pieces, sampler=[batch.tolist() for batch in batches], batch_size=None)
