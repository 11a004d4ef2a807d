"""Training frames: cached once, drawn reproducibly, without silence, shown the lips of their instant."""

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
from avse.data.datamodule import Batch, EpochSampler, FrameDataModule
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips
from avse.data.lips.corruption import LipCorruption, corrupt_lips
from avse.data.lips.front_end import LipFrontEnd
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


GREY = LipFrontEnd(side=1, instants=1, normalised=False)
SECONDS = 1.0


def swelling(silent: float) -> tuple[NDArray[np.float32], int]:
    """A tone whose amplitude grows as t; digital silence before `silent` s."""
    t = np.arange(round(16000 * SECONDS)) / 16000
    tone = 0.5 * t * np.sin(2 * np.pi * 2000 * t)
    return np.where(t < silent, 0, tone).astype(np.float32), 16000


def brightening() -> Lips:
    """25 pictures a second whose grey level grows as t: 250 after `SECONDS`."""
    images = np.empty((25, 67, 67), np.uint8)
    images[:] = (10 * np.arange(25))[:, None, None]
    return Lips(images, np.arange(25) / 25, np.zeros(25, np.uint8), 25.0)


def faceless() -> Lips:
    raise InputError("clip.mkv: no face in its 9 pictures")


def swell(key: str, silent: float = 0.0, split: Split = "train") -> Utterance:
    return Utterance(f"{key}-{silent}", "anna", split, partial(swelling, silent), brightening)


def heard(power: torch.Tensor, silent: float = 0.0) -> torch.Tensor:
    """The fraction of the way up the ramp that the level of a frame tells, (B,).

    At level 1 the mean power of a frame is 3 u^2 / (1 - u_0^3), where the sound starts u_0 up its ramp.
    """
    return (power.mean(-1) * (1 - silent**3) / 3).sqrt()


def seen(batch: Batch) -> torch.Tensor:
    """The fraction of the way up the ramp that the picture of a frame tells, (B,)."""
    return batch["visual"][:, 0] * 255 / 250


