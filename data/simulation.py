"""Simulated noisy recordings: clean speech of a corpus plus computed noise, for training on noisy input.

    x = s + b,    s a piece of speech, b of `avse.data.synthetic_noise` at a random level

A batch holds the power spectra of x, s and b. No recorded noise is involved. Batches are functions of the
seed and of their number alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avse.data.audio import resample
from avse.data.corpora.base import Corpus, Split
from avse.data.datamodule import Batch, TrainingData
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.synthetic_noise import RandomNoise, cosine_series, filtered, normal, uniform, unit_power

FULL_SCALE = 32767.0
"""Samples are kept as 16-bit integers."""

FAINT = 1e-5
"""Amplitude of the noise that fills digital silence in speech of mean power 1."""


@dataclass(frozen=True)
class MixtureSimulator:
    """Random noisy recordings of pieces of speech.

    Args:
        front_end: brings x to the level of the models; s and b are scaled with it.
        seconds: length of a recording.
        low, high: range of the level of the speech over the noise, dB.
        nearly_clean: share of the recordings whose level is 25 dB above that.
        pause: share of the recordings whose first or last part, up to 60 %, is without speech.
        deviation: of the coefficients of the random response of the speech, dB; see `EqualiserAugmentation`.
        voices: largest number of voices in babble.
        noise: the noise.
        pool: number of noise signals that are computed at once.
        reuse: number of batches that draw from one pool, at other times, signs and levels.
    """

    front_end: FrontEnd
    seconds: float = 4.0
    low: float = -12.0
    high: float = 20.0
    nearly_clean: float = 0.08
    pause: float = 0.2
    deviation: float = 2.5
    voices: int = 8
    noise: RandomNoise = field(default_factory=RandomNoise)
    pool: int = 64
    reuse: int = 4

    @property
    def length(self) -> int:
        """T, samples of a recording."""
        return round(self.seconds * self.front_end.stft.sample_rate)

    def noises(self, speech: Tensor, generator: Generator) -> Tensor:
        """A pool of noise signals (pool, T).

        Args:
            speech: all the speech there is, one signal (T_all,) on the device of `generator`, for babble.
            generator: source of random numbers.
        """
        voices = self._pieces(speech, (self.pool, self.voices), generator)
        return self.noise(self.pool, self.length, self.front_end.stft.sample_rate, generator, voices)

    def batch(self, speech: Tensor, noises: Tensor, size: int, generator: Generator) -> Batch:
        """B = `size` recordings: "power" |x|^2, "clean" |s|^2 and "noise" |b|^2, (B, N, F) each.

        Args:
            speech: all the speech there is, one signal (T_all,).
            noises: a pool (P, T).
            size: B.
            generator: source of random numbers.
        """
        return self.mixed(self.varied(self._pieces(speech, (size,), generator), generator), noises, generator)

    def mixed(self, clean: Tensor, noises: Tensor, generator: Generator) -> Batch:
        """As `batch`, of clean speech (B, T) of mean power 1."""
        count, length = len(clean), self.length
        chosen = torch.randint(len(noises), (count,), generator=generator, device=noises.device)
        shift = torch.randint(length, (count, 1), generator=generator, device=noises.device)
        at = (shift + torch.arange(length, device=noises.device)) % length
        sign = torch.where(uniform((count, 1), 0.0, 1.0, generator) < 0.5, -1.0, 1.0)
        level = uniform((count, 1), self.low, self.high, generator)
        level = level + 25.0 * (uniform((count, 1), 0.0, 1.0, generator) < self.nearly_clean)
        noise = noises[chosen].gather(1, at) * sign * 10 ** (-level / 20)
        noisy, scale = self.front_end.analysis(clean + noise)
        response = self.front_end.response().to(clean) * scale.unsqueeze(-1)
        spectrum = self.front_end.stft.analysis(clean) * response
        return {
            "power": noisy.abs().square(),
            "clean": spectrum.abs().square(),
            "noise": (noisy - spectrum).abs().square(),
        }

    def _pieces(self, speech: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
        """Pieces (*shape, T) of the speech at random places."""
        start = torch.randint(
            max(1, len(speech) - self.length + 1), tuple(shape), generator=generator, device=speech.device
        )
        at = start.unsqueeze(-1) + torch.arange(self.length, device=speech.device)
        return speech[at % len(speech)].float() / FULL_SCALE

    def varied(self, clean: Tensor, generator: Generator) -> Tensor:
        """Clean speech (B, T) brought to mean power 1, some with a pause, with random responses."""
        size = len(clean)
        position = torch.linspace(0, 1, self.length, device=clean.device)
        edge = uniform((size, 1), -0.6, 0.6, generator)
        heard = torch.where(edge > 0, position > edge, position < 1 + edge)
        paused = uniform((size, 1), 0.0, 1.0, generator) < self.pause
        clean = torch.where(heard | ~paused, clean, torch.zeros_like(clean))
        decibels = cosine_series(self.deviation * normal((size, 4), generator), self.length // 2 + 1)
        shaped = filtered(clean, 10 ** (decibels / 20))
        return unit_power(shaped + FAINT * normal(shaped.shape, generator))


class SimulatedBatches(Dataset[Batch]):
    """Simulated batches by number; each is a function of the seed and its number alone.

    Args:
        simulator: of the recordings.
        speech: one signal (T_all,), 16-bit integers.
        size: recordings a batch.
        seed: of all draws.
    """

    def __init__(self, simulator: MixtureSimulator, speech: Tensor, size: int, seed: int) -> None:
        self.simulator, self.speech, self.size, self.seed = simulator, speech, size, seed
        self._pool: tuple[int, Tensor] | None = None

    def __getitem__(self, number: int) -> Batch:
        group = number // self.simulator.reuse
        if self._pool is None or self._pool[0] != group:
            self._pool = group, self.simulator.noises(self.speech, self._generator(2 * group))
        return self.recordings(self._pool[1], self._generator(2 * number + 1))

    def recordings(self, noises: Tensor, generator: Generator) -> Batch:
        """A batch with noise of a pool (P, T)."""
        return self.simulator.batch(self.speech, noises, self.size, generator)

    def _generator(self, stream: int) -> Generator:
        return Generator(self.speech.device).manual_seed((self.seed * 1_000_003 + stream) % 2**63)


class EpochNumbers(Sampler[int]):
    """The numbers of the batches of an epoch; every epoch has others.

    Args:
        count: batches an epoch.
    """

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the numbers; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for index in range(self.count):  # lazily: Lightning sets the epoch after calling iter
            yield self.epoch * self.count + index


class SimulationDataModule(TrainingData):
    """Simulated recordings of the speech of corpora, train and validation split.

    Args:
        corpora: where the speech comes from.
        front_end: analysis settings.
        batch_size: recordings a batch.
        epoch_batches: training batches an epoch.
        validation_batches: the same ones in every epoch.
        simulator: settings of the recordings; its front end is replaced by `front_end`.
        cache: not used; batches are computed anew.
        seed: of the batches.

    Raises:
        InputError: a split without speech, or files that cannot be read.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        front_end: FrontEnd,
        batch_size: int = 48,
        epoch_batches: int = 200,
        validation_batches: int = 4,
        simulator: MixtureSimulator | None = None,
        cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.corpora, self.front_end = corpora, front_end
        self.batch_size, self.epoch_batches = batch_size, epoch_batches
        self.validation_batches = validation_batches
        self.simulator = replace(simulator or MixtureSimulator(front_end), front_end=front_end)
        self.seed = seed
        self._batches: dict[Split, Dataset[Batch]] = {}

    def speech(self, split: Split) -> Tensor:
        """All utterances of a split end to end, each of root mean square 0.08, (T_all,) 16-bit integers.

        Raises:
            InputError: there is none, or files cannot be read.
        """
        utterances = [u for corpus in self.corpora for u in corpus.utterances(split)]
        if not utterances:
            names = ", ".join(corpus.name for corpus in self.corpora)
            raise InputError(
                f"corpus {names}: no utterance in the {split} split; add some or split otherwise"
            )
        rate = self.front_end.stft.sample_rate
        parts = []
        for utterance in track(utterances, f"speech ({split})", transient=True, console=Console(stderr=True)):
            samples, own_rate = utterance.load_audio()
            at_rate = resample(samples[:, None], own_rate, rate)[:, 0]
            level = 0.08 / max(float(np.sqrt(np.mean(np.square(at_rate)))), 1e-6)
            parts.append((np.clip(level * at_rate, -0.98, 0.98) * FULL_SCALE).astype(np.int16))
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    def batches(self, split: Split) -> Dataset[Batch]:
        """The batches of a split, made once."""
        if split not in self._batches:
            self._batches[split] = self.new_batches(split, self.seed + (split != "train"))
        return self._batches[split]

    def new_batches(self, split: Split, seed: int) -> Dataset[Batch]:
        """The batches of a split; loads its speech."""
        return SimulatedBatches(self.simulator, self.speech(split), self.batch_size, seed)

    def scale_frames(self) -> Tensor:
        """Noisy training frames |x|^2 (N, F), from which scales are fitted."""
        return self.batches("train")[0]["power"].flatten(0, 1).cpu()

    @property
    def train_frames(self) -> int:
        """Frames of one epoch."""
        return self.epoch_batches * self.batch_size * self.front_end.stft.frames(self.simulator.length)

    def setup(self, stage: str) -> None:
        """Load both splits before training starts."""
        splits: tuple[Split, ...] = ("train", "validation")
        for split in splits:
            self.batches(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Other batches in every epoch."""
        return DataLoader(self.batches("train"), sampler=EpochNumbers(self.epoch_batches), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The same batches in every epoch."""
        return DataLoader(self.batches("validation"), sampler=range(self.validation_batches), batch_size=None)
