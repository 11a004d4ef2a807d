"""The full-Bayes noise model: its density by hand, and NUTS on the whole mixture against known posteriors.

z-scores of posterior means use the effective sample size of the chain; the scores of a test together have a
false-alarm rate of ALARM (Bonferroni, two-sided).
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC as PyroHMC
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from avse.data.errors import InputError
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC
from avse.inference.mcmc.log_density import LogJoint, frame_log_joint, traced
from avse.inference.mcmc.noise_kernel import AlternatingKernel
from avse.inference.mcmc.pyro_kernel import VectorizedMCMC, nuts
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import SpeechModel
from avse.models.bayesian_nmf import GammaNMF, SpeechInUnknownNoise
from avse.models.min_vae import MINVAE
from avse.models.nmf import NMFNoise, NMFParameters
from avse.models.noisy import NoisySpeech
from avse.models.vae_mm import VAEMM

ALARM = 1e-4
L = 1


def bound(statistics: int) -> float:
    """On the largest of so many |z-scores|."""
    return NormalDist().inv_cdf(1 - ALARM / (2 * statistics))


def decoder(bins: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """log sigma_f(z) = b_f + a_f z."""
    slope, shift = torch.randn(2, bins, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda z: shift + z * slope


def a_vae(bins: int, seed: int = 0) -> AVAE:
    return AVAE(StandardNormal(L), decoder(bins, seed)).double()


def min_vae(bins: int) -> MINVAE:
    model = MINVAE(L, decoder(bins), pi=0.3).double().requires_grad_(False)
    model.audio_mean += 1
    model.visual_log_variance -= 1
    return model


def vae_mm(bins: int) -> VAEMM:
    return VAEMM(a_vae(bins, 1), a_vae(bins, 2), pi=0.3).double()


def a_v_av(bins: int) -> VAEMM:
    return VAEMM(a_vae(bins, 1), vae_mm(bins), pi=0.4).double()  # three values of alpha


MODELS = [a_vae, min_vae, vae_mm, a_v_av]


def prior(bins: int, frames: int, rank: int = 1, smoothness: float = 0.0) -> GammaNMF:
    level = torch.tensor(3.0, dtype=torch.float64)
    return GammaNMF(bins, frames, level, rank, 1.3, 2.0, smoothness, floor=0.01)


def noisy_power(bins: int, frames: int) -> Tensor:
    pyro.set_rng_seed(1)
    return SpeechInUnknownNoise(a_vae(bins), prior(bins, frames))()


def log_density(
    speech: SpeechModel, noise: GammaNMF, z: Tensor, W: Tensor, H: Tensor, power: Tensor
) -> Tensor:
    """log p(x, z, W, H) by hand, alpha summed out: z (*, N, L), W (*, K, F), H (*, K, N) -> (*)."""
    a, c, m = noise.spectrum_shape, noise.activation_shape, noise.level
    dirichlet = (a - 1) * W.log().sum(-1) + math.lgamma(noise.bins * a) - noise.bins * math.lgamma(a)
    gamma = c * (c / m).log() - math.lgamma(c) + (c - 1) * H.log() - c / m * H
    ratio = H[..., 1:] / H[..., :-1]
    rough = noise.smoothness * (ratio + 1 / ratio - 2).sum((-2, -1))
    log_prior, log_variance = speech.given()(z)
    variance = log_variance.exp() + (W.mT @ H).mT + noise.floor
    likelihood = -(variance.log() + power / variance).sum(-1)
    frames = (log_prior + likelihood).logsumexp(0)  # over alpha
    return dirichlet.sum(-1) + gamma.sum((-2, -1)) - rough + frames.sum(-1)


def point(bins: int, frames: int, rank: int, seed: int) -> dict[str, Tensor]:
    pyro.set_rng_seed(seed)
    exponential = torch.empty(rank, bins, dtype=torch.float64).exponential_()
    return {
        "z": torch.randn(frames, L, dtype=torch.float64),
        "W": exponential / exponential.sum(-1, keepdim=True),
        "H": torch.empty(rank, frames, dtype=torch.float64).exponential_() + 0.1,
    }


# The density ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothness", [0.0, 0.7])
@pytest.mark.parametrize("make", MODELS)
def test_potential_of_nuts_is_the_density_with_alpha_summed_out(
    make: Callable[[int], SpeechModel], smoothness: float
) -> None:
    """Pyro's enumeration and transforms against logsumexp and Jacobians by hand, to rounding."""
    bins, frames, rank = 4, 6, 2
    power, noise, speech = noisy_power(bins, frames), prior(bins, frames, rank, smoothness), make(bins)
    model = SpeechInUnknownNoise(speech, noise)
    start = point(bins, frames, rank, 0)
    kernel = nuts(model, start)
    kernel.setup(1, power=power)
    for seed in range(3):
        site = point(bins, frames, rank, seed)
        free = {name: kernel.transforms[name](value) for name, value in site.items()}

        def spectra(y: Tensor, transform: Callable[[Tensor], Tensor] = kernel.transforms["W"].inv) -> Tensor:
            return transform(y.unsqueeze(0))[0, :-1]  # coordinates of the simplex

        jacobian = sum(
            torch.linalg.slogdet(torch.autograd.functional.jacobian(spectra, y)).logabsdet for y in free["W"]
        )
        by_hand = log_density(speech, noise, site["z"], site["W"], site["H"], power)
        by_hand = by_hand + jacobian + site["H"].log().sum()
        assert float(kernel.potential_fn(free)) == pytest.approx(-float(by_hand), rel=1e-10)


