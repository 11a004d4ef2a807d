"""The objective of the context guide, against its terms written out, and a run that trains it alone."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from avse import zoo
from avse.data.corpora.base import Utterance
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.simulation import MixtureSimulator
from avse.data.stft import STFT
from avse.guides.audio import AudioGuide
from avse.guides.context import ContextEstimate, ContextGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.inference.svi.compilation import InferenceCompilation
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.networks.context import DilatedNetwork
from avse.models.networks.spectrum import POWER_FLOOR, Gaussian, GaussianEncoder, LogPower, SpectrumDecoder
from avse.models.vae_mm import VAEMM
from avse.zoo.recipes import RECIPES, run

BINS, LATENTS, FRAMES = 12, 3, 20
OFF = {"bound": 0.0, "cross_entropy": 0.0, "filtered": 0.0, "filtered_smooth": 0.0}


class Told(ContextGuide):
    """A context guide that answers what it was told."""

    def __init__(self, mean: Tensor, log_variance: Tensor, log_noise: Tensor) -> None:
        super().__init__(LogPower(BINS), DilatedNetwork(BINS, 4, (1,), 2 * LATENTS + BINS), LATENTS)
        self.told = ContextEstimate(Gaussian(mean, log_variance), log_noise)

    def estimate(self, power: Tensor, visual: Tensor | None = None) -> ContextEstimate:
        return self.told


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(3, 2, FRAMES, BINS, generator=generator, dtype=torch.float64)
    clean, noise, _ = -draws.log()
    return {"clean": clean, "noise": 0.1 * noise, "power": clean + 0.1 * noise}


@pytest.fixture
def pair() -> tuple[AVAE, AudioGuide]:
    torch.manual_seed(0)
    model = AVAE(StandardNormal(LATENTS), SpectrumDecoder(LATENTS, (8,), BINS)).double()
    guide = AudioGuide(LogPower(BINS), GaussianEncoder(BINS, (8,), LATENTS)).double()
    return model.requires_grad_(False), guide.requires_grad_(False)


def told(guide: AudioGuide, mean: Tensor, log_variance: Tensor, log_noise: Tensor) -> AudioGuide:
    guide.context = Told(mean, log_variance, log_noise)
    return guide


def test_the_cross_entropy_is_least_at_the_moments_of_the_target(pair, batch):
    model, guide = pair
    target = guide.posterior(batch["clean"])
    mean, log_variance = target.mean.clone(), 2 * target.stddev.log()
    mean.requires_grad_()
    log_variance.requires_grad_()
    objective = InferenceCompilation(**{**OFF, "cross_entropy": 1.0})
    answer = told(guide, mean, log_variance, torch.zeros(2, FRAMES, BINS, dtype=torch.float64))
    objective.differentiable_loss(model, answer, **batch).backward()
    torch.testing.assert_close(mean.grad, torch.zeros_like(mean), atol=1e-9, rtol=0)
    torch.testing.assert_close(log_variance.grad, torch.zeros_like(log_variance), atol=1e-9, rtol=0)


def test_the_noise_cost_is_least_at_the_noise_power(pair, batch):
    model, guide = pair
    log_noise = (batch["noise"] + POWER_FLOOR).log().requires_grad_()
    zeros = torch.zeros(2, FRAMES, LATENTS, dtype=torch.float64)
    InferenceCompilation(**OFF).differentiable_loss(
        model, told(guide, zeros, zeros, log_noise), **batch
    ).backward()
    torch.testing.assert_close(log_noise.grad, torch.zeros_like(log_noise), atol=1e-9, rtol=0)


def test_the_bound_is_that_of_the_clean_speech(pair, batch):
    """With q at a point, the bound is its log likelihood and the divergence in closed form."""
    model, guide = pair
    mean = torch.randn(2, FRAMES, LATENTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_variance = torch.full_like(mean, -30.0)
    log_noise = batch["noise"].log()
    whole, rest = (
        InferenceCompilation(**{**OFF, "bound": weight}).differentiable_loss(
            model, told(guide, mean, log_variance, log_noise), **batch
        )
        for weight in (1.0, 0.0)
    )
    log_sigma = model.decoder(mean)
    likelihood = (log_sigma + (batch["clean"] + POWER_FLOOR) / log_sigma.exp()).sum(-1)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(-1)
    expected = ((likelihood + divergence) / BINS).mean() * FRAMES
    torch.testing.assert_close(whole - rest, expected, rtol=1e-6, atol=1e-6)


def test_the_filtered_error_vanishes_for_the_right_filter(pair):
    """Speech as the decoder says and no noise: the filter passes everything."""
    model, guide = pair
    zeros = torch.zeros(1, FRAMES, LATENTS, dtype=torch.float64)
    clean = model.decoder(zeros).exp()
    batch = {"clean": clean, "noise": torch.zeros_like(clean), "power": clean}
    answer = told(guide, zeros, torch.full_like(zeros, -60.0), torch.full_like(clean, -40.0))
    weighted, plain = (
        InferenceCompilation(**{**OFF, **weights}).differentiable_loss(model, answer, **batch)
        for weights in ({"filtered": 5.0, "filtered_smooth": 10.0}, {})
    )
    assert float(weighted - plain) < 1e-8
    wrong = told(guide, zeros, torch.full_like(zeros, -60.0), torch.full_like(clean, 3.0))
    error = InferenceCompilation(**{**OFF, "filtered": 5.0}).differentiable_loss(model, wrong, **batch)
    assert float(error - InferenceCompilation(**OFF).differentiable_loss(model, wrong, **batch)) > 0.1


def test_cross_entropy_and_filtered_errors_are_those_written_out(pair, batch):
    """E of -log q(z | x) over q(z | s) less its constant, and amplitudes ** .3 after both filters."""
    model, guide = pair
    generator = torch.Generator().manual_seed(2)
    mean, log_variance = torch.randn(2, 2, FRAMES, LATENTS, generator=generator, dtype=torch.float64)
    log_noise = torch.randn(2, FRAMES, BINS, generator=generator, dtype=torch.float64)
    answer = told(guide, mean, log_variance, log_noise)
    target = guide.posterior(batch["clean"]).base_dist
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    entropy = torch.distributions.Normal(target.loc, target.scale).entropy()
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(target.loc, target.scale), q)
    surprise = (divergence + entropy).mean() - math.log(2 * math.pi) / 2

    padded = torch.nn.functional.pad(batch["noise"], (1, 1, 3, 3), value=math.nan)
    smooth = padded.unfold(1, 7, 1).unfold(2, 3, 1).flatten(-2).nanmean(-1)
    amplitude, clean = batch["power"].sqrt(), batch["clean"].sqrt()

    def value(**weights: float) -> Tensor:
        torch.manual_seed(5)
        objective = InferenceCompilation(**{**OFF, **weights})
        return objective.differentiable_loss(model, answer, **batch) / FRAMES

    torch.manual_seed(5)
    sigma = model.decoder(mean + q.scale * torch.randn_like(mean)).exp()
    expected = [surprise]
    for noise in (log_noise.exp(), smooth):
        filtered = sigma / (sigma + noise + (POWER_FLOOR if noise is smooth else 0.0)) * amplitude
        expected.append((clean.clamp_min(1e-4) ** 0.3 - filtered.clamp_min(1e-4) ** 0.3).square().mean())
    for name, truth in zip(("cross_entropy", "filtered", "filtered_smooth"), expected, strict=True):
        torch.testing.assert_close(value(**{name: 1.0}) - value(), truth, rtol=1e-9, atol=1e-9)


def test_a_pair_without_a_context_guide_is_refused(pair, batch):
    model, guide = pair
    with pytest.raises(InputError, match="has none"):
        InferenceCompilation().differentiable_loss(model, guide, **batch)


def test_a_component_of_a_mixture_is_trained_as_if_alone(pair, batch):
    """alpha = 1 is the first model; alpha = 0 has no context guide."""
    model, guide = pair
    torch.manual_seed(1)
    other = AVAE(StandardNormal(LATENTS), SpectrumDecoder(LATENTS, (8,), BINS)).double()
    other_guide = AudioGuide(LogPower(BINS), GaussianEncoder(BINS, (8,), LATENTS)).double()
    mean, log_variance = torch.randn(2, 2, FRAMES, LATENTS, dtype=torch.float64)
    answer = told(guide, mean, log_variance, torch.zeros(2, FRAMES, BINS, dtype=torch.float64))
    mixture = VAEMM(model, other, pi=0.5)
    guides = MixtureGuide(answer, other_guide, responsibilities=OptimalResponsibilities(mixture))

    def loss(objective: InferenceCompilation, *trained) -> Tensor:
        torch.manual_seed(3)
        return objective.differentiable_loss(*trained, **batch)

    torch.testing.assert_close(
        loss(InferenceCompilation(component=1), mixture, guides), loss(InferenceCompilation(), model, answer)
    )
    with pytest.raises(InputError, match="has none"):
        loss(InferenceCompilation(component=0), mixture, guides)


def voice(seed: int) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    time = np.arange(32000) / 16000
    pitch = 120 + 40 * generator.random()
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20))
    return (0.1 * tone * (np.sin(2 * np.pi * 3 * time) > 0)).astype(np.float32), 16000


class Voices:
    """Two tones a split."""

    name = "voices"

    def utterances(self, split):
        return [Utterance(f"{split}-{k}", f"{split}-{k}", split, partial(voice, k)) for k in range(2)]


def test_a_run_trains_the_context_guide_and_nothing_else(tmp_path):
    recipe = RECIPES["a-vae-context"]()
    arguments = {**recipe.pair.arguments, "context_channels": 8, "context_dilations": (1, 2)}
    simulator = MixtureSimulator(
        FrontEnd(STFT(hop_length=256), "rms", 70.0), seconds=0.5, voices=2, pool=2, reuse=2
    )
    data = {"batch_size": 2, "epoch_batches": 3, "validation_batches": 1, "simulator": simulator}
    small = replace(
        recipe,
        pair=replace(recipe.pair, arguments=arguments),
        settings=replace(recipe.settings, max_epochs=2, patience=2),
        data=data,
    )
    trained, report = run(small, [Voices()], tmp_path / "run", progress=lambda fraction: None)
    assert report.epochs == 2
    shipped = zoo.load("a-vae").modules().state_dict()
    found = trained.modules().state_dict()
    for name, tensor in found.items():
        if ".context." not in name:
            torch.testing.assert_close(tensor, shipped[name])
    again, _ = run(small, [Voices()], tmp_path / "again", progress=lambda fraction: None)
    for name, tensor in again.modules().state_dict().items():
        torch.testing.assert_close(tensor, found[name], rtol=1e-4, atol=1e-5)
    other, _ = run(
        replace(small, settings=replace(small.settings, seed=1)), [Voices()], tmp_path / "other",
        progress=lambda fraction: None,
    )  # fmt: skip
    last = "guide.context.network.last.weight"
    assert not torch.allclose(other.modules().state_dict()[last], found[last])
