"""Lips moved, turned, lit and hidden: by what law, and that nothing else happens to them.

Statistics over independent frames; |z| < 4.5 has a false-alarm rate of 7e-6 a value.
"""

import pytest
import torch
from torch import Tensor

from avse.data.augmentation import LipAugmentation, UniformNoise
from avse.data.lips.front_end import LipFrontEnd

SIDE, B = 9, 6000
VIEW = LipFrontEnd(side=SIDE, instants=3)
STILL = {"hidden": 0.0, "shift": 0.0, "zoom": 0.0, "turn": 0.0, "contrast": 0.0, "brightness": 0.0}
"""Every change switched off."""


def batch_of(pictures: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Pictures (B, 3, side, side), seen in all frames or in those that are `valid`, with some power."""
    seen = pictures.new_ones(len(pictures), 1) if valid is None else valid[:, None].to(pictures)
    visual = torch.cat([pictures.flatten(1) * seen, seen], 1)
    return {"power": torch.rand(len(pictures), 2), "visual": visual}


def random_pictures(count: int = 50, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, dtype=dtype)


def pictures_of(batch: dict[str, Tensor]) -> Tensor:
    return batch["visual"][:, :-1].reshape(-1, 3, SIDE, SIDE)


def z_score(draws: Tensor, truth: float) -> float:
    return float((draws.mean() - truth) / (draws.std() / len(draws) ** 0.5))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_with_everything_off_it_is_the_identity(dtype: torch.dtype, tolerance: float) -> None:
    batch = batch_of(random_pictures(dtype=dtype), torch.rand(50) > 0.3)
    out = LipAugmentation(VIEW, **STILL)(batch)
    assert out["visual"].dtype == dtype
    torch.testing.assert_close(out["visual"], batch["visual"], rtol=0, atol=tolerance)
    # Negative control: each change alone is seen.
    for name in STILL:
        changed = LipAugmentation(VIEW, **{**STILL, name: 0.2})(batch)
        assert (changed["visual"] - batch["visual"]).abs().max() > 0.01, name


def test_seeds_reproduce_and_nothing_else_is_touched() -> None:
    batch = batch_of(random_pictures(), torch.rand(50) > 0.3)
    before, change = batch["visual"].clone(), LipAugmentation(VIEW)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(change(batch))
    assert torch.equal(outs[0]["visual"], outs[1]["visual"])
    assert not torch.equal(outs[0]["visual"], outs[2]["visual"])
    assert torch.equal(batch["visual"], before)
    assert all(out["power"] is batch["power"] and out.keys() == batch.keys() for out in outs)


def test_all_hidden() -> None:
    out = LipAugmentation(VIEW, hidden=1.0)(batch_of(random_pictures()))
    assert torch.equal(out["visual"], torch.zeros(50, VIEW.size))


def test_unseen_stay_unseen_and_a_share_of_the_others_is_hidden() -> None:
    """Binomial: |z| < 4.5. What is hidden has neither pixels nor flag; what is not has both."""
    valid = torch.rand(B) > 0.3
    pictures = random_pictures(B)
    for hidden in (0.0, 0.15):
        out = LipAugmentation(VIEW, hidden=hidden)(batch_of(pictures, valid))["visual"]
        flag = out[:, -1]
        assert set(flag.tolist()) == {0.0, 1.0}
        assert (flag[~valid] == 0).all()
        assert (out[flag == 0] == 0).all()
        assert (out[flag == 1, :-1] != 0).any(1).all()
        lost = 1 - flag[valid].double()
        deviation = (hidden * (1 - hidden) * len(lost)) ** 0.5
        assert abs(float(lost.sum()) - hidden * len(lost)) <= 4.5 * deviation


def test_all_pictures_of_a_frame_change_alike_and_frames_differ() -> None:
    """The course of the mouth over a frame's pictures is what is heard; it must not be shaken."""
    one = random_pictures()[:1, :1].expand(50, 3, SIDE, SIDE)
    out = pictures_of(LipAugmentation(VIEW, hidden=0.0)(batch_of(one)))
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=1e-5)
    assert (out[1:] - out[:-1]).abs().amax((1, 2, 3)).min() > 0.01


def test_edges_stay_as_bright_as_they_are() -> None:
    """What comes into view is the border continued, not black."""
    change = LipAugmentation(VIEW, **{**STILL, "shift": 0.3, "zoom": 0.5, "turn": 0.5})
    out = pictures_of(change(batch_of(torch.full((50, 3, SIDE, SIDE), 1.7))))
    torch.testing.assert_close(out, torch.full_like(out, 1.7))


