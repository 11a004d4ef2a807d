"""Named presets of test-time inference: one for each family of models, and those of the papers.

`PRESETS` is the table of names; each function returns an algorithm object whose parts may be replaced with
`dataclasses.replace`.
"""

from collections.abc import Callable
from dataclasses import replace

from pyro.infer import HMC as PyroHMC

from avse.data.errors import InputError
from avse.inference.algorithm import Algorithm
from avse.inference.component_density import traced
from avse.inference.em.amortised import AmortisedEM, IfContext
from avse.inference.em.amortised_lips import AmortisedLipsEM
from avse.inference.em.anchored import AnchoredMCEM
from avse.inference.em.component_mcem import ComponentwiseMCEM
from avse.inference.em.em import EM
from avse.inference.em.fine_tuned import FineTunedEM
from avse.inference.em.initial import (
    InitEachComponent,
    InitFromComponent,
    InitFromEncodedEstimate,
    init_from_component_priors,
    init_from_encoder,
    init_from_prior,
)
from avse.inference.em.m_steps import NoiseStep
from avse.inference.em.mcem import MCEM
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.coupled import ByCoupling
from avse.inference.mcmc.kernels import HMC, MALA, RandomWalk
from avse.inference.mcmc.pyro_e_step import PyroChain
from avse.inference.mcmc.pyro_mcmc import AlternatingSampler, FrameSampler, PyroMCMC
from avse.inference.responsibilities import Tempered
from avse.inference.vem.latent_factor import Shared
from avse.inference.vem.mean_field import UpdateNoise, UpdatePi, equal
from avse.inference.vem.vem import VEM
from avse.models.bayesian_nmf import GammaNMF
from avse.models.nmf import NMFNoise, QuantileInit, RandomInit


def papers_mcem(frame_gain: bool = True) -> MCEM:
    """The schedule of Leglaive et al. 2018 and Sadeghi et al. 2020.

    Random W and H of rank 10, frame gain updated, z initialised by the encoder at the noisy power; 100
    iterations of 40 random-walk steps (variance 0.01), 10 kept; 100 final steps, 25 kept, all of which are
    used.

    Args:
        frame_gain: fit the frame gain g_n of the speech; else g = 1, as in the papers' variational EM.
    """
    walk = RandomWalk(step_size=0.1)
    gain = (NMFNoise.updated_frame_gain,) if frame_gain else ()
    updates = (NMFNoise.updated_spectra, NMFNoise.updated_activations, *gain)
    return MCEM(
        noise_init=RandomInit(rank=10),
        latent_inits=(init_from_encoder,),
        em=EM(Chain(walk, num_steps=40, warmup=30), NoiseStep(updates), iterations=100, tolerance=1e-5),
        final=Chain(walk, num_steps=100, warmup=75),
    )


def papers_hmc_mcem() -> MCEM:
    """The papers' schedule with HMC instead of its random walk: 2 steps per iteration in place of 40.

    HMC uses 3 leapfrog steps, and the step size of every frame is adapted towards an acceptance rate of 0.7;
    1 draw is kept per iteration, and 8 at the end.
    """
    papers, hmc = papers_mcem(), HMC(step_size=0.1, leapfrog_steps=3)
    return replace(
        papers,
        em=replace(papers.em, e_step=Chain(hmc, 2, 1, target_acceptance=0.7)),
        final=Chain(hmc, 16, 8, target_acceptance=0.7),
    )


def default_mcem() -> MCEM:
    """The schedule with the best results on validation speech; see docs/decisions/inference.md.

    Noise initialised by a quantile, with smooth activations (`avse.models.nmf`); no frame gain, since the
    speech model covers the level. Two chains per frame, initialised by the encoder at a first estimate of the
    speech and at the noisy speech; the draws of both are averaged. MALA with one step size per frame, on
    every second frame in turn where a model couples its frames to their neighbours.
    """
    langevin = ByCoupling(MALA(step_size=0.1))
    return MCEM(
        noise_init=QuantileInit(rank=8, quantile=0.2, factor=4.0, smoothness=20.0),
        latent_inits=(InitFromEncodedEstimate(), init_from_encoder),
        em=EM(
            Chain(langevin, 2, 1, target_acceptance=0.57), NoiseStep(rounds=2), iterations=12, tolerance=0.0
        ),
        final=Chain(langevin, 10, 3, target_acceptance=0.57),
        gain_floor=0.05,
    )


