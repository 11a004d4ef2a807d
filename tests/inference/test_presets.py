"""The schedule for models with a prior from the lips, and its start."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from avse.data.lips.front_end import LipFrontEnd
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.inference.em.initial import (
    InitEachComponent,
    InitFromComponent,
    init_from_component_priors,
    init_from_encoder,
    init_from_prior,
)
from avse.inference.presets import default_mcem, lips_mcem, min_vae_mcem, papers_mcem
from avse.models.av_vae import AVVAE
from avse.models.nmf import QuantileInit
from avse.models.vae_mm import VAEMM
from avse.zoo.architectures import a_vae, av_vae, v_vae

F, N, L = 9, 6, 2
VIEW = LipFrontEnd(side=3, instants=1)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    power = torch.rand(2, N, F, generator=generator) + 0.1  # two channels
    visual = torch.cat([torch.randn(N, VIEW.size - 1, generator=generator), torch.ones(N, 1)], dim=1)
    return power, visual


def test_start_is_the_mean_of_the_prior_whatever_the_sound() -> None:
    torch.manual_seed(0)
    model, guide = av_vae(F, VIEW, L, 4, prior_hidden=(4,), encoder=(4,), decoder=(4,))
    model.eval()
    assert isinstance(model, AVVAE)
    power, visual = data()
    noise = QuantileInit(rank=2)(power, torch.Generator().manual_seed(0))
    z = init_from_prior(model, guide, power, visual, noise)
    assert z.shape == (2, N, L)
    torch.testing.assert_close(z[1], model.prior(model.lips(visual)).mean)
    assert torch.equal(z, init_from_prior(model, guide, 3 * power, visual, noise))
    assert not torch.equal(z, init_from_prior(model, guide, power, visual + 1, noise))


def test_start_of_a_model_whose_prior_sees_nothing_is_zero() -> None:
    torch.manual_seed(0)
    model, guide = v_vae(F, VIEW, L, 4, encoder=(4,), decoder=(4,))
    power, visual = data()
    noise = QuantileInit(rank=2)(power, torch.Generator().manual_seed(0))
    assert torch.equal(init_from_prior(model, guide, power, visual, noise), torch.zeros(2, N, L))


@pytest.mark.parametrize("pi", [0.0, 0.3, 1.0])
def test_start_of_a_mixture_is_the_mean_over_alpha(pi: float) -> None:
    torch.manual_seed(0)
    seeing, guide = av_vae(F, VIEW, L, 4, prior_hidden=(4,), encoder=(4,), decoder=(4,))
    hearing, _ = a_vae(F, L, encoder=(4,), decoder=(4,))
    power, visual = data()
    noise = QuantileInit(rank=2)(power, torch.Generator().manual_seed(0))
    seen = init_from_prior(seeing.eval(), guide, power, visual, noise)
    z = init_from_prior(VAEMM(hearing, seeing, pi).eval(), guide, power, visual, noise)
    torch.testing.assert_close(z, (1 - pi) * seen)


def test_schedule_has_one_chain_more_and_no_floor() -> None:
    torch.manual_seed(0)
    model, guide = av_vae(F, VIEW, L, 4, prior_hidden=(4,), encoder=(4,), decoder=(4,))
    model.eval().requires_grad_(False)
    guide.eval().requires_grad_(False)
    power, visual = data()
    for schedule, chains, floor in ((default_mcem(), 2, 0.05), (lips_mcem(), 3, 0.0)):
        posterior = schedule(model, guide, power, visual, torch.Generator().manual_seed(0))
        assert posterior.z.shape[0] == chains
        assert posterior.gain_floor == floor


def test_papers_schedule_fits_a_frame_gain_unless_told_not_to() -> None:
    torch.manual_seed(0)
    model, guide = av_vae(F, VIEW, L, 4, prior_hidden=(4,), encoder=(4,), decoder=(4,))
    model.eval().requires_grad_(False)
    guide.eval().requires_grad_(False)
    power, visual = data()
    for frame_gain in (True, False):
        schedule = papers_mcem(frame_gain)
        schedule = replace(schedule, em=replace(schedule.em, iterations=2))
        noise = schedule(model, guide, power, visual, torch.Generator().manual_seed(0)).noise
        assert torch.equal(noise.frame_gain, torch.ones_like(noise.frame_gain)) != frame_gain


def test_starts_of_every_branch_and_of_one() -> None:
    torch.manual_seed(0)
    seeing, looks = av_vae(F, VIEW, L, 4, prior_hidden=(4,), encoder=(4,), decoder=(4,))
    hearing, listens = a_vae(F, L, encoder=(4,), decoder=(4,))
    model = VAEMM(hearing, seeing, 0.3).eval()
    guide = MixtureGuide(listens, looks, responsibilities=OptimalResponsibilities(model), start=1).eval()
    power, visual = data()
    noise = QuantileInit(rank=2)(power, torch.Generator().manual_seed(0))
    told = (model, guide, power, visual, noise)
    own = [looks.posterior(power, visual).mean, listens.posterior(power, visual).mean]
    torch.testing.assert_close(InitEachComponent(init_from_encoder)(*told), torch.stack(own))
    for alpha in (0, 1):
        torch.testing.assert_close(InitFromComponent(alpha)(*told), own[alpha])
    torch.testing.assert_close(init_from_encoder(*told), own[1])  # the guide's own start
    assert InitEachComponent(init_from_encoder)(hearing, listens, power, visual, noise).shape == (1, 2, N, L)
    torch.testing.assert_close(InitFromComponent(1)(hearing, listens, power, visual, noise), own[1])

    means = init_from_component_priors(*told)
    torch.testing.assert_close(means[0], init_from_prior(seeing, looks, power, visual, noise))
    assert torch.equal(means[1], torch.zeros(2, N, L))


def test_a_chain_for_every_branch() -> None:
    """Three chains for a mixture guide, two for a plain one."""
    torch.manual_seed(0)
    hearing, listens = a_vae(F, L, encoder=(4,), decoder=(4,))
    _, looks = v_vae(F, VIEW, L, 4, encoder=(4,), decoder=(4,))
    power, visual = data()
    logits = lambda first, second, power, visual: power[..., 0]  # noqa: E731
    guide = MixtureGuide(listens, looks, responsibilities=logits, start=1).eval()
    for asked, chains in ((guide, 3), (listens, 2)):
        posterior = min_vae_mcem()(hearing, asked, power, visual, torch.Generator().manual_seed(0))
        assert posterior.z.shape[0] == chains
        assert posterior.wiener_gain.isfinite().all()
