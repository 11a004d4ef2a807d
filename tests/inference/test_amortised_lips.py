"""Amortised EM with lips: the weights of the lips, the lower limit of the gain, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.guides.audio import AudioGuide
from avse.guides.context import AudioVisualContextGuide, ContextGuide, reads_lips
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.inference.em.anchored import corruption_probability
from avse.inference.presets import default_amortised, default_amortised_lips
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.networks.context import DilatedNetwork, LipRefinement
from avse.models.networks.lips import LipCorruptionClassifier, LipTrunk
from avse.models.networks.spectrum import GaussianEncoder, LogPower, SpectrumDecoder
from avse.models.vae_mm import VAEMM

N, F, L, D = 30, 12, 3, 5


def a_vae() -> AVAE:
    """An A-VAE whose spectra differ much from each other."""
    decoder = SpectrumDecoder(L, (8,), F)
    torch.nn.init.normal_(list(decoder.parameters())[-2], std=2.0)
    return AVAE(StandardNormal(L), decoder)


def audio_guide(context: ContextGuide | None = None) -> AudioGuide:
    return AudioGuide(LogPower(F), GaussianEncoder(F, (8,), L), context)


@pytest.fixture
def pair() -> tuple[VAEMM, MixtureGuide]:
    """A mixture whose refinement is strong, and whose classifier doubts some lips."""
    torch.manual_seed(0)
    refinement = LipRefinement(8, L, D, 4, 8, (1,))
    torch.nn.init.normal_(refinement.last.weight, std=30.0)
    network = DilatedNetwork(F, 8, (1, 2), 2 * L + F)
    context = AudioVisualContextGuide(LogPower(F), network, L, refinement)
    classifier = LipCorruptionClassifier(LipTrunk(torch.nn.Linear(D - 1, 4), 4), 4)
    torch.nn.init.normal_(classifier.logit.weight)
    model = VAEMM(a_vae(), a_vae(), pi=0.3, corruption_classifier=classifier)
    guide = MixtureGuide(audio_guide(context), audio_guide(), responsibilities=OptimalResponsibilities(model))
    return model.eval().requires_grad_(False), guide.eval().requires_grad_(False)


@pytest.fixture
def power() -> Tensor:
    return -10 * torch.rand(1, N, F, generator=Generator().manual_seed(1)).log()


@pytest.fixture
def visual() -> Tensor:
    lips = torch.randn(N, D, generator=Generator().manual_seed(2))
    lips[:, -1] = 1.0
    lips[5:9] = 0.0
    return lips


def by_sound(pair: tuple[VAEMM, MixtureGuide], power: Tensor):
    model, guide = pair
    return default_amortised()(
        model.component_models()[1], guide.branches[1], power, None, Generator().manual_seed(3)
    )


def test_the_weight_of_the_lips_is_the_probability_that_they_can_be_used(pair, power, visual):
    found = default_amortised_lips()(*pair, power, visual, Generator().manual_seed(3))
    usable = visual[:, -1] * (1 - corruption_probability(pair[0], visual))
    torch.testing.assert_close(found.visual_weight, 0.75 * usable.expand(1, N))
    assert 0 < float(found.visual_weight[:, 9:].min()) < float(found.visual_weight.max()) < 0.75
    torch.testing.assert_close(
        found.responsibilities, torch.stack([found.visual_weight, 1 - found.visual_weight])
    )


@pytest.mark.parametrize("max_weight", [0.5, 0.9])
def test_lips_cannot_lower_the_gain_below_a_share_of_that_by_sound(pair, power, visual, max_weight):
    """1 - max_weight of it; with a larger weight half of it is not kept, so that the limit matters."""
    sound = by_sound(pair, power)
    algorithm = replace(default_amortised_lips(), max_weight=max_weight)
    found = algorithm(*pair, power, visual, Generator().manual_seed(3))
    assert (found.wiener_gain >= (1 - max_weight) * sound.wiener_gain - 1e-6).all()
    assert bool((found.wiener_gain < 0.5 * sound.wiener_gain - 1e-3).any()) == (max_weight > 0.5)


def test_frames_without_lips_have_the_gain_by_sound(pair, power, visual):
    sound = by_sound(pair, power)
    found = default_amortised_lips()(*pair, power, visual, Generator().manual_seed(3))
    expected = sound.wiener_gain.clamp_min(sound.gain_floor)
    torch.testing.assert_close(found.wiener_gain[:, 5:9], expected[:, 5:9])
    assert (found.wiener_gain[:, 9:] - expected[:, 9:]).abs().max() > 0.05


def test_without_a_refined_guide_it_is_refused_before_it_runs(pair, power, visual):
    model, guide = pair
    assert reads_lips(guide.branches[1])
    guide.branches[1].context = None
    assert not reads_lips(guide.branches[1])
    with pytest.raises(InputError, match="recipe vae-mm-context"):
        default_amortised_lips()(model, guide, power, visual, Generator().manual_seed(3))


def test_without_lips_the_other_algorithm_runs(pair, power):
    calls = []
    algorithm = replace(default_amortised_lips(), otherwise=lambda *given: calls.append(given) or "answer")
    assert algorithm(*pair, power, None, Generator()) == "answer"
    assert len(calls) == 1
