"""`avse.Pair`: models and guides of one's own under every algorithm."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import avse
from avse.data.errors import InputError
from avse.inference.em.anchored import AnchoredMCEM
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.pyro_mcmc import PyroMCMC
from avse.inference.presets import PRESETS
from avse.models.distributions import PowerSpectrum
from avse.zoo.pair import PairConfig, SpeechPair

L, BINS = 3, 33
X = 0.1 * np.random.default_rng(0).standard_normal(900)


def normal() -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(L), 1.0).to_event(1)


def flow(centre: Tensor | float = 0.0) -> dist.TorchDistribution:
    base = dist.Normal(torch.zeros(L) + centre, torch.ones(L)).to_event(1)
    return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.1, 0.9, event_dim=1)])


def mixture() -> dist.TorchDistribution:
    locs = torch.stack([torch.ones(L), -torch.ones(L)])
    return dist.MixtureOfDiagNormals(locs, torch.ones(2, L), torch.zeros(2))


def laplace() -> dist.TorchDistribution:
    return dist.Laplace(torch.zeros(L), 1.0).to_event(1)


PRIORS = {"normal": normal, "flow": flow, "mixture": mixture, "laplace": laplace}


def latent_model(decoder: nn.Module, prior: Callable[[], Any]) -> Callable[..., Any]:
    def model(visual: Tensor | None = None) -> Tensor:
        return decoder(pyro.sample("z", prior()))

    return model


def whole_model(decoder: nn.Module, prior: Callable[[], Any]) -> Callable[..., Any]:
    def model(power: Tensor) -> None:
        with pyro.plate("frames", power.shape[-2], dim=-1):
            z = pyro.sample("z", prior())
            pyro.sample("s", PowerSpectrum(decoder(z)).to_event(1), obs=power)

    return model


def guide_of(kind: str, pair: SpeechPair) -> Callable[[Any], Any]:
    """The guide, from the model of the new pair."""

    def function(power: Tensor, visual: Tensor | None = None) -> None:
        centre = pair.guide.posterior(power).mean
        if kind == "function of a flow":
            q: Any = dist.TransformedDistribution(
                dist.Normal(centre, 1.0).to_event(1),
                [dist.transforms.AffineTransform(0.1, 0.9, event_dim=1)],
            )
        else:
            q = dist.Normal(centre, 1.0).to_event(1)
        with ExitStack() as plates:
            for dim in range(-power.dim() + 1, 0):
                plates.enter_context(pyro.plate(f"p{-dim}", power.shape[dim - 1], dim=dim))
            pyro.sample("z", q)

    if kind == "own":
        return lambda model: pair.guide
    if kind == "AutoNormal":
        return AutoNormal
    if kind == "none":
        return lambda model: None
    return lambda model: function


def short(name: str) -> Any:
    """A preset with two iterations, or two draws of each of two chains."""
    algorithm: Any = PRESETS[name]()
    if isinstance(algorithm, AnchoredMCEM):
        return algorithm
    if isinstance(algorithm, PyroMCMC):
        return replace(algorithm, fit=short("mcem"), chains=2, draws=2, warmup=1)
    if isinstance(algorithm, MCEM):
        return replace(algorithm, em=replace(algorithm.em, iterations=2))
    return replace(algorithm, iterations=2)


LONG = ("normal", "laplace", "mixture")
"""Priors that only the slow tests take."""
GUIDES = ("own", "function", "function of a flow", "AutoNormal", "none")
FAMILIES = ("mcem-lips", "mcem-mixture", "paper-vem", "vem-traced", "mcmc", "mcmc-full-bayes")
"""Presets of one kind of algorithm each."""
EASY = (*FAMILIES, "amortised", "fine-tuned")
"""Those of the quick tests of a guide that answers for any recording."""


@pytest.mark.parametrize(
    ("prior", "guide", "presets"),
    [
        pytest.param(
            prior, guide, presets, marks=pytest.mark.slow if prior in LONG or presets is PRESETS else ()
        )
        for prior in PRIORS
        for guide in GUIDES
        for presets in ([EASY, PRESETS] if guide == "own" else [FAMILIES])
    ],
)
def test_every_prior_with_every_guide(
    prior: str, guide: str, presets: Iterable[str], tiny_pair: SpeechPair
) -> None:
    """Finite speech, and no draw of the global generators."""
    tiny_pair.requires_grad_(False)
    make = latent_model if guide == "own" else whole_model
    model = make(tiny_pair.model.decoder, PRIORS[prior])
    pair = avse.Pair(model, None, tiny_pair.config.front_end)
    pair.guide = guide_of(guide, tiny_pair)(pair.model)
    before = torch.get_rng_state()
    for name in presets:
        found = avse.enhance(X, 16000, model=pair, algorithm=short(name))
        assert found.speech.shape == X.shape
        assert np.isfinite(found.speech).all()
        assert found.posterior.z.shape[-1] == L
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize("name", ["mcem", "mcem-mixture", "vem"])
def test_functions_do_as_the_modules_they_are_made_of(name: str, tiny_pair: SpeechPair) -> None:
    """The same program as module, as function of the latents and as function of the power."""
    tiny_pair.requires_grad_(False)
    decoder, front_end = tiny_pair.model.decoder, tiny_pair.config.front_end
    truth = avse.enhance(X, 16000, model=tiny_pair, algorithm=name).posterior.wiener_gain
    for make in (latent_model, whole_model):
        pair = avse.Pair(make(decoder, normal), tiny_pair.guide, front_end)
        found = avse.enhance(X, 16000, model=pair, algorithm=name).posterior.wiener_gain
        torch.testing.assert_close(found.mean(), truth.mean(), rtol=0.05, atol=0.02)


def test_low_rates_are_band_limited(tiny_pair: SpeechPair) -> None:
    tiny_pair.requires_grad_(False)
    for make in (latent_model, whole_model):
        model = make(tiny_pair.model.decoder, laplace)
        pair = avse.Pair(model, tiny_pair.guide, tiny_pair.config.front_end)
        assert np.isfinite(avse.enhance(X, 8000, model=pair, algorithm="mcem-mixture").speech).all()


def test_an_auto_guide_of_another_recording_is_refused(tiny_pair: SpeechPair) -> None:
    tiny_pair.requires_grad_(False)
    pair = avse.Pair(tiny_pair.model, None, tiny_pair.config.front_end)
    pair.guide = AutoNormal(pair.model)
    power = torch.rand(1, 20, BINS)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step(power) for _ in range(10)]
    assert losses[-1] < losses[0]
    with pytest.raises(InputError, match="fitted to frames"):
        avse.enhance(X, 16000, model=pair)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda visual=None: torch.zeros(2, BINS), "samples"),
        (lambda visual=None: torch.zeros(2, 5) * pyro.sample("z", normal()).sum(), "5 bins"),
        (lambda visual=None: pyro.sample("z", dist.Normal(0, 1)), "vector"),
        (lambda visual=None: pyro.sample("z", dist.LogNormal(torch.zeros(L), 1.0).to_event(1)), "lies in"),
        (3, "give a function"),
    ],
)
def test_models_that_cannot_be_used_are_refused(model: Any, match: str, tiny_config: PairConfig) -> None:
    with pytest.raises(InputError, match=match):
        avse.Pair(model, None, tiny_config.front_end)


def test_a_pair_of_functions_is_not_saved(tiny_pair: SpeechPair, tmp_path) -> None:
    pair = avse.Pair(tiny_pair.model, tiny_pair.guide, tiny_pair.config.front_end)
    with pytest.raises(InputError, match="register"):
        pair.save_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["amortised", "vem"])
def test_auto_is_the_algorithm_that_was_given(name: str, tiny_pair: SpeechPair) -> None:
    """The amortised one, too, which a changed pair of the zoo would not keep."""
    tiny_pair.requires_grad_(False)
    pair = avse.Pair(tiny_pair.model, tiny_pair.guide, tiny_pair.config.front_end, algorithm=name)
    auto = avse.enhance(X, 16000, model=pair)
    assert auto.report["algorithm"] == name
    named = avse.enhance(X, 16000, model=pair, algorithm=name)
    np.testing.assert_allclose(auto.speech, named.speech, rtol=1e-5, atol=1e-6)