@pytest.mark.parametrize("make", MODELS)
def test_potential_at_fixed_noise(make: Callable[[int], SpeechModel]) -> None:
    """The same of a mixture whose W and H are estimates: z alone is sampled."""
    bins, frames = 4, 6
    power, noise, speech = noisy_power(bins, frames), prior(bins, frames, 2), make(bins)
    site = point(bins, frames, 2, 3)
    model = NoisySpeech(speech, noise.noise(site))
    kernel = nuts(model, {"z": site["z"]})
    kernel.setup(1, power=power)
    by_hand = model.log_joint(site["z"], power).logsumexp(0).sum()
    assert float(kernel.potential_fn({"z": site["z"]})) == pytest.approx(-float(by_hand), rel=1e-10)


@pytest.mark.parametrize("make", MODELS)
def test_a_noise_estimate_as_a_constant_leaves_the_frames_as_they_are(
    make: Callable[[int], SpeechModel],
) -> None:
    power, z = noisy_power(4, 6), torch.randn(3, 6, L, dtype=torch.float64)
    model = NoisySpeech(make(4), prior(4, 6).noise(point(4, 6, 1, 0)))
    constant = model.with_constant_noise()
    expected = frame_log_joint(model, z, power=power)
    torch.testing.assert_close(frame_log_joint(constant, z, power=power), expected)
    torch.testing.assert_close(traced(model, power=power)(z), expected.logsumexp(0))
    assert "W" in poutine.trace(model).get_trace(power=power).nodes
    assert "W" not in poutine.trace(constant).get_trace(power=power).nodes


def test_noise_that_is_no_estimate_keeps_its_sites() -> None:
    class OwnStory(NoisySpeech):
        pass

    estimate = prior(4, 6).noise(point(4, 6, 1, 0))
    for model in (
        NoisySpeech(a_vae(4), prior(4, 6)),
        NoisySpeech(a_vae(4), NMFParameters(estimate)),
        OwnStory(a_vae(4), estimate),
    ):
        assert model.with_constant_noise() is model


@pytest.mark.parametrize("make", [min_vae, vae_mm, a_v_av])
@pytest.mark.parametrize("kernel", [NUTS, PyroHMC])
def test_a_z_for_each_alpha_is_refused(make: Callable[[int], SpeechModel], kernel: type[NUTS]) -> None:
    """Pyro's own start has a z for each alpha, of which one would be unconstrained; one z is accepted."""
    power, speech = noisy_power(4, 6), make(4)
    for model in (NoisySpeech(speech, prior(4, 6).noise(point(4, 6, 1, 0))), speech):
        with pytest.raises(InputError, match="a value for each alpha"):
            kernel(model).setup(1, power=power)
        nuts(model, {"z": torch.zeros(6, L, dtype=torch.float64)}).setup(1, power=power)
        traced(model, power=power)(torch.zeros(3, 6, L, dtype=torch.float64))  # chains are no alpha
    with pytest.raises(ValueError, match="initial value"):
        nuts(speech, {})


def test_the_prior_has_its_moments() -> None:
    """4000 draws without data; six scores of means and variances, false alarms 1e-4."""
    bins, frames, count = 3, 2, 4000
    noise = prior(bins, frames)
    pyro.set_rng_seed(0)
    draws = [poutine.trace(noise).get_trace() for _ in range(count)]
    W, H = (torch.stack([trace.nodes[name]["value"] for trace in draws]) for name in ("W", "H"))
    assert W.shape == (count, 1, bins)
    assert H.shape == (count, 1, frames)
    torch.testing.assert_close(W.sum(-1), torch.ones_like(W[..., 0]))
    a, c, m = noise.spectrum_shape, noise.activation_shape, noise.level
    share, spread = W[:, 0, :2], (bins - 1) / bins**2 / (bins * a + 1)
    statistics = torch.cat(
        [
            share - 1 / bins,
            (share - 1 / bins).square() - spread,
            H[:, 0, :1] - m,
            (H[:, 0, 1:] - m) ** 2 - m**2 / c,
        ],
        dim=-1,
    )
    scores = statistics.mean(0) / (statistics.std(0) / math.sqrt(count))
    assert len(scores) == 6
    assert scores.abs().max() < bound(6)


