"""A guide that hears badly in training: what it hears, what it shares, and that the noise is what it says."""

import torch
from torch import Tensor

from avse.data.augmentation import ColouredNoise
from avse.guides.wrappers import CorruptedGuide
from avse.zoo.architectures import a_vae

F, N = 9, 5


def louder(power: Tensor) -> Tensor:
    return 2 * power


def test_it_hears_badly_in_training_only() -> None:
    torch.manual_seed(0)
    _, guide = a_vae(F, latent_size=2, encoder=(4,), decoder=(4,))
    power = torch.rand(N, F) + 0.1
    corrupted = CorruptedGuide(guide, louder)
    torch.testing.assert_close(corrupted.posterior(power).mean, guide.posterior(2 * power).mean)
    corrupted.eval()
    torch.testing.assert_close(corrupted.posterior(power).mean, guide.posterior(power).mean)


def test_it_trains_the_guide_itself() -> None:
    _, guide = a_vae(F, latent_size=2, encoder=(4,), decoder=(4,))
    corrupted = CorruptedGuide(guide, louder)
    assert {id(p) for p in corrupted.parameters()} == {id(p) for p in guide.parameters()}
    power = torch.rand(100, F) + 0.1
    corrupted.fit_scales(power)
    features = guide.features(power)
    assert features.mean(0).abs().max() < 1e-5


def test_coloured_noise_has_the_stated_level() -> None:
    """Mean of |s + b|^2 is |s|^2 plus the noise; five standard errors of 20,000 frames: false alarm 6e-7."""
    torch.manual_seed(0)
    count, ratio = 20_000, 3.0
    power = torch.full((count, F), 0.5, dtype=torch.float64)
    added = ColouredNoise(1.0, ratio, ratio)(power) - power
    of_frames = added.mean(-1)
    error = of_frames.std() / count**0.5
    assert abs(of_frames.mean() - 0.5 * 10 ** (-ratio / 10)) < 5 * error


def test_coloured_noise_leaves_the_rest_alone() -> None:
    torch.manual_seed(0)
    power = torch.rand(2000, F) + 0.1
    assert torch.equal(ColouredNoise(share=0.0)(power), power)
    touched = (ColouredNoise(share=0.25)(power) != power).any(-1).double().mean()
    assert abs(touched - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5
    assert (ColouredNoise(share=1.0)(power) >= 0).all()
