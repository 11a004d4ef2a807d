"""Posteriors as ArviZ takes them: its functions on the groups as they come, and values against the model."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import arviz as az
import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.data.stft import STFT
from avse.inference.inference_data import Pointwise
from avse.inference.mcmc.log_density import closure
from avse.inference.posterior import Posterior
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

C, D, N, L, F, K = 2, 40, 4, 2, 5, 3
STFT_ = STFT(window_length=8, hop_length=4, sample_rate=16000)
pytestmark = pytest.mark.filterwarnings(
    "ignore::Warning:arviz.*", "ignore:.*no longer available on the arviz"
)


class Decoder(torch.nn.Module):
    """log sigma_f = a_f z + offset."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        phases = torch.arange(L * F, dtype=torch.float64).reshape(L, F)
        self.a, self.offset = (2.9 * phases).cos(), offset

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.a + self.offset


class Switched(SpeechModel):
    """alpha ~ Bernoulli(0.4) chooses the decoder and the mean of z."""

    def __init__(self) -> None:
        super().__init__()
        self.decoders = torch.nn.ModuleList([Decoder(), Decoder(1.0)])

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64))).unsqueeze(-1)
        z = pyro.sample(Z, dist.Normal(alpha * torch.ones(L, dtype=torch.float64), 1.0).to_event(1))
        return torch.where(alpha > 0.5, self.decoders[1](z), self.decoders[0](z))


def a_vae(offset: float = 0.0) -> AVAE:
    return AVAE(StandardNormal(L).double(), Decoder(offset))


def made(channels: int = 2, seed: int = 0, components: int = 1) -> tuple[Posterior, Tensor]:
    """Random numbers in the shapes of a posterior of some channels, and the power of the recording."""
    source = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=source, dtype=torch.float64)

    noise = NMFNoise(uniform(channels, F, K) + 0.1, uniform(channels, K, N) + 0.1, uniform(channels, N) + 0.5)
    posterior = Posterior(
        z=2 * uniform(C, D, channels, N, L) - 1,
        noise=noise,
        wiener_gain=uniform(channels, N, F),
        variance=uniform(channels, N, F),
        responsibilities=uniform(components, channels, N),
        acceptance=uniform(channels, N),
        costs=[2.0, 1.0],
        converged=True,
        step_size=uniform(C, channels, N),
        energy=uniform(C, D, channels, N),
        diverged=uniform(C, D, channels, N) > 0.99,
    )
    return posterior, 3 * uniform(channels, N, F)


@functools.cache
def tree(mixture: bool = False, offset: float = 0.0, pointwise: Pointwise = "frame") -> Any:
    posterior, power = made()
    speech = Switched() if mixture else a_vae(offset)
    return posterior.to_inference_data(speech, power, stft=STFT_, pointwise=pointwise, channel=1)


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    matplotlib.pyplot.close("all")


PLOTS: dict[str, Callable[[Any], Any]] = {
    "trace": az.plot_trace,
    "rank": az.plot_rank,
    "forest": az.plot_forest,
    "energy": az.plot_energy,
    "autocorrelation": az.plot_autocorr,
    "ppc": az.plot_ppc if hasattr(az, "plot_ppc") else az.plot_ppc_dist,
}


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("plot", PLOTS)
def test_plots_take_it_as_it_comes(plot: str, mixture: bool) -> None:
    PLOTS[plot](tree(mixture))
    (number,) = matplotlib.pyplot.get_fignums()
    axes = matplotlib.pyplot.figure(number).axes
    assert any(own.has_data() for own in axes)


@pytest.mark.parametrize("mixture", [False, True])
def test_summary_has_scalars_of_the_recording_first(mixture: bool) -> None:
    table = az.summary(tree(mixture))
    assert list(table.index[:2]) == ["speech_level", "mean_wiener_gain"]
    assert len(table) == 2 + (2 * N if mixture else 0) + N * L
    rhat = table["r_hat"].astype(float)
    assert rhat.notna().all()


