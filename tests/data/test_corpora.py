"""Corpora of files: who belongs to which split, and what is refused. Real recordings where present."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse.data.corpora.base import SPLITS
from avse.data.corpora.folder import FolderCorpus
from avse.data.corpora.grid import TEST_SPEAKERS, VALIDATION_SPEAKERS, GridCorpus
from avse.data.errors import InputError

HEADER = "path,kind,speaker_or_type,split"


def sound(path: Path, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, (80, channels))
    sf.write(path, samples, 16000)
    return path


def table(folder: Path, rows: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def names(corpus: FolderCorpus | GridCorpus, root: Path) -> dict[str, list[str]]:
    """Files of each split, relative to the root."""
    return {
        split: [
            Path(u.load_audio.args[0]).resolve().relative_to(root.resolve()).as_posix()  # type: ignore[attr-defined]
            for u in corpus.utterances(split)
        ]
        for split in SPLITS
    }


def test_folders_named_after_splits_are_the_splits(tmp_path: Path) -> None:
    for name in ("train/anna/1.wav", "train/anna/deep/2.flac", "validation/bert/1.wav", "test/carl/1.wav"):
        sound(tmp_path / name)
    corpus = FolderCorpus(tmp_path)
    assert names(corpus, tmp_path) == {
        "train": ["train/anna/1.wav", "train/anna/deep/2.flac"],
        "validation": ["validation/bert/1.wav"],
        "test": ["test/carl/1.wav"],
    }
    assert [u.speaker for split in SPLITS for u in corpus.utterances(split)] == [
        "anna",
        "anna",
        "bert",
        "carl",
    ]


def test_many_speakers_are_split_by_speaker(tmp_path: Path) -> None:
    for speaker in range(60):
        for k in range(2):
            sound(tmp_path / f"p{speaker}" / f"{k}.wav")
    corpus = FolderCorpus(tmp_path)
    speakers = {split: {u.speaker for u in corpus.utterances(split)} for split in SPLITS}
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values())) == 60
    assert all(speakers.values())
    assert len(speakers["train"]) > 35
    before = names(corpus, tmp_path)
    for k in range(3):  # a corpus that grows keeps its split
        sound(tmp_path / f"new{k}" / "0.wav")
    after = names(FolderCorpus(tmp_path), tmp_path)
    assert all(set(before[split]) <= set(after[split]) for split in SPLITS)


def test_few_speakers_are_split_by_file(tmp_path: Path) -> None:
    for k in range(100):
        sound(tmp_path / "anna" / f"{k}.wav")
    found = names(FolderCorpus(tmp_path), tmp_path)
    assert sum(map(len, found.values())) == len(set().union(*map(set, found.values()))) == 100
    assert len(found["train"]) > 60
    assert found["validation"]
    assert found["test"]
    assert {u.speaker for u in FolderCorpus(tmp_path).utterances("train")} == {"anna"}


def test_split_does_not_depend_on_where_the_tree_is(tmp_path: Path) -> None:
    for root in (tmp_path / "here", tmp_path / "there" / "deep"):
        for k in range(30):
            sound(root / f"p{k}" / "x.wav")
    first, second = tmp_path / "here", tmp_path / "there" / "deep"
    assert names(FolderCorpus(first), first) == names(FolderCorpus(second), second)


def test_utterances_load_and_travel(tmp_path: Path) -> None:
    path = sound(tmp_path / "train" / "anna" / "1.wav", channels=2)
    (utterance,) = FolderCorpus(tmp_path).utterances("train")
    samples, rate = pickle.loads(pickle.dumps(utterance)).load_audio()
    truth, _ = sf.read(path)
    assert rate == 16000
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, truth.mean(1), atol=1e-6)


def test_key_changes_with_the_file(tmp_path: Path) -> None:
    path = sound(tmp_path / "train" / "anna" / "1.wav")
    before = FolderCorpus(tmp_path).utterances("train")[0].key
    sf.write(path, np.zeros(100), 16000)
    assert FolderCorpus(tmp_path).utterances("train")[0].key != before


@pytest.mark.parametrize("corpus", [FolderCorpus, GridCorpus])
def test_missing_and_empty_folders_are_refused(corpus: type, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        corpus(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("nothing to hear")
    with pytest.raises(InputError, match=str(tmp_path)):
        corpus(tmp_path)


@pytest.mark.parametrize("corpus", [FolderCorpus, GridCorpus])
def test_unknown_split_is_refused(corpus: type, tmp_path: Path) -> None:
    sound(tmp_path / "s1" / "x.wav")
    with pytest.raises(InputError, match="'dev'"):
        corpus(tmp_path).utterances("dev")


def test_grid_is_split_by_number(tmp_path: Path) -> None:
    for speaker in range(1, 35):
        sound(tmp_path / f"s{speaker}" / "bbaf2n.wav")
    corpus = GridCorpus(tmp_path)
    speakers = {split: {u.speaker for u in corpus.utterances(split)} for split in SPLITS}
    assert speakers["test"] == TEST_SPEAKERS
    assert speakers["validation"] == VALIDATION_SPEAKERS
    assert len(speakers["train"]) == 34 - len(TEST_SPEAKERS | VALIDATION_SPEAKERS)


@pytest.fixture
def tabled(tmp_path: Path) -> Path:
    """A tree whose table contradicts the split by number, with noise and sound-only rows."""
    for name in ("grid/s1/a.wav", "grid/s1/b.wav", "speech/x/c.wav", "noise/car/d.wav"):
        sound(tmp_path / name)
    rows = ["grid/s1/a.wav,av,s1,train", "grid/s1/b.wav,av,s1,test", "speech/x/c.wav,speech,x,train"]
    table(tmp_path, [*rows, "noise/car/d.wav,noise,car,all"])
    return tmp_path


def test_a_table_is_binding(tabled: Path) -> None:
    assert names(GridCorpus(tabled), tabled) == {
        "train": ["grid/s1/a.wav", "speech/x/c.wav"],
        "validation": [],
        "test": ["grid/s1/b.wav"],
    }
    assert names(GridCorpus(tabled, kinds=("av",)), tabled)["train"] == ["grid/s1/a.wav"]
    assert names(GridCorpus(tabled / "grid"), tabled)["train"] == ["grid/s1/a.wav"]


@pytest.mark.parametrize("root", [".", "../grid", "s1/.."])
def test_a_table_beside_the_root_is_found_from_anywhere(
    root: str, tabled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise test sentences would be trained on without a word."""
    monkeypatch.chdir(tabled / "grid")
    assert names(GridCorpus(Path(root)), tabled)["test"] == ["grid/s1/b.wav"]


