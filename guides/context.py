"""The context guide: q(z_n | x_1, .., x_N), an encoder of the noisy recording around every frame.

Guides such as `AudioGuide` encode clean speech, one frame at a time. This one encodes noisy speech, and reads
the neighbouring frames, which show what is noise. It is trained by inference compilation (Le, Baydin, Wood,
AISTATS 2017) on simulated recordings, clean speech plus computed noise (`avse.inference.svi.compilation`); it
serves as the variational posterior of `avse.inference.em.amortised`, and as initial value of chains.
"""

from functools import singledispatch
from typing import NamedTuple

import pyro.distributions as dist
from torch import Tensor

from avse.guides.audio import AudioGuide
from avse.guides.base import SpeechGuide
from avse.guides.wrappers import BandLimitedGuide
from avse.models.networks.context import DilatedNetwork, LipRefinement
from avse.models.networks.spectrum import LOG_VARIANCE_RANGE, MAX_ENCODER_MEAN, Gaussian, LogPower

MAX_FEATURE = 8.0
"""Clip the log noise variance to +-8 standard deviations of the log power in training."""


class ContextEstimate(NamedTuple):
    """What the network says of a noisy recording.

    Attributes:
        z: mean and log variance of q(z_n | x), (*, N, L) each.
        log_noise_variance: log of the expected noise power |b|^2, (*, N, F).
    """

    z: Gaussian
    log_noise_variance: Tensor


class ContextGuide(SpeechGuide):
    """q(z_n | x) = N(mu_n(|x|^2), diag sigma_n(|x|^2)), from the power spectrum of all frames near n.

    Args:
        features: power (*, N, F) -> features (*, N, F).
        network: features -> means, log variances and change of the features to those of the noise, (*, N, 2 L
            + F).
        latent_size: L.
    """

    def __init__(self, features: LogPower, network: DilatedNetwork, latent_size: int) -> None:
        super().__init__()
        self.features = features
        self.network = network
        self.latent_size = latent_size

    def fit_scales(self, power: Tensor) -> None:
        """Set the scales of the features from frames of noisy recordings |x|^2 (N, F)."""
        self.features.fit(power)

    def estimate(self, power: Tensor, visual: Tensor | None = None) -> ContextEstimate:
        """q(z | x) and the noise variance, from |x|^2 = `power` (*, N, F). `visual` is not used."""
        return self._estimate(power)[0]

    def _estimate(self, power: Tensor) -> tuple[ContextEstimate, Tensor]:
        """The estimate from the sound, and the hidden features that it was computed from, (*, N, C)."""
        features = self.features(power)
        sizes = [self.latent_size, self.latent_size, power.shape[-1]]
        hidden = self.network.hidden(features)
        mean, log_variance, change = self.network.last(hidden).split(sizes, -1)
        noise_features = (features + change).clamp(-MAX_FEATURE, MAX_FEATURE)
        estimate = ContextEstimate(
            clipped(mean, log_variance), noise_features * self.features.scale + self.features.shift
        )
        return estimate, hidden

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> dist.TorchDistribution:
        """q(z | x) from the power spectrum |x|^2 (*, N, F), and lips (*, N, D) where the guide reads them.

        Raises:
            ValueError: no power was given.
        """
        if power is None:
            raise ValueError("the context guide needs the power spectrum of the recording")
        z = self.estimate(power, visual).z
        return dist.Normal(z.mean, z.scale).to_event(1)


class AudioVisualContextGuide(ContextGuide):
    """q(z_n | x, v): the estimate of a context guide from the sound, refined by the lips.

        mu_n = mu_n(x) + d mu_n(x, v),    log sigma_n^2 = log sigma_n^2(x) + d log sigma_n^2(x, v)

    Without lips, and in frames where they are not valid, this is the estimate from the sound.

    Args:
        features: as in `ContextGuide`.
        network: as in `ContextGuide`.
        latent_size: L.
        refinement: gives d mu and d log sigma^2.
    """

    def __init__(
        self, features: LogPower, network: DilatedNetwork, latent_size: int, refinement: LipRefinement
    ) -> None:
        super().__init__(features, network, latent_size)
        self.refinement = refinement

    def estimate(self, power: Tensor, visual: Tensor | None = None) -> ContextEstimate:
        """q(z | x, v) and the noise variance, from |x|^2 = `power` (*, N, F) and lips (*, N, D) or None."""
        sound, hidden = self._estimate(power)
        if visual is None:
            return sound
        z = sound.z
        change = self.refinement(hidden, z.mean, visual)
        return sound._replace(z=clipped(z.mean + change.mean, z.log_variance + change.log_variance))


def clipped(mean: Tensor, log_variance: Tensor) -> Gaussian:
    """A normal whose mean and log variance lie within the range of trained encoders."""
    return Gaussian(mean.clamp(-MAX_ENCODER_MEAN, MAX_ENCODER_MEAN), log_variance.clamp(*LOG_VARIANCE_RANGE))


def guide_of_noisy_speech(guide: SpeechGuide) -> SpeechGuide:
    """The context guide that comes with a guide, or the guide itself where it has none."""
    return context_guide(guide) or guide


@singledispatch
def reads_lips(guide: SpeechGuide) -> bool:
    """Whether the context guide that comes with a guide is refined by the lips."""
    return False


@reads_lips.register
def _(guide: AudioVisualContextGuide) -> bool:
    return True


@reads_lips.register
def _(guide: AudioGuide) -> bool:
    return guide.context is not None and reads_lips(guide.context)


@reads_lips.register
def _(guide: BandLimitedGuide) -> bool:
    return reads_lips(guide.guide)


@singledispatch
def context_guide(guide: SpeechGuide) -> SpeechGuide | None:
    """The context guide that comes with a guide of clean speech, or None."""
    return None


@context_guide.register
def _(guide: AudioGuide) -> SpeechGuide | None:
    return guide.context


@context_guide.register
def _(guide: ContextGuide) -> SpeechGuide:
    return guide


@context_guide.register
def _(guide: BandLimitedGuide) -> SpeechGuide | None:
    context = context_guide(guide.guide)
    return None if context is None else BandLimitedGuide(context, guide.bins)
