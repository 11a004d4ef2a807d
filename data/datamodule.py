"""Training frames: the power spectra of a corpus, cached on disk, in random batches.

The sound of an utterance is resampled to the STFT's rate and brought to the common level, as every recording
is at test time; the cache holds |X|^2 (N, F) of each utterance in float32. Frames are independent for the
models of this package, so that a batch is any set of frames.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avse.data.audio import resample
from avse.data.corpora.base import Corpus, Split, Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd

Batch = dict[str, Tensor]
"""Keyword arguments of model and guide: power (B, F), and visual where the corpus has it."""


def default_cache() -> Path:
    """The folder for cached spectra: $XDG_CACHE_HOME/avse, by default ~/.cache/avse."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avse"


def utterance_power(utterance: Utterance, front_end: FrontEnd, speed: float = 1.0) -> Tensor:
    """|X|^2 (N, F) of an utterance at the common level, played `speed` times as fast (and as high)."""
    samples, rate = utterance.load_audio()
    signal = torch.from_numpy(resample(samples, round(rate * speed), front_end.stft.sample_rate))
    return front_end.analysis(signal).values.abs().square()


@dataclass(frozen=True)
class SpectrumCache:
    """Power spectra of utterances on disk, one file each, safe under several processes.

    Args:
        folder: where the files are; made when missing.
        front_end: analysis settings, part of the name of every file.
    """

    folder: Path
    front_end: FrontEnd

    def power(self, utterance: Utterance, speed: float = 1.0) -> Tensor:
        """|X|^2 (N, F) of the utterance at a speed, read from disk or computed and written."""
        settings = f"{utterance.key}|{self.front_end}|{speed}"
        name = hashlib.sha256(settings.encode()).hexdigest()
        path = Path(self.folder) / f"{name}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        power = utterance_power(utterance, self.front_end, speed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.save(file, power.numpy())
        Path(file.name).replace(path)
        return power


class FrameDataset(Dataset[Batch]):
    """All frames of some utterances in memory. Indexed by a list of frames, it gives a batch."""

    def __init__(self, power: Tensor) -> None:
        self.power = power

    def __len__(self) -> int:
        return self.power.shape[0]

    def __getitem__(self, frames: list[int]) -> Batch:
        return {"power": self.power[frames]}


class EpochSampler(Sampler[list[int]]):
    """Batches of a random permutation that depends on the seed and the epoch alone.

    A run that resumes at an epoch sees what an uninterrupted run would have seen.

    Args:
        size: number of frames.
        batch_size: frames a batch; the last may be smaller.
        limit: at most so many frames an epoch, or None for all.
        seed: of the permutation.
    """

    def __init__(self, size: int, batch_size: int, limit: int | None, seed: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.count = size if limit is None else min(limit, size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator)[: self.count]
        for batch in order.split(self.batch_size):  # lazily: Lightning sets the epoch after calling iter
            yield batch.tolist()


class FrameDataModule(L.LightningDataModule):
    """Frames of the train and validation splits of one or more corpora.

    Args:
        corpora: where the speech comes from.
        front_end: analysis settings.
        batch_size: frames a batch.
        epoch_frames: at most so many random training frames an epoch, or None for all.
        max_utterances: at most so many random utterances of one speaker, or None for all; keeps a speaker
            with many recordings from ruling the rest.
        speeds: every training utterance is also heard at these speeds, which shifts its formants and pitch.
        cache: folder of cached spectra.
        seed: of the batches and of the choice of utterances.

    Raises:
        InputError: a split without any utterance.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        front_end: FrontEnd,
        batch_size: int = 128,
        epoch_frames: int | None = None,
        max_utterances: int | None = None,
        speeds: Sequence[float] = (1.0,),
        cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.corpora = corpora
        self.batch_size = batch_size
        self.epoch_frames = epoch_frames
        self.max_utterances = max_utterances
        self.speeds = speeds
        self.cache = SpectrumCache(cache or default_cache(), front_end)
        self.seed = seed
        self._frames: dict[Split, FrameDataset] = {}

    def utterances(self, split: Split) -> list[Utterance]:
        """The utterances that are used of a split."""
        found = [(index, u) for index, corpus in enumerate(self.corpora) for u in corpus.utterances(split)]
        if not found:
            names = ", ".join(corpus.name for corpus in self.corpora)
            raise InputError(
                f"corpus {names}: no utterance in the {split} split; add some or split otherwise"
            )
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
            powers = [
                self.cache.power(utterance, speed)
                for utterance in track(utterances, f"spectra ({split})", transient=True)
                for speed in speeds
            ]
            power = torch.cat(powers)
            self._frames[split] = FrameDataset(power[power.sum(-1) > 0])
        return self._frames[split]

    def setup(self, stage: str) -> None:
        """Load both splits before training starts, so that a mistake shows at once."""
        self.frames("train")
        self.frames("validation")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Random batches, another permutation every epoch."""
        frames = self.frames("train")
        sampler = EpochSampler(len(frames), self.batch_size, self.epoch_frames, self.seed)
        return DataLoader(frames, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation frames, always in one order."""
        frames = self.frames("validation")
        batches = torch.arange(len(frames)).split(4096)
        return DataLoader(frames, sampler=[batch.tolist() for batch in batches], batch_size=None)
