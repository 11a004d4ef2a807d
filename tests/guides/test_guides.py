"""Guides: the posterior that the encoder says, in every shape, and what they refuse."""

import pytest
import torch
from pyro import poutine

from avse.guides.audio import AudioGuide
from avse.guides.base import SpeechGuide
from avse.guides.wrappers import BandLimitedGuide
from avse.models.networks.spectrum import GaussianEncoder, LogPower, RawPower
from avse.models.sites import Z
from avse.zoo.pair import SpeechPair

F, L = 9, 3


@pytest.fixture
def guide() -> AudioGuide:
    return AudioGuide(RawPower(), GaussianEncoder(F, [7], L)).double()


@pytest.mark.parametrize("shape", [(4, F), (2, 4, F), (5, 2, 4, F)])
def test_posterior_is_what_the_encoder_says(guide: AudioGuide, shape: tuple[int, ...]) -> None:
    power = torch.rand(shape, dtype=torch.float64)
    q = guide.posterior(power)
    assert (q.batch_shape, q.event_shape) == (shape[:-1], (L,))
    hidden = torch.tanh(guide.encoder.trunk[0](power))
    torch.testing.assert_close(q.mean, guide.encoder.mean(hidden))
    torch.testing.assert_close(q.variance, guide.encoder.log_variance(hidden).exp())


def test_a_sample_comes_from_the_posterior(guide: AudioGuide) -> None:
    """z-scores of mean and variance, 24 checks below 4.5: false alarms 2e-4."""
    power = torch.rand(4, F, dtype=torch.float64)
    q = guide.posterior(power)
    draws = torch.stack([guide(power=power) for _ in range(3000)]).detach()
    standard = (draws - q.mean.detach()) / q.stddev.detach()
    assert (standard.mean(0) * 3000**0.5).abs().max() < 4.5
    assert ((standard.square().mean(0) - 1) * (3000 / 2) ** 0.5).abs().max() < 4.5


def test_same_plates_and_sites_as_the_model(tiny_pair: SpeechPair) -> None:
    power = torch.rand(6, tiny_pair.stft.bins)
    model, guide = (poutine.trace(f).get_trace(power=power) for f in (tiny_pair.model, tiny_pair.guide))
    assert guide.nodes[Z]["fn"].batch_shape == model.nodes[Z]["fn"].batch_shape == (6,)
    assert [f.name for f in guide.nodes[Z]["cond_indep_stack"]] == ["frames"]
    assert [f.name for f in model.nodes[Z]["cond_indep_stack"]] == ["frames"]


def test_audio_guide_needs_power(guide: AudioGuide) -> None:
    with pytest.raises(ValueError, match="needs the power"):
        guide.posterior()
    with pytest.raises(ValueError, match="needs the power"):
        guide(frames=4)


def test_base_guide_needs_a_posterior() -> None:
    with pytest.raises(NotImplementedError, match="must define posterior"):
        SpeechGuide()(frames=4)


def test_scales_come_from_the_training_frames() -> None:
    guide = AudioGuide(LogPower(F), GaussianEncoder(F, [7], L))
    power = torch.rand(100, F) + 0.1
    guide.fit_scales(power)
    torch.testing.assert_close(guide.features(power).mean(0), torch.zeros(F), atol=1e-5, rtol=0)
    # The level of the input is what a log-power encoder sees as a shift, not as a scale.
    shift = guide.features(10 * power) - guide.features(power)
    torch.testing.assert_close(shift, shift[:1, :1].expand_as(shift), atol=1e-4, rtol=0)


@pytest.mark.parametrize("observed", [1, 5, F])
def test_band_limited_guide_repeats_the_last_bin(guide: AudioGuide, observed: int) -> None:
    power = torch.rand(2, 4, observed, dtype=torch.float64)
    full = torch.cat([power, power[..., -1:].repeat(1, 1, F - observed)], -1)
    q = BandLimitedGuide(guide, F).posterior(power)
    torch.testing.assert_close(q.mean, guide.posterior(full).mean)
    torch.testing.assert_close(q.variance, guide.posterior(full).variance)


def test_band_limited_guide_passes_on_what_is_refused(guide: AudioGuide) -> None:
    with pytest.raises(ValueError, match="needs the power"):
        BandLimitedGuide(guide, F).posterior()
