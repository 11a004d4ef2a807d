"""Enhancement by pyro.infer.MCMC: chains that Pyro and ArviZ see, known posteriors, and the algorithm.

z-scores of a test together have a false-alarm rate of ALARM (Bonferroni, two-sided); their standard errors
come from independent frames or independent chains.
"""

import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from pyro.infer import HMC as PyroHMC
from pyro.infer import MCMC, NUTS
from torch import Tensor

import avse
from avse.data.errors import InputError
from avse.data.front_end import FrontEnd
from avse.data.stft import STFT
from avse.inference.mcmc.kernels import HMC, MALA
from avse.inference.mcmc.log_density import frame_log_joint
from avse.inference.mcmc.noise_kernel import AlternatingKernel, NoiseSites
from avse.inference.mcmc.pyro_e_step import PyroChain
from avse.inference.mcmc.pyro_kernel import FrameMCMCKernel, VectorizedMCMC
from avse.inference.mcmc.pyro_mcmc import AlternatingSampler, FrameSampler, JointSampler, PyroMCMC
from avse.inference.presets import default_mcem, full_bayes_mcmc, pyro_mcem, pyro_mcmc
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.bayesian_nmf import GammaChainNMF, GammaNMF, InverseGammaNMF
from avse.models.linear_gaussian import LinearGaussian
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.vae_mm import VAEMM
from avse.zoo.pair import PairConfig, SpeechPair

ALARM = 1e-4
C, N, F, L = 3, 150, 4, 2


def bound(statistics: int) -> float:
    """On the largest of so many |z-scores|."""
    return NormalDist().inv_cdf(1 - ALARM / (2 * statistics))


