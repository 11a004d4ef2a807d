"""Functionals against sums written out; the verdict on chains whose fault is known.

The verdicts are on fixed seeds; test_convergence.py states how often R-hat fails draws that are independent.
"""

import inspect
import json
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Generator, Tensor

from avse.cli.app import diagnose as diagnose_command
from avse.data.stft import STFT
from avse.evaluation.posterior.advice import (
    advise_draws,
    advise_larger_steps,
    advise_modes,
    advise_smaller_steps,
    advise_trajectories,
    advise_warmup,
)
from avse.evaluation.posterior.diagnosis import MAX_FAILING_SHARE, MIN_ESS_PER_CHAIN, diagnose, verdict
from avse.evaluation.posterior.functionals import (
    band_level,
    default_functionals,
    given_z,
    log_joint,
    mean_gain,
    octaves,
    over_draws,
    responsibilities,
)
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, MALA, Kernel, RandomWalk
from avse.inference.mcmc.log_density import closure
from avse.inference.posterior import Posterior
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z
from avse.posterior_run import ChainSettings

KERNELS = {"HMC": HMC, "MALA": MALA, "RandomWalk": RandomWalk}
N, F, L = 40, 9, 2


class Line(torch.nn.Module):
    """log sigma_f = a_f'z."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("a", scale * torch.randn(L, F, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.a


class Switched(SpeechModel):
    """alpha ~ Bernoulli(0.3) chooses the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoders = torch.nn.ModuleList([Line(0.5), Line(1.0)])

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
        z = pyro.sample(Z, dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1))
        return torch.where(alpha.unsqueeze(-1) > 0.5, self.decoders[1](z), self.decoders[0](z))


def noise(*batch: int) -> NMFNoise:
    return NMFNoise(
        torch.rand(*batch, F, 2, dtype=torch.float64) + 0.1,
        torch.rand(*batch, 2, N, dtype=torch.float64) + 0.1,
        torch.rand(*batch, N, dtype=torch.float64) + 0.5,
    )


def a_vae() -> NoisySpeech:
    return NoisySpeech(AVAE(StandardNormal(L).double(), Line(0.7)), noise())


def independent(chains: int = 4, draws: int = 200) -> Tensor:
    return torch.randn(chains, draws, N, L, dtype=torch.float64)


def test_functionals_written_out() -> None:
    model = NoisySpeech(Switched(), noise())
    z, power = torch.randn(N, L, dtype=torch.float64), 2 * torch.rand(N, F, dtype=torch.float64)
    noise_variance = (model.noise.W @ model.noise.H).T
    log_prior_z = (-z.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)
    joints, gains, expected = [], [], []
    for alpha, prior in ((0, 0.7), (1, 0.3)):
        speech = model.noise.frame_gain[:, None] * model.speech.decoders[alpha](z).exp()
        total = speech + noise_variance
        joints.append(math.log(prior) + log_prior_z - (total.log() + power / total).sum(-1))
        gains.append(speech / total)
        expected.append((speech / total) ** 2 * power + speech * noise_variance / total)
    joint = torch.stack(joints)
    weights = joint.softmax(0).unsqueeze(-1)
    given = given_z(model, z, power)
    torch.testing.assert_close(log_joint(given), joint.logsumexp(0))
    torch.testing.assert_close(responsibilities(given), weights[..., 0].T)
    torch.testing.assert_close(mean_gain(given), (weights * torch.stack(gains)).sum(0).mean(-1))
    speech_power = (weights * torch.stack(expected)).sum(0)
    levels = band_level([slice(0, 4), slice(4, F)])(given)
    torch.testing.assert_close(levels[:, 0], 10 * speech_power[:, :4].mean(-1).log10())
    torch.testing.assert_close(levels[:, 1], 10 * speech_power[:, 4:].mean(-1).log10())


