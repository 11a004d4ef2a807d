"""Two EMs of one recording, audio-only and audio-visual, and a weighted mean of their gains.

For a mixture of an audio-only model (alpha = 1) and an audio-visual model (alpha = 0), such as a VAE-MM. The
evidence does not show which of the two enhances a recording better: it multiplies hundreds of dependent bins,
and the audio-only model explains an interfering voice as well as that of the speaker. Each component is
therefore fitted separately, the audio-visual one from the noise and the speech that the audio-only one has
found, and their Wiener gains G_1 and G_0 are averaged,

    G_n = (1 - w_n) G_1n + w_n G_0n,        0 <= w_n <= max_weight < 1,

which is the posterior mean filter of the mixture at r(alpha_n = 0) = w_n, computed from the recording
(`VisualWeight`). Since w_n <= max_weight, lips cannot lower the gain of any bin below 1 - max_weight of the
audio-only gain: they cannot mute a recording.

The chains of a component start at different initial values and do not mix; in every frame they are weighted
by their tempered joint density, softmax_c(temper log p(x, z_c | v)).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool1d, pad

from avse.data.errors import InputError
from avse.guides.base import SpeechGuide
from avse.guides.mixture import branches
from avse.inference.algorithm import Algorithm, Progress
from avse.inference.em.initial import InitFromEstimate, InitFromNoise, init_from_prior
from avse.inference.em.mcem import MCEM
from avse.inference.posterior import Posterior
from avse.inference.wiener import averaged
from avse.models.base import SpeechModel, chooses_models
from avse.models.coupling import check_alpha
from avse.models.distributions import exponential_cost
from avse.models.networks.lips import cached_embeddings
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech

Components = list[tuple[SpeechModel, SpeechGuide]]
"""(model, guide) of alpha = 0 and of alpha = 1."""

LEVEL_FLOOR = 1e-4
"""Mean power added to speech levels before the logarithm: -40 dB at the common level of recordings."""


class ComponentFits(NamedTuple):
    """Both components of a mixture, each fitted to a recording with a noise model of its own.

    Attributes:
        audio: posterior under the audio-only component.
        visual: posterior under the audio-visual component.
        visual_gain: its Wiener gain with weighted chains, (*, N, F).
        visual_variance: variance of its estimate of the speech, (*, N, F).
        predicted_level: speech level in dB that the lips predict, (*, N).
        valid: validity of the lips, 0 to 1, (*, N).
        corrupted: probability that the lips are corrupted, (*, N).
    """

    audio: Posterior
    visual: Posterior
    visual_gain: Tensor
    visual_variance: Tensor
    predicted_level: Tensor
    valid: Tensor
    corrupted: Tensor

    @property
    def usable(self) -> Tensor:
        """Probability that a frame has lips that are not corrupted, (*, N)."""
        return self.valid * (1 - self.corrupted)


@dataclass(frozen=True)
class VisualWeight:
    """Weight w of the audio-visual component in every frame, by logistic regression on the recording.

        w_n = max_weight valid_n (1 - p_n) sigmoid(intercept + sum_k c_k x_kn)

    p_n is the probability that the lips are corrupted, by the prior of alpha. The features x_k are those of
    the fields below. They say how reliable the audio-only component is (it is in stationary noise and at a
    high signal-to-noise ratio) and whether the lips match the sound. The coefficients maximise the mean
    improvement in SI-SDR over the audio-only component, with losses counted three times, on mixtures of the
    validation speakers with their own lips, those of another sentence, of another speaker and reversed in
    time; see docs/decisions/lips.md.

    Args:
        max_weight: largest weight; the averaged gain is at least 1 - max_weight of the audio-only gain.
        intercept: of the logit.
        snr: per dB of the audio-only signal-to-noise ratio around the frame.
        local_ratio: per dB of audio-visual over audio-only speech power around the frame.
        ratio: per dB of the same ratio in the whole recording.
        synchrony: per unit of `synchrony_score`.
        variation: per neper of the standard deviation over time of the log noise variance, mean over bins.
        window: number of frames of "around the frame".
        min_shift: smallest shift in frames at which lips and sound are compared as a control.
    """

    max_weight: float = 0.9
    intercept: float = -2.68
    snr: float = -0.030
    local_ratio: float = -0.069
    ratio: float = 0.254
    synchrony: float = 0.008
    variation: float = 0.955
    window: int = 63
    min_shift: int = 31

    def __call__(self, fits: "ComponentFits", power: Tensor) -> Tensor:
        """The weight w, (*, N), given |x|^2 = `power` (*, N, F)."""
        features = self.features(fits, power)
        logit = self.intercept + (features * features.new_tensor(self.coefficients)).sum(-1)
        return self.max_weight * fits.usable * torch.sigmoid(logit)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Of `features`, in their order."""
        return (self.snr, self.local_ratio, self.ratio, self.synchrony, self.variation)

    def features(self, fits: "ComponentFits", power: Tensor) -> Tensor:
        """The five features of every frame, (*, N, 5), in the order of the fields."""
        audio = (fits.audio.wiener_gain.square() * power).sum(-1)
        visual = (fits.visual_gain.square() * power).sum(-1)
        residual = ((1 - fits.audio.wiener_gain).square() * power).sum(-1)
        near_audio, near_visual, near_residual = (
            _decibels(_moving_average(each, self.window)) for each in (audio, visual, residual)
        )
        level = _decibels(audio / power.shape[-1], LEVEL_FLOOR)
        score = synchrony_score(
            level, fits.predicted_level.expand_as(level), fits.valid.expand_as(level), self.min_shift
        )
        noise = fits.audio.noise.variance()
        variation = noise.clamp_min(1e-6).log().std(-2).mean(-1) if noise.shape[-2] > 1 else 0 * score
        whole = (_decibels(visual.sum(-1)) - _decibels(audio.sum(-1)), score, variation)
        return torch.stack(
            [
                near_audio - near_residual,
                near_visual - near_audio,
                *(each.unsqueeze(-1).expand_as(level) for each in whole),
            ],
            -1,
        )