def test_without_a_lip_front_end_there_is_nothing_to_see(tmp_path: Path) -> None:
    data = FrameDataModule([FixedCorpus([swell("a"), utterance(0)])], TINY, cache=tmp_path)
    assert len(data.utterances("train")) == 2
    assert set(data.frames("train")[[0, 1]]) == {"power"}
    assert set(next(iter(data.train_dataloader()))) == {"power"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy"}


def test_utterances_without_a_video_are_left_out_where_lips_are_wanted(tmp_path: Path) -> None:
    found = FixedCorpus([utterance(0), swell("a"), utterance(1), utterance(2, split="validation")])
    data = FrameDataModule([found], TINY, lips=GREY, cache=tmp_path)
    assert [u.key for u in data.utterances("train")] == ["a-0.0"]
    batch = data.frames("train")[[0, 3]]
    assert batch["power"].shape == (2, 33)
    assert batch["visual"].shape == (2, GREY.size)
    with pytest.raises(InputError, match="fixed: no utterance with a video in the validation split"):
        data.setup("fit")


def test_a_video_without_a_face_is_trained_unseen(tmp_path: Path) -> None:
    """With a warning that names it; the frames of its neighbours are shown their own lips."""
    blind = Utterance("blind", "anna", "train", partial(noise, 0, length=1600), faceless)
    data = FrameDataModule([FixedCorpus([swell("a"), blind, swell("b")])], TINY, lips=GREY, cache=tmp_path)
    with pytest.warns(UserWarning, match="trained without lips: clip.mkv: no face") as caught:
        frames = data.frames("train")
    assert len(caught) == 1
    lengths = [int((data.cache.power(u).sum(-1) > 0).sum()) for u in data.utterances("train")]
    first, unseen, last = (frames[part.tolist()] for part in torch.arange(len(frames)).split(lengths))
    assert (unseen["visual"] == 0).all()
    assert torch.equal(first["visual"], last["visual"])
    assert first["visual"][:, -1].mean() > 0.95


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_lips_stay_with_the_sound_at_any_speed(speed: float, tmp_path: Path) -> None:
    """Sound level and grey level climb one ramp. Lips at the plain speed would leave it."""
    data = FrameDataModule([FixedCorpus([swell("a")])], TINY, speeds=(speed,), lips=GREY, cache=tmp_path)
    frames = data.frames("train")
    assert len(frames) == pytest.approx(SHORT.frames(round(16000 * SECONDS / speed)), abs=2)
    batch = frames[list(range(len(frames)))]
    inside = batch["visual"][:, -1] == 1
    assert inside.float().mean() > 0.97  # the pictures end half a period before the sound
    assert (~inside).nonzero().min() > 0.97 * len(frames)
    before_the_last = seen(batch) < 0.955  # which is shown for half a period more
    apart = (seen(batch) - heard(batch["power"]))[inside & before_the_last]
    assert len(apart) > 0.94 * len(frames)
    assert float(apart.abs().max()) < 0.005

    (utterance_,) = data.utterances("train")
    unsped = GREY.visual(GREY.track(data.lips_cache.lips(utterance_), SHORT.frame_times(len(frames))))
    wrong = (unsped[:, 0] * 255 / 250 - heard(frames.power))[inside & before_the_last]
    assert (float(wrong.abs().max()) > 0.03) == (speed != 1)


def test_power_and_lips_stay_in_step_when_silence_is_left_out(tmp_path: Path) -> None:
    """The first half of every utterance is left out, at two speeds; every batch hears what it sees."""
    found = FixedCorpus([swell("a", silent=0.5), swell("b", silent=0.5)])
    data = FrameDataModule([found], TINY, 100, speeds=(0.9, 1.1), lips=GREY, cache=tmp_path)
    frames = data.frames("train")
    whole = sum(SHORT.frames(round(16000 * SECONDS / speed)) for speed in (0.9, 1.1, 0.9, 1.1))
    assert 0.5 * whole < len(frames) < 0.6 * whole  # the resampler rings before the sound begins
    assert len(frames.power) == len(frames.lips.valid) == len(frames.lips.place)
    count = 0
    for batch in data.train_dataloader():
        told, level = seen(batch), heard(batch["power"], silent=0.5)
        inside = (batch["visual"][:, -1] == 1) & (told < 0.955) & (told > 0.505)  # a frame off the step
        assert float((told - level)[inside].abs().max()) < 0.01
        count += int(inside.sum())
    assert count > 0.4 * whole


def test_utterances_of_a_corpus_keep_their_own_lips(tmp_path: Path) -> None:
    """Lips of one grey level each, whose utterances come at random; validation in order."""

    def flat(level: int) -> Lips:
        images = np.full((5, 67, 67), level, np.uint8)
        return Lips(images, np.arange(5) / 25, np.zeros(5, np.uint8), 25.0)

    def marked(level: int, split: Split) -> Utterance:
        """A tone in the bin that is a twentieth of the level of its lips."""
        t = np.arange(1600) / 16000
        tone = np.sin(2 * np.pi * 250 * (level // 20) * t).astype(np.float32)
        return Utterance(f"{split}{level}", "anna", split, lambda: (tone, 16000), partial(flat, level))

    levels = [40, 80, 120, 160, 200, 240]
    found = [marked(level, split) for split in ("train", "validation") for level in levels]
    data = FrameDataModule([FixedCorpus(found)], TINY, 32, lips=GREY, cache=tmp_path)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        power, visual = (torch.cat([batch[name] for batch in batches]) for name in ("power", "visual"))
        assert (visual[:, -1] == 1).all()
        assert torch.equal(power.argmax(-1), (visual[:, 0] * 255 / 20).round().long())
        assert set(power.argmax(-1).tolist()) == {level // 20 for level in levels}


# Spoilt lips ---------------------------------------------------------------------------------------------

SPOILING = LipCorruption(0.4, copies=3, kinds=("turned", "occluded"), labelled=True)


def whole(data: FrameDataModule, split: Split) -> Batch:
    """All frames of a split in order."""
    frames = data.frames(split)
    return frames[list(range(len(frames)))]


def test_labels_are_of_the_nearest_picture(tmp_path: Path) -> None:
    """By brute force, from the damage that seed, number of the recording and number of its copy stand for."""
    found = FixedCorpus([swell("a"), swell("b"), swell("c", split="validation")])
    data = FrameDataModule(
        [found], TINY, speeds=(0.93, 1.07), lips=GREY, lip_corruption=SPOILING, seed=4, cache=tmp_path
    )
    labels = []
    for copy in range(3):
        for number, speed in enumerate((0.93, 1.07, 0.93, 1.07)):
            _, spoilt = corrupt_lips(
                brightening(), np.random.default_rng((4, number, copy)), 0.4, SPOILING.kinds
            )
            power = data.cache.power(data.utterances("train")[number // 2], speed)
            instants = speed * SHORT.frame_times(len(power)).numpy()
            nearest = np.abs(instants[:, None] - np.arange(25) / 25).argmin(1)
            unseen = instants > 24 / 25 + 0.5 / 25
            labels.append(torch.from_numpy(spoilt[nearest] | unseen)[power.sum(-1) > 0])
    batch = whole(data, "train")
    assert torch.equal(batch["bad"], torch.cat(labels).float())
    assert set(batch["bad"].tolist()) == {0.0, 1.0}
    assert abs(batch["bad"].mean() - 0.4) < 0.05


def test_good_frames_are_shown_as_they_were_and_bad_ones_are_not(tmp_path: Path) -> None:
    """But for a picture period at either end of a block, where a frame is shown some of both."""
    found = FixedCorpus([swell("a"), swell("b", split="validation")])
    plain, spoilt = (
        FrameDataModule([found], TINY, lips=GREY, lip_corruption=lip_corruption, cache=tmp_path)
        for lip_corruption in (None, SPOILING)
    )
    for split, copies in (("train", 3), ("validation", 1)):
        before, after = whole(plain, split), whole(spoilt, split)
        count = len(before["power"])
        assert len(after["power"]) == copies * count
        assert torch.equal(after["power"], before["power"].repeat(copies, 1))
        changed = (after["visual"] != before["visual"].repeat(copies, 1)).any(-1).reshape(copies, count)
        bad = after["bad"].reshape(copies, count) > 0.5
        blocks = torch.nn.functional.max_pool1d(bad.float(), 41, 1, 20) > 0.5  # 20 frames a picture
        assert not changed[~blocks].any()
        assert (~blocks).float().mean() > 0.3
        assert changed[bad].float().mean() > 0.9  # a patch may be as grey as what it hides
        assert bad[:, before["visual"][:, -1] == 0].all()
    # The copies are corrupted independently; two of them may be so in the same frames.
    assert len({tuple(row.tolist()) for row in whole(spoilt, "train")["bad"].reshape(3, -1)}) > 1


def test_missing_pictures_are_not_seen_and_bad(tmp_path: Path) -> None:
    found = FixedCorpus([swell("a"), swell("b", split="validation")])
    missing = LipCorruption(0.5, kinds=("missing",), labelled=True)
    batch = whole(FrameDataModule([found], TINY, lips=GREY, lip_corruption=missing, cache=tmp_path), "train")
    unseen = batch["visual"][:, -1] == 0
    assert 0.4 < unseen.float().mean() < 0.7
    assert (batch["bad"][unseen] == 1).all()
    assert batch["bad"][~unseen].mean() < 0.05  # within half a period of a block


def test_spoilt_frames_stay_in_step_with_the_sound(tmp_path: Path) -> None:
    """Silence left out, two speeds, three copies: every good frame hears what it sees."""
    found = FixedCorpus([swell("a", silent=0.5), swell("b", silent=0.5)])
    data = FrameDataModule(
        [found], TINY, 100, speeds=(0.9, 1.1), lips=GREY, lip_corruption=SPOILING, cache=tmp_path
    )
    frames = data.frames("train")
    assert len(frames) == 3 * len(frames.power)
    count = close = 0
    for batch in data.train_dataloader():
        told, level = seen(batch), heard(batch["power"], silent=0.5)
        inside = (batch["bad"] == 0) & (told < 0.955) & (told > 0.505)
        close += int(((told - level)[inside].abs() < 0.01).sum())
        count += int(inside.sum())
    assert count > 0.4 * len(frames)
    assert close > 0.9 * count  # the others are at the end of a block


def test_the_seed_fixes_the_damage(tmp_path: Path) -> None:
    found = FixedCorpus([swell("a"), swell("b", split="validation")])

    def labels(seed: int) -> list[float]:
        data = FrameDataModule([found], TINY, lips=GREY, lip_corruption=SPOILING, seed=seed, cache=tmp_path)
        return whole(data, "train")["bad"].tolist()

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)


def test_labels_are_given_to_those_who_ask(tmp_path: Path) -> None:
    """What is not a keyword of models must not be in a batch for them."""
    found = FixedCorpus([swell("a"), swell("b", split="validation")])
    data = FrameDataModule([found], TINY, lips=GREY, lip_corruption=LipCorruption(), cache=tmp_path)
    assert set(next(iter(data.train_dataloader()))) == {"power", "visual"}
    labelled = FrameDataModule([found], TINY, lips=GREY, lip_corruption=SPOILING, cache=tmp_path)
    for loader in (labelled.train_dataloader(), labelled.val_dataloader()):
        assert {name: len(tensor.shape) for name, tensor in next(iter(loader)).items()} == {
            "power": 2,
            "visual": 2,
            "bad": 1,
        }


def test_a_video_without_a_face_is_bad_in_every_copy(tmp_path: Path) -> None:
    blind = Utterance("blind", "anna", "train", partial(noise, 0, length=1600), faceless)
    data = FrameDataModule([FixedCorpus([blind])], TINY, lips=GREY, lip_corruption=SPOILING, cache=tmp_path)
    with pytest.warns(UserWarning, match="trained without lips") as caught:
        batch = whole(data, "train")
    assert len(caught) == 1
    assert (batch["visual"] == 0).all()
    assert (batch["bad"] == 1).all()
    assert len(batch["bad"]) == 3 * SHORT.frames(1600)
