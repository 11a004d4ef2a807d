"""Guides that see: the formula in every shape, both inputs where both are wanted, and what they refuse."""

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.base import SpeechGuide
from avse.guides.visual import VisualGuide
from avse.guides.wrappers import BandLimitedGuide
from avse.models.a_vae import StandardNormal
from avse.models.av_vae import AVVAE, VisualPrior
from avse.models.networks.lips import LipTrunk
from avse.models.networks.spectrum import GaussianEncoder, LogPower, RawPower, SpectrumDecoder
from avse.models.sites import Z

L, F, N, C, R, E, D = 2, 5, 4, 2, 3, 3, 8
SHAPES = [(N, F), (C, N, F), (R, C, N, F)]


def lip_trunk() -> LipTrunk:
    trunk = LipTrunk(nn.Sequential(nn.Linear(D - 1, E), nn.Tanh()), E)
    nn.init.normal_(trunk.missing_embedding)
    return trunk


@pytest.fixture
def seeing() -> VisualGuide:
    return VisualGuide(lip_trunk(), VisualPrior(GaussianEncoder(E, [6], L))).double()


@pytest.fixture
def both() -> AudioVisualGuide:
    return AudioVisualGuide(RawPower(), lip_trunk(), GaussianEncoder(F, [7], L, embedding_size=E)).double()


@pytest.fixture
def visual() -> Tensor:
    """N frames, the third of which is not seen."""
    valid = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    return torch.cat([torch.randn(N, D - 1, dtype=torch.float64), valid[:, None]], -1)


def embedding(trunk: LipTrunk, visual: Tensor) -> Tensor:
    """By hand."""
    found = torch.tanh(visual[:, :-1] @ trunk.layers[0].weight.T + trunk.layers[0].bias)
    return torch.where(visual[:, -1:] > 0.5, found, trunk.missing_embedding)


@pytest.mark.parametrize("shape", [None, *SHAPES])
def test_lips_alone_answer_for_every_channel(
    shape: tuple[int, ...] | None, seeing: VisualGuide, visual: Tensor
) -> None:
    power = None if shape is None else torch.rand(shape, dtype=torch.float64)
    batch = (N,) if shape is None else shape[:-1]
    q = seeing.posterior(power, visual)
    assert (q.batch_shape, q.event_shape) == (batch, (L,))
    network = seeing.network.network
    hidden = torch.tanh(embedding(seeing.lips, visual) @ network.trunk[0].weight.T + network.trunk[0].bias)
    for found, head in ((q.mean, network.mean), (q.variance.log(), network.log_variance)):
        truth = hidden @ head.weight.T + head.bias
        assert found.shape == (*batch, L)
        torch.testing.assert_close(found, truth.expand(*batch, L))
    # One posterior, yet every channel draws for itself.
    if shape is not None:
        draws = q.sample().reshape(-1, L)
        assert len(draws.unique(dim=0)) == len(draws)
        assert q.log_prob(q.sample()).shape == batch


def test_lips_alone_do_not_hear(seeing: VisualGuide, visual: Tensor) -> None:
    quiet, loud = (seeing.posterior(level * torch.rand(N, F), visual) for level in (0.01, 100))
    assert torch.equal(quiet.mean, loud.mean)
    assert torch.equal(quiet.variance, loud.variance)


@pytest.mark.parametrize("shape", SHAPES)
def test_sound_and_lips_meet_before_the_first_activation(
    shape: tuple[int, ...], both: AudioVisualGuide, visual: Tensor
) -> None:
    """Power (C, N, F) with visual (N, D): the lips are those of every channel."""
    power = torch.rand(shape, dtype=torch.float64)
    q = both.posterior(power, visual)
    assert (q.batch_shape, q.event_shape) == (shape[:-1], (L,))
    first, encoder = both.encoder.trunk[0], both.encoder
    shift = embedding(both.lips, visual) @ encoder.condition.weight.T  # type: ignore[union-attr]
    hidden = torch.tanh(power @ first.weight.T + first.bias + shift)
    torch.testing.assert_close(q.mean, hidden @ encoder.mean.weight.T + encoder.mean.bias)
    log_variance = hidden @ encoder.log_variance.weight.T + encoder.log_variance.bias
    torch.testing.assert_close(q.variance.log(), log_variance)


