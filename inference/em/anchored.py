"""Two Monte Carlo EMs of one recording, audio-only and audio-visual, and a weighted mean of their gains.

For a mixture of an audio-only model (alpha = 1) and an audio-visual model (alpha = 0), such as a VAE-MM. The
evidence does not show which of the two enhances a recording better: it multiplies hundreds of dependent bins,
and the audio-only model explains an interfering voice as well as that of the speaker. Each component is
therefore fitted separately, with its own noise model, and their Wiener gains G_1 and G_0 are averaged
geometrically,

    G_n = max(G_1n^(1 - w_n) G_0n^w_n, min_ratio G_1n),        0 <= w_n <= max_weight < 1,

with a weight w_n = r(alpha = 0) computed from the recording (`VisualWeight`). The second argument limits how
far the lips can attenuate a bin below the audio-only gain, so that they cannot mute a recording.

The chains of a component start at different initial values and do not mix; in every frame they are weighted
by their tempered joint density, softmax_c(temper log p(x, z_c | v)).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool1d, pad

from avse.guides.base import SpeechGuide
from avse.guides.mixture import branches
from avse.inference.algorithm import Progress
from avse.inference.em.initial import init_from_prior
from avse.inference.em.mcem import MCEM
from avse.inference.posterior import Posterior
from avse.inference.wiener import averaged
from avse.models.base import SpeechModel
from avse.models.distributions import exponential_cost
from avse.models.networks.lips import cached_embeddings
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech

MIN_GAIN = 1e-4
"""Lower limit of the audio-visual gain before its logarithm is averaged: -80 dB."""


@dataclass(frozen=True)
class VisualWeight:
    """Weight w of the audio-visual component in every frame, computed from the recording.

        w_n = max_weight valid_n (1 - p_n) sigmoid((snr_midpoint - snr_n) / snr_slope) synchrony

    snr_n is the signal-to-noise ratio in dB that the audio-visual component estimates within `window` frames
    around frame n: at a high ratio the lips add little and can do more harm. p_n is the probability that the
    lips are corrupted, by the prior of alpha. `synchrony` measures whether the lips match the sound: the
    correlation over time of the level that they predict with the level that the audio-only component
    estimates, compared with the correlations at shifts of at least `min_shift` frames. It lowers the weight
    only where the signal-to-noise ratio of the audio-only component is high.

    Args:
        max_weight: largest weight.
        snr_midpoint: signal-to-noise ratio in dB at which the weight is half the largest.
        snr_slope: width of the transition in dB.
        window: number of frames over which the signal-to-noise ratio is averaged.
        min_shift: smallest shift in frames at which lips and sound are compared as a control.
        synchrony_snr: audio-only signal-to-noise ratio in dB above which lips that do not match the sound
            lower the weight.
    """

    max_weight: float = 0.8
    snr_midpoint: float = 2.0
    snr_slope: float = 4.0
    window: int = 63
    min_shift: int = 31
    synchrony_snr: float = 6.0

    def __call__(
        self,
        audio_gain: Tensor,
        visual_gain: Tensor,
        power: Tensor,
        predicted_level: Tensor,
        valid: Tensor,
        corrupted: Tensor,
    ) -> Tensor:
        """The weight w, (*, N).

        Args:
            audio_gain: Wiener gain of the audio-only component, (*, N, F).
            visual_gain: Wiener gain of the audio-visual component, (*, N, F).
            power: |x|^2 (*, N, F).
            predicted_level: speech level in dB that the lips predict, (*, N).
            valid: validity of the lips, 0 to 1, (*, N).
            corrupted: probability that the lips are corrupted, (*, N).
        """
        snr = self._snr(visual_gain, power)
        weight = (
            self.max_weight
            * valid
            * (1 - corrupted)
            * torch.sigmoid((self.snr_midpoint - snr) / self.snr_slope)
        )
        return weight * self.synchrony(audio_gain, power, predicted_level, valid)

    def synchrony(self, audio_gain: Tensor, power: Tensor, predicted_level: Tensor, valid: Tensor) -> Tensor:
        """Factor (*, 1) on the weight: 0 if clear sound does not match the lips, 1 if it does or is noisy."""
        speech = (audio_gain.square() * power).sum((-1, -2))
        noise = ((1 - audio_gain).square() * power).sum((-1, -2))
        snr = 10 * torch.log10((speech + 1e-9) / (noise + 1e-9))
        clear = torch.sigmoid((snr - self.synchrony_snr) / 2)
        level = 10 * torch.log10((audio_gain.square() * power).mean(-1) + 1e-4)
        predicted = predicted_level.expand_as(level)
        score = synchrony_score(level, predicted, valid.expand_as(level), self.min_shift)
        matching = torch.sigmoid((score - 1.0) / 0.5)
        return (1 - clear * (1 - matching)).unsqueeze(-1)

    def _snr(self, gain: Tensor, power: Tensor) -> Tensor:
        """Signal-to-noise ratio in dB around every frame, (*, N), of a Wiener gain (*, N, F)."""
        speech = _moving_average((gain.square() * power).sum(-1), self.window)
        noise = _moving_average(((1 - gain).square() * power).sum(-1), self.window)
        return 10 * torch.log10((speech + 1e-9) / (noise + 1e-9))


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
    """Audio-only MCEM, audio-visual MCEM, and a weighted geometric mean of their Wiener gains.

    For a model that is not a mixture of two models, or without lips, this is `audio` applied to the whole
    model.

    Args:
        audio: algorithm for the audio-only component alpha = 1.
        visual: algorithm for the audio-visual component alpha = 0.
        weight: computes the weight of the audio-visual component.
        temper: exponent of the joint density by which the chains of a component are weighted.
        min_ratio: smallest ratio of the averaged gain to the audio-only gain; 0.1 is -20 dB.
    """

    audio: MCEM
    visual: MCEM
    weight: VisualWeight = VisualWeight()
    temper: float = 0.1
    min_ratio: float = 0.1

    def __call__(
        self,
        speech: SpeechModel,
        guide: SpeechGuide,
        power: Tensor,
        visual: Tensor | None,
        generator: Generator,
        progress: Progress = lambda fraction: None,
    ) -> Posterior:
        """The posterior given |x|^2 = `power` (*, N, F) and lips."""
        found = components(speech, guide)
        if found is None or visual is None:
            return self.audio(speech, guide, power, visual, generator, progress)
        (visual_model, visual_guide), (audio_model, audio_guide) = found
        with torch.no_grad(), cached_embeddings():
            audio = self.audio(audio_model, audio_guide, power, None, generator, lambda f: progress(0.45 * f))
            lips = self.visual(
                visual_model, visual_guide, power, visual, generator, lambda f: progress(0.45 + 0.5 * f)
            )
            gain, variance = weighted_chains(
                NoisySpeech(visual_model, lips.noise), lips.z, power, visual, self.temper
            )
            floor = audio.wiener_gain.clamp_min(audio.gain_floor)
            weight = self.weight(
                audio.wiener_gain,
                gain,
                power,
                predicted_level(visual_model, visual_guide, power, visual, lips.noise),  # type: ignore[arg-type]
                visual[..., -1].expand(power.shape[:-1]),
                corruption_probability(speech, visual).expand(power.shape[:-1]),
            )
            share = weight.unsqueeze(-1)
            averaged_gain = floor ** (1 - share) * gain.clamp_min(MIN_GAIN) ** share
            averaged_gain = torch.maximum(averaged_gain, self.min_ratio * floor)
            between = share * (1 - share) * (audio.wiener_gain - gain).square() * power
            progress(1.0)
        return Posterior(
            z=torch.cat([lips.z, audio.z]),
            noise=audio.noise,
            wiener_gain=averaged_gain,
            variance=(1 - share) * audio.variance + share * variance + between,
            responsibilities=torch.stack([weight, 1 - weight]),
            acceptance=(1 - weight) * audio.acceptance + weight * lips.acceptance,
            costs=audio.costs,
            converged=None,
            visual_weight=weight,
            gain_floor=0.0,
        )


def components(speech: SpeechModel, guide: SpeechGuide) -> list[tuple[SpeechModel, SpeechGuide]] | None:
    """(model, guide) of alpha = 0 and of alpha = 1 of a mixture of two models; None for any other model."""
    models, guides = speech.component_models(), branches(guide)
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
    return 10 * torch.log10(level + 1e-4)


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
