"""Pyro's own tools on the noisy-speech model of every pair and every noise."""

from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.data.lips.front_end import LipFrontEnd
from avse.models.base import SpeechModel
from avse.models.bayesian_nmf import (
    GammaChainNMF,
    GammaNMF,
    InverseGammaNMF,
    SpeechInUnknownNoise,
)
from avse.models.gamma_chain import GammaChain
from avse.models.min_vae import MINVAE
from avse.models.nmf import NMFNoise, NMFParameters, RandomInit
from avse.models.noisy import NoisySpeech
from avse.models.vae_mm import VAEMM
from avse.zoo.architectures import a_vae, av_vae, v_vae

F, N, K, L = 9, 6, 2, 2
VIEW = LipFrontEnd(side=3, instants=1)
SIZES = {"latent_size": L, "encoder": (4,), "decoder": (4,)}


def speech(name: str) -> SpeechModel:
    torch.manual_seed(0)
    hearing, _ = a_vae(F, **SIZES)
    looking, _ = v_vae(F, VIEW, embedding_size=4, **SIZES)
    seeing, _ = av_vae(F, VIEW, embedding_size=4, prior_hidden=(4,), **SIZES)
    models = {
        "a-vae": hearing,
        "v-vae": looking,
        "av-vae": seeing,
        "vae-mm": VAEMM(hearing, seeing, 0.3),
        "a-v-av": VAEMM(hearing, looking, seeing, pi=(0.4, 0.3, 0.3)),
        "min-vae-v1": MINVAE(L, looking.decoder, pi=0.3),
        "min-vae-v2": MINVAE(L, seeing.decoder, seeing.lips, pi=0.3),
    }
    return models[name].eval().requires_grad_(False)


def estimate(smoothness: float = 2.0) -> NMFNoise:
    return RandomInit(K, smoothness)(torch.ones(N, F), Generator().manual_seed(0))


def prior(kind: type[GammaNMF], **options: float) -> GammaNMF:
    return kind(F, N, torch.tensor(3.0), K, 1.3, 2.0, **options)


NOISES = {
    "estimate": estimate,
    "parameters": lambda: NMFParameters(estimate()),
    "gamma": lambda: prior(GammaNMF, smoothness=1.0),
    "gamma with gain": lambda: prior(GammaNMF, gain_shape=4.0),
    "inverse gamma": lambda: prior(InverseGammaNMF),
    "chain": lambda: prior(GammaChainNMF),
}
MODELS = ["a-vae", "v-vae", "av-vae", "vae-mm", "a-v-av", "min-vae-v1", "min-vae-v2"]


def data() -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    visual = torch.cat([torch.randn(N, VIEW.size - 1, generator=generator), torch.ones(N, 1)], -1)
    return torch.rand(N, F, generator=generator) + 0.1, visual


