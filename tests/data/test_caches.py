"""Cached spectra and lips: whole files, read again, whoever else is writing them."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avse.data import caches
from avse.data.caches import LipsCache, SpectrumCache
from avse.data.corpora.base import Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips
from avse.data.stft import STFT

TINY = FrontEnd(STFT(64, 32))
FIELDS = ("images", "times", "reasons", "fps")


def sound(seed: int) -> tuple[NDArray[np.float32], int]:
    return np.random.default_rng(seed).normal(0, 0.1, 1600).astype(np.float32), 16000


def mouths(seed: int) -> Lips:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (9, 67, 67), dtype=np.uint8)
    reasons = generator.integers(0, 6, 9).astype(np.uint8)
    return Lips(images, np.cumsum(generator.uniform(0.01, 0.1, 9)), reasons, 29.97)


def utterance(seed: int, key: str = "") -> Utterance:
    return Utterance(key or f"anna-{seed}", "anna", "train", partial(sound, seed), partial(mouths, seed))


def unread(key: str) -> Utterance:
    """An utterance that must come out of the cache."""

    def read() -> Any:
        raise AssertionError("read again")

    return Utterance(key, "anna", "train", read, read)


def assert_same(found: Lips, expected: Lips) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_lips_come_back_as_they_were(tmp_path: Path) -> None:
    cache = LipsCache(tmp_path / "new" / "cache")
    assert_same(cache.lips(utterance(0)), mouths(0))
    assert_same(cache.lips(unread("anna-0")), mouths(0))
    assert [path.suffix for path in cache.folder.iterdir()] == [".npz"]


def test_another_key_is_another_entry(tmp_path: Path) -> None:
    """The key names the content: where it changes, the utterance is read anew."""
    lips, spectra = LipsCache(tmp_path), SpectrumCache(tmp_path, TINY)
    for seed, key in ((0, "a.mkv|100|1"), (1, "a.mkv|100|2"), (2, "b.mkv|100|1")):
        assert_same(lips.lips(utterance(seed, key)), mouths(seed))
        torch.testing.assert_close(
            spectra.power(utterance(seed, key)), caches.utterance_power(utterance(seed), TINY)
        )
    assert_same(lips.lips(unread("a.mkv|100|1")), mouths(0))
    assert len(list(tmp_path.iterdir())) == 6


def test_another_reader_of_lips_reads_them_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LipsCache(tmp_path)
    cache.lips(utterance(0, "key"))
    monkeypatch.setattr(caches, "LIPS_READER", caches.LIPS_READER + 1)
    assert_same(cache.lips(utterance(1, "key")), mouths(1))
    monkeypatch.undo()
    assert_same(cache.lips(unread("key")), mouths(0))


def test_an_utterance_without_video_is_named(tmp_path: Path) -> None:
    deaf = Utterance("anna-7", "anna", "train", partial(sound, 7))
    with pytest.raises(InputError, match="anna-7: has no video"):
        LipsCache(tmp_path / "cache").lips(deaf)
    assert not (tmp_path / "cache").exists()


def test_a_video_without_a_face_leaves_no_entry(tmp_path: Path) -> None:
    def faceless() -> Lips:
        raise InputError("a.mkv: no face in its 5 pictures")

    with pytest.raises(InputError, match="no face"):
        LipsCache(tmp_path).lips(Utterance("a", "anna", "train", partial(sound, 0), faceless))
    assert not list(tmp_path.iterdir())


Read = Callable[[Path, Utterance], Any]


def power(folder: Path, heard: Utterance) -> list[Any]:
    return [SpectrumCache(folder, TINY).power(heard).numpy()]


def lips(folder: Path, seen: Utterance) -> list[Any]:
    found = LipsCache(folder).lips(seen)
    return [getattr(found, name) for name in FIELDS]


@pytest.mark.parametrize(("writer", "read"), [("save", power), ("savez_compressed", lips)])
def test_a_half_written_file_is_no_entry(
    writer: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes while half of a file is written reads for himself; so do all after a writer that died."""
    expected = read(tmp_path / "other", utterance(0))
    whole = getattr(np, writer)
    during: list[Any] = []
    halves: list[Path] = []

    def slow(path: Path, *values: Any, **named: Any) -> None:
        whole(path, *values, **named)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        halves.append(path)
        monkeypatch.undo()
        during.extend(read(tmp_path / "cache", utterance(0)))
        whole(path, *values, **named)

    monkeypatch.setattr(np, writer, slow)
    folder = tmp_path / "cache"
    found = read(folder, utterance(0))
    again = read(folder, unread("anna-0"))
    (entry,) = folder.iterdir()
    (half,) = halves
    half.write_bytes(entry.read_bytes()[:100])
    entry.unlink()
    after_death = read(folder, utterance(0))
    for result in (during, found, again, after_death):
        for part, true in zip(result, expected, strict=True):
            np.testing.assert_array_equal(part, true)