def linear() -> tuple[LinearGaussian, Tensor]:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(F, L, generator=generator, dtype=torch.float64)
    model = LinearGaussian(A, torch.zeros(F, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    torch.manual_seed(0)
    return model, model(frames=N)


def ran(draws: int, warmup: int, z: Tensor, seed: int = 0) -> tuple[VectorizedMCMC, LinearGaussian, Tensor]:
    model, s = linear()
    mcmc = VectorizedMCMC(FrameMCMCKernel(model, HMC(0.5, 3), z, seed, 0.7), draws, warmup)
    mcmc.run(s=s)
    return mcmc, model, s


# Chains --------------------------------------------------------------------------------------------------


def test_chains_of_one_tensor_are_chains_and_draw_from_the_exact_posterior() -> None:
    mcmc, model, s = ran(60, 80, torch.randn(C, N, L, dtype=torch.float64))
    z = mcmc.get_samples(group_by_chain=True)["z"]
    assert z.shape == (C, 60, N, L)
    torch.testing.assert_close(mcmc.get_samples()["z"], z.flatten(0, 1), rtol=0, atol=0)
    exact = model.posterior(s)
    error = z.mean(1) - exact.mean  # chains and frames are independent
    score = error.mean((0, 1)) / (error.flatten(0, 1).std(0) / (C * N) ** 0.5)
    assert score.abs().max() < bound(L)
    torch.testing.assert_close((z - exact.mean).flatten(0, 2).mT.cov(), exact.covariance, atol=0.05, rtol=0.1)
    diagnostics = mcmc.diagnostics()
    assert diagnostics["z"]["r_hat"].shape == (N, L)
    assert diagnostics["z"]["r_hat"].median() < 1.1
    assert list(diagnostics["acceptance rate"]) == [f"chain {c}" for c in range(C)]
    assert diagnostics["acceptance rate"]["chain 2"].shape == (N,)


def test_chains_that_disagree_have_a_large_rhat() -> None:
    """Chains read as one would hide it: without warm-up and with tiny steps they stay where they start."""
    model, s = linear()
    z = torch.arange(C, dtype=torch.float64)[:, None, None].expand(C, N, L) * 10
    mcmc = VectorizedMCMC(FrameMCMCKernel(model, HMC(1e-4, 1), z, 0), 10, 0)
    mcmc.run(s=s)
    assert mcmc.diagnostics()["z"]["r_hat"].min() > 10


def test_arviz_reads_the_chains() -> None:
    mcmc, _, s = ran(8, 4, torch.randn(C, N, L, dtype=torch.float64))
    data = az.from_pyro(mcmc, log_likelihood=False, dims={"z": ["frame", "latent"]})
    assert dict(data.posterior.z.sizes) == {"chain": C, "draw": 8, "frame": N, "latent": L}
    assert data.sample_stats.diverging.shape == (C, 8)
    np.testing.assert_array_equal(data.observed_data.s, s)
    assert az.rhat(data).z.shape == (N, L)


def test_divergences_of_one_chain_are_its_own() -> None:
    model, s = linear()
    z = torch.zeros(2, N, L, dtype=torch.float64)
    z[1] = 1e200
    mcmc = VectorizedMCMC(FrameMCMCKernel(model, HMC(0.1, 2), z, 0), 4, 0)
    mcmc.run(s=s)
    assert mcmc.diagnostics()["divergences"] == {"chain 0": [], "chain 1": [0, 1, 2, 3]}


def test_chains_of_pyro_one_after_the_other_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """`num_chains` of Pyro itself, in this process, and the seeds that its other processes get."""
    model, s = linear()
    start = torch.zeros(N, L, dtype=torch.float64)
    kernel = FrameMCMCKernel(model, MALA(0.3), start, 0)
    monkeypatch.setattr("pyro.infer.mcmc.api.mp.cpu_count", lambda: 1)
    with pytest.warns(UserWarning, match="sequentially"):
        mcmc = MCMC(kernel, 4, 0, {"z": start.expand(2, N, L)}, 2, disable_progbar=True)
    monkeypatch.undo()
    mcmc.run(s=s)
    z = mcmc.get_samples(group_by_chain=True)["z"]
    assert z.shape == (2, 4, N, L)
    assert not torch.equal(z[0], z[1])

    firsts = []
    for process in range(2):
        kernel = FrameMCMCKernel(model, MALA(0.3), start, 0)
        monkeypatch.setattr("os.getpid", lambda process=process: -1 - process)
        pyro.set_rng_seed(process)  # as Pyro does in the process of every chain
        kernel.setup(0, s=s)
        firsts.append(kernel.sample({})["z"])
        monkeypatch.undo()
    assert not torch.equal(*firsts)


# The noise among the sites -------------------------------------------------------------------------------


def silent_speech(bins: int) -> AVAE:
    """Speech of variance e^-200, so that x is the noise."""
    return AVAE(StandardNormal(1), lambda z: z.new_full((*z.shape[:-1], bins), -200.0)).double()


def alternating(model: NoisySpeech, start: dict[str, Tensor], power: Tensor, draws: int, warmup: int) -> dict:
    kernel = AlternatingKernel(model, HMC(0.5, 3), start, 0, noise_kernel=HMC(0.1, 5))
    mcmc = VectorizedMCMC(kernel, draws, warmup)
    mcmc.run(power=power, visual=None)
    samples: dict[str, Tensor] = mcmc.get_samples(group_by_chain=True)
    return samples


@pytest.mark.slow
def test_a_conjugate_noise_factor() -> None:
    """One bin, W = 1: h_n ~ IG(c + 2, (c + 1) m), P_n exponential: h_n | P_n ~ IG(c + 3, (c + 1) m + P_n)."""
    frames, chains, c, m = 40, 50, 1.5, 2.0
    prior = InverseGammaNMF(1, frames, torch.tensor(m, dtype=torch.float64), activation_shape=c)
    pyro.set_rng_seed(0)
    model = NoisySpeech(silent_speech(1), prior)
    power = model()
    start = {
        "z": torch.zeros(chains, frames, 1, dtype=torch.float64),
        "W": torch.ones(chains, 1, 1, dtype=torch.float64),
        "H": torch.full((chains, 1, frames), m, dtype=torch.float64),
    }
    draws = alternating(model, start, power, 150, 60)
    assert draws["H"].shape == (chains, 150, 1, frames)
    shape, scale = torch.tensor(c + 3, dtype=torch.float64), (c + 1) * m + power[:, 0]
    log_h = draws["H"][:, :, 0].log()
    means = log_h.mean(1)  # of every chain
    score = (means.mean(0) - (scale.log() - shape.digamma())) / (means.std(0) / chains**0.5)
    assert score.abs().max() < bound(2 * frames)
    squares = (log_h - (scale.log() - shape.digamma())).square().mean(1)
    score = (squares.mean(0) - torch.polygamma(1, shape)) / (squares.std(0) / chains**0.5)
    assert score.abs().max() < bound(2 * frames)
    # Negative control: the posterior without the data.
    wrong = math.log((c + 1) * m) - float(torch.digamma(torch.tensor(c + 2)))
    assert ((means.mean(0) - wrong) / (means.std(0) / chains**0.5)).abs().max() > bound(2 * frames)


def test_coordinates_of_spectra_with_silent_bins() -> None:
    """Values, density and gradient in single precision, where the last bins hold 1e-9 of the power."""
    prior = GammaNMF(4, 3, torch.tensor(1.0), rank=2)
    spectra = torch.tensor([[0.5, 0.5, 1e-9, 2e-10], [0.9, 0.1, 3e-9, 1e-9]]).expand(5, 2, 4)
    values = {"W": spectra, "H": torch.ones(5, 2, 3)}
    sites = NoiseSites(prior)
    free = sites.free(values).requires_grad_()
    found = sites.values(free)
    for name, own in values.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], own, rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(sites.log_prior(free)[0].sum(), free)
    assert gradient.isfinite().all()


@pytest.mark.slow
def test_a_silent_bin_in_single_precision() -> None:
    """P_1n of 1 and P_2n of 1e-9, so that W_1 = 1 to rounding, and h_n is integrated in closed form:

    p(W_2 | P) = W_2^-N prod_n ((c + 1) m + P_1n + P_2n / W_2)^-(c + 4) up to a constant, by quadrature. In
    single precision nothing is left over for bin 2, all proposals are rejected and no site ever moves.
    """
    frames, chains, c, m = 20, 60, 1.5, 1.0
    prior = InverseGammaNMF(2, frames, torch.tensor(m), activation_shape=c)
    unit = -torch.rand(frames, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log()
    power = unit * torch.tensor([1.0, 1e-9])
    start = {
        "z": torch.zeros(chains, frames, 1),
        "W": torch.tensor([1.0, 1e-9]).expand(chains, 1, 2),
        "H": torch.full((chains, 1, frames), m),
    }
    draws = alternating(NoisySpeech(silent_speech(2).float(), prior), start, power.float(), 100, 60)
    assert draws["W"].dtype == torch.float32
    found = draws["W"][..., 0, 1].double().log()
    assert (found.std(1) > 0).all()
    assert (draws["H"].std(1) > 0).all()

    log_w = math.log(1e-9) + torch.linspace(-4, 4, 4001, dtype=torch.float64)
    scale = (c + 1) * m + power[:, 0] + power[:, 1] / log_w.exp().unsqueeze(-1)
    weight = ((1 - frames) * log_w - (c + 4) * scale.log().sum(-1)).softmax(0)
    mean = (weight * log_w).sum()
    variance = (weight * (log_w - mean).square()).sum()
    log_h = (weight.unsqueeze(-1) * scale.log()).sum(0) - torch.tensor(c + 4, dtype=torch.float64).digamma()

    def scores(values: Tensor, truth: Tensor) -> Tensor:
        """Of the means (C, ..) of the chains."""
        return (values.mean(0) - truth) / (values.std(0) / chains**0.5)

    assert scores(found.mean(1), mean).abs() < bound(frames + 2)
    assert scores((found - mean).square().mean(1), variance).abs() < bound(frames + 2)
    assert scores(draws["H"][:, :, 0].double().log().mean(1), log_h).abs().max() < bound(frames + 2)
    # Negative control: another power of the silent bin.
    assert scores(found.mean(1), mean + math.log(2)).abs() > bound(frames + 2)


# The algorithm -------------------------------------------------------------------------------------------

FIXED = {"step_size": 1e-3, "adapt_step_size": False}
SAMPLERS = {
    "frames": PyroMCMC(default_mcem(), FrameSampler(HMC(0.1, 2)), None, 3, 4, 3),
    "frames, NUTS": PyroMCMC(default_mcem(), JointSampler(NUTS, {"max_tree_depth": 2}), None, 2, 4, 3),
    "noise": PyroMCMC(default_mcem(), AlternatingSampler(HMC(0.1, 2)), GammaNMF.around, 3, 4, 3),
    "noise, NUTS": PyroMCMC(
        default_mcem(), JointSampler(NUTS, {"max_tree_depth": 2, **FIXED}), InverseGammaNMF.around, 2, 4, 0
    ),
    "noise, HMC": PyroMCMC(
        default_mcem(), JointSampler(PyroHMC, {"num_steps": 2, **FIXED}), GammaChainNMF.around, 2, 4, 0
    ),
}


def pair() -> SpeechPair:
    config = PairConfig("a-vae", {"latent_size": 3, "encoder": [8], "decoder": [8]}, FrontEnd(STFT(64, 32)))
    own = SpeechPair(config)
    own.modules().eval().requires_grad_(False)
    return own


@pytest.mark.parametrize(
    ("channels", "name"),
    [
        *((2, name) for name in SAMPLERS),
        (1, "frames"),
        *(pytest.param(1, name, marks=pytest.mark.slow) for name in SAMPLERS if name != "frames"),
    ],
)
def test_the_posterior_of_a_recording(name: str, channels: int) -> None:
    algorithm, own = SAMPLERS[name], pair()
    power = torch.rand(channels, 12, 33, generator=torch.Generator().manual_seed(0)) + 0.1
    before, told = torch.get_rng_state(), []

    def run(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return algorithm(own.model, own.guide, power, None, generator, told.append)

    posterior = run(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(pyro.get_param_store())
    chains = algorithm.chains
    assert posterior.z.shape == (chains, 4, channels, 12, 3)
    assert posterior.wiener_gain.shape == posterior.variance.shape == power.shape
    assert ((posterior.wiener_gain > 0) & (posterior.wiener_gain < 1)).all()
    assert posterior.acceptance.shape == (channels, 12)
    assert posterior.diverged.shape == (chains, 4, channels, 12)
    assert posterior.noise.variance().shape == power.shape
    assert posterior.responsibilities.shape == (1, channels, 12)
    if algorithm.noise_prior is None:
        assert posterior.noise_draws is None
    else:
        W, H = posterior.noise_draws["W"], posterior.noise_draws["H"]
        assert W.shape == (chains, 4, channels, 8, 33)
        assert H.shape == (chains, 4, channels, 8, 12)
        torch.testing.assert_close(posterior.noise.W, W.mean((0, 1)).mT)
        assert not torch.equal(H[:, 0], H[:, -1])  # the noise moves
    assert told == sorted(told)
    assert told[-1] == 1
    torch.testing.assert_close(run(0).wiener_gain, posterior.wiener_gain)
    assert not torch.equal(run(1).z, posterior.z)


def test_nuts_on_channels_of_a_mixture_that_trains() -> None:
    """Each channel has a z of its own, and parameters that are not frozen stay out of Pyro's store."""
    own, other = pair(), pair()
    own.requires_grad_()
    power = torch.rand(2, 10, 33, generator=torch.Generator().manual_seed(0)) + 0.1
    algorithm = replace(SAMPLERS["frames, NUTS"], sampler=JointSampler(NUTS, {"max_tree_depth": 2, **FIXED}))
    mixture = VAEMM(own.model, other.model, pi=0.4)
    posterior = algorithm(mixture, own.guide, power, None, torch.Generator().manual_seed(0))
    assert not list(pyro.get_param_store())
    assert posterior.z.shape == (2, 4, 2, 10, 3)
    assert posterior.responsibilities.shape == (2, 2, 10)
    moved = (posterior.z[:, 1:] - posterior.z[:, :-1]).abs().sum((-1, -2)).amax(1)  # (C, channels)
    assert (moved > 0).all()
    assert not torch.equal(posterior.z[:, :, 0], posterior.z[:, :, 1])
    assert all(parameter.grad is None for parameter in own.model.parameters())


def test_lips_of_each_channel_go_with_its_noise() -> None:
    """Two faces, one a channel: the algorithm sees the lips of the channel that it samples."""
    algorithm, own, seen = SAMPLERS["noise"], pair(), []

    def fit(speech: Any, guide: Any, power: Tensor, visual: Tensor, *rest: Any) -> Any:
        seen.append(visual)
        return default_mcem()(speech, guide, power, None, *rest)

    power, visual = torch.rand(2, 6, 33) + 0.1, torch.rand(2, 6, 5)
    run = replace(algorithm, fit=fit)
    for lips in (visual, visual[0]):
        run(own.model, own.guide, power, lips, torch.Generator().manual_seed(0))
    for lips, expected in zip(seen, [*visual, visual[0], visual[0]], strict=True):
        assert torch.equal(lips, expected)
    with pytest.raises(InputError, match="one recording"):
        run(own.model, own.guide, power[None], None, torch.Generator())


def test_alpha_is_summed_out_of_z_and_noise() -> None:
    """A mixture at pi = 1 is its first component; every sampler sees one z (N, L) a chain."""
    own, other = pair(), pair()
    power = torch.rand(10, 33) + 0.1
    for name in ("frames", "noise", "noise, NUTS"):
        algorithm = SAMPLERS[name]
        mixed, alone = (
            algorithm(model, own.guide, power, None, torch.Generator().manual_seed(0))
            for model in (VAEMM(own.model, other.model, pi=1.0), own.model)
        )
        assert mixed.z.shape == alone.z.shape == (algorithm.chains, 4, 10, 3)
        assert mixed.responsibilities.shape == (2, 10)
        torch.testing.assert_close(mixed.responsibilities[1], torch.ones(10))
        if name != "noise, NUTS":  # rounding changes the trees of NUTS
            torch.testing.assert_close(mixed.wiener_gain, alone.wiener_gain, atol=1e-3, rtol=1e-3)


def test_one_draw_by_nuts() -> None:
    """Fewer draws than R-hat needs."""
    algorithm, own = replace(SAMPLERS["frames, NUTS"], chains=1, draws=1, warmup=1), pair()
    posterior = algorithm(
        own.model, own.guide, torch.rand(6, 33) + 0.1, None, torch.Generator().manual_seed(0)
    )
    assert posterior.z.shape == (1, 1, 6, 3)
    assert posterior.acceptance.shape == (6,)


def test_a_sampler_that_does_not_fit_the_noise_is_refused() -> None:
    own, power = pair(), torch.rand(6, 33) + 0.1
    for algorithm, message in (
        (replace(SAMPLERS["noise"], sampler=FrameSampler()), "cannot sample the noise"),
        (replace(SAMPLERS["frames"], sampler=AlternatingSampler()), "no prior"),
    ):
        with pytest.raises(InputError, match=message):
            algorithm(own.model, own.guide, power, None, torch.Generator().manual_seed(0))
    for wrong in ({"chains": 0}, {"draws": 0}, {"warmup": -1}):
        with pytest.raises(InputError, match="at least one chain"):
            replace(SAMPLERS["frames"], **wrong)
    prior = GammaNMF(33, 6, torch.tensor(1.0))
    with pytest.raises(InputError, match="samples the noise"):
        NoisySpeech(own.model, prior).log_joint(torch.zeros(6, 3), power)
    stereo = power.expand(2, 6, 33)  # its channels would share W and H
    start = {"z": torch.zeros(1, 2, 6, 3), "W": torch.full((1, 1, 33), 1 / 33), "H": torch.ones(1, 1, 6)}
    kernel = AlternatingKernel(NoisySpeech(own.model, prior), HMC(0.1, 2), start, 0)
    with pytest.raises(InputError, match="one channel"):
        VectorizedMCMC(kernel, 1, 1).run(power=stereo)
    with pytest.raises(InputError, match="one channel"):
        MCMC(NUTS(NoisySpeech(own.model, prior)), 1, 1, disable_progbar=True).run(power=stereo)


def test_draws_of_the_noise_have_filters_of_their_own() -> None:
    """The gain is the mean over the draws of g sigma / (g sigma + W H), by hand."""
    own, power = pair(), torch.rand(7, 33) + 0.1
    posterior = SAMPLERS["noise"](own.model, own.guide, power, None, torch.Generator().manual_seed(0))
    gains = []
    for chain in range(3):
        for draw in range(4):
            sigma = own.model.decoder(posterior.z[chain, draw]).exp()
            W, H = (posterior.noise_draws[name][chain, draw] for name in "WH")
            noise = H.mT @ W + posterior.noise.floor
            gains.append(sigma / (sigma + noise))
    torch.testing.assert_close(torch.stack(gains).mean(0), posterior.wiener_gain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "make"), [("mcmc", pyro_mcmc), ("mcmc-full-bayes", full_bayes_mcmc)])
def test_enhance_by_name(
    name: str, make: Any, monkeypatch: pytest.MonkeyPatch, tiny_pair: SpeechPair, tmp_path: Path
) -> None:
    """`avse.enhance` on stereo, 0.2 s; ArviZ reads the posterior."""
    monkeypatch.setitem(
        avse.inference.presets.PRESETS, name, lambda: replace(make(), chains=2, draws=4, warmup=4)
    )
    x = 0.1 * np.random.default_rng(0).standard_normal((3200, 2)).astype(np.float32)
    enhancement = avse.enhance(x, 16000, model=tiny_pair, algorithm=name, link_channels=False)
    assert enhancement.speech.shape == x.shape
    assert enhancement.report["algorithm"] == name
    posterior = enhancement.posterior
    assert posterior.z.shape[:3] == (2, 4, 2)
    dataset = posterior.to_xarray(channel=1)
    assert dict(dataset.z.sizes)["chain"] == 2
    assert az.rhat(dataset[["z"]]).z.shape == posterior.z.shape[-2:]
    if name == "mcmc-full-bayes":
        frames = posterior.z.shape[-2]
        assert dataset.W.dims == ("chain", "draw", "noise_component", "frequency")
        assert dataset.H.shape == (2, 4, 8, frames)
        np.testing.assert_array_equal(dataset.H, posterior.noise_draws["H"][:, :, 1])


def test_pyro_as_the_e_step_of_em(tiny_pair: SpeechPair) -> None:
    """Stereo, two initial values: each is a chain, and both channels have one step size."""
    mcem = pyro_mcem()
    quick = replace(
        mcem, em=replace(mcem.em, iterations=3), final=PyroChain(NUTS, 5, 1, {"max_tree_depth": 3})
    )
    x = 0.1 * np.random.default_rng(0).standard_normal((3200, 2)).astype(np.float32)
    enhancement = avse.enhance(x, 16000, model=tiny_pair, algorithm=quick, link_channels=False)
    posterior = enhancement.posterior
    assert posterior.z.shape[:3] == (2, 4, 2)
    assert posterior.acceptance.shape == posterior.z.shape[2:4]
    assert np.isfinite(enhancement.speech).all()
    with pytest.raises(InputError, match="keep no draw"):
        PyroChain(NUTS, 5, 5)


def test_estimates_and_priors_of_the_noise_are_read_alike() -> None:
    """A `NMFNoise` at a draw gives the log joint of the model with that draw given."""
    own = pair()
    prior = GammaNMF(33, 6, torch.tensor(1.0), rank=2)
    pyro.set_rng_seed(0)
    noise = prior()
    power, z = torch.rand(6, 33), torch.randn(6, 3)
    given = {"W": noise.W.mT, "H": noise.H}
    by_prior = frame_log_joint(pyro.condition(NoisySpeech(own.model, prior), given), z, power=power)
    by_estimate = NoisySpeech(own.model, NMFNoise(noise.W, noise.H, torch.ones(6))).log_joint(z, power)
    torch.testing.assert_close(by_prior, by_estimate)
    with pytest.raises(InputError, match="outside of the frames plate"):
        frame_log_joint(NoisySpeech(own.model, prior), z, power=power)