def test_loo_and_compare_take_it_as_it_comes() -> None:
    for pointwise, size in (("frame", N), ("bin", N * F)):
        found = {str(own): tree(False, own, pointwise) for own in (0.0, 9.0)}
        for data in found.values():
            loo = az.loo(data, pointwise=True)
            assert loo.n_data_points == size
            assert np.isfinite(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)
        assert list(az.compare(found).index) == ["0.0", "9.0"]


def test_energy_gives_a_fraction_of_missing_information() -> None:
    """The same as by the formula, of the Hamiltonian of all frames together."""
    energy = made()[0].energy
    assert energy is not None
    total = energy[:, :, 1].sum(-1).numpy()
    expected = np.square(np.diff(total, axis=1)).mean(1) / total.var(1, ddof=1)
    found = az.bfmi(tree())
    values = found if isinstance(found, np.ndarray) else found["energy"].values
    np.testing.assert_allclose(values, expected, rtol=0.05)  # ArviZ 0.x divides by D where 1.x does by D - 1


def test_groups_dimensions_and_units() -> None:
    """The second of two channels."""
    posterior, power = made()
    data, draws = tree(True), ("chain", "draw", "frame")
    expected = {
        ("posterior", "speech_level"): (("chain", "draw"), None),
        ("posterior", "alpha"): ((*draws, "component"), None),
        ("posterior", "z"): ((*draws, "latent"), posterior.z[:, :, 1]),
        ("sample_stats", "lp"): (("chain", "draw"), None),
        ("sample_stats", "energy"): (("chain", "draw"), posterior.energy[:, :, 1].sum(-1)),
        ("sample_stats", "frame_energy"): (draws, posterior.energy[:, :, 1]),
        ("sample_stats", "diverging"): (("chain", "draw"), posterior.diverged[:, :, 1].any(-1)),
        ("sample_stats", "frame_diverging"): (draws, posterior.diverged[:, :, 1]),
        ("sample_stats", "step_size"): (draws, posterior.step_size[:, None, 1].expand(C, D, N)),
        ("log_likelihood", "x"): (draws, None),
        ("posterior_predictive", "x"): ((*draws, "frequency"), None),
        ("observed_data", "x"): (("frame", "frequency"), power[1]),
        ("constant_data", "wiener_gain"): (("frame", "frequency"), posterior.wiener_gain[1]),
        ("constant_data", "speech_std"): (("frame", "frequency"), posterior.variance[1].sqrt()),
        ("constant_data", "noise_variance"): (("frame", "frequency"), posterior.noise.variance()[1]),
        ("constant_data", "responsibilities"): (("component", "frame"), posterior.responsibilities[:, 1]),
        ("constant_data", "acceptance_rate"): (("frame",), posterior.acceptance[1]),
    }
    for (group, name), (dims, values) in expected.items():
        found = data[group][name]
        assert found.dims == dims
        assert found["frame"].size == N if "frame" in dims else True
        if values is not None:
            torch.testing.assert_close(torch.from_numpy(np.array(found.values)), values)
    z = data["posterior"]["z"]
    assert z["frame"].values[3] == 3 * 4 / 16000
    assert (z["frame"].attrs["units"], data["observed_data"]["frequency"].attrs["units"]) == ("s", "Hz")
    assert data["observed_data"]["frequency"].values.tolist() == [2000.0 * f for f in range(F)]
    assert data["posterior"].attrs["converged"] == 1


@pytest.mark.parametrize("mixture", [False, True])
def test_densities_are_those_of_the_pyro_model(mixture: bool) -> None:
    """lp is the trace's; the likelihood of a frame is p(x, z) / p(z), of a bin p(x, z) / p(x less f, z)."""
    posterior, power = made()
    speech = Switched() if mixture else a_vae()
    joint = closure(NoisySpeech(speech, posterior.noise), power=power)(posterior.z)[:, :, 1]
    data = tree(mixture)
    frames = data["sample_stats"]["frame_lp"].values
    np.testing.assert_allclose(frames, joint, rtol=1e-9)
    np.testing.assert_allclose(data["sample_stats"]["lp"].values, frames.sum(-1), rtol=1e-9)
    log_prior, _ = speech.given(None)(posterior.z[:, :, 1])
    likelihood = (joint - log_prior.logsumexp(0)).numpy()
    np.testing.assert_allclose(data["log_likelihood"]["x"].values, likelihood, rtol=1e-9)

    bins = tree(mixture, pointwise="bin")["log_likelihood"]["x"].values
    for f in range(F):
        rest = [own for own in range(F) if own != f]
        noise = replace(posterior.noise, W=posterior.noise.W[:, rest])

        class Others(SpeechModel):
            def latent(self, visual: Tensor | None = None, rest: list[int] = rest) -> Tensor:
                return speech.latent(visual)[..., rest]

        others = closure(NoisySpeech(Others(), noise), power=power[..., rest])(posterior.z)[:, :, 1]
        np.testing.assert_allclose(bins[..., f], joint - others, rtol=1e-8)


