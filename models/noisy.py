"""Noisy speech: the sum of speech and noise, with the speech integrated out.

    x_fn = sqrt(g_n) s_fn + b_fn,    b_fn ~ N_c(0, (W H)_fn)
    x_fn | z_n, v_n ~ N_c(0, g_n sigma_f(z_n, v_n) + (W H)_fn)

The noise is a part of the Pyro model: `NoisySpeech` calls its noise model, which registers or samples the
sites "W", "H" and "g" and returns their values. An estimate (`avse.models.nmf.NMFNoise`), trained parameters
(`avse.models.nmf.NMFParameters`) and priors (`avse.models.bayesian_nmf`) replace each other.

The frame gain g_n is from Leglaive et al. (MLSP 2018) and in the Wiener filter of Sadeghi et al. (TASLP
2020).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyro
from torch import Tensor, nn

from avse.data.errors import InputError
from avse.models.base import Evaluation, LogJointFn, SpeechModel
from avse.models.coupling import Coupling, check_alpha, coupling_of
from avse.models.distributions import PowerSpectrum, exponential_cost
from avse.models.handlers import OneZForAllAlpha
from avse.models.parameters import StoredModule
from avse.models.sites import X, frames_plate


class NoiseModel(Protocol):
    """The interface of a noise model with known values. One that has Pyro sites is also a `NoiseProgram`."""

    @property
    def frame_gain(self) -> Tensor:
        """Frame gain g of the speech, (*, N)."""
        ...

    def variance(self) -> Tensor:
        """Variance of the noise V_b, a power, (*, N, F)."""
        ...

    def joined(self, channels: Sequence[Any]) -> "NoiseModel":
        """Noise models of one channel each, as one of all channels."""
        ...

    def cost(self, power: Tensor, speech_variance: Tensor | Sequence[Tensor], weights: Tensor) -> Tensor:
        """Weighted mean of -log p(x | z) over draws of the speech variance, less the log prior, (*).

        Args:
            power: |x|^2 (*, N, F).
            speech_variance: sigma of every draw, without the frame gain, (R, *, N, F).
            weights: weights of the draws, summing to 1 over them, (R, *, N).
        """
        ...


class NoiseProgram(Protocol):
    """A noise model as a part of a Pyro model: called, it registers or samples its sites."""

    def __call__(self) -> NoiseModel:
        """The noise model of the values of the sites."""
        ...


@dataclass(frozen=True)
class ConstantNoise:
    """Values of a noise model, which has no sites in a Pyro model.

    Args:
        frame_gain: frame gain g of the speech, (*, N).
        noise_variance: V_b, (*, N, F).
    """

    frame_gain: Tensor
    noise_variance: Tensor

    def variance(self) -> Tensor:
        """V_b, (*, N, F)."""
        return self.noise_variance


class WienerMoments(NamedTuple):
    """Speech given the noisy speech and one z: s | x, z ~ N_c(gain x, variance), each (*, N, F)."""

    gain: Tensor
    variance: Tensor


class NoisySpeech(StoredModule):
    """A speech model and an additive noise model.

        NoisySpeech(speech, NMFNoise(W, H, gain))      # W, H and g are estimates
        NoisySpeech(speech, GammaNMF(...))             # W and H are sampled

    Args:
        speech: p(s, z, alpha | v).
        noise: frame gain (*, N) and variance (*, N, F), or a `NoiseProgram` that samples them. W couples the
            frames: sample all sites jointly, as `avse.inference.mcmc.pyro_kernel.nuts` does, or z frame by
            frame at fixed W and H, which is `NoisySpeech(speech, prior.noise(draw))`.

    Raises:
        InputError: called with data of several channels and noise that is sampled for one.
    """

    def __init__(self, speech: SpeechModel, noise: NoiseModel | NoiseProgram | ConstantNoise) -> None:
        super().__init__()
        self.speech = speech
        self.noise: Any = noise

    def forward(self, power: Tensor | None = None, visual: Tensor | None = None) -> Tensor:
        """The generative model. Returns the power spectrum of the noisy speech, (*, N, F).

        Args:
            power: observed |x|^2 (*, N, F), or None to sample it.
            visual: lips (*, N, D), where the speech model has them.
        """
        return sample_noisy(self.speech, self.noise, power, visual)

    @property
    def coupling(self) -> Coupling:
        """How the frames are coupled at given noise: as those of the speech."""
        return coupling_of(self.speech)

    def with_constant_noise(self) -> "NoisySpeech":
        """The same model of z, alpha and x, without the sites of a noise estimate, which take time to trace.

        A model with trained parameters or a prior as its noise, and a subclass, is returned as it is.
        """
        estimate = hasattr(self.noise, "variance") and not isinstance(self.noise, nn.Module)
        if type(self) is not NoisySpeech or not estimate:
            return self
        return NoisySpeech(self.speech, ConstantNoise(self.noise.frame_gain, self.noise.variance()))

    def log_joint(self, z: Tensor, power: Tensor, visual: Tensor | None = None) -> Tensor:
        """log p(x, z, alpha | v) of every frame at z (*, N, L), for each value of alpha: (A, *, N).

        It equals the sum of log probabilities in a trace of `forward`, by the closed form of the speech model
        where it has one.
        """
        return self.log_joint_fn(power, visual)(z)

    def log_joint_fn(self, power: Tensor, visual: Tensor | None = None) -> LogJointFn:
        """`log_joint` as a function of z alone; what does not depend on z is computed once."""
        return self._log_joint_fn(self.speech.given(visual), power)

    def each_log_joint_fn(self, power: Tensor, visual: Tensor | None = None) -> LogJointFn:
        """As `log_joint_fn`, with a z for every alpha: z (A, *, N, L) -> (A, *, N)."""
        return self._log_joint_fn(self.speech.given(visual).each, power)

    def _log_joint_fn(self, evaluate: Callable[[Tensor], Evaluation], power: Tensor) -> LogJointFn:
        noise = known(self.noise)
        log_gain, noise_variance = noise.frame_gain.log().unsqueeze(-1), noise.variance()

        def log_joint(z: Tensor) -> Tensor:
            log_prior, log_variance = evaluate(z)
            variance = exp_plus(log_variance + log_gain, noise_variance)
            return log_prior - exponential_cost(power, variance)

        return log_joint


def sample_noisy(
    speech: SpeechModel,
    noise: NoiseModel | NoiseProgram | ConstantNoise,
    power: Tensor | None,
    visual: Tensor | None,
) -> Tensor:
    """Sample the noise (if it has sites), then alpha (if any), z and x of every frame; return x (*, N, F)."""
    check_alpha(speech)
    values: NoiseModel | ConstantNoise = noise() if callable(noise) else noise
    *batch, frames = values.frame_gain.shape
    if not hasattr(noise, "variance"):
        _check_channels(batch, power, visual)
    with frames_plate(power, visual, frames, batch), OneZForAllAlpha():
        variance = noisy_variance(speech.latent(visual), values)
        return pyro.sample(X, PowerSpectrum(variance.log(), validate_args=False).to_event(1), obs=power)


def _check_channels(batch: Sequence[int], *data: Tensor | None) -> None:
    """Sampled noise has the channels and recordings of the data.

    Raises:
        InputError: it has fewer, so that they would share one W and H.
    """
    for given in data:
        if given is not None and math.prod(given.shape[:-2]) > math.prod(batch):
            raise InputError(
                f"data of shape {tuple(given.shape)} would share W and H, which are sampled for "
                f"{tuple(batch) or 'one channel'}: give one channel at a time, as "
                "avse.inference.mcmc.pyro_mcmc.PyroMCMC does"
            )


def known(noise: NoiseModel | NoiseProgram) -> NoiseModel:
    """The noise model itself.

    Raises:
        InputError: it is a prior, whose values are sampled.
    """
    if not hasattr(noise, "variance"):
        raise InputError(
            f"{type(noise).__name__} samples the noise: this needs its values, "
            "NoisySpeech(speech, prior.noise(draws))"
        )
    return noise  # type: ignore[return-value]


def noisy_variance(speech_log_variance: Tensor, noise: NoiseModel | ConstantNoise) -> Tensor:
    """g_n sigma_fn + V_b,fn (*, N, F), from the log variance of the speech (*, N, F)."""
    return exp_plus(speech_log_variance + noise.frame_gain.log().unsqueeze(-1), noise.variance())


def exp_plus(logarithm: Tensor, rest: Tensor) -> Tensor:
    """exp(logarithm) + rest. Overwrites `logarithm` where no gradient is recorded, to save memory traffic."""
    if logarithm.requires_grad:
        return logarithm.exp() + rest
    return logarithm.exp_().add_(rest)


def wiener_moments(speech_variance: Tensor, noise: NoiseModel) -> WienerMoments:
    """Wiener gain and variance of sqrt(g) s given x and z: g sigma / (g sigma + V_b), and V_b times it.

    Args:
        speech_variance: sigma (*, N, F), without the frame gain.
        noise: frame gain and noise variance.
    """
    noise_variance = noise.variance()
    scaled = noise.frame_gain.unsqueeze(-1) * speech_variance
    gain = scaled / (scaled + noise_variance)
    return WienerMoments(gain, gain * noise_variance)