def test_an_incomplete_table_is_refused(tabled: Path) -> None:
    (tabled / "splits.csv").write_text("path,split\ngrid/s1/a.wav,train\n")
    with pytest.raises(InputError, match="kind, speaker_or_type"):
        GridCorpus(tabled)


def test_a_row_without_its_file_is_refused(tabled: Path) -> None:
    table(tabled, ["grid/s1/a.wav,av,s1,train", "grid/s1/gone.wav,av,s1,train"])
    with pytest.raises(InputError, match=r"gone\.wav"):
        GridCorpus(tabled).utterances("train")


@pytest.mark.data
def test_real_recordings(real_recordings: Path) -> None:
    grid = GridCorpus(real_recordings / "grid")
    splits = {split: grid.utterances(split) for split in SPLITS}
    speakers = {split: {u.speaker for u in found} for split, found in splits.items()}
    assert {"s3", "s32"} <= speakers["validation"]
    assert {"s30", "s34"} <= speakers["test"]
    assert not speakers["train"] & {"s3", "s32", "s30", "s34"}
    keys = [u.key for found in splits.values() for u in found]
    assert len(keys) == len(set(keys))
    samples, rate = splits["validation"][0].load_audio()
    assert 2.5 < len(samples) / rate < 3.5
    assert 0 < np.abs(samples).max() <= 1
    everything = GridCorpus(real_recordings)
    assert len(everything.utterances("train")) > len(splits["train"])
    assert not any("noise" in u.key.split("/") for u in everything.utterances("train"))
