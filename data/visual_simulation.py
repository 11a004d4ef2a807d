"""Simulated noisy recordings with lips: clean speech of people who are seen, computed noise, and their video.

As `avse.data.simulation`, but every recording is a piece of one utterance, with the visual features of its
frames. A share of the recordings is shown with other lips: those of another utterance, its own shifted in
time or reversed, or none. What is trained on them learns from the sound whether the lips belong to it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Generator, Tensor
from torch.nn.functional import pad

from avse.data.audio import resample
from avse.data.caches import LipsCache, default_cache
from avse.data.corpora.base import Corpus, Split
from avse.data.datamodule import Batch, no_utterances
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.shape_front_end import LipView
from avse.data.simulation import MixtureSimulator, SimulatedBatches, SimulationDataModule


class Clip(NamedTuple):
    """One utterance with its lips.

    Attributes:
        speaker: name.
        samples: float (T_u,).
        visual: features of its frames, (N_u, D).
    """

    speaker: str
    samples: Tensor
    visual: Tensor


@dataclass(frozen=True)
class OtherLips:
    """Which lips are shown with a recording, in shares of all recordings; the rest is shown with its own.

    Args:
        same_speaker: of another utterance of the speaker.
        any_speaker: of any utterance.
        shifted: its own, shifted circularly by a random time.
        reversed: its own, reversed in time.
        hidden: none.
    """

    same_speaker: float = 0.10
    any_speaker: float = 0.07
    shifted: float = 0.05
    reversed: float = 0.05
    hidden: float = 0.05


class VisualBatches(SimulatedBatches):
    """Simulated batches with "visual" (B, N, D), by number; each is a function of seed and number alone.

    Speakers are drawn equally often, whatever the number of their clips.

    Args:
        simulator: of the recordings.
        speech: all the speech there is, for babble, one signal (T_all,) of 16-bit integers.
        clips: utterances with lips, on the device of the speech.
        size: recordings a batch.
        seed: of all draws.
        other: how often the lips are not those of the recording.
    """

    def __init__(
        self,
        simulator: MixtureSimulator,
        speech: Tensor,
        clips: Sequence[Clip],
        size: int,
        seed: int,
        other: OtherLips,
    ) -> None:
        super().__init__(simulator, speech, size, seed)
        self.other = other
        self.hop = simulator.front_end.stft.hop_length
        self.frames = simulator.front_end.stft.frames(simulator.length)
        self._by_speaker: dict[str, list[Clip]] = {}
        for clip in clips:
            self._by_speaker.setdefault(clip.speaker, []).append(clip)

    def recordings(self, noises: Tensor, generator: Generator) -> Batch:
        """A batch with noise of a pool (P, T)."""
        pieces = [self._recording(generator) for _ in range(self.size)]
        clean = self.simulator.varied(torch.stack([samples for samples, _ in pieces]), generator)
        batch = self.simulator.mixed(clean, noises, generator)
        return {**batch, "visual": torch.stack([visual for _, visual in pieces])}

    def _recording(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """A piece of speech (T,) and the lips shown with it, (N, D)."""
        speaker = self._speaker(generator)
        samples, own = self._piece(self._clip(speaker, generator), generator)
        return samples, self._shown(own, speaker, generator)

    def _shown(self, own: Tensor, speaker: str, generator: Generator) -> Tensor:
        """The lips that are shown with a recording whose own are (N, D)."""
        shares = asdict(self.other)
        odds = torch.tensor([*shares.values(), 1 - sum(shares.values())], device=generator.device)
        kind = [*shares, "own"][int(torch.multinomial(odds, 1, generator=generator))]
        if kind == "same_speaker":
            return self._piece(self._clip(speaker, generator), generator)[1]
        if kind == "any_speaker":
            return self._piece(self._clip(self._speaker(generator), generator), generator)[1]
        if kind == "shifted":
            return own.roll(_below(len(own), generator), 0)
        if kind == "reversed":
            return own.flip(0)
        return own if kind == "own" else torch.zeros_like(own)

    def _speaker(self, generator: Generator) -> str:
        return list(self._by_speaker)[_below(len(self._by_speaker), generator)]

    def _clip(self, speaker: str, generator: Generator) -> Clip:
        own = self._by_speaker[speaker]
        return own[_below(len(own), generator)]

    def _piece(self, clip: Clip, generator: Generator) -> tuple[Tensor, Tensor]:
        """T samples that begin at a random frame, and the N frames of lips; zeros after the end."""
        length, frames = self.simulator.length, self.frames
        start = _below(max(1, (len(clip.samples) - length) // self.hop + 1), generator)
        samples = clip.samples[start * self.hop :][:length]
        visual = clip.visual[start:][:frames]
        return pad(samples, (0, length - len(samples))), pad(visual, (0, 0, 0, frames - len(visual)))


def _below(bound: int, generator: Generator) -> int:
    """A uniform draw of 0 .. bound - 1."""
    return int(torch.randint(bound, (), generator=generator, device=generator.device))


class VisualSimulationDataModule(SimulationDataModule):
    """Simulated recordings of the utterances with lips of corpora; all of their speech serves as babble.

    Args:
        corpora: where the speech comes from.
        front_end: analysis settings.
        lips: how the lips are shown.
        batch_size: recordings a batch.
        epoch_batches: training batches an epoch.
        validation_batches: the same ones in every epoch.
        max_utterances: at most so many utterances of a speaker, or None for all.
        simulator: settings of the recordings; its front end is replaced by `front_end`.
        other: how often the lips are not those of the recording.
        cache: folder of cached lips.
        seed: of the batches.

    Raises:
        InputError: a split without utterances that have lips, or files that cannot be read.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        front_end: FrontEnd,
        lips: LipView,
        batch_size: int = 8,
        epoch_batches: int = 200,
        validation_batches: int = 8,
        max_utterances: int | None = None,
        simulator: MixtureSimulator | None = None,
        other: OtherLips | None = None,
        cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        simulator = simulator or MixtureSimulator(front_end, seconds=3.0, low=-14.0, high=8.0, pool=32)
        super().__init__(
            corpora, front_end, batch_size, epoch_batches, validation_batches, simulator, cache, seed
        )
        self.lips, self.other, self.max_utterances = lips, other or OtherLips(), max_utterances
        self.lips_cache = LipsCache(cache or default_cache())

    def clips(self, split: Split) -> list[Clip]:
        """The utterances with lips of a split, each of root mean square 1.

        Raises:
            InputError: there is none, or files cannot be read.
        """
        counts: dict[str, int] = {}
        chosen = []
        for utterance in (u for corpus in self.corpora for u in corpus.utterances(split)):
            count = counts.get(utterance.speaker, 0)
            if utterance.load_lips is not None and count < (self.max_utterances or count + 1):
                counts[utterance.speaker] = count + 1
                chosen.append(utterance)
        if not chosen:
            raise no_utterances(self.corpora, split, "utterance with a video")
        stft, found, faults = self.front_end.stft, [], []
        for utterance in track(chosen, f"lips ({split})", transient=True, console=Console(stderr=True)):
            try:
                lips = self.lips_cache.lips(utterance)
                samples, own_rate = utterance.load_audio()
            except InputError as error:
                faults.append(str(error))
                continue
            at_rate = torch.from_numpy(resample(samples[:, None], own_rate, stft.sample_rate)[:, 0]).float()
            times = stft.frame_times(stft.frames(len(at_rate)))
            visual = self.lips.visual(self.lips.track(lips, times))
            level = at_rate.square().mean().sqrt().clamp_min(1e-6)
            found.append(Clip(utterance.speaker, (at_rate / level).to(self.device), visual.to(self.device)))
        if faults:
            raise InputError(f"{len(faults)} of the recordings cannot be used: {' | '.join(faults)}")
        return found

    def new_batches(self, split: Split, seed: int) -> VisualBatches:
        """The batches of a split; loads its speech and its lips."""
        return VisualBatches(
            self.simulator, self.speech(split), self.clips(split), self.batch_size, seed, self.other
        )