@pytest.fixture(autouse=True)
def _empty_param_store() -> object:
    """`NMFParameters` may register parameters in Pyro's store, as any Pyro module does."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", MODELS)
def test_tools_of_pyro(name: str, noise: str) -> None:
    model, (power, visual) = NoisySpeech(speech(name), NOISES[noise]()), data()
    pyro.set_rng_seed(0)
    trace = poutine.trace(model).get_trace(power=power, visual=visual)
    trace.compute_log_prob()
    assert trace.log_prob_sum().isfinite()
    sites = trace.nodes
    assert sites["W"]["value"].shape == (K, F)
    assert sites["H"]["value"].shape == (K, N)
    sampled = noise not in ("estimate", "parameters")
    for site in ("W", "H"):
        assert sites[site]["is_observed"] != sampled
    assert ("g" in sites) == (noise in ("estimate", "parameters", "gamma with gain"))
    assert ("smoothness" in sites) == (noise in ("estimate", "parameters", "gamma"))

    # condition replaces the noise whatever holds it, and x then has the variance of that noise
    H = sites["H"]["value"] + 1
    given = {"W": sites["W"]["value"], "H": H, "z": torch.zeros(N, L)}
    if "g" in sites:
        given["g"] = 2 * torch.ones(N)
    if "alpha" in sites:
        given["alpha"] = torch.ones(N)
    conditioned = poutine.trace(pyro.condition(model, given)).get_trace(visual=visual)
    log_variance = speech(name).given(visual)(torch.zeros(N, L)).log_variance
    log_variance = log_variance[1 if "alpha" in sites else 0]
    floor = model.noise.floor
    variance = given.get("g", torch.ones(N))[:, None] * log_variance.exp() + H.mT @ given["W"] + floor
    torch.testing.assert_close(conditioned.nodes["x"]["fn"].mean, variance)

    # Predictive
    drawn = Predictive(model, num_samples=3)(visual=visual)
    assert drawn["x"].shape == (3, N, F)
    assert drawn["W"].reshape(3, K, F).shape == (3, K, F)
    assert torch.equal(drawn["H"][0], drawn["H"][1]) != sampled
    posterior = {"z": torch.zeros(4, N, L), "H": torch.stack([H] * 4)}
    assert Predictive(model, posterior, return_sites=["x", "H"])(visual=visual)["x"].shape == (4, N, F)

    # enumeration
    enumerated = poutine.enum(config_enumerate(model), first_available_dim=-2)
    full = poutine.trace(enumerated).get_trace(power=power, visual=visual)
    if "alpha" in sites:
        values = 3 if name == "a-v-av" else 2
        assert full.nodes["alpha"]["value"].shape[0] == values
        found = infer_discrete(
            pyro.condition(config_enumerate(model), {k: v for k, v in given.items() if k != "alpha"}),
            first_available_dim=-2,
        )
        alpha = poutine.trace(found).get_trace(power=power, visual=visual).nodes["alpha"]["value"]
        assert alpha.shape == (N,)
        assert set(alpha.tolist()) <= set(range(values))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", MODELS)
def test_render_model(name: str, noise: str) -> None:
    """The graph has the sites; drawing it needs the package graphviz, not its program."""
    pytest.importorskip("graphviz")
    model, (power, visual) = NoisySpeech(speech(name), NOISES[noise]()), data()
    graph = pyro.render_model(
        model, model_kwargs={"power": power, "visual": visual}, render_deterministic=True
    ).source
    for site in ("W", "H", "z", "x", "frames"):
        assert site in graph
    assert ("alpha" in graph) == (name in ("vae-mm", "a-v-av", "min-vae-v1", "min-vae-v2"))
    if noise in ("gamma", "inverse gamma", "chain"):
        assert "W -> x" in graph
        assert "H -> x" in graph


# Channels and recordings ---------------------------------------------------------------------------------


def of_recording(power: Tensor) -> NMFParameters:
    return NMFParameters(RandomInit(K, 2.0)(power, Generator().manual_seed(0)))


def test_noise_of_a_second_recording_is_its_own() -> None:
    """Pyro's store has W and H of the first recording by then."""
    hearing, guide = a_vae(F, **SIZES)
    for module in (hearing, guide):
        module.eval().requires_grad_(False)
    power, _ = data()
    first = NoisySpeech(hearing, of_recording(power))
    SVI(first, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(power=power)
    assert set(pyro.get_param_store()) == {"noise.log_spectra", "noise.log_activations"}

    second = NoisySpeech(hearing, of_recording(100 * power))
    own = second.noise.noise()
    trace = poutine.trace(pyro.condition(second, {"z": torch.zeros(N, L)})).get_trace(power=power)
    torch.testing.assert_close(trace.nodes["W"]["value"], own.W.mT)
    torch.testing.assert_close(trace.nodes["H"]["value"], own.H)
    assert trace.nodes["H"]["value"].mean() > 10 * first.noise.noise().H.mean()
    torch.testing.assert_close(second.noise.noise().variance(), own.variance())
    with pytest.raises(InputError, match="clear_param_store"):
        SVI(second, guide, pyro.optim.Adam({}), Trace_ELBO()).step(power=power)
    pyro.clear_param_store()
    SVI(second, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(power=power)
    assert not torch.equal(second.noise.noise().H, own.H)


@pytest.mark.filterwarnings("ignore:.*found no sample sites")
def test_noise_of_two_channels_trains_by_svi() -> None:
    """The factor log p(H) of both channels is one number, and each channel has the gradient of its own."""
    hearing, guide = a_vae(F, **SIZES)
    for module in (hearing, guide):
        module.eval().requires_grad_(False)
    power = torch.stack([data()[0], 3 * data()[0]])
    noise = of_recording(power)
    model = NoisySpeech(hearing, noise)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceEnum_ELBO()).step(power=power)
    pyro.clear_param_store()
    z, own = torch.zeros(2, N, L), noise.noise()
    joint = poutine.trace(pyro.condition(model, {"z": z})).get_trace(power=power).log_prob_sum()
    joint.backward()
    for channel in range(2):
        alone = NMFParameters(
            NMFNoise(*(values[channel] for values in (own.W, own.H, own.frame_gain)), 2.0, own.floor[channel])
        )
        single = pyro.condition(NoisySpeech(hearing, alone), {"z": z[channel]})
        poutine.trace(single).get_trace(power=power[channel]).log_prob_sum().backward()
        torch.testing.assert_close(noise.log_activations.grad[channel], alone.log_activations.grad)
        pyro.clear_param_store()


@pytest.mark.parametrize("noise", ["gamma", "gamma with gain", "inverse gamma", "chain"])
def test_sampled_noise_is_not_shared_by_channels(noise: str) -> None:
    model, (power, visual) = NoisySpeech(speech("av-vae"), NOISES[noise]()), data()
    with pytest.raises(InputError, match="one channel"):
        model(power.expand(2, N, F), visual)
    with pytest.raises(InputError, match="one channel"):
        model(visual=visual.expand(2, *visual.shape))
    W, H = torch.rand(2, K, F).softmax(-1), torch.rand(2, K, N) + 0.1
    gain = {"g": torch.ones(2, N)} if noise == "gamma with gain" else {}
    given = pyro.condition(model, {"W": W, "H": H, **gain})  # W and H of each channel
    z = poutine.trace(given).get_trace(power.expand(2, N, F), visual).nodes["z"]["value"]
    assert z.shape == (2, N, L)


# The pieces ----------------------------------------------------------------------------------------------


def test_an_estimate_is_returned_unless_replaced() -> None:
    noise = estimate()
    assert noise() is noise
    assert poutine.trace(noise).get_trace().nodes["_RETURN"]["value"] is noise
    replaced = pyro.condition(noise, {"H": torch.ones(K, N)})()
    torch.testing.assert_close(replaced.variance(), noise.W.sum(-1).expand(N, F) + noise.floor)
    trace = poutine.trace(noise).get_trace()
    trace.compute_log_prob()
    torch.testing.assert_close(trace.log_prob_sum(), -noise.neg_log_smoothness_prior())


def test_the_cost_of_em_is_the_joint_density_of_the_pyro_model() -> None:
    """-log p(x, H | z) of the trace, p(H) up to a constant, is the cost that the M-step decreases."""
    noise, model = estimate(), speech("a-vae")
    power, _ = data()
    z = torch.randn(N, L)
    trace = poutine.trace(pyro.condition(NoisySpeech(model, noise), {"z": z})).get_trace(power=power)
    trace.compute_log_prob()
    density = trace.nodes["x"]["log_prob"].sum() + trace.nodes["smoothness"]["log_prob"].sum()
    variance = model.given()(z).log_variance.exp()
    torch.testing.assert_close(noise.cost(power, variance, torch.ones(1, N)), -density)


def test_parameters_of_the_noise_train_by_svi() -> None:
    """Noise alone: SVI reaches the stationary point of the multiplicative updates, from the same start."""
    frames = 15
    power = torch.empty(frames, 5).exponential_(generator=Generator().manual_seed(0)) * torch.arange(1, 6)
    first = RandomInit(1, 3.0)(power, Generator().manual_seed(1))
    em = first
    silent = [torch.zeros_like(power)]
    for _ in range(200):
        em = em.updated_spectra(power, silent, torch.ones(1, frames))
        em = em.updated_activations(power, silent, torch.ones(1, frames))
    noise = NMFParameters(first)

    def model() -> None:
        own = noise()
        with pyro.plate("frames", frames):
            rate = 1 / own.variance()
            pyro.sample("x", pyro.distributions.Exponential(rate).to_event(1), obs=power)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(300):
        svi.step()
    with torch.no_grad():
        trained = noise.noise()
    assert float(trained.cost(power, silent, torch.ones(1, frames))) == pytest.approx(
        float(em.cost(power, silent, torch.ones(1, frames))), rel=1e-3
    )
    torch.testing.assert_close(trained.variance(), em.variance(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("make", [InverseGammaNMF, GammaChainNMF, GammaNMF])
def test_activations_of_all_priors_have_their_moments(make: type[GammaNMF]) -> None:
    """E h = m in all frames, 20000 draws; each of the z-scores below 5 (false alarms below 1e-5)."""
    noise = make(3, 4, torch.tensor(3.0, dtype=torch.float64), 2, 1.0, 4.0)
    pyro.set_rng_seed(0)
    draws = noise.activations().sample((20000,))
    assert draws.shape == (20000, 2, 4)
    score = (draws.mean(0) - 3) / (draws.std(0) / 20000**0.5)
    assert score.abs().max() < 5
    relative = (draws[:, :, 0].var(0) / 9).mean()  # of the first frame, 1 / c
    assert float(relative) == pytest.approx(1 / 4, rel=0.15)


def test_density_of_the_chain_by_hand() -> None:
    chain = GammaChain(2.0, torch.tensor([1.0, 3.0], dtype=torch.float64), 5.0, 3)
    pyro.set_rng_seed(0)
    h = chain.sample((7,))
    assert h.shape == (7, 2, 3)
    gamma: Callable = pyro.distributions.Gamma
    by_hand = gamma(2.0, 2.0 / chain.level).log_prob(h[..., 0])
    for n in (1, 2):
        by_hand = by_hand + gamma(5.0, 5.0 / h[..., n - 1]).log_prob(h[..., n])
    torch.testing.assert_close(chain.log_prob(h), by_hand)
    torch.testing.assert_close(chain.mean, chain.level[:, None].expand(2, 3))
    wide = chain.expand([4, 2])
    assert wide.sample().shape == (4, 2, 3)
    torch.testing.assert_close(wide.log_prob(h[:4]), by_hand[:4])


def test_the_former_name() -> None:
    assert isinstance(SpeechInUnknownNoise(speech("a-vae"), prior(GammaNMF)), NoisySpeech)
    for wrong in ({"gain_shape": 0.0}, {"gain_shape": -1.0}):
        with pytest.raises(InputError, match="positive"):
            prior(GammaNMF, **wrong)
    with pytest.raises(InputError, match="coupling"):
        prior(GammaChainNMF, coupling=0.0)
