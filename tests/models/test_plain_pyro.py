"""Every pair of the zoo under Pyro's own tools, single recordings and batches of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.inference.mcmc.log_density import frame_log_joint
from avse.inference.mcmc.pyro_kernel import nuts
from avse.models.base import latent_trace
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z
from avse.zoo.architectures import ARCHITECTURES
from avse.zoo.pair import PairConfig, SpeechPair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*found no sample sites"),
    # What Pyro advises for a sampled alpha; it is tested that the other bounds work, too.
    pytest.mark.filterwarnings("ignore:alpha:UserWarning"),
]

LIPS = LipFrontEnd(side=4, instants=1)
FRONT_END = FrontEnd(STFT(16, 8))
LATENTS, BINS, PIXELS = 2, 9, 17
AUDIO = {"latent_size": LATENTS, "encoder": [6], "decoder": [6]}
VISUAL = {**AUDIO, "embedding_size": 4, "dropout": 0.0}
MIN = {
    "latent_size": LATENTS,
    "embedding_size": 4,
    "dropout": 0.0,
    "visual_encoder": [6],
    "audio_encoder": [6],
    "decoder": [6],
}
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "a-vae": ("a-vae", AUDIO),
    "v-vae": ("v-vae", VISUAL),
    "av-vae": ("av-vae", VISUAL),
    "av-vae-untied": ("av-vae", {**VISUAL, "tied": False, "prior": "standard"}),
    "visual-prior-vae": ("visual-prior-vae", VISUAL),
    "visual-prior-vae-defensive": ("visual-prior-vae", {**VISUAL, "epsilon": 0.1}),
    "min-vae-1": ("min-vae", MIN),
    "min-vae-2": ("min-vae", {**MIN, "version": 2}),
    "vae-mm": ("vae-mm", {"first": AUDIO, "second": VISUAL, "corruption_embedding_size": 3}),
    "a-v-av": (
        "a-v-av",
        {"first": AUDIO, "second": VISUAL, "third": VISUAL, "corruption_embedding_size": 3},
    ),
    "dkf": ("dkf", {**AUDIO, "transition_hidden": 4}),
    "av-dkf": ("av-dkf", {**VISUAL, "transition_hidden": 4}),
    "rvae": (
        "rvae",
        {
            "latent_size": LATENTS,
            **{f"{part}_channels": 6 for part in ("encoder", "decoder")},
            **{f"{part}_dilations": [1] for part in ("encoder", "decoder")},
        },
    ),
}
UNSEEING = {"a-vae", "dkf", "rvae"}
"""Pairs without lips."""
MIXTURES = {"min-vae-1": 2, "min-vae-2": 2, "vae-mm": 2, "a-v-av": 3}
"""Name -> number of values of alpha."""
ELBOS: dict[str, Callable[[], Any]] = {
    "trace": lambda: Trace_ELBO(num_particles=2),
    "enum": lambda: TraceEnum_ELBO(),
    "mean-field": TraceMeanField_ELBO,
    "renyi": lambda: RenyiELBO(alpha=0.5, num_particles=3),
}


def make(name: str) -> SpeechPair:
    architecture, arguments = PAIRS[name]
    torch.manual_seed(1)
    pair = SpeechPair(PairConfig(architecture, arguments, FRONT_END, None if name in UNSEEING else LIPS))
    power, _ = data()
    pair.model.fit_scales(power)
    pair.guide.fit_scales(power)
    return pair


def data(*batch: int, frames: int = 6) -> tuple[Tensor, Tensor]:
    """Power (*, N, F) and lips (*, N, D) of one cause."""
    generator = torch.Generator().manual_seed(0)
    cause = torch.randn(*batch, frames, 1, generator=generator)
    power = (2 * cause + torch.linspace(0, 2, BINS)).exp() * torch.rand(
        *batch, frames, BINS, generator=generator
    )
    pixels = cause * torch.linspace(-1, 1, PIXELS - 1)
    return power, torch.cat([pixels, torch.ones(*batch, frames, 1)], -1)


def test_every_architecture_is_here() -> None:
    assert {architecture for architecture, _ in PAIRS.values()} == set(ARCHITECTURES)


def objectives() -> list[Any]:
    """Every pair with every ELBO, one recording and two; the mean-field ELBO needs z independent of alpha.

    The quick ones are every pair with enumeration, and three with the mean-field ELBO.
    """
    return [
        pytest.param(
            name,
            elbo,
            batch,
            marks=()
            if (elbo, batch) == ("enum", ()) or (elbo == "mean-field" and name in ("a-vae", "av-vae", "dkf"))
            else pytest.mark.slow,
        )
        for name in PAIRS
        for elbo, batch in [("enum", ()), ("enum", (2,)), *((elbo, ()) for elbo in ELBOS if elbo != "enum")]
        if not (elbo == "mean-field" and name in MIXTURES)
    ]


@pytest.mark.parametrize(("name", "elbo", "batch"), objectives())
def test_svi_trains_every_pair(name: str, elbo: str, batch: tuple[int, ...]) -> None:
    """The objective falls, and every parameter of model and guide that has a gradient moves."""
    pair = make(name)
    power, visual = data(*batch)
    before = {key: value.clone() for key, value in pair.modules().state_dict().items()}
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), ELBOS[elbo]())
    losses = [svi.step(power, visual) for _ in range(20)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1
    moved = {key for key, value in pair.modules().state_dict().items() if not torch.equal(value, before[key])}
    still = {key for key, parameter in pair.modules().named_parameters() if key not in moved}
    assert all("missing_embedding" in key for key in still), still


def test_a_name_that_another_model_has_is_refused() -> None:
    """Pyro would train the first pair in place of the second without a word."""
    power, visual = data()
    first, second = make("a-vae"), make("a-vae")
    SVI(first.model, first.guide, pyro.optim.Adam({}), Trace_ELBO()).step(power, visual)
    with pytest.raises(InputError, match="clear_param_store"):
        SVI(second.model, second.guide, pyro.optim.Adam({}), Trace_ELBO()).step(power, visual)
    pyro.clear_param_store()
    SVI(second.model, second.guide, pyro.optim.Adam({}), Trace_ELBO()).step(power, visual)


@pytest.mark.parametrize("name", ["a-vae", "min-vae-1"])
def test_a_frozen_pair_stays_frozen_until_it_is_told(name: str) -> None:
    pair = make(name)
    pair.modules().eval().requires_grad_(False)
    power, visual = data()
    before = {key: value.clone() for key, value in pair.modules().state_dict().items()}
    Predictive(pair.model, num_samples=2)(visual=visual)
    poutine.trace(NoisySpeech(pair.model, noise())).get_trace(power, visual)
    assert not list(pyro.get_param_store())
    assert not any(parameter.requires_grad for parameter in pair.modules().parameters())
    assert pair.requires_grad_() is pair
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), TraceEnum_ELBO())
    svi.step(power, visual)
    after = pair.modules().state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    assert not any(p.requires_grad for p in pair.requires_grad_(False).modules().parameters())


def noise(*batch: int, frames: int = 6) -> NMFNoise:
    return NMFNoise(
        torch.full((*batch, BINS, 2), 0.2), torch.ones(*batch, 2, frames), torch.ones(*batch, frames)
    )


def log_prob(model: nn.Module, sites: dict[str, Tensor], *args: Tensor) -> Tensor:
    """log p of all sites of a trace, one number."""
    return poutine.trace(poutine.condition(model, sites)).get_trace(*args).log_prob_sum()


@pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_members_of_a_batch_are_independent(name: str, noisy: bool) -> None:
    """log p of a batch is the sum over its members; z has a value for each channel of each recording."""
    pair = make(name)
    pair.modules().eval().requires_grad_(False)
    power, visual = data(2, 3)
    batched = NoisySpeech(pair.model, noise(2, 3)) if noisy else pair.model
    single = NoisySpeech(pair.model, noise()) if noisy else pair.model
    trace = poutine.trace(batched).get_trace(power, visual)
    assert trace.nodes[Z]["value"].shape == (2, 3, 6, LATENTS)
    assert trace.nodes[Z]["fn"].batch_shape == (2, 3, 6)
    sites = {site: trace.nodes[site]["value"] for site in (ALPHA, Z) if site in trace.nodes}
    members = [
        log_prob(single, {site: value[i, j] for site, value in sites.items()}, power[i, j], visual[i, j])
        for i in range(2)
        for j in range(3)
    ]
    torch.testing.assert_close(log_prob(batched, sites, power, visual), sum(members), rtol=1e-4, atol=1e-3)
    z = sites[Z]
    whole = frame_log_joint(batched, z, power=power, visual=visual)
    assert whole.shape == (MIXTURES.get(name, 1), 2, 3, 6)
    part = frame_log_joint(single, z[1, 2], power=power[1, 2], visual=visual[1, 2])
    torch.testing.assert_close(whole[:, 1, 2], part, rtol=1e-4, atol=1e-3)
    assert latent_trace(pair.model, z, visual).nodes[Z]["fn"].batch_shape[-3:] == (2, 3, 6)


@pytest.mark.parametrize("name", PAIRS)
def test_lips_of_one_face_serve_all_channels(name: str) -> None:
    pair = make(name)
    power, visual = data(2)
    q = poutine.trace(pair.guide).get_trace(power, visual[0]).nodes[Z]
    assert q["value"].shape == (2, 6, LATENTS)
    trace = poutine.trace(poutine.condition(pair.model, {Z: q["value"]})).get_trace(power, visual[0])
    assert trace.nodes[Z]["fn"].batch_shape == (2, 6)


def test_channels_that_disagree_are_refused() -> None:
    pair = make("av-vae")
    power, visual = data(2)
    with pytest.raises(InputError, match="channels"):
        pair.model(power, visual[:1].expand(3, -1, -1))


@pytest.mark.parametrize("name", ["a-vae", "av-vae", "vae-mm", "a-v-av"])
def test_auto_normal_has_a_z_for_each_channel(name: str) -> None:
    pair = make(name)
    pair.modules().eval().requires_grad_(False)
    power, visual = data(2)
    guide = AutoNormal(poutine.block(pair.model, hide=[ALPHA]))
    guide(power, visual)
    assert guide.locs.z.shape == (2, 6, LATENTS)
    svi = SVI(pair.model, guide, pyro.optim.Adam({"lr": 0.1}), TraceEnum_ELBO(max_plate_nesting=2))
    losses = [svi.step(power, visual) for _ in range(20)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 1
    assert not torch.equal(guide.locs.z[0], guide.locs.z[1])


def test_nuts_has_a_z_for_each_channel() -> None:
    """Also where nothing but the model fixes the shape of z."""
    pair = make("a-vae")
    pair.modules().eval().requires_grad_(False)
    power, _ = data(2)
    noisy = NoisySpeech(pair.model, noise(2))
    for kernel in (
        NUTS(noisy, max_tree_depth=2),
        nuts(noisy, {Z: torch.zeros(2, 6, LATENTS)}, max_tree_depth=2),
    ):
        mcmc = MCMC(kernel, num_samples=3, warmup_steps=2, disable_progbar=True)
        mcmc.run(power=power)
        z = mcmc.get_samples()[Z]
        assert z.shape == (3, 2, 6, LATENTS)
        assert not torch.equal(z[:, 0], z[:, 1])


@pytest.mark.parametrize("name", PAIRS)
def test_predictive_draws_batches(name: str) -> None:
    pair = make(name)
    pair.modules().eval().requires_grad_(False)
    _, visual = data(2)
    draws = Predictive(pair.model, num_samples=4, parallel=True)(visual=visual)
    assert draws[Z].shape == (4, 2, 6, LATENTS)
    assert draws["s"].shape == (4, 2, 6, BINS)
    noisy = Predictive(NoisySpeech(pair.model, noise(2)), num_samples=3)(visual=visual)
    assert noisy["x"].shape == (3, 2, 6, BINS)