def default_amortised() -> AmortisedEM:
    """The schedule with the best results on validation speech for a pair with a context guide.

    z from the guide, and only the noise is fitted to the recording: also the fastest of the schedules. See
    docs/decisions/inference.md. The activations are less smooth than in `default_mcem`, since speech cannot
    be taken for noise as easily, so that a noise that changes is followed.
    """
    return AmortisedEM(
        noise_init=QuantileInit(rank=8, quantile=0.2, factor=4.0, smoothness=5.0), gain_floor=0.02
    )


def default_fine_tuned() -> FineTunedEM:
    """`default_amortised` with a guide that is fine-tuned on the recording, so that the prior is asked."""
    amortised = default_amortised()
    return FineTunedEM(
        noise_init=amortised.noise_init, spread=amortised.spread, gain_floor=amortised.gain_floor
    )


def lips_mcem() -> MCEM:
    """The schedule with the best results on validation speech for a model with a prior p(z | v).

    As `default_mcem`, with a third chain that is initialised at the mean of the prior given the lips, and a
    gain floor of 0, since the lips tell the model where the speaker is silent.
    """
    audio_only = default_mcem()
    return replace(audio_only, latent_inits=(*audio_only.latent_inits, init_from_prior), gain_floor=0.0)


def min_vae_mcem() -> MCEM:
    """The schedule for a mixture of encoders whose components share their latents, such as MIN-VAE.

    As `lips_mcem`, with the third chain initialised by the encoder of lips instead of the prior.
    """
    return replace(
        lips_mcem(), latent_inits=(InitFromEncodedEstimate(), InitEachComponent(init_from_encoder))
    )


def mixture_mcem() -> ComponentwiseMCEM:
    """The schedule for a mixture of models that were trained apart, such as VAE-MM.

    That of `lips_mcem` for every component: the same initial values, transitions and noise updates. The
    evidence is tempered with weight 0.05: which of two models explains a frame of noisy speech better is only
    weak evidence on whether its lips are corrupted.
    """
    lips = lips_mcem()
    return ComponentwiseMCEM(
        noise_init=lips.noise_init,
        latent_inits=(
            InitEachComponent(InitFromEncodedEstimate()),
            InitEachComponent(init_from_encoder),
            init_from_component_priors,
        ),
        e_step=lips.em.e_step,
        m_step=NoiseStep(rounds=2),
        final=lips.final,
        alpha_step=Tempered(0.05),
        iterations=lips.em.iterations,
        gain_floor=lips.gain_floor,
    )


def anchored_mcem() -> AnchoredMCEM:
    """The schedule for a mixture of a model of sound alone and one with lips, of speakers it may not know.

    `default_amortised` for the former (`default_mcem` if it has no context guide), and the mean of its filter
    and that of the latter: `lips_mcem` in 7 iterations, from the noise and the speech of the former and from
    the prior.
    """
    lips = lips_mcem()
    return AnchoredMCEM(
        IfContext(default_amortised(), default_mcem()),
        replace(lips, latent_inits=(init_from_prior,), em=replace(lips.em, iterations=7)),
    )


def default_amortised_lips() -> AmortisedLipsEM:
    """The schedule with the best results on validation speech for a VAE-MM whose context guide reads lips.

    `default_amortised` by sound alone and with lips; `anchored_mcem` where the model is no mixture or no lips
    are given.
    """
    return AmortisedLipsEM(default_amortised(), anchored_mcem())


def papers_vem() -> VEM:
    """The schedule of Sadeghi and Alameda-Pineda 2020 and 2021.

    Random W and H of rank 10, no frame gain, and one z for all alpha, initialised at the mean of the guide
    (of its visual branch, if it has branches) for the noisy power. pi and r(alpha) start at 1/2 (1/K for K
    components), whatever the prior of the model, and pi is re-estimated as the mean of r(alpha). 100
    iterations of 40 random-walk steps (variance 0.01), 10 kept. The noise updates have the exponent 1/2, with
    which the cost cannot increase; the authors' code has 1.
    """
    walk = Chain(RandomWalk(step_size=0.1), num_steps=40, warmup=30)
    return VEM(
        noise_init=RandomInit(rank=10),
        latent_inits=(InitFromComponent(0),),
        e_step=walk,
        final=walk,
        factor=Shared(),
        updates=(UpdateNoise(), UpdatePi(concentration=1.0)),
        alpha_start=equal,
    )


