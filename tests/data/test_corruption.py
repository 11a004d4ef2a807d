from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from avse.data.corpora.synthetic import synthetic_lips
from avse.data.errors import InputError
from avse.data.lips import Lips, Reason
from avse.data.lips.corruption import (
    HELD_OUT_KINDS,
    KINDS,
    TRAINING_KINDS,
    LipCorruption,
    corrupt_lips,
    corrupted_blocks,
)

FPS = 30.0
MOUTH = (..., slice(22, 45), slice(17, 50))  # rows and columns around the middle


def speaker(number: int) -> Lips:
    images, times = synthetic_lips(0, number, 0, FPS)
    return Lips(images, times, np.zeros(len(images), np.uint8), FPS)


@pytest.fixture(scope="module")
def lips() -> Lips:
    """A video in which one picture was invalid before."""
    found = speaker(1)
    found.reasons[5] = Reason.OUTSIDE
    return found


@pytest.fixture(scope="module")
def two_mouths() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return speaker(1).images[10:40], speaker(2).images[10:40]


def runs(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Lengths of the runs of true."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(int), 1)))
    return edges[1::2] - edges[::2]


def change(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean absolute difference in the middle, grey levels."""
    return float(np.abs(first[MOUTH].astype(float) - second[MOUTH]).mean())


@pytest.mark.parametrize("count", [0, 1, 2, 7, 31, 90, 1000])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 1 / 3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("fps", [0.5, 10.0, 29.97])
def test_blocks_cover_exactly_the_fraction(count: int, fraction: float, fps: float) -> None:
    for seed in range(20):
        mask = corrupted_blocks(count, fraction, np.random.default_rng(seed), fps=fps)
        assert mask.shape == (count,)
        assert mask.dtype == bool
        assert mask.sum() == round(fraction * count)


@pytest.mark.parametrize(("count", "different"), [(60, 4), (90, 14), (1000, 22)])
def test_blocks_are_long_and_apart(count: int, different: int) -> None:
    """0.3 to 1 s: blocks that touched would soon make a run longer than 30 pictures."""
    found = [runs(corrupted_blocks(count, 1 / 3, np.random.default_rng(seed), fps=30)) for seed in range(300)]
    lengths = np.concatenate(found)
    assert lengths.min() >= 9
    assert lengths.max() <= 30
    assert len(set(lengths)) >= different
    assert len({len(each) for each in found}) > 1


def test_blocks_touch_only_where_they_must() -> None:
    for seed in range(100):
        mask = corrupted_blocks(
            101, 0.98, np.random.default_rng(seed), fps=30
        )  # 99 pictures: at least 4 blocks
        assert (~mask[1:-1]).sum() == 2  # so both good ones part blocks
        assert len(runs(mask)) == 3


def test_blocks_lie_anywhere() -> None:
    often = np.mean(
        [corrupted_blocks(60, 1 / 3, np.random.default_rng(seed)) for seed in range(2000)], axis=0
    )
    assert often.min() > 0.02  # on average 1.5 of 41 places are the first
    np.testing.assert_allclose(often, often[::-1], atol=0.08)  # 5 standard errors of a difference: 0.078


@pytest.mark.parametrize("kinds", [tuple(KINDS), *((kind,) for kind in KINDS)], ids="-".join)
@pytest.mark.parametrize("fraction", [0.0, 1 / 3, 1.0])
def test_only_the_blocks_are_spoilt(lips: Lips, kinds: Sequence[str], fraction: float) -> None:
    before = lips.images.copy(), lips.reasons.copy()
    for seed in range(5):
        spoilt, mask = corrupt_lips(lips, np.random.default_rng(seed), fraction, kinds)
        assert mask.sum() == round(fraction * len(mask))
        assert spoilt.images.dtype == np.uint8
        np.testing.assert_array_equal(spoilt.images[~mask], lips.images[~mask])
        np.testing.assert_array_equal(spoilt.reasons[~mask], lips.reasons[~mask])
        np.testing.assert_array_equal(spoilt.times, lips.times)
        assert spoilt.fps == lips.fps
    np.testing.assert_array_equal(lips.images, before[0])
    np.testing.assert_array_equal(lips.reasons, before[1])


def test_seed_fixes_everything(lips: Lips) -> None:
    first, again, other = (corrupt_lips(lips, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0].images, again[0].images)
    np.testing.assert_array_equal(first[0].reasons, again[0].reasons)
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_kinds_are_drawn_block_by_block(lips: Lips) -> None:
    """All of a video of 2 to 3 s is spoilt: blocks of at most 1 s, some of them missing."""
    shares = [
        np.mean(corrupt_lips(lips, np.random.default_rng(seed), 1.0)[0].reasons == Reason.NO_FACE)
        for seed in range(200)
    ]
    assert 0 < np.median([share for share in shares if share]) < 1
    assert np.mean(shares) == pytest.approx(0.2, abs=0.1)  # 5 standard errors, blocks of 1 s: 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_large(kind: str, two_mouths: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    """A picture changes by more than speech changes it until the next one."""
    for images in two_mouths:
        speech = change(images[1:], images[:-1])
        changes = []
        for seed in range(30):
            damaged = KINDS[kind](images, np.random.default_rng(seed))
            assert damaged.shape == images.shape
            assert damaged.dtype == np.uint8
            changes.append(change(damaged[1:], images[1:]))
        assert min(changes) > 0.75 * speech
        assert np.median(changes) > 1.5 * speech


@pytest.mark.parametrize("kind", ["occluded", "missing"])
def test_what_hides_the_mouth_does_not_depend_on_it(
    kind: str, two_mouths: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    for seed in range(30):
        first, second = (KINDS[kind](images, np.random.default_rng(seed)) for images in two_mouths)
        assert (first[MOUTH] == second[MOUTH]).mean() > 0.7
        assert kind == "missing" or (first == second).mean() < 0.8  # the face around the patch is there


def test_patches_drift_slowly() -> None:
    empty = np.zeros((30, 67, 67), np.uint8)
    for seed in range(20):
        patch = KINDS["occluded"](empty, np.random.default_rng(seed)) > 0
        centre = np.array([[axis.mean() for axis in np.nonzero(each)] for each in patch])
        steps = np.hypot(*np.diff(centre, axis=0).T)
        assert steps.sum() > 0
        assert steps.max() < 2


def test_frozen_pictures_are_the_one_before_the_block(lips: Lips) -> None:
    for seed in range(20):
        spoilt, mask = corrupt_lips(lips, np.random.default_rng(seed), 1 / 3, ["frozen"])
        clear = np.maximum.accumulate(np.where(mask, -1, np.arange(len(mask))))
        np.testing.assert_array_equal(spoilt.images, lips.images[np.maximum(clear, 0)])


def test_blurred_pictures_have_no_detail_left(two_mouths: tuple[NDArray[np.uint8], ...]) -> None:
    for seed in range(10):
        blurred = KINDS["blurred"](two_mouths[0], np.random.default_rng(seed))
        steps = [np.abs(np.diff(images.astype(float), axis=1)).mean() for images in (two_mouths[0], blurred)]
        assert steps[1] < 0.4 * steps[0]
        assert blurred.mean() == pytest.approx(two_mouths[0].mean(), abs=3)


def test_pixelated_pictures_are_flat_squares(two_mouths: tuple[NDArray[np.uint8], ...]) -> None:
    for seed in range(10):
        squares = KINDS["pixelated"](two_mouths[0], np.random.default_rng(seed))
        edges = (np.diff(squares.astype(int), axis=2) != 0).any((0, 1))
        assert 3 <= edges.sum() <= 5
        assert np.diff(np.flatnonzero(edges)).min() >= 12
        assert set(np.unique(squares)) <= set(np.unique(two_mouths[0]))


def test_torn_rows_keep_their_grey_levels(two_mouths: tuple[NDArray[np.uint8], ...]) -> None:
    torn = KINDS["torn"](two_mouths[0], np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(torn, axis=2), np.sort(two_mouths[0], axis=2))


def test_lost_mouth_is_at_the_edge_or_beyond() -> None:
    bar = np.zeros((2, 67, 67), np.uint8)
    bar[:, 30:37, 30:37] = 255  # the middle of the mouth
    for seed in range(20):
        lost = KINDS["lost"](bar, np.random.default_rng(seed)) > 0
        rows, columns = np.nonzero(lost[0])
        distance = np.hypot(rows - 33, columns - 33)
        assert not distance.size or distance.min() > 20


def test_turned_mouth_is_narrower_and_stays_in_the_middle() -> None:
    stripe = np.zeros((3, 67, 67), np.uint8)
    stripe[:, 30:37, 13:54] = 255
    far_sides = set()
    for seed in range(20):
        turned = KINDS["turned"](stripe, np.random.default_rng(seed)).astype(float)
        rows = turned[0, [33, 5]]
        columns = np.flatnonzero(rows[0] - rows[1] > 127)  # less the background
        assert 15 < len(columns) < 35
        assert 33 in columns
        far_sides.add(bool(np.abs(columns - 33).argmax()))
        np.testing.assert_array_equal(turned[0], turned[2])
    assert far_sides == {False, True}


def test_only_missing_pictures_lose_their_validity(lips: Lips) -> None:
    spoilt, _ = corrupt_lips(lips, np.random.default_rng(0), 1.0, ["missing"])
    assert (spoilt.reasons == Reason.NO_FACE).all()
    for kind in set(KINDS) - {"missing"}:
        spoilt, _ = corrupt_lips(lips, np.random.default_rng(0), 1.0, [kind])
        np.testing.assert_array_equal(spoilt.reasons, lips.reasons)


def test_a_single_picture_is_spoilt() -> None:
    one = Lips(np.full((1, 67, 67), 90, np.uint8), np.zeros(1), np.zeros(1, np.uint8), 25.0)
    for kind in KINDS:
        spoilt, mask = corrupt_lips(one, np.random.default_rng(0), 1.0, [kind])
        assert mask.all()
        assert (spoilt.images != 90).any() == (kind not in ("frozen", "blurred", "pixelated", "torn", "lost"))


@pytest.mark.parametrize("fraction", [-0.01, 1.01, np.nan, np.inf])
def test_fraction_is_checked(lips: Lips, fraction: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        corrupt_lips(lips, np.random.default_rng(0), fraction)
    with pytest.raises(InputError, match="from 0 to 1"):
        corrupted_blocks(10, fraction, np.random.default_rng(0))


@pytest.mark.parametrize(("count", "fps"), [(-1, 30.0), (10, 0.0), (10, np.nan), (10, np.inf)])
def test_count_and_rate_are_checked(count: int, fps: float) -> None:
    with pytest.raises(InputError, match="cannot spoil"):
        corrupted_blocks(count, 0.5, np.random.default_rng(0), fps=fps)


@pytest.mark.parametrize("kinds", [(), ("blurred", "burnt"), "blurred"])
def test_kinds_are_checked(lips: Lips, kinds: Sequence[str]) -> None:
    with pytest.raises(InputError, match="occluded, frozen, blurred, turned, missing"):
        corrupt_lips(lips, np.random.default_rng(0), kinds=kinds)


def test_spoiling_is_a_degrade_with_settings(lips: Lips) -> None:
    ours, mask = LipCorruption(0.5, kinds=("blurred", "turned"))(lips, np.random.default_rng(3))
    theirs, other = corrupt_lips(lips, np.random.default_rng(3), 0.5, ("blurred", "turned"))
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(mask, other)
    assert LipCorruption().kinds == TRAINING_KINDS


def test_held_out_kinds_are_not_those_of_training(lips: Lips) -> None:
    """Lips are spoilt by the former only where they are asked for."""
    assert len({*TRAINING_KINDS, *HELD_OUT_KINDS}) == len(TRAINING_KINDS) + len(HELD_OUT_KINDS) == len(KINDS)
    for seed in range(10):
        usual, _ = corrupt_lips(lips, np.random.default_rng(seed))
        named, _ = corrupt_lips(lips, np.random.default_rng(seed), kinds=TRAINING_KINDS)
        np.testing.assert_array_equal(usual.images, named.images)


def test_there_is_a_copy_at_least() -> None:
    with pytest.raises(InputError, match="0 copies"):
        LipCorruption(copies=0)
