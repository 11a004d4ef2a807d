"""The context guide: shapes, range, and which guides bring one."""

import pytest
import torch

from avse.guides.audio import AudioGuide
from avse.guides.base import SpeechGuide
from avse.guides.context import AudioVisualContextGuide, ContextGuide, context_guide
from avse.guides.wrappers import BandLimitedGuide
from avse.models.networks.context import DilatedNetwork, LipRefinement
from avse.models.networks.spectrum import GaussianEncoder, LogPower

BINS, LATENTS = 9, 3


@pytest.fixture
def context() -> ContextGuide:
    torch.manual_seed(0)
    return ContextGuide(LogPower(BINS), DilatedNetwork(BINS, 8, (1, 2), 2 * LATENTS + BINS), LATENTS).eval()


def audio(context: SpeechGuide | None) -> AudioGuide:
    return AudioGuide(LogPower(BINS), GaussianEncoder(BINS, (8,), LATENTS), context)


def powers(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) ** 2


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_shapes(context, batch):
    q = context.posterior(powers(*batch, 12, BINS))
    assert q.batch_shape == (*batch, 12)
    assert q.event_shape == (LATENTS,)
    assert context.estimate(powers(*batch, 12, BINS)).log_noise_variance.shape == (*batch, 12, BINS)


def test_neighbours_matter_and_distant_frames_do_not(context):
    power = powers(20, BINS)
    changed = power.clone()
    changed[3] *= 50
    difference = (context.posterior(changed).mean - context.posterior(power).mean).abs().sum(-1)
    assert (difference[0:7] > 1e-6).all()
    assert (difference[7:] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_extreme_levels_stay_finite(context, scale):
    estimate = context.estimate(scale * powers(4, BINS))
    assert torch.isfinite(estimate.z.mean).all()
    assert torch.isfinite(estimate.log_noise_variance).all()


def test_who_brings_a_context_guide(context):
    assert context_guide(audio(context)) is context
    assert context_guide(context) is context
    assert context_guide(audio(None)) is None
    assert context_guide(BandLimitedGuide(audio(None), BINS)) is None


def test_a_band_limited_guide_completes_the_spectrum(context):
    narrow = powers(12, 6)
    whole = torch.cat([narrow, narrow[..., -1:].expand(12, 3)], -1)
    limited = context_guide(BandLimitedGuide(audio(context), BINS))
    torch.testing.assert_close(limited.posterior(narrow).mean, context.posterior(whole).mean)


def test_scales_are_fitted_with_those_of_the_encoder(context):
    guide = audio(context)
    power = powers(50, BINS)
    guide.fit_scales(power)
    torch.testing.assert_close(context.features(power).mean(0), torch.zeros(BINS), atol=1e-5, rtol=0)


def test_no_power(context):
    with pytest.raises(ValueError, match="power spectrum"):
        context.posterior()


@pytest.fixture
def refined(context) -> AudioVisualContextGuide:
    refinement = LipRefinement(8, LATENTS, 5, 4, 8, (1,))
    torch.nn.init.normal_(refinement.last.weight)
    return AudioVisualContextGuide(context.features, context.network, LATENTS, refinement).eval()


def test_without_lips_the_refined_guide_is_the_guide_of_sound(context, refined):
    power = powers(2, 12, BINS)
    hidden = torch.rand(12, 5)
    hidden[:, -1] = 0
    for visual in (None, hidden):
        found = refined.posterior(power, visual).base_dist
        expected = context.posterior(power).base_dist
        torch.testing.assert_close(found.loc, expected.loc)
        torch.testing.assert_close(found.scale, expected.scale)


def test_lips_change_mean_and_variance_by_what_the_refinement_says(context, refined):
    power, visual = powers(2, 12, BINS), torch.ones(12, 5)
    sound = context.estimate(power)
    seen = refined.estimate(power, visual)
    change = refined.refinement(refined.network.hidden(refined.features(power)), sound.z.mean, visual)
    assert change.mean.abs().min() > 0
    torch.testing.assert_close(seen.z.mean, sound.z.mean + change.mean)
    torch.testing.assert_close(
        seen.z.log_variance, (sound.z.log_variance + change.log_variance).clamp(-12, 4)
    )
    torch.testing.assert_close(seen.log_noise_variance, sound.log_noise_variance)