@pytest.mark.parametrize(("writer", "read"), [("save", power), ("savez_compressed", lips)])
def test_a_full_disk_is_told_and_leaves_nothing(
    writer: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed is given all the same."""
    expected = read(tmp_path / "whole", utterance(0))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, writer, full)
    with pytest.warns(UserWarning, match="nothing is kept in the cache .*No space left on device"):
        found = read(tmp_path / "full", utterance(0))
    for part, true in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, true)
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize("read", [power, lips])
def test_a_cache_that_cannot_be_a_folder_is_done_without(read: Read, tmp_path: Path) -> None:
    expected = read(tmp_path / "whole", utterance(0))
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="nothing is kept in the cache"):
        found = read(tmp_path / "file" / "cache", utterance(0))
    for part, true in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, true)


@pytest.mark.parametrize("length", [0, 40, 200])
@pytest.mark.parametrize("read", [power, lips])
def test_truncated_entries_are_written_anew(read: Read, tmp_path: Path, length: int) -> None:
    expected = read(tmp_path, utterance(0))
    (entry,) = tmp_path.iterdir()
    whole = entry.stat().st_size
    entry.write_bytes(entry.read_bytes()[:length])
    for found in (read(tmp_path, utterance(0)), read(tmp_path, unread("anna-0"))):
        for part, true in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part, true)
    assert entry.stat().st_size == whole


COUNT = 12
WORKER = """
import sys, time
from functools import partial
from pathlib import Path

import numpy as np
from avse.data.caches import LipsCache, SpectrumCache
from avse.data.corpora.base import Utterance
from avse.data.front_end import FrontEnd
from avse.data.lips import Lips
from avse.data.stft import STFT



def meet(meeting, what, me, other):
    '''Both processes have found nothing in the cache, and go on to write.'''
    (meeting / f"{what}-{me}").touch()
    deadline = time.monotonic() + 120
    while not (meeting / f"{what}-{other}").exists():
        assert time.monotonic() < deadline, "the other process has not come"
        time.sleep(0.001)


def sound(k, *meeting):
    meet(*meeting)
    return np.random.default_rng(k).normal(0, 0.1, 1600).astype(np.float32), 16000


def mouths(k, *meeting):
    meet(*meeting)
    generator = np.random.default_rng(k)
    images = generator.integers(0, 256, (9, 67, 67), dtype=np.uint8)
    reasons = generator.integers(0, 6, 9).astype(np.uint8)
    return Lips(images, np.cumsum(generator.uniform(0.01, 0.1, 9)), reasons, 29.97)


def fill(folder, meeting, me, other, count):
    spectra, lips = SpectrumCache(folder, FrontEnd(STFT(64, 32))), LipsCache(folder)
    for k in range(count):
        utterance = Utterance(
            f"anna-{k}",
            "anna",
            "train",
            partial(sound, k, meeting, f"sound-{k}", me, other),
            partial(mouths, k, meeting, f"lips-{k}", me, other),
        )
        np.save(meeting / f"power-{k}-{me}.npy", spectra.power(utterance).numpy())
        np.save(meeting / f"images-{k}-{me}.npy", lips.lips(utterance).images)


if __name__ == "__main__":
    fill(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
"""


def test_two_processes_fill_one_folder(tmp_path: Path) -> None:
    """Each entry is missed, computed and written by both at once; what is there in the end is whole.

    One of them is this process, which need not import everything anew.

    Spectra of other processes may differ by the rounding of float32 transforms: 1e-4, or 1e-6 of the largest.
    """
    folder, meeting = tmp_path / "cache", tmp_path / "meeting"
    meeting.mkdir()
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    worker = subprocess.Popen([sys.executable, script, folder, meeting, "b", "a", str(COUNT)])
    try:
        runpy.run_path(str(script))["fill"](folder, meeting, "a", "b", COUNT)
        assert worker.wait(timeout=120) == 0
    finally:
        worker.kill()
        worker.wait()
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy"] * COUNT + [".npz"] * COUNT
    for k in range(COUNT):
        expected = caches.utterance_power(utterance(k), TINY)
        assert_same(LipsCache(folder).lips(unread(f"anna-{k}")), mouths(k))
        near = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6 * float(expected.max()))
        near(SpectrumCache(folder, TINY).power(unread(f"anna-{k}")), expected)
        for me in "ab":
            near(torch.from_numpy(np.load(meeting / f"power-{k}-{me}.npy")), expected)
            assert (np.load(meeting / f"images-{k}-{me}.npy") == mouths(k).images).all()
