"""Training frames: cached once, drawn reproducibly, without silence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avse.data.caches import SpectrumCache, utterance_power
from avse.data.corpora.base import Split, Utterance
from avse.data.datamodule import EpochSampler, FrameDataModule
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT

SHORT = STFT(64, 32)
TINY = FrontEnd(SHORT)


def noise(seed: int, length: int = 640, silent: int = 0) -> tuple[NDArray[np.float32], int]:
    """White noise after `silent` zeros, 16 kHz."""
    samples = np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)
    samples[:silent] = 0
    return samples, 16000


def utterance(seed: int, speaker: str = "anna", split: Split = "train", **how: int) -> Utterance:
    return Utterance(f"{speaker}-{seed}-{how}", speaker, split, partial(noise, seed, **how))


@dataclass
class FixedCorpus:
    """The utterances it is given."""

    found: Sequence[Utterance] = field(default_factory=list)
    name: str = "fixed"

    def utterances(self, split: Split) -> list[Utterance]:
        return [u for u in self.found if u.split == split]


def corpus(train: int = 4, validation: int = 2) -> FixedCorpus:
    return FixedCorpus(
        [utterance(k) for k in range(train)]
        + [utterance(100 + k, "bert", "validation") for k in range(validation)]
    )


def test_power_of_an_utterance() -> None:
    """|X|^2 at the common level: mean 1 for white noise, whatever its own level."""
    power = utterance_power(utterance(0, length=16000), TINY)
    assert power.shape == (SHORT.frames(16000), 33)
    assert float(power[2:-2].mean()) == pytest.approx(1, abs=0.03)
    signal = torch.from_numpy(noise(0, length=16000)[0])
    raw = SHORT.analysis(signal).abs().square()
    torch.testing.assert_close(power, raw / raw.mean())


def test_speed_shortens_and_raises() -> None:
    def tone() -> tuple[NDArray[np.float32], int]:
        t = np.arange(16000) / 16000
        return np.sin(2 * np.pi * 2000 * t).astype(np.float32), 16000

    whistle = Utterance("tone", "anna", "train", tone)
    slow, fast = (utterance_power(whistle, TINY, speed=speed)[5:-5] for speed in (1.0, 1.25))
    assert abs(len(fast) / len(slow) - 0.8) < 0.02
    assert slow.mean(0).argmax() == 8  # 250 Hz a bin
    assert fast.mean(0).argmax() == 10


def test_cache_is_read_again(tmp_path: Path) -> None:
    """A poisoned file is what comes back; other settings do not see it."""
    spectra = SpectrumCache(tmp_path / "new" / "cache", TINY)
    first = spectra.power(utterance(0))
    (file,) = (tmp_path / "new" / "cache").iterdir()
    assert np.load(file).dtype == np.float32
    np.save(file, np.full((2, 33), 7.0, dtype=np.float32))
    assert (spectra.power(utterance(0)) == 7).all()
    for other, speed in (
        (SpectrumCache(spectra.folder, FrontEnd(STFT(64, 16))), 1.0),
        (SpectrumCache(spectra.folder, FrontEnd(SHORT, "peak")), 1.0),
        (spectra, 1.1),
    ):
        assert not (other.power(utterance(0), speed) == 7).any()
    assert not (spectra.power(utterance(1)) == 7).any()
    file.unlink()
    torch.testing.assert_close(spectra.power(utterance(0)), first)


def test_nothing_but_whole_files_is_left_in_the_cache(tmp_path: Path) -> None:
    def broken() -> tuple[NDArray[np.float32], int]:
        raise InputError("cannot be read")

    spectra = SpectrumCache(tmp_path, TINY)
    spectra.power(utterance(0))
    with pytest.raises(InputError, match="cannot be read"):
        spectra.power(Utterance("broken", "anna", "train", broken))
    assert [p.suffix for p in tmp_path.iterdir()] == [".npy"]


def test_epochs_are_permutations_that_the_seed_and_the_epoch_fix() -> None:
    def epoch(seed: int, number: int, limit: int | None = None) -> list[list[int]]:
        sampler = EpochSampler(10, 4, limit, seed)
        sampler.set_epoch(number)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        return batches

    first = epoch(0, 0)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == list(range(10))
    assert epoch(0, 0) == first
    assert epoch(0, 1) != first
    assert epoch(1, 0) != first
    limited = epoch(0, 0, 6)
    assert [len(batch) for batch in limited] == [4, 2]
    assert [*chain(*limited)] == [*chain(*first)][:6]
    seen = {i for number in range(20) for i in chain(*epoch(0, number, 6))}
    assert seen == set(range(10))


def test_global_generator_does_not_matter() -> None:
    torch.manual_seed(1)
    first = list(EpochSampler(10, 4, None, 0))
    torch.manual_seed(2)
    assert list(EpochSampler(10, 4, None, 0)) == first


def test_batches(tmp_path: Path) -> None:
    data = FrameDataModule([corpus()], TINY, batch_size=16, cache=tmp_path)
    data.setup("fit")
    frames = data.frames("train").power
    assert frames.shape == (4 * SHORT.frames(640), 33)
    batches = [batch["power"] for batch in data.train_dataloader()]
    assert [len(batch) for batch in batches[:-1]] == [16] * (len(batches) - 1)
    together = torch.cat(batches)
    assert not torch.equal(together, frames)
    torch.testing.assert_close(together.sum(-1).sort().values, frames.sum(-1).sort().values)
    validation = torch.cat([batch["power"] for batch in data.val_dataloader()])
    assert torch.equal(validation, data.frames("validation").power)


def test_silent_frames_are_left_out(tmp_path: Path) -> None:
    """Those whose whole window is digital silence, and no other."""
    found = FixedCorpus([utterance(0, silent=320), utterance(1, split="validation")])
    data = FrameDataModule([found], TINY, cache=tmp_path)
    whole = utterance_power(found.found[0], TINY)
    frames = data.frames("train").power
    assert len(frames) == int((whole.sum(-1) > 0).sum()) == len(whole) - 10
    assert (frames.sum(-1) > 0).all()


def test_speeds_are_of_training_alone(tmp_path: Path) -> None:
    data = FrameDataModule([corpus()], TINY, speeds=(0.8, 1.0), cache=tmp_path)
    assert len(data.frames("train")) == 4 * (SHORT.frames(800) + SHORT.frames(640))
    assert len(data.frames("validation")) == 2 * SHORT.frames(640)


def test_at_most_so_many_utterances_of_a_speaker(tmp_path: Path) -> None:
    found = FixedCorpus([utterance(k) for k in range(9)] + [utterance(k, "carl") for k in range(2)])

    def chosen(seed: int) -> list[str]:
        data = FrameDataModule([found], TINY, max_utterances=3, seed=seed, cache=tmp_path)
        return [u.key for u in data.utterances("train")]

    keys = chosen(0)
    assert len(keys) == len(set(keys)) == 5
    assert sum(key.startswith("anna") for key in keys) == 3
    assert chosen(0) == keys
    assert any(set(chosen(seed)) != set(keys) for seed in range(1, 5))


def test_speakers_of_two_corpora_are_two_speakers(tmp_path: Path) -> None:
    """A name is unique within its corpus alone."""
    both = [FixedCorpus([utterance(k) for k in range(3)]), FixedCorpus([utterance(10 + k) for k in range(3)])]
    data = FrameDataModule(both, TINY, max_utterances=1, cache=tmp_path)
    assert len(data.utterances("train")) == 2


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    data = FrameDataModule([corpus(validation=0)], TINY, cache=tmp_path)
    with pytest.raises(InputError, match="fixed: no utterance in the validation split"):
        data.setup("fit")