def test_over_draws_is_each_draw_alone_and_each_channel_alone() -> None:
    torch.manual_seed(0)
    speech = Switched()
    together = noise(2)
    z, power = torch.randn(3, 5, 2, N, L, dtype=torch.float64), torch.rand(2, N, F, dtype=torch.float64)
    functionals = default_functionals(octaves(F, 3))
    found = over_draws(functionals, NoisySpeech(speech, together), z, power)
    assert found["level"].shape == (3, 5, 2, N, 3)
    assert found["alpha"].shape == (3, 5, 2, N, 2)
    alone = NMFNoise(together.W[1], together.H[1], together.frame_gain[1])
    given = given_z(NoisySpeech(speech, alone), z[2, 4, 1], power[1])
    for name, functional in functionals.items():
        torch.testing.assert_close(found[name][2, 4, 1], functional(given))


@pytest.mark.parametrize(("bins", "count", "edges"), [(513, 5, [32, 64, 128, 256, 513]), (4, 5, [1, 2, 4])])
def test_octaves_cover_all_bins(bins: int, count: int, edges: list[int]) -> None:
    bands = octaves(bins, count)
    assert [band.stop for band in bands] == edges
    assert torch.cat([torch.arange(bins)[band] for band in bands]).tolist() == list(range(bins))


def test_independent_draws_are_mixed() -> None:
    diagnosis = diagnose(a_vae(), independent(), torch.rand(N, F, dtype=torch.float64))
    assert diagnosis.mixed
    assert "Mixed" in str(diagnosis)
    assert ALPHA not in diagnosis.convergence
    assert diagnosis.convergence["level"].rhat.shape == (N, 5 - 1)
    assert diagnosis.convergence[Z].rhat.shape == (N, L)
    assert not diagnosis.stuck.any()
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_too_few_draws_call_for_more() -> None:
    """Of 60 independent draws a chain there are too few for an effective 100."""
    diagnosis = diagnose(a_vae(), independent(draws=60), torch.rand(N, F, dtype=torch.float64))
    assert diagnosis.usable
    assert not diagnosis.mixed
    assert "times the draws" in str(diagnosis)
    assert 1 < MIN_ESS_PER_CHAIN / 60 < float(str(diagnosis).split("About ")[1].split()[0]) < 4