def _decibels(power: Tensor, floor: float = 1e-6) -> Tensor:
    """10 log10(power + floor)."""
    return 10 * torch.log10(power + floor)


def synchrony_score(level: Tensor, predicted: Tensor, valid: Tensor, min_shift: int) -> Tensor:
    """Standardised difference between the correlation of two levels (*, N) and that of shifted levels, (*).

    (c_0 - mean_k c_k) / std_k c_k with c_k the correlation, over valid frames, of `level` with `predicted`
    shifted circularly by k frames, min_shift <= k <= N - min_shift in steps of 7; 0 if there are fewer than
    four shifts, or a level is constant.
    """
    frames = level.shape[-1]
    shifts = range(min_shift, frames - min_shift + 1, 7)
    if len(shifts) < 4:
        return torch.zeros_like(level[..., 0])
    aligned = _correlation(level, predicted, valid)
    shifted = torch.stack(
        [_correlation(level, predicted.roll(k, -1), valid * valid.roll(k, -1)) for k in shifts]
    )
    return ((aligned - shifted.mean(0)) / shifted.std(0).clamp_min(0.05)).nan_to_num(0.0)


def _correlation(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Weighted correlation coefficient over the last dimension."""
    share = weight / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    a = first - (share * first).sum(-1, keepdim=True)
    b = second - (share * second).sum(-1, keepdim=True)
    scale = ((share * a.square()).sum(-1) * (share * b.square()).sum(-1)).sqrt()
    return (share * a * b).sum(-1) / scale.clamp_min(1e-6)


def _moving_average(values: Tensor, window: int) -> Tensor:
    """Mean of values (*, N) over `window` frames around each frame, fewer at the ends."""
    window = min(window, 2 * ((values.shape[-1] - 1) // 2) + 1)
    half = window // 2
    flat = values.reshape(-1, 1, values.shape[-1])
    count = avg_pool1d(pad(torch.ones_like(flat), (half, half)), window, 1)
    return (avg_pool1d(pad(flat, (half, half)), window, 1) / count).reshape(values.shape)


@dataclass(frozen=True)
class AnchoredMCEM:
    """Audio-only EM, audio-visual MCEM, and a weighted mean of their Wiener gains.

    For a model that is not a mixture of two models, or without lips, this is `audio` applied to the whole
    model.

    Args:
        audio: algorithm for the audio-only component alpha = 1.
        visual: algorithm for the audio-visual component alpha = 0. Its noise starts at that of the audio-only
            component, and one more chain at the encoder's mean for the speech of that component.
        weight: computes the weight of the audio-visual component.
        temper: exponent of the joint density by which the chains of a component are weighted.
    """

    weights_lips: ClassVar[bool] = True
    audio: Algorithm
    visual: MCEM
    weight: VisualWeight = VisualWeight()
    temper: float = 0.1

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress = lambda fraction: None,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and lips.

        Raises:
            InputError: a mixture of more than two models, or one whose alpha is a chain over time.
        """
        check_alpha(speech)
        found = components(speech, guide)
        if found is None or visual is None:
            return self.audio(speech, guide, power, visual, generator, progress)
        with torch.no_grad(), cached_embeddings():
            _, (audio_model, audio_guide) = found
            audio = self.audio(audio_model, audio_guide, power, None, generator, lambda f: progress(0.45 * f))
            fits = self.fit_visual(
                speech, found, audio, power, visual, generator, lambda f: progress(0.45 + 0.5 * f)
            )
            weight = self.weight(fits, power)
            chains = replace(fits.visual, wiener_gain=fits.visual_gain, variance=fits.visual_variance)
            progress(1.0)
        return with_weighted_gains(audio, chains, weight, power)

    def fit_visual(
        self,
        speech: SpeechModel,
        found: Components,
        audio: Posterior,
        power: Tensor,
        visual: Tensor,
        generator: Generator,
        progress: Progress = lambda fraction: None,
    ) -> ComponentFits:
        """The audio-visual component, fitted to |x|^2 = `power` (*, N, F) beside a fit of the audio-only one.

        Args:
            speech: the mixture.
            found: its `components`.
            audio: posterior under its audio-only component, which does not depend on the lips.
            power: |x|^2 (*, N, F).
            visual: lips (*, N, D).
            generator: source of random numbers.
            progress: receives the fraction that is done.
        """
        visual_model, visual_guide = found[0]
        estimate = InitFromEstimate(audio.wiener_gain.square() * power)
        started = replace(
            self.visual,
            noise_init=InitFromNoise(audio.noise),  # type: ignore[arg-type]
            latent_inits=(estimate, *self.visual.latent_inits),
        )
        lips = started(visual_model, visual_guide, power, visual, generator, progress)
        gain, variance = weighted_chains(
            NoisySpeech(visual_model, lips.noise), lips.z, power, visual, self.temper
        )
        return ComponentFits(
            audio,
            lips,
            gain,
            variance,
            predicted_level(visual_model, visual_guide, power, visual, lips.noise),  # type: ignore[arg-type]
            visual[..., -1].expand(power.shape[:-1]),
            corruption_probability(speech, visual).expand(power.shape[:-1]),
        )


def with_weighted_gains(audio: Posterior, visual: Posterior, weight: Tensor, power: Tensor) -> Posterior:
    """The mixture of two posteriors of the speech, by sound alone and with lips.

    Args:
        audio: by sound alone; its noise and costs are kept.
        visual: with lips; the last draws of both are kept, as many as both have.
        weight: of the latter, (*, N).
        power: |x|^2 (*, N, F).
    """
    share, draws = weight.unsqueeze(-1), min(audio.z.shape[1], visual.z.shape[1])
    by_sound, with_lips = (each.wiener_gain.clamp_min(each.gain_floor) for each in (audio, visual))
    between = share * (1 - share) * (audio.wiener_gain - visual.wiener_gain).square() * power
    return Posterior(
        z=torch.cat([visual.z[:, -draws:], audio.z[:, -draws:]]),
        noise=audio.noise,
        wiener_gain=torch.lerp(by_sound, with_lips, share),
        variance=(1 - share) * audio.variance + share * visual.variance + between,
        responsibilities=torch.stack([weight, 1 - weight]),
        acceptance=(1 - weight) * audio.acceptance + weight * visual.acceptance,
        costs=audio.costs,
        converged=None,
        visual_weight=weight,
        gain_floor=0.0,
    )


def components(speech: SpeechModel, guide: SpeechGuide) -> Components | None:
    """(model, guide) of alpha = 0 and of alpha = 1 of a mixture of two models; None for a model of no others.

    Raises:
        InputError: a mixture of more than two models.
    """
    models = speech.component_models() if chooses_models(speech) else []
    if len(models) > 2:
        raise InputError(
            f"this algorithm averages the gains of two models, and this mixture has {len(models)}: use "
            "mcem-mixture"
        )
    guides = branches(guide)
    return list(zip(models, guides, strict=True)) if len(models) == len(guides) == 2 else None


def corruption_probability(speech: SpeechModel, visual: Tensor) -> Tensor:
    """p(alpha = 1 | v), the prior probability that the lips are corrupted, () or (*, N); 0 without alpha."""
    logit = speech.alpha_logit(visual)
    return visual.new_zeros(()) if logit is None else logit.sigmoid()


def predicted_level(
    model: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor, noise: NMFNoise
) -> Tensor:
    """Speech level in dB that the lips predict, at the mean of p(z | v): (*, N)."""
    z = init_from_prior(model, guide, power, visual, noise)
    level: Tensor = model.given(visual)(z).log_variance[0].exp().mean(-1)
    return _decibels(level, LEVEL_FLOOR)


def weighted_chains(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None, temper: float
) -> tuple[Tensor, Tensor]:
    """Mean gain and variance, (*, N, F) each, of chains weighted by their tempered joint density.

    Args:
        model: speech and noise models.
        z: draws (C, D, *, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
        temper: exponent of the joint density.
    """
    variances, log_joints = [], []
    noise, given = model.noise.variance(), model.speech.given(visual)
    for draw in z.flatten(0, 1):
        log_prior, log_variance = given(draw)
        variance = log_variance[0].exp()
        variances.append(variance)
        log_joints.append(log_prior[0] - exponential_cost(power, variance + noise))
    log_joint = torch.stack(log_joints).unflatten(0, z.shape[:2]).mean(1)
    weight = (temper * log_joint).softmax(0).repeat_interleave(z.shape[1], 0) / z.shape[1]
    moments = averaged(model.noise, power, zip(variances, weight, strict=True))
    return moments.gain, moments.variance
