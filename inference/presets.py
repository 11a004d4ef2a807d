"""The schedules of test-time inference by name: what suits each family of models, and the papers' own.

`PRESETS` is the table of names; each function returns an algorithm object whose parts may be replaced with
`dataclasses.replace`.
"""

from collections.abc import Callable
from dataclasses import replace

from avse.data.errors import InputError
from avse.inference.algorithm import Algorithm
from avse.inference.em.anchored import AnchoredMCEM
from avse.inference.em.component_mcem import ComponentwiseMCEM
from avse.inference.em.em import EM
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
from avse.inference.mcmc.kernels import HMC, MALA, RandomWalk
from avse.inference.responsibilities import Tempered
from avse.inference.vem.latent_factor import Shared
from avse.inference.vem.mean_field import UpdateNoise, update_pi
from avse.inference.vem.vem import VEM
from avse.models.nmf import NMFNoise, QuantileInit, RandomInit


def papers_mcem(frame_gain: bool = True) -> MCEM:
    """The schedule of Leglaive et al. 2018 and Sadeghi et al. 2020.

    Random W and H of rank 10, gain updated, z from the encoder on the noisy power; 100 iterations of 40
    random-walk moves (variance 0.01), 10 kept; 100 final moves, 25 kept, all of which are used.

    Args:
        frame_gain: fit a gain g_n of the speech in every frame; else g = 1, as in the papers' variational EM.
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
    """The papers' schedule with Hamiltonian moves for its random walk: 2 an iteration in place of 40.

    HMC of 3 leapfrog steps, the step size of every frame adapted towards an acceptance of 0.7; 1 draw an
    iteration, 8 final ones.
    """
    paper, hmc = papers_mcem(), HMC(step_size=0.1, leapfrog_steps=3)
    return replace(
        paper,
        em=replace(paper.em, e_step=Chain(hmc, 2, 1, target_acceptance=0.7)),
        final=Chain(hmc, 16, 8, target_acceptance=0.7),
    )


def default_mcem() -> MCEM:
    """The schedule that enhanced validation speech best: docs/decisions.md says what was compared.

    Quantile start and smooth activations (`avse.models.nmf`), no gain (the speech model knows levels). Two
    chains a frame, one from the encoder on a first estimate of the speech and one from the encoder on the
    mixture: where they disagree, neither is believed alone. Langevin moves with a step size a frame.
    """
    langevin = MALA(step_size=0.1)
    return MCEM(
        noise_init=QuantileInit(rank=8, quantile=0.2, factor=4.0, smoothness=20.0),
        latent_inits=(InitFromEncodedEstimate(), init_from_encoder),
        em=EM(
            Chain(langevin, 2, 1, target_acceptance=0.57), NoiseStep(rounds=2), iterations=12, tolerance=0.0
        ),
        final=Chain(langevin, 10, 3, target_acceptance=0.57),
        gain_floor=0.05,
    )


def lips_mcem() -> MCEM:
    """The schedule that suited a model with a prior from the lips best on validation speech.

    As `default_mcem`, with a third chain from what the lips alone suggest, and nothing of the mixture left in
    place: a model that sees a closed mouth can be trusted with silence.
    """
    heard = default_mcem()
    return replace(heard, latent_inits=(*heard.latent_inits, init_from_prior), gain_floor=0.0)


def min_vae_mcem() -> MCEM:
    """The schedule for a mixture of encoders whose components share their latents, such as MIN-VAE.

    As `lips_mcem`, the third chain from the encoder of lips instead of a prior.
    """
    return replace(
        lips_mcem(), latent_inits=(InitFromEncodedEstimate(), InitEachComponent(init_from_encoder))
    )


def mixture_mcem() -> ComponentwiseMCEM:
    """The schedule for a mixture of models that were trained apart, such as VAE-MM.

    That of `lips_mcem` for every component: the same starts, moves and noise updates. The evidence counts for
    a twentieth: which of two models explains a frame of noisy sound better says next to nothing of its lips.
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

    `default_mcem` for the former, `lips_mcem` for the latter, and the mean of their filters.
    """
    return AnchoredMCEM(default_mcem(), lips_mcem())


def papers_vem() -> VEM:
    """The schedule of Sadeghi and Alameda-Pineda 2020 and 2021.

    Random W and H of rank 10, no gain, one z for all alpha, from the mean of the guide (of its visual branch,
    if it has branches) on the noisy power, r(alpha) from the model's prior, and its pi re-estimated; 100
    iterations of 40 random-walk moves (variance 0.01), 10 kept. The noise updates have the exponent 1/2 and
    cannot overshoot; the authors' code has 1.
    """
    walk = Chain(RandomWalk(step_size=0.1), num_steps=40, warmup=30)
    return VEM(
        noise_init=RandomInit(rank=10),
        latent_inits=(InitFromComponent(0),),
        e_step=walk,
        final=walk,
        factor=Shared(),
        updates=(UpdateNoise(), update_pi),
    )


def default_vem() -> VEM:
    """The schedule that enhanced validation speech best.

    As `default_mcem` two chains a frame and a smooth quantile start; the start is lower, since a harmonic
    mean of variances is below the mean that MCEM works with and leaves more to the noise. More draws and
    slower noise updates than there: a precision is a worse average than a filter.
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


PRESETS: dict[str, Callable[[], Algorithm]] = {
    "mcem": default_mcem,
    "mcem-lips": lips_mcem,
    "mcem-branches": min_vae_mcem,
    "mcem-mixture": mixture_mcem,
    "mcem-anchored": anchored_mcem,
    "vem": default_vem,
    "paper": papers_mcem,
    "paper-hmc": papers_hmc_mcem,
    "paper-vem": papers_vem,
}
"""The schedules by name; a saved pair holds the name of the one that suits it."""


def algorithm_named(algorithm: str | Algorithm, default: str = "mcem") -> tuple[Algorithm, str]:
    """The algorithm of a preset's name and that name; an algorithm object with the name of its class.

    Args:
        algorithm: a name in `PRESETS`, "auto" for the default, or an algorithm object.
        default: the name that "auto" stands for.

    Raises:
        InputError: an unknown name.
    """
    if not isinstance(algorithm, str):
        return algorithm, type(algorithm).__name__
    name = default if algorithm == "auto" else algorithm
    if name not in PRESETS:
        raise InputError(f"unknown algorithm {name!r}: use auto, {' or '.join(PRESETS)}")
    return PRESETS[name](), name
