"""NTCD-TIMIT on a small tree in the release's layout: splits, lips, noisy recordings, what is refused."""

import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile as sf
from scipy.fft import dctn

from avse.data.corpora.base import SPLITS
from avse.data.corpora.ntcd_timit import (
    FPS,
    NOISES,
    TEST_SPEAKERS,
    VALIDATION_SPEAKERS,
    NTCDTimitCorpus,
    NTCDUtterance,
)
from avse.data.errors import InputError

WOMEN = {3, 5, 7, 8, 9, 11, 13, 15, 17, 31, 32, 33, 36, 37, 38, 40, 43, 44, 45, 46, 49, 50, 51, 55, 58, 59}
VOLUNTEERS = [f"{number:02d}{'F' if number in WOMEN else 'M'}" for number in range(1, 60)]


def sound(path: Path, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-3000, 3000, 160, dtype=np.int16)
    sf.write(path, samples, 16000)
    return samples / np.float32(32768)


def clean(root: Path, speaker: str, sentence: str = "sa1") -> np.ndarray:
    return sound(root / f"Clean/volunteers/{speaker}/straightcam/{sentence}.wav")


def lips(path: Path, images: np.ndarray) -> None:
    """Images (T, 67, 67) as the release has them: each image's orthonormal DCT, by columns, in MATLAB 7.3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dctn(image.astype(float), norm="ortho").ravel(order="F") for image in images]
    with h5py.File(path, "w", userblock_size=512) as content:
        content["data"] = np.array(rows)
    with path.open("rb+") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


def speakers(corpus: NTCDTimitCorpus) -> dict[str, set[str]]:
    return {split: {u.speaker for u in corpus.utterances(split)} for split in SPLITS}


def only(found: Iterable[NTCDUtterance]) -> NTCDUtterance:
    (utterance,) = found
    return utterance


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (4, 67, 67), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, images: np.ndarray) -> Path:
    """One test speaker with lips, in Babble and Car at two levels each."""
    clean(tmp_path, "09F")
    lips(tmp_path / "matlab_raw/test/09F/sa1.mat", images)
    for seed, name in enumerate(("Babble/-5", "Babble/20", "Car/0", "Car/10"), start=1):
        sound(tmp_path / name / "volunteers/09F/straightcam/sa1.wav", seed)
    return tmp_path


def test_without_lips_speakers_are_split_by_the_built_in_lists(tmp_path: Path) -> None:
    for speaker in VOLUNTEERS:
        clean(tmp_path, speaker)
    sound(tmp_path / "Clean/lipspeakers/Lipspkr1/straightcam/sa1.wav")
    found = speakers(NTCDTimitCorpus(tmp_path))
    assert {split: len(names) for split, names in found.items()} == {"train": 40, "validation": 10, "test": 9}
    assert found["test"] == TEST_SPEAKERS
    assert found["validation"] == VALIDATION_SPEAKERS
    assert found["train"] == set(VOLUNTEERS) - TEST_SPEAKERS - VALIDATION_SPEAKERS
    others = [speaker for speaker in VOLUNTEERS if speaker not in TEST_SPEAKERS]
    assert set(others[2::5]) == VALIDATION_SPEAKERS


@pytest.mark.parametrize("sizes", [(39, 10, 9), (39, 8, 9)])
def test_the_folders_of_the_lips_are_the_splits(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    names = iter(VOLUNTEERS)
    truth: dict[str, set[str]] = {}
    for split, folder, size in zip(SPLITS, ("train", "dev", "test"), sizes, strict=True):
        truth[split] = {next(names) for _ in range(size)}
        for speaker in truth[split]:
            clean(tmp_path, speaker)
            (tmp_path / "matlab_raw" / folder / speaker).mkdir(parents=True)
    (tmp_path / "matlab_raw/readme.txt").write_text("no speaker")
    found = speakers(NTCDTimitCorpus(tmp_path))
    assert found == truth
    assert len(set().union(*found.values())) == sum(sizes)


def test_utterances_are_sorted_and_know_their_sentence(tmp_path: Path) -> None:
    for speaker, sentence in (("02M", "sx105"), ("02M", "sa1"), ("01M", "si1004"), ("09F", "sa1")):
        clean(tmp_path, speaker, sentence)
    found = NTCDTimitCorpus(tmp_path).utterances("train")
    assert [(u.speaker, u.sentence) for u in found] == [("01M", "si1004"), ("02M", "sa1"), ("02M", "sx105")]
    assert {u.split for u in found} == {"train"}


def test_lips_are_the_images_that_were_encoded(root: Path, images: np.ndarray) -> None:
    utterance = only(NTCDTimitCorpus(root).utterances("test"))
    assert utterance.load_lips is not None
    seen = utterance.load_lips()
    np.testing.assert_array_equal(seen.images, images)
    np.testing.assert_allclose(seen.times, np.arange(4) / FPS)
    other = only(NTCDTimitCorpus(root, fps=30).utterances("test"))
    assert other.load_lips is not None
    assert other.load_lips().fps == 30
    assert other.key != utterance.key


def test_a_sentence_without_its_mat_has_no_lips(root: Path) -> None:
    clean(root, "09F", "sa2")
    first, second = NTCDTimitCorpus(root).utterances("test")
    assert first.load_lips is not None
    assert second.load_lips is None


@pytest.mark.parametrize("base", ["", "Noisy_TCDTIMIT", "u/drspeech/data/TCDTIMIT/Noisy_TCDTIMIT"])
def test_noisy_recordings_are_found(root: Path, base: str, images: np.ndarray) -> None:
    for noise in ("Babble", "Car") if base else ():
        (root / base).mkdir(parents=True, exist_ok=True)
        (root / noise).rename(root / base / noise)
    truth = sound(root / base / "Babble/5/volunteers/09F/straightcam/sa1.wav", seed=7)
    corpus = NTCDTimitCorpus(root)
    assert corpus.levels("Babble") == (-5, 5, 20)
    assert corpus.levels("Car") == (0, 10)
    utterance = only(corpus.utterances("test"))
    noisy = corpus.noisy(utterance, "Babble", 5)
    np.testing.assert_array_equal(noisy.load_audio()[0], truth)
    assert (noisy.speaker, noisy.split, noisy.sentence) == ("09F", "test", "sa1")
    assert noisy.load_lips is not None
    np.testing.assert_array_equal(noisy.load_lips().images, images)
    keys = {u.key for u in (utterance, noisy, corpus.noisy(utterance, "Babble", -5))}
    assert len(keys) == 3


def test_loaders_travel(root: Path, images: np.ndarray) -> None:
    truth = clean(root, "09F")
    corpus = pickle.loads(pickle.dumps(NTCDTimitCorpus(root)))
    utterance = only(corpus.utterances("test"))
    for each in (utterance, corpus.noisy(utterance, "Car", 0)):
        again = pickle.loads(pickle.dumps(each))
        samples, rate = again.load_audio()
        assert (samples.dtype, rate) == (np.float32, 16000)
        np.testing.assert_array_equal(again.load_lips().images, images)
    np.testing.assert_array_equal(utterance.load_audio()[0], truth)


@pytest.mark.parametrize(
    "changed", ["Clean/volunteers/09F/straightcam/sa1.wav", "matlab_raw/test/09F/sa1.mat"]
)
def test_the_key_changes_with_the_sound_and_with_the_lips(root: Path, changed: str) -> None:
    corpus = NTCDTimitCorpus(root)
    before = only(corpus.utterances("test"))
    assert only(corpus.utterances("test")).key == before.key
    status = (root / changed).stat()
    os.utime(root / changed, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    after = only(corpus.utterances("test"))
    assert after.key != before.key
    assert corpus.noisy(after, "Car", 0).key != corpus.noisy(before, "Car", 0).key


def test_mistakes_name_the_path_and_the_mend(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such folder; give the folder that holds Clean"):
        NTCDTimitCorpus(tmp_path / "none")
    with pytest.raises(InputError, match=r"Babble: no speech found; expected Clean/volunteers"):
        NTCDTimitCorpus(root / "Babble")
    corpus = NTCDTimitCorpus(root)
    with pytest.raises(InputError, match="'dev'"):
        corpus.utterances("dev")  # type: ignore[arg-type]
    utterance = only(corpus.utterances("test"))
    (root / "Car/0/volunteers/09F/straightcam/sa1.wav").unlink()
    (root / "White").mkdir()
    for noise, level, message in (
        ("babble", -5, "has no noise 'babble'; use one of Babble, Cafe, Car, LR, Street, White"),
        ("LR", -5, "LR: no such folder; unpack the LR archive there"),
        ("Babble", 3, "Babble: no level of 3 dB; the folder has -5, 20"),
        ("White", 0, "White: no level of 0 dB; the folder has none"),
        ("Car", 0, r"Car/0/volunteers/09F/straightcam/sa1\.wav: no such recording; unpack"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            corpus.noisy(utterance, noise, level)
        assert str(root) in str(caught.value)
    for noise in set(NOISES) - {"Babble", "Car", "White"}:
        with pytest.raises(InputError, match="unpack"):
            corpus.levels(noise)