def test_sound_and_lips_both_matter_frame_by_frame(both: AudioVisualGuide, visual: Tensor) -> None:
    power = torch.rand(C, N, F, dtype=torch.float64)
    before = both.posterior(power, visual)
    louder, other = power.clone(), visual.clone()
    louder[1, 2] += 1
    other[1, :-1] += 1
    other[2, :-1] += 1  # not seen
    for change, expected in (((louder, visual), {(1, 2)}), ((power, other), {(0, 1), (1, 1)})):
        after = both.posterior(*change)
        for moved in (after.mean != before.mean, after.variance != before.variance):
            assert {tuple(where) for where in moved.any(-1).nonzero().tolist()} == expected


@pytest.mark.parametrize("kind", ["seeing", "both"])
@pytest.mark.parametrize("network", [True, False])
def test_same_plates_and_sites_as_the_model(
    kind: str, network: bool, visual: Tensor, request: pytest.FixtureRequest
) -> None:
    guide = request.getfixturevalue(kind)
    prior = VisualPrior(GaussianEncoder(E, [6], L)) if network else StandardNormal(L)
    model = AVVAE(guide.lips, prior, SpectrumDecoder(L, [7], F, embedding_size=E)).double()
    power = torch.rand(N, F, dtype=torch.float64)
    theirs, ours = (poutine.trace(part).get_trace(power=power, visual=visual) for part in (model, guide))
    assert ours.nodes[Z]["fn"].batch_shape == (N,)
    assert theirs.nodes[Z]["value"].shape == ours.nodes[Z]["value"].shape == (N, L)
    for story in (theirs, ours):
        assert [plate.name for plate in story.nodes[Z]["cond_indep_stack"]] == ["frames"]


@pytest.mark.parametrize("kind", ["seeing", "both"])
def test_a_sample_comes_from_the_posterior(kind: str, visual: Tensor, request: pytest.FixtureRequest) -> None:
    """z-scores of mean and variance over 3000 copies of 4 frames, 16 below 4.5: false alarms 1e-4."""
    guide, power, draws = request.getfixturevalue(kind), torch.rand(N, F, dtype=torch.float64), 3000
    q = guide.posterior(power, visual)
    z = guide(power=power.repeat(draws, 1), visual=visual.repeat(draws, 1)).reshape(draws, N, L)
    standard = ((z - q.mean) / q.stddev).detach()
    assert (standard.mean(0) * draws**0.5).abs().max() < 4.5
    assert ((standard.square().mean(0) - 1) * (draws / 2) ** 0.5).abs().max() < 4.5


def test_what_is_missing_is_named(seeing: VisualGuide, both: AudioVisualGuide, visual: Tensor) -> None:
    power = torch.rand(N, F, dtype=torch.float64)
    for mistake in (
        lambda: seeing.posterior(power),
        lambda: seeing(power=power),
        lambda: both.posterior(power),
    ):
        with pytest.raises(ValueError, match="give visual"):
            mistake()
    for guide in (both, BandLimitedGuide(both, F)):
        with pytest.raises(ValueError, match="needs the power"):
            guide.posterior(None, visual)
    with pytest.raises(ValueError, match="number of frames"):
        both(power=power, visual=visual[:-1])


@pytest.mark.parametrize("kind", ["seeing", "both"])
def test_band_limited_guide_passes_the_lips_on(
    kind: str, visual: Tensor, request: pytest.FixtureRequest
) -> None:
    guide: SpeechGuide = request.getfixturevalue(kind)
    power = torch.rand(C, N, 3, dtype=torch.float64)
    full = torch.cat([power, power[..., -1:].repeat(1, 1, F - 3)], -1)
    q, truth = BandLimitedGuide(guide, F).posterior(power, visual), guide.posterior(full, visual)
    torch.testing.assert_close(q.mean, truth.mean)
    torch.testing.assert_close(q.variance, truth.variance)


def test_scales_come_from_the_training_frames() -> None:
    guide = AudioVisualGuide(LogPower(F), lip_trunk(), GaussianEncoder(F, [7], L, embedding_size=E))
    power = torch.rand(100, F) + 0.1
    guide.fit_scales(power)
    torch.testing.assert_close(guide.features(power).mean(0), torch.zeros(F), atol=1e-5, rtol=0)