def test_around_a_fitted_noise_model(generator: torch.Generator) -> None:
    """Level and sizes from the estimate; the start has its variance; zeros do not leave the support."""
    W, H = torch.rand(5, 3, generator=generator), torch.rand(3, 7, generator=generator)
    fitted = NMFNoise(W, H, torch.ones(7), smoothness=20.0, floor=torch.full((1, 1), 1e-9))
    noise = GammaNMF.around(fitted)
    assert (noise.bins, noise.frames, noise.rank, noise.smoothness) == (5, 7, 3, 20.0)
    assert float(noise.level) * 3 == pytest.approx(float(fitted.variance().sum(-1).mean()))
    torch.testing.assert_close(noise.noise(noise.start(fitted)).variance(), fitted.variance())
    dead = NMFNoise(W * (torch.arange(5) > 0)[:, None], H * (torch.arange(7) > 0), torch.ones(7))
    start = noise.start(dead)
    model = SpeechInUnknownNoise(a_vae(5).float(), noise)
    kernel = nuts(model, {"z": torch.zeros(7, L), **start})
    kernel.setup(1, power=torch.rand(7, 5))
    assert all(value.isfinite().all() for value in kernel.initial_params.values())


@pytest.mark.parametrize(
    "wrong", [{"bins": 0}, {"rank": 0}, {"spectrum_shape": 0.0}, {"activation_shape": -1.0}]
)
def test_impossible_priors_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="positive"):
        GammaNMF(**{"bins": 3, "frames": 2, "level": torch.tensor(1.0), **wrong})  # type: ignore[arg-type]


# NUTS against truth --------------------------------------------------------------------------------------


def run(kernel: NUTS, power: Tensor, draws: int, warmup: int) -> dict[str, Tensor]:
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    mcmc.run(power=power)
    samples: dict[str, Tensor] = mcmc.get_samples()
    return samples