def test_replicates_have_the_moments_of_the_model() -> None:
    """|x|^2 / V is exponential: mean 1 and variance 1 over 2 * 40 * 4 * 5 = 1600 values, each within 5
    standard errors, 1 / 40 and sqrt(8) / 40 (false alarms: 1e-5)."""
    posterior, power = made()
    speech = a_vae()
    data = posterior.to_inference_data(speech, power, channel=1, predictive_draws=C * D)
    variance = posterior.noise.frame_gain[..., None] * speech.decoder(posterior.z).exp()
    ratio = (
        data["posterior_predictive"]["x"].values / (variance + posterior.noise.variance())[:, :, 1].numpy()
    )
    assert abs(ratio.mean() - 1) < 5 / 40
    assert abs(ratio.var() - 1) < 5 * 8**0.5 / 40
    few = posterior.to_inference_data(speech, power, channel=1, predictive_draws=6)["posterior_predictive"]
    assert few["x"].shape == (C, 3, N, F)
    assert few["draw"].values.tolist() == [0, 20, 39]


def test_a_sampled_noise_has_draws_of_its_own() -> None:
    """W and H are variables, and the likelihood of a draw is that of its own noise."""
    posterior, power = made()
    W, H = (torch.rand(C, D, 2, K, size, dtype=torch.float64) + 0.1 for size in (F, N))
    drawn = replace(posterior, noise_draws={"W": W, "H": H})
    data = drawn.to_inference_data(a_vae(), power, channel=1, stft=STFT_)
    assert data["posterior"]["W"].dims == ("chain", "draw", "noise_component", "frequency")
    assert data["posterior"]["H"].dims == ("chain", "draw", "noise_component", "frame")
    np.testing.assert_array_equal(data["posterior"]["H"].values, H[:, :, 1])
    noise = replace(posterior.noise, W=W[1, 7].mT, H=H[1, 7])
    joint = closure(NoisySpeech(a_vae(), noise), power=power)(posterior.z[1, 7])[1]
    np.testing.assert_allclose(data["sample_stats"]["frame_lp"].values[1, 7], joint, rtol=1e-9)
    assert "lp" not in data["sample_stats"]
    assert len(az.summary(data, var_names=["W", "H"])) == K * (F + N)


def test_own_functionals_and_names_of_their_values() -> None:
    """They come before z, and get the coordinates that are given for them."""
    posterior, _ = made()
    level = torch.rand(C, D, 2, N, 2)
    data = posterior.to_inference_data(
        functionals={"level": level, "mine": torch.rand(C, D, 2, N)}, coords={"band": ["low", "high"]}
    )
    assert list(data["posterior"].data_vars) == ["level", "mine", "z"]
    np.testing.assert_array_equal(data["posterior"]["level"].sel(band="high").values, level[:, :, 0, :, 1])
    assert "level[0, low]" in az.summary(data, var_names=["level"]).index


def test_without_a_model_there_are_draws_and_estimates_alone() -> None:
    posterior, power = made()
    groups = lambda data: set(getattr(data, "children", None) or data.groups())  # noqa: E731
    assert groups(posterior.to_inference_data()) == {"posterior", "sample_stats", "constant_data"}
    assert "observed_data" in groups(posterior.to_inference_data(power=power))
    with pytest.raises(InputError, match="power"):
        posterior.to_inference_data(a_vae())
