"""Sound first, then lips: two Monte Carlo EMs of one recording, and a mean of their filters.

A mixture of a model of sound alone (alpha = 1) and one that sees lips (alpha = 0), such as a VAE-MM. Which of
the two serves a recording better does not show in their evidence: it multiplies hundreds of dependent bins,
and an interfering voice is explained by the first just as well as the speaker's own. So each component is
fitted by itself, with a noise model of its own, and their Wiener gains G_1 and G_0 are averaged
geometrically,

    G_n = max(G_1n^(1 - w_n) G_0n^w_n, guard G_1n),        0 <= w_n <= largest < 1,

with a weight, r(alpha = 0), from what the recording tells (`Trust`). The guard makes it impossible that lips
mute a recording: in no frame and bin is less let through than that share of what the sound alone lets
through.

Within a component, chains that started apart stay apart; they count by their tempered joint density,
softmax_c(temper log p(x, z_c | v)), frame by frame.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool1d, pad

from avse.guides.base import SpeechGuide
from avse.guides.mixture import branches
from avse.guides.wrappers import BandLimitedGuide
from avse.inference.algorithm import Progress
from avse.inference.em.initial import init_from_prior
from avse.inference.em.mcem import MCEM
from avse.inference.posterior import Posterior
from avse.inference.wiener import averaged
from avse.models.band_limited import BandLimited
from avse.models.base import SpeechModel
from avse.models.distributions import exponential_cost
from avse.models.networks.lips import cached_embeddings
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.vae_mm import VAEMM

SMALLEST = 1e-4
"""Gain that is as good as none, -80 dB."""


@dataclass(frozen=True)
class Trust:
    """How far the component that sees is trusted, frame by frame, from what the recording tells.

        w_n = largest valid_n (1 - p_n) sigmoid((middle - snr_n) / slope) synchrony

    snr_n is the ratio in dB of speech to noise that the component with lips finds within `span` around
    the frame: the clearer the sound, the less the lips have to add, and the more they can spoil. p_n is the
    probability that the lips are bad, by the model's own prior of alpha. `synchrony` asks whether the lips
    fit the sound at
    all: the correlation over time of the level that they predict with the level that the sound alone finds,
    compared with the same at shifts of at least `least_shift`, in standard deviations of those; it is asked
    the louder the clearer the sound.

    Args:
        largest: of the weights.
        middle: dB, where the weight is half the largest.
        slope: dB.
        span: frames.
        least_shift: frames.
        asked: dB of speech over noise, by the sound alone, from which on lips that do not fit are not
            trusted.
    """

    largest: float = 0.8
    middle: float = 2.0
    slope: float = 4.0
    span: int = 63
    least_shift: int = 31
    asked: float = 6.0

    def __call__(
        self, heard: Tensor, seen: Tensor, power: Tensor, expected: Tensor, valid: Tensor, bad: Tensor
    ) -> Tensor:
        """w, (*, N).

        Args:
            heard: gain of the component of sound alone, (*, N, F).
            seen: gain of the component with lips, (*, N, F).
            power: |x|^2 (*, N, F).
            expected: level of the speech that the lips predict, dB, (*, N).
            valid: whether the lips are seen, 0 to 1, (*, N).
            bad: probability that they are bad, (*, N).
        """
        snr = self._snr(seen, power)
        weight = self.largest * valid * (1 - bad) * torch.sigmoid((self.middle - snr) / self.slope)
        return weight * self.synchrony(heard, power, expected, valid)

    def synchrony(self, heard: Tensor, power: Tensor, expected: Tensor, valid: Tensor) -> Tensor:
        """Between 0, lips that belong to another sound, and 1, lips that fit or a sound that is not clear."""
        total = (heard.square() * power).sum((-1, -2)), ((1 - heard).square() * power).sum((-1, -2))
        clear = torch.sigmoid((10 * torch.log10((total[0] + 1e-9) / (total[1] + 1e-9)) - self.asked) / 2)
        level = 10 * torch.log10((heard.square() * power).mean(-1) + 1e-4)
        score = synchrony_score(level, expected.expand_as(level), valid.expand_as(level), self.least_shift)
        fits = torch.sigmoid((score - 1.0) / 0.5)
        return (1 - clear * (1 - fits)).unsqueeze(-1)

    def _snr(self, gain: Tensor, power: Tensor) -> Tensor:
        speech = _around((gain.square() * power).sum(-1), self.span)
        noise = _around(((1 - gain).square() * power).sum(-1), self.span)
        return 10 * torch.log10((speech + 1e-9) / (noise + 1e-9))


def synchrony_score(level: Tensor, expected: Tensor, valid: Tensor, least_shift: int) -> Tensor:
    """How much better two levels (*, N) fit in time than out of it, in standard deviations, (*).

    (c_0 - mean_k c_k) / std_k c_k with c_k the correlation, over frames that are valid, of `level` with
    `expected` shifted circularly by k frames, least_shift <= k <= N - least_shift in steps of 7; 0 where
    there is no room for four shifts, or nothing varies.
    """
    frames = level.shape[-1]
    shifts = range(least_shift, frames - least_shift + 1, 7)
    if len(shifts) < 4:
        return torch.zeros_like(level[..., 0])
    here = _correlation(level, expected, valid)
    there = torch.stack(
        [_correlation(level, expected.roll(k, -1), valid * valid.roll(k, -1)) for k in shifts]
    )
    return ((here - there.mean(0)) / there.std(0).clamp_min(0.05)).nan_to_num(0.0)


def _correlation(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Weighted correlation over the last dimension."""
    share = weight / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    a = first - (share * first).sum(-1, keepdim=True)
    b = second - (share * second).sum(-1, keepdim=True)
    spread = ((share * a.square()).sum(-1) * (share * b.square()).sum(-1)).sqrt()
    return (share * a * b).sum(-1) / spread.clamp_min(1e-6)


