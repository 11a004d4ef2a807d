"""Simulated recordings: consistent spectra, levels in range, batches that depend on their number alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from avse.data.corpora.base import Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.simulation import EpochNumbers, MixtureSimulator, SimulatedBatches, SimulationDataModule
from avse.data.stft import STFT
from avse.data.synthetic_noise import RandomNoise

FRONT_END = FrontEnd(STFT(hop_length=256), "rms", high_pass=70.0)
SMALL = MixtureSimulator(
    FRONT_END, seconds=1.0, voices=3, pool=4, reuse=2, nearly_clean=0.0, pause=0.0,
    noise=RandomNoise({"coloured": 1.0, "babble": 1.0}),
)  # fmt: skip


def tones(seconds: float = 5.0, rate: int = 16000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * time) * (np.sin(2 * np.pi * 2 * time) > -0.5)).astype(np.float32)


def loaded(seconds: float) -> tuple[np.ndarray, int]:
    return tones(seconds), 16000


class Tones:
    """A corpus of one utterance a split."""

    name = "tones"

    def __init__(self, *splits: str) -> None:
        self.splits = splits

    def utterances(self, split):
        if split not in self.splits:
            return []
        return [Utterance(f"{split}-tone", "one", split, partial(loaded, 5.0))]


@pytest.fixture
def speech() -> torch.Tensor:
    return torch.from_numpy((tones() * 32767).astype(np.int16))


def test_the_parts_of_a_batch_fit_together(speech):
    batch = SimulatedBatches(SMALL, speech, 6, seed=0)[0]
    assert {part.shape for part in batch.values()} == {(6, FRONT_END.stft.frames(16000), 513)}
    torch.testing.assert_close(batch["power"].mean((-2, -1)), torch.ones(6), rtol=1e-3, atol=0)
    # |x|^2 lies between (|s| - |b|)^2 and (|s| + |b|)^2 in every bin.
    clean, noise, power = (batch[name].sqrt() for name in ("clean", "noise", "power"))
    assert (power <= clean + noise + 1e-3).all()
    assert (power >= (clean - noise).abs() - 1e-3).all()


def test_levels_are_in_range(speech):
    level = replace(SMALL, low=3.0, high=9.0)
    batch = SimulatedBatches(level, speech, 32, seed=1)[0]
    ratio = 10 * torch.log10(batch["clean"].sum((-2, -1)) / batch["noise"].sum((-2, -1)))
    # The high-pass takes some of the noise away, and bins are no exact share of the power.
    assert float(ratio.median()) > 2.0
    assert float(ratio.min()) > 2.0
    assert float(ratio.median()) < 12.0


def test_a_level_of_10_db_is_a_power_ratio_of_10(speech):
    """Without a high-pass; windows at the ends and the pieces of speech differ by a few tenths of a dB."""
    plain = replace(SMALL, front_end=FrontEnd(STFT(hop_length=256)), low=10.0, high=10.0)
    batch = SimulatedBatches(plain, speech, 32, seed=1)[0]
    ratio = 10 * torch.log10(batch["clean"].sum((-2, -1)) / batch["noise"].sum((-2, -1)))
    assert float((ratio - 10).abs().max()) < 0.5


def test_a_batch_depends_on_seed_and_number_alone(speech):
    one, other = (SimulatedBatches(SMALL, speech, 2, seed=4) for _ in range(2))
    for number in (5, 0, 3):
        one[number]
    torch.testing.assert_close(one[4]["power"], other[4]["power"])
    assert not torch.allclose(one[4]["power"], one[5]["power"])
    assert not torch.allclose(one[4]["power"], SimulatedBatches(SMALL, speech, 2, seed=5)[4]["power"])


def test_epochs_have_other_numbers():
    numbers = EpochNumbers(3)
    assert list(numbers) == [0, 1, 2]
    numbers.set_epoch(2)
    assert list(numbers) == [6, 7, 8]
    assert len(numbers) == 3


def test_speech_shorter_than_a_recording_is_repeated():
    short = torch.from_numpy((tones(0.25) * 32767).astype(np.int16))
    assert torch.isfinite(SimulatedBatches(SMALL, short, 2, seed=0)[0]["power"]).all()


def test_a_share_of_the_recordings_is_nearly_clean(speech):
    clean = replace(SMALL, nearly_clean=1.0, low=20.0, high=20.0)
    batch = SimulatedBatches(clean, speech, 8, seed=0)[0]
    assert float((batch["clean"].sum((-2, -1)) / batch["noise"].sum((-2, -1))).min()) > 1e4


def test_pauses_hold_noise_alone(speech):
    steady = torch.full_like(speech, 8000)
    steady[::2] = -8000
    batch = SimulatedBatches(replace(SMALL, pause=1.0, low=20.0, high=20.0), steady, 16, seed=0)[0]
    level = batch["clean"].sum(-1)
    quiet = (level < 1e-3 * level.amax(-1, keepdim=True)).float().mean(-1)
    assert float(quiet.max()) > 0.3
    assert float(quiet.max()) < 0.75


def test_data_module(speech):
    data = SimulationDataModule([Tones("train", "validation")], FRONT_END, 2, 3, 1, SMALL)
    data.setup("fit")
    assert [len(batch["power"]) for batch in data.train_dataloader()] == [2, 2, 2]
    assert len(list(data.val_dataloader())) == 1
    assert data.scale_frames().shape[-1] == 513
    assert data.train_frames == 3 * 2 * FRONT_END.stft.frames(16000)


def test_a_split_without_speech_is_refused():
    data = SimulationDataModule([Tones("train")], FRONT_END, 2, 1, 1, SMALL)
    with pytest.raises(InputError, match=r"corpus tones: no utterance in the validation split"):
        data.setup("fit")
