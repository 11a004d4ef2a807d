"""Pieces of consecutive frames: of one utterance each, and changed as a whole by augmentation."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from avse.data.augmentation import EqualiserAugmentation, LevelAugmentation
from avse.data.corpora.base import Split, Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.sequences import SequenceDataModule
from avse.data.stft import STFT

FRONT_END = FrontEnd(STFT(64, 32))


def tone(bin: int, frames: int) -> tuple[np.ndarray, int]:
    """A sine in the middle of a bin, of some frames."""
    return np.sin(2 * np.pi * bin / 64 * np.arange(32 * (frames - 1))).astype(np.float32), 16000


class Tones:
    """Utterances of different lengths; each is a sine of its own, which tells whose a frame is."""

    name = "tones"

    def utterances(self, split: Split) -> list[Utterance]:
        lengths = {4: 20, 8: 9, 12: 40, 16: 3}
        return [
            Utterance(f"{split}-{k}", f"speaker-{k}", split, partial(tone, k, n)) for k, n in lengths.items()
        ]


@pytest.fixture
def module(tmp_path: Path) -> SequenceDataModule:
    return SequenceDataModule(
        [Tones()], FRONT_END, batch_size=4, piece_frames=8, epoch_pieces=10, balance=0.5, cache=tmp_path
    )


def test_a_piece_is_of_one_utterance_and_in_order(module: SequenceDataModule) -> None:
    power, lengths = module.frames("train").power, module.lengths("train")
    assert sum(lengths) == len(power)
    assert len(module.pieces("train")) == sum(max(0, n - 7) for n in lengths)
    assert len(module.pieces("validation")) == sum(n // 8 for n in lengths)
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    for split in ("train", "validation"):
        pieces = module.pieces(split)
        for number, start in enumerate(pieces.starts.tolist()):
            assert len(set(owner[start : start + 8].tolist())) == 1
            assert torch.equal(pieces[[number]]["power"][0], module.frames(split).power[start : start + 8])


def test_batches_of_an_epoch(module: SequenceDataModule) -> None:
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert [tuple(batch["power"].shape) for batch in batches] == [(4, 8, 33), (4, 8, 33), (2, 8, 33)]
    again = list(module.train_dataloader())
    assert all(torch.equal(a["power"], b["power"]) for a, b in zip(batches, again, strict=True))
    assert module.train_frames == 80
    assert sum(len(batch["power"]) for batch in module.val_dataloader()) == len(module.pieces("validation"))


def test_utterances_shorter_than_a_piece_are_an_error_if_all_are(tmp_path: Path) -> None:
    module = SequenceDataModule([Tones()], FRONT_END, piece_frames=100, cache=tmp_path)
    with pytest.raises(InputError, match="utterance of 100 frames"):
        module.pieces("train")


@pytest.mark.parametrize("augmentation", [LevelAugmentation(), EqualiserAugmentation()])
def test_all_frames_of_a_piece_are_changed_alike(
    augmentation: LevelAugmentation | EqualiserAugmentation,
) -> None:
    power = torch.rand(3, 3, 5) + 0.1  # as many pieces as frames
    ratio = augmentation({"power": power})["power"] / power
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert (ratio[0] - ratio[1]).abs().max() > 1e-3