def scores(draws: Tensor, truth: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """(mean - truth) / sqrt(variance / ESS + error^2) of each column of (R, S)."""
    ess = effective_sample_size(draws.unsqueeze(0), chain_dim=0, sample_dim=1)
    return (draws.mean(0) - truth) / (draws.var(0) / ess + error**2).sqrt()


def functionals(speech: SpeechModel, noise: GammaNMF, site: dict[str, Tensor], power: Tensor) -> Tensor:
    """z, z^2, W_1, log h, and the Wiener gain of the first bin given z, of the first frame: (*, 5)."""
    z, W, H = site["z"][..., 0, :], site["W"][..., 0, :1], site["H"][..., 0, :1]
    log_prior, log_variance = speech.given()(site["z"])
    variance = noise.noise(site).variance()
    cost = (log_variance.exp() + variance).log() + power / (log_variance.exp() + variance)
    gain = (
        (log_prior - cost.sum(-1)).softmax(0).unsqueeze(-1)
        * log_variance.exp()
        / (log_variance.exp() + variance)
    ).sum(0)
    return torch.cat([z, z.square(), W, H.log(), gain[..., 0, :1]], -1)


POWER = torch.tensor([[6.0, 0.3]], dtype=torch.float64)


def integrated(speech: SpeechModel, noise: GammaNMF) -> tuple[Tensor, Tensor]:
    """Posterior means of `functionals` for one frame of two bins, whose z, W and H are three numbers, summed
    on a grid; and the same without the Jacobians of the simplex and of log h, as a control."""
    axes = [torch.linspace(low, high, 81, dtype=torch.float64) for low, high in ((-6, 6), (-10, 10), (-8, 5))]
    z, log_odds, log_h = torch.meshgrid(*axes, indexing="ij")
    W = torch.stack([log_odds.sigmoid(), (-log_odds).sigmoid()], -1).unsqueeze(-2)
    site = {"z": z[..., None, None], "W": W, "H": log_h.exp()[..., None, None]}
    jacobian = W.log().sum((-2, -1))
    log_weight = log_density(speech, noise, **site, power=POWER) + log_h + jacobian
    values = functionals(speech, noise, site, POWER).flatten(0, -2)
    wrong = log_weight - log_h - jacobian
    return log_weight.flatten().softmax(0) @ values, wrong.flatten().softmax(0) @ values


START = {
    "z": torch.zeros(1, L, dtype=torch.float64),
    "W": torch.full((1, 2), 0.5, dtype=torch.float64),
    "H": torch.full((1, 1), 0.2, dtype=torch.float64),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", [a_vae, pytest.param(min_vae, marks=pytest.mark.long)])
def test_nuts_agrees_with_numerical_integration(make: Callable[[int], SpeechModel]) -> None:
    speech, noise = make(2), prior(2, 1)
    truth, wrong = integrated(speech, noise)
    draws = run(nuts(NoisySpeech(speech, noise), START), POWER, 300, 120)
    found = functionals(speech, noise, draws, POWER)
    assert scores(found, truth).abs().max() < bound(5)
    assert scores(found, wrong).abs().max() > bound(5)


@pytest.mark.parametrize("make", [a_vae, min_vae, vae_mm, a_v_av])
@pytest.mark.slow
def test_z_and_noise_in_turn_agree_with_numerical_integration(make: Callable[[int], SpeechModel]) -> None:
    """400 independent chains in one tensor; with alpha summed out in both steps."""
    speech, noise, chains = make(2), prior(2, 1), 400
    truth, wrong = integrated(speech, noise)
    start = {name: value.expand(chains, *value.shape).clone() for name, value in START.items()}
    kernel = AlternatingKernel(
        NoisySpeech(speech, noise), HMC(0.7, 4), start, 0, noise_kernel=HMC(0.5, leapfrog_steps=4)
    )
    mcmc = VectorizedMCMC(kernel, 80, 120)
    mcmc.run(power=POWER, visual=None)
    draws = mcmc.get_samples(group_by_chain=True)
    assert draws["W"].shape == (chains, 80, 1, 2)
    means = functionals(speech, noise, draws, POWER).mean(1)  # of every chain
    error = means.std(0) / math.sqrt(chains)
    assert ((means.mean(0) - truth) / error).abs().max() < bound(5)
    assert ((means.mean(0) - wrong) / error).abs().max() > bound(5)


@pytest.mark.slow
@pytest.mark.long
def test_nuts_agrees_with_our_own_hmc() -> None:
    """Four bins, six frames: 15 numbers, 400 chains of `HMC` on the density by hand in free coordinates."""
    bins, frames = 4, 6
    speech, noise, power = a_vae(bins), prior(bins, frames), noisy_power(bins, frames)

    def sites(u: Tensor) -> dict[str, Tensor]:
        z, log_ratio, log_h = u[..., 0, :].split([frames, bins - 1, frames], -1)
        W = torch.cat([log_ratio, torch.zeros_like(log_ratio[..., :1])], -1).softmax(-1)
        return {"z": z.unsqueeze(-1), "W": W.unsqueeze(-2), "H": log_h.exp().unsqueeze(-2)}

    def log_joint(u: Tensor) -> Tensor:
        """Of all sites as one frame of 15 latents, (*, 1, 15) -> (*, 1)."""
        return log_density(speech, noise, **sites(u), power=power).unsqueeze(-1) + log_jacobian(u)

    def log_jacobian(u: Tensor) -> Tensor:
        site = sites(u)
        return (site["W"].log().sum((-2, -1)) + site["H"].log().sum((-2, -1))).unsqueeze(-1)

    def asked(site: dict[str, Tensor]) -> Tensor:
        level = noise.noise(site).variance().sum(-1).log()
        return torch.cat([site["z"][..., 0], site["W"][..., 0, :], level], -1)

    start = ChainState(torch.zeros(400, 1, 2 * frames + bins - 1, dtype=torch.float64))

    def reference(log_joint: LogJoint) -> tuple[Tensor, Tensor]:
        """Posterior means and their standard errors, by the spread of the chains."""
        chain = Chain(HMC(0.2), num_steps=110, warmup=40, target_acceptance=0.8)
        draws, _ = chain(log_joint, start, torch.Generator().manual_seed(0))
        averages = asked(sites(draws.z)).mean(0)
        return averages.mean(0), averages.std(0) / math.sqrt(len(averages))

    model = SpeechInUnknownNoise(speech, noise)
    first = {name: value[0] for name, value in sites(start.z).items()}
    draws = asked(run(nuts(model, first), power, 250, 120))
    assert draws.shape[-1] == 16
    assert scores(draws, *reference(log_joint)).abs().max() < bound(16)
    # Negative control: W and log H without their Jacobian.
    wrong = reference(lambda u: log_joint(u) - log_jacobian(u))
    assert scores(draws, *wrong).abs().max() > bound(16)
