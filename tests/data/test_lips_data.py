"""Lips of real recordings."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from avse.data.lips import read_lips

pytestmark = pytest.mark.data


def _clips(root: Path, speaker: str, split: str) -> list[Path]:
    with (root / "splits.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return [root / row["path"] for row in rows if row["path"].startswith(f"grid/{speaker}/")]


@pytest.mark.parametrize(
    "speaker",
    ["s1_faces", "s31", *(pytest.param(name, marks=pytest.mark.slow) for name in ("s1", "s2", "s4"))],
)
def test_every_picture_of_a_clip_shows_the_lips(real_recordings: Path, speaker: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lips = read_lips(_clips(real_recordings, speaker, "train")[0])
    assert lips.images.shape == (75, 67, 67)
    assert lips.fps == pytest.approx(25)
    assert lips.times[0] == 0
    assert lips.valid.mean() > 0.97  # an encoder may have repeated a picture


@pytest.mark.slow
def test_a_speaker_looks_alike_cropped_and_in_the_full_picture(real_recordings: Path) -> None:
    means = [
        np.mean([read_lips(clip).images.mean(0) for clip in _clips(real_recordings, folder, "train")[:3]], 0)
        for folder in ("s1", "s1_faces")
    ]
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.9


def test_a_clip_that_starts_with_damaged_pictures_is_survived(real_recordings: Path) -> None:
    """Its first twelve pictures are grey, with hardly a contour."""
    lips = read_lips(real_recordings / "grid" / "s1_faces" / "bwwuzn.mkv")
    assert not lips.valid[:12].any()
    assert lips.valid[12:].mean() > 0.97