def test_one_chain_is_unknown() -> None:
    diagnosis = diagnose(a_vae(), independent(chains=1), torch.rand(N, F, dtype=torch.float64))
    assert not diagnosis.usable
    assert "a single chain" in str(diagnosis)
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_one_frame_can_be_diagnosed() -> None:
    model = NoisySpeech(AVAE(StandardNormal(L).double(), Line(0.7)), noise())
    model.noise = NMFNoise(model.noise.W, model.noise.H[:, :1], model.noise.frame_gain[:1])
    diagnosis = diagnose(model, independent()[:, :, :1], torch.rand(1, F, dtype=torch.float64))
    assert not diagnosis.drifts
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_chains_that_never_move_are_no_sample() -> None:
    """All draws of a frame equal: R-hat is no number and ESS is large, yet nothing was explored."""
    z = independent()
    z[:, :, : N // 4] = z[0, 0, : N // 4]
    diagnosis = diagnose(a_vae(), z, torch.rand(N, F, dtype=torch.float64))
    assert diagnosis.failing_shares("log_joint")["rhat>1.05"] == 0
    assert diagnosis.stuck.tolist() == [True] * (N // 4) + [False] * (N - N // 4)
    assert not diagnosis.usable
    assert "never moved" in str(diagnosis)


def test_chains_in_modes_of_their_own() -> None:
    z = 0.1 * independent() + 2 * torch.randn(4, 1, N, L, dtype=torch.float64)
    diagnosis = diagnose(a_vae(), z, torch.rand(N, F, dtype=torch.float64))
    assert diagnosis.failing_shares(Z)["rhat>1.05"] == 1
    assert not diagnosis.usable
    assert "explore different regions" in str(diagnosis)


def test_a_few_bad_frames_do_not_condemn_a_recording() -> None:
    z = independent()
    z[0, :, 0] += 5
    diagnosis = diagnose(a_vae(), z, torch.rand(N, F, dtype=torch.float64))
    assert 0 < diagnosis.failing_shares("log_joint")["rhat>1.05"] <= MAX_FAILING_SHARE
    assert diagnosis.mixed


@pytest.mark.parametrize("warm", [True, False])
def test_warm_up_shows_in_the_log_joint(warm: bool, generator: Generator) -> None:
    """MALA from far away, with and without the first 300 moves. A stationary chain passes |score| < 4, by
    chance not in 6e-5 of recordings."""
    model, power = a_vae(), 3 * torch.rand(N, F, dtype=torch.float64)
    start = torch.full((4, N, L), 4.0, dtype=torch.float64)
    draws, _ = Chain(MALA(0.2), 400, 300 if warm else 0)(
        closure(model, power=power), ChainState(start), generator
    )
    diagnosis = diagnose(model, draws.z.transpose(0, 1), power)
    assert diagnosis.drifts != warm
    assert ("longer warmup" in str(diagnosis)) != warm


@pytest.mark.slow
def test_a_timid_random_walk_fails_where_a_gradient_kernel_passes(generator: Generator) -> None:
    model, power = a_vae(), torch.rand(N, F, dtype=torch.float64)
    start = torch.randn(4, N, L, dtype=torch.float64, generator=generator)
    found = []
    for kernel in (RandomWalk(0.02), MALA(0.9)):
        draws, position = Chain(kernel, 1700, 200)(closure(model, power=power), ChainState(start), generator)
        posterior = Posterior(
            z=draws.z.transpose(0, 1),
            noise=model.noise,
            wiener_gain=torch.zeros(N, F),
            variance=torch.zeros(N, F),
            responsibilities=torch.ones(1, N),
            acceptance=draws.acceptance.mean(0),
            costs=[],
            converged=True,
            step_size=position.step_size,
        )
        found.append(diagnose(model, posterior, power, kernel=kernel))
    timid, good = found
    assert not timid.usable
    assert "use HMC" in str(timid)
    assert "larger initial step size (ChainSettings(kernel=RandomWalk(step_size=0.04)))" in str(timid)
    assert good.mixed
    torch.testing.assert_close(good.step_size, torch.full((4, N), 0.9).double())


def stuck_chains() -> Tensor:
    """Frames of which a quarter never moved, in chains that are far apart."""
    z = 0.1 * independent() + 2 * torch.randn(4, 1, N, L, dtype=torch.float64)
    z[:, :, : N // 4] = z[:, :1, : N // 4]
    return z


@pytest.mark.parametrize(
    ("kernel", "advice"),
    [
        (
            HMC(0.1, leapfrog_steps=10),
            ["--leapfrog-steps 20", "HMC(leapfrog_steps=20)", "HMC(step_size=0.05)"],
        ),
        (MALA(0.2), ["use HMC", "MALA(step_size=0.1)"]),
        (RandomWalk(0.1), ["use HMC", "RandomWalk(step_size=0.05)"]),
        (None, ["use HMC", "smaller steps"]),
    ],
)
def test_advice_fits_the_kernel(kernel: Kernel | None, advice: list[str]) -> None:
    """HMC is not recommended to users of HMC, nor leapfrog steps to those of a kernel without them."""
    power = torch.rand(N, F, dtype=torch.float64)
    statement = verdict(diagnose(a_vae(), stuck_chains(), power, kernel=kernel))
    assert all(words in statement for words in advice), statement
    assert ("use HMC" in statement) == (not isinstance(kernel, HMC))
    assert ("--leapfrog-steps" in statement) == isinstance(kernel, HMC)


ADVICE = [
    advise_warmup(),
    advise_draws(800),
    *(
        advise(kernel)
        for kernel in (HMC(0.1, 10), MALA(0.1), RandomWalk(0.1), None)
        for advise in (advise_trajectories, advise_modes, advise_smaller_steps, advise_larger_steps)
    ),
]


@pytest.mark.parametrize("advice", ADVICE)
def test_advice_names_options_and_arguments_that_exist(advice: str) -> None:
    """Options of `avse diagnose`, and `ChainSettings` with kernels that can be constructed as printed."""
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(diagnose_command).parameters}
    assert set(re.findall(r"--[a-z-]+", advice)) <= options
    calls = re.findall(r"ChainSettings\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", advice)
    assert calls or "avse diagnose" in advice
    for call in calls:
        assert eval(call.replace("...", "9"), {"ChainSettings": ChainSettings, **KERNELS})


def test_energy_and_divergences_are_reported() -> None:
    z = independent()
    energy = torch.randn(4, 200, N, dtype=torch.float64).cumsum(1)
    diverged = torch.zeros(4, 200, N, dtype=torch.bool)
    diverged[1, 3:43, 5] = True
    posterior = Posterior(
        z, noise(), torch.ones(N, F), torch.ones(N, F), torch.ones(1, N), torch.ones(N) / 2, [], True
    )
    power = torch.rand(N, F, dtype=torch.float64)
    plain = diagnose(a_vae(), posterior, power)
    assert plain.bfmi is None
    assert "BFMI" not in str(plain)
    told = Posterior(**{**vars(posterior), "energy": energy, "diverged": diverged})
    diagnosis = diagnose(a_vae(), told, power)
    assert diagnosis.bfmi is not None
    assert diagnosis.bfmi.shape == (N,)
    assert "BFMI" in str(diagnosis)
    assert diagnosis.diverged is not None
    assert float(diagnosis.diverged[5]) == pytest.approx(40 / 800)
    assert "0.1% of the transitions diverged" in str(diagnosis)


def test_ones_own_functionals_are_judged() -> None:
    own = {"first": lambda given: given.gain[0, :, 0]}
    diagnosis = diagnose(a_vae(), independent(), torch.rand(N, F, dtype=torch.float64), functionals=own)
    assert set(diagnosis.convergence) == {"log_joint", "first", Z}


def test_functionals_travel_with_the_posterior() -> None:
    """Two channels; the second is taken out, with the names and units of all dimensions."""
    pytest.importorskip("arviz")
    stft = STFT(window_length=16, hop_length=8, sample_rate=16000)
    z = torch.randn(2, 4, 2, N, L, dtype=torch.float64)
    model = NoisySpeech(Switched(), noise(2))
    power = torch.rand(2, N, F, dtype=torch.float64)
    functionals = over_draws(default_functionals(octaves(F, 3)), model, z, power)
    functionals["mine"] = torch.rand(2, 4, 2, N, 5)
    posterior = Posterior(
        z,
        model.noise,
        wiener_gain=torch.rand(2, N, F),
        variance=torch.rand(2, N, F),
        responsibilities=torch.rand(2, 2, N),
        acceptance=torch.rand(2, N),
        costs=[],
        converged=True,
        step_size=torch.rand(2, 2, N),
        energy=torch.rand(2, 4, 2, N),
    )
    data = posterior.to_xarray(1, functionals, stft)
    draws, both = ("chain", "draw", "frame"), ("frame", "frequency")
    expected = {
        "z": ((*draws, "latent"), z[:, :, 1]),
        "energy": (draws, posterior.energy[:, :, 1]),
        "log_joint": (draws, functionals["log_joint"][:, :, 1]),
        "wiener_gain": (both, posterior.wiener_gain[1]),
        "mean_gain": (draws, functionals["mean_gain"][:, :, 1]),
        "level": ((*draws, "band"), functionals["level"][:, :, 1]),
        "alpha": ((*draws, "component"), functionals["alpha"][:, :, 1]),
        "mine": ((*draws, "mine_dim"), functionals["mine"][:, :, 1]),
        "speech_std": (both, posterior.variance[1].sqrt()),
        "responsibilities": (("component", "frame"), posterior.responsibilities[:, 1]),
        "acceptance": (("frame",), posterior.acceptance[1]),
        "step_size": (("chain", "frame"), posterior.step_size[:, 1]),
    }
    assert set(data.data_vars) == set(expected)
    for name, (dims, values) in expected.items():
        assert data[name].dims == dims
        assert torch.equal(torch.from_numpy(data[name].values), values)
    assert data["frequency"].values.tolist() == [1000.0 * f for f in range(F)]
    assert data["time"].dims == ("frame",)
    assert data["time"].values[3] == pytest.approx(3 * 8 / 16000)