def default_vem() -> VEM:
    """The variational schedule with the best results on validation speech.

    As `default_mcem`, with two chains per frame and noise initialised by a quantile; the factor is lower,
    since the harmonic mean of the speech variances is below their mean and leaves more power to the noise. It
    takes more draws and more iterations, since averages of precisions have more Monte Carlo error than
    averages of Wiener gains.
    """
    langevin = MALA(step_size=0.1)
    return VEM(
        noise_init=QuantileInit(rank=8, quantile=0.2, factor=2.5, smoothness=20.0),
        latent_inits=(InitFromEncodedEstimate(), init_from_encoder),
        e_step=Chain(langevin, 6, 2, target_acceptance=0.57),
        final=Chain(langevin, 10, 3, target_acceptance=0.57),
        factor=Shared(),
        iterations=24,
        tolerance=0.0,
        gain_floor=0.05,
    )


def traced_vem() -> VEM:
    """`default_vem` with the density of the speech read from Pyro traces instead of closed forms.

    The same for any schedule, such as the papers': `replace(papers_vem(), conditioning=traced)`. Both ways
    agree to rounding; models that define `latent` alone are traced anyway.
    """
    return replace(default_vem(), conditioning=traced)


def pyro_mcmc() -> PyroMCMC:
    """`default_mcem`, then four chains of HMC on z under `pyro.infer.MCMC` at its noise: empirical Bayes."""
    return PyroMCMC(default_mcem(), FrameSampler(), chains=4, draws=30, warmup=30)


def pyro_mcem() -> MCEM:
    """`default_mcem` with an E-step by `pyro.infer.MCMC`: Pyro's HMC, one step size for all frames."""
    mcem, options = default_mcem(), {"num_steps": 8}
    return replace(
        mcem,
        em=replace(mcem.em, e_step=PyroChain(PyroHMC, 6, 3, options)),
        final=PyroChain(PyroHMC, 30, 10, options),
    )


def full_bayes_mcmc() -> PyroMCMC:
    """`default_mcem`, then four chains on z, W and H together under `pyro.infer.MCMC`.

    The prior of W and H is that of `GammaNMF.around` the fitted noise: uniform spectra, exponential
    activations of the fitted level, and the smoothness of the fit.
    """
    return PyroMCMC(default_mcem(), AlternatingSampler(), GammaNMF.around, chains=4, draws=30, warmup=30)


PRESETS: dict[str, Callable[[], Algorithm]] = {
    "mcem": default_mcem,
    "amortised": default_amortised,
    "amortised-lips": default_amortised_lips,
    "fine-tuned": default_fine_tuned,
    "mcem-lips": lips_mcem,
    "mcem-branches": min_vae_mcem,
    "mcem-mixture": mixture_mcem,
    "mcem-anchored": anchored_mcem,
    "vem": default_vem,
    "vem-traced": traced_vem,
    "mcmc": pyro_mcmc,
    "mcmc-em": pyro_mcem,
    "mcmc-full-bayes": full_bayes_mcmc,
    "paper": papers_mcem,
    "paper-hmc": papers_hmc_mcem,
    "paper-vem": papers_vem,
}
"""The presets by name; the configuration of a saved pair names its default."""


def algorithm_named(algorithm: str | Algorithm, default: str = "mcem") -> tuple[Algorithm, str]:
    """The algorithm of a preset and its name; for an algorithm object, the object and the name of its class.

    Args:
        algorithm: a name in `PRESETS`, "auto" for the default, or an algorithm object.
        default: the name that "auto" stands for.

    Raises:
        InputError: the name is unknown.
    """
    if not isinstance(algorithm, str):
        return algorithm, type(algorithm).__name__
    name = default if algorithm == "auto" else algorithm
    if name not in PRESETS:
        raise InputError(f"unknown algorithm {name!r}: use auto, {' or '.join(PRESETS)}")
    return PRESETS[name](), name
