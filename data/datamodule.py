"""Training frames: the power spectra of a corpus, cached on disk, in random batches.

The sound of an utterance is resampled to the STFT's rate and brought to the common level, as every recording
is at test time; the cache holds |X|^2 (N, F) of each utterance in float32. Where lips are wanted, every frame
is shown the video frames around its instant, which are put together when a batch is made; lips may be
corrupted on purpose. A batch is any set of frames, for models whose frames are independent; consecutive ones
are in `avse.data.sequences`.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avse.data.caches import LipsCache, SpectrumCache, default_cache
from avse.data.corpora.base import Corpus, Split, Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.corruption import LipCorruption
from avse.data.lips.front_end import LipTrack
from avse.data.lips.lips import nearest
from avse.data.lips.shape_front_end import LipView

Batch = dict[str, Tensor]
"""Keyword arguments of model and guide: power (B, F), and visual (B, D) where the corpus has it.

With labelled `LipCorruption` also bad (B,): 1 where the lips of a frame are spoilt or not seen, else 0.
"""


def no_utterances(corpora: Sequence[Corpus], split: Split, what: str = "utterance") -> InputError:
    """The error of a split without any utterance of a kind."""
    names = ", ".join(corpus.name for corpus in corpora)
    return InputError(f"corpus {names}: no {what} in the {split} split; add some or split otherwise")


class TrainingData(L.LightningDataModule):
    """Base of the data of a training run: batches, and the frames that scales are fitted to.

    Attributes:
        device: of the training run; batches that are computed rather than read are computed there.
    """

    device: str = "cpu"

    def scale_frames(self) -> Tensor:
        """Training frames (N, F), from which scales are fitted."""
        raise NotImplementedError(f"{type(self).__name__} must define scale_frames()")

    @property
    def train_frames(self) -> int:
        """Number of training frames of an epoch."""
        raise NotImplementedError(f"{type(self).__name__} must define train_frames")


class Shown(NamedTuple):
    """What is shown with N frames, and whether it is bad, (N,)."""

    track: LipTrack
    bad: Tensor


class FrameDataset(Dataset[Batch]):
    """All frames of some utterances in memory. Indexed by a list of frames, it gives a batch.

    Args:
        power: |s|^2 (N, F).
        lips: what is shown with each of C N frames: all frames of a first copy, all of a second, and so on;
            None for sound alone.
        front_end: how lips are shown.
        bad: labels of the C N frames, or None for none.
    """

    def __init__(
        self,
        power: Tensor,
        lips: LipTrack | None = None,
        front_end: LipView | None = None,
        bad: Tensor | None = None,
    ) -> None:
        self.power = power
        self.lips = lips
        self.front_end = front_end
        self.bad = bad

    def __len__(self) -> int:
        return len(self.power if self.lips is None else self.lips.valid)

    def __getitem__(self, frames: list[int]) -> Batch:
        batch = {"power": self.power[torch.tensor(frames) % len(self.power)]}
        if self.lips is not None and self.front_end is not None:
            batch["visual"] = self.front_end.visual(self.lips.frames(frames))
        if self.bad is not None:
            batch["bad"] = self.bad[frames]
        return batch


class EpochSampler(Sampler[list[int]]):
    """Batches of a random permutation that depends on the seed and the epoch alone.

    A run that resumes at an epoch sees what an uninterrupted run would have seen.

    Args:
        size: number of frames.
        batch_size: frames a batch; the last may be smaller.
        limit: at most so many frames an epoch, or None for all.
        seed: of the permutation.
        weights: how often each frame is drawn, (size,), with replacement; None for a permutation.
    """

    def __init__(
        self, size: int, batch_size: int, limit: int | None, seed: int, weights: Tensor | None = None
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.weights = weights
        self.count = size if limit is None else min(limit, size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = self._order(generator)
        for batch in order.split(self.batch_size):  # lazily: Lightning sets the epoch after calling iter
            yield batch.tolist()

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.weights is None:
            return torch.randperm(self.size, generator=generator)[: self.count]
        edges = self.weights.double().cumsum(0)
        drawn = torch.rand(self.count, generator=generator, dtype=torch.float64) * edges[-1]
        return torch.searchsorted(edges, drawn).clamp_max(self.size - 1)


class FrameDataModule(TrainingData):
    """Frames of the train and validation splits of one or more corpora.

    Args:
        corpora: where the speech comes from.
        front_end: analysis settings.
        batch_size: frames a batch.
        epoch_frames: at most so many random training frames an epoch, or None for all.
        max_utterances: at most so many random utterances of one speaker, or None for all; keeps a speaker
            with many recordings from ruling the rest.
        speeds: every training utterance is also heard at these speeds, which shifts its formants and pitch.
        lips: how the lips are shown; utterances without a video are then left out, or heard with their lips
            hidden, see `unseen_share`. None for sound alone.
        lip_corruption: of the lips of both splits; None to show them as they are.
        balance: b, how evenly the speakers are drawn: one with n training frames as n^(1 - b); 0 draws every
            frame equally often, 1 every speaker.
        unseen_share: of the training frames, those of utterances without a video.
        cache: folder of cached spectra and lips.
        seed: of the batches, of the choice of utterances and of the damage to their lips.

    Raises:
        InputError: a split without any utterance; when it is loaded: files that cannot be read, all of them
            named at once, or a split of nothing but digital silence.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        front_end: FrontEnd,
        batch_size: int = 128,
        epoch_frames: int | None = None,
        max_utterances: int | None = None,
        speeds: Sequence[float] = (1.0,),
        lips: LipView | None = None,
        lip_corruption: LipCorruption | None = None,
        balance: float = 0.0,
        unseen_share: float = 0.0,
        cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.corpora = corpora
        self.batch_size = batch_size
        self.epoch_frames = epoch_frames
        self.max_utterances = max_utterances
        self.speeds = speeds
        self.lips = lips
        self.lip_corruption = lip_corruption
        self.cache = SpectrumCache(cache or default_cache(), front_end)
        self.lips_cache = LipsCache(cache or default_cache())
        self.balance, self.unseen_share = balance, unseen_share
        self.seed = seed
        self._frames: dict[Split, FrameDataset] = {}
        self._lengths: dict[Split, list[int]] = {}
        self._weights: Tensor | None = None

    def utterances(self, split: Split) -> list[Utterance]:
        """The utterances that are used of a split."""
        found = [(index, u) for index, corpus in enumerate(self.corpora) for u in corpus.utterances(split)]
        if self.lips is not None and (self.unseen_share == 0 or split != "train"):
            found = [(index, utterance) for index, utterance in found if utterance.load_lips is not None]
        if not found:
            what = "utterance" if self.lips is None else "utterance with a video"
            raise no_utterances(self.corpora, split, what)
        if self.max_utterances is None:
            return [utterance for _, utterance in found]
        shuffled = [found[i] for i in np.random.default_rng(self.seed).permutation(len(found))]
        by_speaker: dict[tuple[int, str], list[Utterance]] = {}
        for index, utterance in shuffled:
            by_speaker.setdefault((index, utterance.speaker), []).append(utterance)
        return [u for own in by_speaker.values() for u in own[: self.max_utterances]]

    def frames(self, split: Split) -> FrameDataset:
        """All frames of a split, loaded once. Frames of digital silence are left out."""
        if split not in self._frames:
            utterances = self.utterances(split)
            speeds = self.speeds if split == "train" else (1.0,)
            heard = [(utterance, speed) for utterance in utterances for speed in speeds]
            powers = self._powers(heard, f"spectra ({split})")
            power = torch.cat(powers)
            loud = power.sum(-1) > 0
            if not loud.any():
                names = ", ".join(corpus.name for corpus in self.corpora)
                raise InputError(f"corpus {names}: the {split} split is digital silence; record it again")
            self._lengths[split] = [int(own.sum()) for own in loud.split([len(p) for p in powers])]
            lips = bad = None
            if self.lips is not None:
                copies = self.lip_corruption.copies if self.lip_corruption and split == "train" else 1
                clips = [
                    self._shown(*each, len(p), number, copies)
                    for number, (each, p) in enumerate(zip(heard, powers, strict=True))
                ]
                shown = [clip[copy] for copy in range(copies) for clip in clips]
                lips = LipTrack.joined([each.track for each in shown]).frames(loud.repeat(copies))
                if self.lip_corruption and self.lip_corruption.labelled:
                    bad = torch.cat([each.bad for each in shown])[loud.repeat(copies)].float()
            if split == "train" and (self.balance or self.unseen_share):
                weights = self._utterance_weights([u for u, _ in heard], [len(p) for p in powers])
                copies = len(lips.valid) // int(loud.sum()) if lips is not None else 1
                self._weights = weights[loud].repeat(copies)
            self._frames[split] = FrameDataset(power[loud], lips, self.lips, bad)
        return self._frames[split]

    def lengths(self, split: Split) -> list[int]:
        """Number of frames of every utterance of `frames`, in their order."""
        self.frames(split)
        return self._lengths[split]

    def _powers(self, heard: Sequence[tuple[Utterance, float]], label: str) -> list[Tensor]:
        """|X|^2 of utterances at a speed, under a bar on stderr that is called `label`.

        Raises:
            InputError: names all files that cannot be read.
        """
        powers: list[Tensor] = []
        faults: dict[str, str] = {}
        for utterance, speed in track(heard, label, transient=True, console=Console(stderr=True)):
            try:
                powers.append(self.cache.power(utterance, speed))
            except InputError as error:
                faults[utterance.key] = str(error)
        if len(faults) == 1:
            raise InputError(next(iter(faults.values())))
        if faults:
            listed = " | ".join(faults.values())
            raise InputError(f"{len(faults)} of the recordings cannot be used: {listed}")
        return powers

    def _utterance_weights(self, utterances: Sequence[Utterance], frames: Sequence[int]) -> Tensor:
        """How often the frames of utterances with so many `frames` are drawn, one weight a frame."""
        groups = [(self.lips is not None and u.load_lips is None, u.speaker) for u in utterances]
        sizes: dict[tuple[bool, str], int] = {}
        for group, count in zip(groups, frames, strict=True):
            sizes[group] = sizes.get(group, 0) + count
        weight = {group: count**-self.balance for group, count in sizes.items()}
        for unseen, share in ((True, self.unseen_share), (False, 1 - self.unseen_share)):
            total = sum(weight[group] * count for group, count in sizes.items() if group[0] == unseen)
            if self.lips is not None and total:
                weight.update({g: share / total * w for g, w in weight.items() if g[0] == unseen})
        each = torch.tensor([weight[group] for group in groups], dtype=torch.float64)
        return each.repeat_interleave(torch.tensor(frames))

    def _shown(
        self, utterance: Utterance, speed: float, frames: int, number: int, copies: int
    ) -> list[Shown]:
        """What is shown with the N `frames` of an utterance, the `number`th, heard at a speed; every copy."""
        assert self.lips is not None
        if utterance.load_lips is None:
            return [Shown(self.lips.absent(frames), torch.ones(frames, dtype=torch.bool))] * copies
        try:
            lips = self.lips_cache.lips(utterance)
        except InputError as error:
            warnings.warn(f"trained without lips: {error}", stacklevel=2)
            return [Shown(self.lips.absent(frames), torch.ones(frames, dtype=torch.bool))] * copies
        times = speed * self.cache.front_end.stft.frame_times(frames)
        shown = []
        for copy in range(copies):
            seen, spoilt = lips, np.zeros(len(lips.times), bool)
            if self.lip_corruption is not None:
                seen, spoilt = self.lip_corruption(lips, np.random.default_rng((self.seed, number, copy)))
            track = self.lips.track(seen, times)
            shown.append(Shown(track, ~track.valid | torch.from_numpy(spoilt[nearest(lips, times)])))
        return shown

    def scale_frames(self) -> Tensor:
        """About 20,000 training frames |s|^2 (N, F), from which scales are fitted."""
        power = self.frames("train").power
        return power[:: max(1, len(power) // 20_000)]

    @property
    def train_frames(self) -> int:
        """Number of training frames."""
        return len(self.frames("train"))

    def setup(self, stage: str) -> None:
        """Load both splits before training starts, so that all mistakes show at once."""
        faults: list[str] = []
        splits: tuple[Split, ...] = ("train", "validation")
        for split in splits:
            try:
                self.frames(split)
            except InputError as error:
                faults.append(str(error))
        if faults:
            raise InputError(" | ".join(faults))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Random batches, another permutation every epoch."""
        frames = self.frames("train")
        sampler = EpochSampler(len(frames), self.batch_size, self.epoch_frames, self.seed, self._weights)
        return DataLoader(frames, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation frames, always in one order."""
        frames = self.frames("validation")
        batches = torch.arange(len(frames)).split(4096)
        return DataLoader(frames, sampler=[batch.tolist() for batch in batches], batch_size=None)