def _around(values: Tensor, span: int) -> Tensor:
    """Mean of values (*, N) over `span` frames around each, fewer at the ends."""
    span = min(span, 2 * ((values.shape[-1] - 1) // 2) + 1)
    half = span // 2
    flat = values.reshape(-1, 1, values.shape[-1])
    count = avg_pool1d(pad(torch.ones_like(flat), (half, half)), span, 1)
    return (avg_pool1d(pad(flat, (half, half)), span, 1) / count).reshape(values.shape)


@dataclass(frozen=True)
class AnchoredMCEM:
    """MCEM of sound alone, MCEM with lips, and the mean of their filters.

    A model that is no VAE-MM, or no lips at all: `heard` alone.

    Args:
        heard: schedule of the component alpha = 1.
        seen: of the component alpha = 0.
        trust: weight of the latter.
        temper: exponent of the joint density that chains of one component are weighted by.
        guard: smallest share of the gain of sound alone, 0.1 is 20 dB.
    """

    heard: MCEM
    seen: MCEM
    trust: Trust = Trust()
    temper: float = 0.1
    guard: float = 0.1

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
            return self.heard(speech, guide, power, visual, generator, progress)
        (seen, seeing), (heard, hearing) = found
        with torch.no_grad(), cached_embeddings():
            sound = self.heard(heard, hearing, power, None, generator, lambda f: progress(0.45 * f))
            lips = self.seen(seen, seeing, power, visual, generator, lambda f: progress(0.45 + 0.5 * f))
            gain, variance = weighted_chains(
                NoisySpeech(seen, lips.noise), lips.z, power, visual, self.temper
            )
            floor = sound.wiener_gain.clamp_min(sound.gain_floor)
            weight = self.trust(
                sound.wiener_gain,
                gain,
                power,
                expected_level(seen, seeing, power, visual, lips.noise),  # type: ignore[arg-type]
                visual[..., -1].expand(power.shape[:-1]),
                bad_lips(speech, visual).expand(power.shape[:-1]),
            )
            share = weight.unsqueeze(-1)
            mixed = floor ** (1 - share) * gain.clamp_min(SMALLEST) ** share
            mixed = torch.maximum(mixed, self.guard * floor)
            between = share * (1 - share) * (sound.wiener_gain - gain).square() * power
            progress(1.0)
        return Posterior(
            z=torch.cat([lips.z, sound.z]),
            noise=sound.noise,
            wiener_gain=mixed,
            variance=(1 - share) * sound.variance + share * variance + between,
            responsibilities=torch.stack([weight, 1 - weight]),
            acceptance=(1 - weight) * sound.acceptance + weight * lips.acceptance,
            costs=[*sound.costs, *lips.costs],
            converged=None,
            gain_floor=0.0,
        )


def components(speech: SpeechModel, guide: SpeechGuide) -> list[tuple[SpeechModel, SpeechGuide]] | None:
    """Models and guides of alpha = 0 and alpha = 1 of a VAE-MM, also of a band-limited one; None for
    others."""
    if isinstance(speech, BandLimited) and isinstance(guide, BandLimitedGuide):
        found = components(speech.speech, guide.guide)
        if found is None:
            return None
        return [(BandLimited(m, speech.bins), BandLimitedGuide(g, guide.bins)) for m, g in found]
    guides = branches(guide)
    if not isinstance(speech, VAEMM) or len(guides) != 2:
        return None
    return [(speech.second, guides[0]), (speech.first, guides[1])]


def bad_lips(speech: SpeechModel, visual: Tensor) -> Tensor:
    """p(alpha = 1 | v): the prior probability that the lips are bad, () or (N,)."""
    inner = speech.speech if isinstance(speech, BandLimited) else speech
    assert isinstance(inner, VAEMM)
    return inner.log_odds(visual).sigmoid()


def expected_level(
    seen: SpeechModel, guide: SpeechGuide, power: Tensor, visual: Tensor, noise: NMFNoise
) -> Tensor:
    """Level in dB of the speech at the mean of p(z | v), (*, N): what the lips alone predict."""
    z = init_from_prior(seen, guide, power, visual, noise)
    level: Tensor = seen.given(visual)(z).log_variance[0].exp().mean(-1)
    return 10 * torch.log10(level + 1e-4)


def weighted_chains(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None, temper: float
) -> tuple[Tensor, Tensor]:
    """Mean gain and variance, (*, N, F) each, of chains weighted by their tempered joint density.

    Args:
        model: speech and noise.
        z: draws (C, D, *, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
        temper: exponent.
    """
    variances, joints = [], []
    noise, given = model.noise.variance(), model.speech.given(visual)
    for draw in z.flatten(0, 1):
        log_prior, log_variance = given(draw)
        variance = log_variance[0].exp()
        variances.append(variance)
        joints.append(log_prior[0] - exponential_cost(power, variance + noise))
    joint = torch.stack(joints).unflatten(0, z.shape[:2]).mean(1)
    weight = (temper * joint).softmax(0).repeat_interleave(z.shape[1], 0) / z.shape[1]
    moments = averaged(model.noise, power, zip(variances, weight, strict=True))
    return moments.gain, moments.variance