def similarities(change: LipAugmentation) -> tuple[Tensor, Tensor]:
    """Where the pixels about the middle come from: matrices (B, 2, 2) and shifts (B, 2), in pixels.

    Read off two ramps, across and down, which bilinear interpolation leaves exact.
    """
    axis = torch.arange(SIDE, dtype=torch.float64) - SIDE // 2
    down, across = torch.meshgrid(axis, axis, indexing="ij")
    ramps = torch.stack([across, down, torch.zeros_like(down)])
    out = pictures_of(change(batch_of(ramps.expand(B, 3, SIDE, SIDE))))
    centre = slice(SIDE // 2 - 1, SIDE // 2 + 2)
    source = out[:, :2, centre, centre].flatten(2)  # (B, 2, 9)
    design = torch.stack([across[centre, centre].flatten(), down[centre, centre].flatten(), torch.ones(9)], 1)
    solution = source @ torch.linalg.pinv(design).T
    torch.testing.assert_close(solution @ design.T, source)  # affine, and far from the border
    return solution[..., :2], solution[..., 2]


def assert_uniform(values: Tensor, largest: float) -> None:
    """On [-largest, largest]: range, mean, variance."""
    assert values.abs().max() <= largest * (1 + 1e-6)
    assert values.abs().max() > 0.99 * largest
    assert abs(z_score(values, 0.0)) < 4.5
    assert abs(z_score(values.square(), largest**2 / 3)) < 4.5


def test_geometry_is_a_similarity_of_the_stated_range() -> None:
    """Shift up to 8 % of the side, size up to 10 %, turn up to 0.1 radians, each uniform, independent."""
    change = LipAugmentation(VIEW, **{**STILL, "shift": 0.08, "zoom": 0.1, "turn": 0.1})
    matrix, shift = similarities(change)
    # Size times a rotation: nothing is sheared, stretched or mirrored.
    torch.testing.assert_close(matrix[:, 0, 0], matrix[:, 1, 1])
    torch.testing.assert_close(matrix[:, 0, 1], -matrix[:, 1, 0])
    size = torch.linalg.det(matrix).sqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    parts = {"across": shift[:, 0], "down": shift[:, 1], "size": size - 1, "turn": angle}
    for name, largest in (("across", 0.08 * SIDE), ("down", 0.08 * SIDE), ("size", 0.1), ("turn", 0.1)):
        assert_uniform(parts[name], largest)
    correlation = torch.corrcoef(torch.stack(list(parts.values()))) - torch.eye(4)
    assert correlation.abs().max() < 4.5 / B**0.5


@pytest.mark.parametrize("part", ["shift", "zoom", "turn"])
def test_each_change_of_place_is_alone(part: str) -> None:
    matrix, shift = similarities(LipAugmentation(VIEW, **{**STILL, part: 0.1}))
    found = {
        "shift": shift.abs().max(),
        "zoom": (torch.linalg.det(matrix) - 1).abs().max(),
        "turn": matrix[:, 0, 1].abs().max(),
    }
    assert found.pop(part) > 0.05
    assert max(found.values()) < 1e-9


def test_light_changes_by_a_factor_and_an_offset() -> None:
    """log contrast ~ N(0, 0.1^2) and brightness ~ N(0, 0.2^2), one of each a frame, independent."""
    levels = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)[:, None, None]
    batch = batch_of(levels.expand(B, 3, SIDE, SIDE))
    out = pictures_of(LipAugmentation(VIEW, **{**STILL, "contrast": 0.1, "brightness": 0.2})(batch))
    assert (out.amax((2, 3)) - out.amin((2, 3))).max() < 1e-12
    offset, bright, dark = out[:, :, 0, 0].T
    torch.testing.assert_close(dark - offset, -2 * (bright - offset))
    contrast = torch.log(bright - offset)
    for values, deviation in ((contrast, 0.1), (offset, 0.2)):
        assert abs(z_score(values, 0.0)) < 4.5
        assert abs(z_score(values.square(), deviation**2)) < 4.5
        assert abs(z_score(values**4, 3 * deviation**4)) < 4.5
    assert abs(z_score(contrast * offset, 0.0)) < 4.5


def test_hidden_lips_are_bad_lips() -> None:
    """Those that were bad before stay so."""
    bad = (torch.rand(B) < 0.3).float()
    out = LipAugmentation(VIEW, hidden=0.2)({**batch_of(random_pictures(B)), "bad": bad})
    assert torch.equal(out["bad"], ((bad > 0.5) | (out["visual"][:, -1] == 0)).float())
    assert bad.mean() < out["bad"].mean() < 1


def test_hidden_frames_are_chosen_whatever_they_look_like() -> None:
    """The flag of a frame tells nothing of its light: correlation within chance."""
    batch = batch_of(torch.ones(B, 3, SIDE, SIDE, dtype=torch.float64))
    torch.manual_seed(7)
    hidden = 1 - LipAugmentation(VIEW, **{**STILL, "hidden": 0.5, "brightness": 0.2})(batch)["visual"][:, -1]
    torch.manual_seed(7)
    light = LipAugmentation(VIEW, **{**STILL, "brightness": 0.2})(batch)["visual"][:, 0] - 1
    assert 0.4 < hidden.mean() < 0.6
    assert light.std() == pytest.approx(0.2, rel=0.1)
    assert abs(z_score((hidden - hidden.mean()) * light, 0.0)) < 4.5


def test_uniform_noise_is_that_of_the_papers() -> None:
    """50 U(0, 1) in every bin of a third of the frames: two z-scores under 4.5, false alarms 1e-5."""
    torch.manual_seed(0)
    added = UniformNoise()(torch.ones(30_000, 4)) - 1
    noisy = added.abs().amax(-1) > 0
    assert abs(float(noisy.double().mean()) - 1 / 3) < 4.5 * (2 / 9 / 30_000) ** 0.5
    values = added[noisy]
    assert values.min() >= 0
    assert 49 < values.max() <= 50
    assert abs(float(values.mean()) - 25) < 4.5 * 50 / 12**0.5 / values.numel() ** 0.5
