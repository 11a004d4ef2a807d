"""Sound files that are read and written block by block hold what those hold that are read as a whole."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from avse.data.audio import BLOCK, clipped_fraction, long_audio, read_audio, write_audio, write_audio_blocks
from avse.data.errors import InputError

RATE = 16000


def sound(count: int, channels: int = 2) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((count, channels))).astype(np.float32)


@pytest.mark.parametrize("name", ["n.wav", "n.flac", "n.ogg"])
def test_blocks_are_the_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_audio(path, np.clip(10 * sound(2 * BLOCK + 5), -1, 1), RATE)
    whole, blocks = read_audio(path), long_audio(path, 1.0)
    assert blocks is not None
    for _ in range(2):  # it can be read again
        np.testing.assert_array_equal(np.concatenate(list(blocks)), whole.samples)
    assert (blocks.frames, blocks.channels, blocks.sample_rate) == (*whole.samples.shape, RATE)
    assert blocks.subtype == whole.subtype
    assert blocks.peak == np.abs(whole.samples).max()
    assert blocks.clipped_fraction == pytest.approx(clipped_fraction(whole.samples))


def test_short_joined_and_broken_files_are_left_to_be_read_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "n.flac"
    write_audio(path, sound(RATE), RATE)
    assert long_audio(path, 1.0) is None
    assert long_audio(path, 0.5) is not None
    path.write_bytes(2 * path.read_bytes())
    assert long_audio(path, 0.5) is None
    (tmp_path / "text.wav").write_text("no sound")
    for name in ("text.wav", "absent.wav", "."):
        assert long_audio(tmp_path / name, 0.5) is None


def test_what_is_missing_is_told_and_what_is_not_finite_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.wav"
    write_audio(path, sound(RATE), RATE)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 4000)
    with pytest.warns(UserWarning, match=r"the last 0\.06"):
        blocks = long_audio(path, 0.5)
    assert blocks is not None
    assert blocks.frames == RATE - 1000
    samples = sound(RATE)
    samples[-1] = np.nan
    sf.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        long_audio(path, 0.5)


@pytest.mark.parametrize("name", ["n.wav", "n.flac", "n.ogg"])
@pytest.mark.parametrize("gain", [0.2, 2.0])
def test_written_blocks_are_the_written_whole(name: str, gain: float, tmp_path: Path) -> None:
    """A peak beyond 1, which comes last, makes all of a wav float; flac and ogg are clipped."""
    samples = np.clip(sound(BLOCK + 7), -0.9, 0.9)
    samples[-1] = gain * 0.6
    whole, blocks = tmp_path / f"whole_{name}", tmp_path / name
    parts = np.array_split(samples, 5)
    if gain > 1 and name != "n.wav":
        for write in (
            lambda: write_audio(whole, samples, RATE),
            lambda: write_audio_blocks(blocks, parts, 2, RATE),
        ):
            with pytest.warns(UserWarning, match="clipped"):
                write()
    else:
        write_audio(whole, samples, RATE)
        write_audio_blocks(blocks, parts, 2, RATE)
    assert sf.info(blocks).subtype == sf.info(whole).subtype
    np.testing.assert_array_equal(sf.read(blocks)[0], sf.read(whole)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([whole.name, blocks.name])


def test_a_source_that_fails_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "n.wav"
    path.write_bytes(b"an earlier result")

    def failing():
        yield sound(10)
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_audio_blocks(path, failing(), 2, RATE)
    assert path.read_bytes() == b"an earlier result"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_gone_at_the_second_reading_is_named(tmp_path: Path) -> None:
    path = tmp_path / "n.wav"
    write_audio(path, sound(2 * RATE), RATE)
    blocks = long_audio(path, 1.0)
    assert blocks is not None
    path.unlink()
    with pytest.raises(InputError, match=r"n\.wav: could be read once"):
        list(blocks)
