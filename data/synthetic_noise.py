"""Noise that is computed, not recorded, of wide variety: what guides are trained on.

Each family is a function (count, length, sample rate, generator) -> signals (B, T) of mean power 1 on the
generator's device; `babble` also takes speech. `RandomNoise` adds families at random levels, and lets them
begin, end or change within a signal.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

NoiseFamily = Callable[[int, int, int, Generator], Tensor]
"""(B signals, T samples, sample rate in Hz, generator) -> noise of mean power 1, (B, T)."""

KNOTS = 64
"""Points of a random frequency response, evenly spaced on the mel scale."""


def uniform(shape: Sequence[int], low: float, high: float, generator: Generator) -> Tensor:
    """Uniform draws on [low, high] on the generator's device."""
    return low + (high - low) * torch.rand(*shape, generator=generator, device=generator.device)


def log_uniform(shape: Sequence[int], low: float, high: float, generator: Generator) -> Tensor:
    """Draws whose logarithm is uniform on [log low, log high]."""
    return uniform(shape, math.log(low), math.log(high), generator).exp()


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Standard normal draws on the generator's device."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def unit_power(signals: Tensor) -> Tensor:
    """Signals (*, T) of mean power 1; silent ones stay silent."""
    return signals / signals.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)


def cosine_series(coefficients: Tensor, points: int) -> Tensor:
    """Smooth functions sum_j c_j cos(pi j f / (F - 1)), j = 1..J, of c (B, J) at F `points`: (B, F)."""
    position = torch.linspace(0, math.pi, points, device=coefficients.device, dtype=coefficients.dtype)
    order = torch.arange(1, coefficients.shape[-1] + 1, device=coefficients.device)
    return coefficients @ torch.cos(order[:, None] * position)


def random_response(count: int, length: int, sample_rate: int, generator: Generator) -> Tensor:
    """Amplitude responses at the frequencies of a real FFT of `length` samples, (B, length // 2 + 1).

    In dB a slope over octaves, a sum of cosines over the mel scale, up to three resonances, and for a third
    of them a low-pass.
    """
    position = torch.linspace(0, 1, KNOTS, device=generator.device)
    octave = torch.log2(700 * (torch.expm1(position * math.log1p(sample_rate / 1400))) / 1000 + 0.05)
    slope = uniform((count, 1), -9.0, 2.0, generator) * octave
    coefficients = normal((count, 8), generator) * uniform((count, 1), 0.0, 5.0, generator)
    ripple = cosine_series(coefficients, KNOTS)
    centre = uniform((count, 3, 1), 0.0, 1.0, generator)
    width = log_uniform((count, 3, 1), 0.01, 0.1, generator)
    height = uniform((count, 3, 1), -15.0, 25.0, generator).clamp_min(0)
    peaks = (height * torch.exp(-0.5 * ((position - centre) / width).square())).sum(1)
    edge = uniform((count, 1), 0.1, 3.0, generator)  # past 1 there is no low-pass
    roll_off = -60 * (position - edge).clamp_min(0) / 0.3
    decibels = (slope + ripple + peaks + roll_off).clamp_min(-80)
    frequency = torch.linspace(0, sample_rate / 2, length // 2 + 1, device=generator.device)
    mel = torch.log1p(frequency / 700) / math.log1p(sample_rate / 1400)
    return 10 ** (_interpolated(decibels, mel * (KNOTS - 1)) / 20)


def _interpolated(values: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of values (*, K) at fractional indices (T,)."""
    left = at.floor().long().clamp(0, values.shape[-1] - 2)
    share = (at - left).clamp(0, 1)
    return values[..., left] * (1 - share) + values[..., left + 1] * share


def filtered(signals: Tensor, response: Tensor) -> Tensor:
    """Signals (*, T) with amplitude responses (*, T // 2 + 1), circular."""
    return torch.fft.irfft(torch.fft.rfft(signals) * response, n=signals.shape[-1])


def smooth_process(count: int, length: int, sample_rate: int, rate: Tensor, generator: Generator) -> Tensor:
    """Gaussian processes (B, T) of variance about 1 that change `rate` (B, 1) times a second.

    Independent normal values at a spacing of 1 / rate seconds with a random phase, linearly interpolated.
    """
    points = math.ceil(length / sample_rate * float(rate.max())) + 3
    values = normal((count, points), generator)
    time = torch.arange(length, device=generator.device) / sample_rate
    at = time * rate + uniform((count, 1), 0.0, 1.0, generator)
    left = at.floor().long()
    share = at - left
    between = (1 - share) * values.gather(1, left) + share * values.gather(1, left + 1)
    return between / ((1 - share).square() + share.square()).sqrt()


def coloured(count: int, length: int, sample_rate: int, generator: Generator) -> Tensor:
    """Stationary normal noise with a random response: fans, engines, wind, hiss."""
    response = random_response(count, length, sample_rate, generator)
    return unit_power(filtered(normal((count, length), generator), response))


@dataclass(frozen=True)
class ModulatedSum:
    """Sums of coloured noises, each with a random envelope: a random nonnegative matrix factorisation.

    exp(sigma g(t)) is the envelope of a component, with g a smooth Gaussian process of random rate.

    Args:
        components: largest number of components.
        deviation: largest sigma, nepers.
        fastest: largest rate, Hz.
    """

    components: int = 5
    deviation: float = 1.5
    fastest: float = 12.0

    def __call__(self, count: int, length: int, sample_rate: int, generator: Generator) -> Tensor:
        """Noise (B, T)."""
        shape = (count, 1)
        total = torch.zeros(count, length, device=generator.device)
        for index in range(self.components):
            rate = log_uniform(shape, 0.3, self.fastest, generator)
            sigma = uniform(shape, 0.0, self.deviation, generator)
            envelope = (sigma * smooth_process(count, length, sample_rate, rate, generator)).exp()
            used = (uniform(shape, 0.0, 1.0, generator) < 0.6) | (index == 0)
            gain = 10 ** (uniform(shape, -20.0, 0.0, generator) / 20) * used
            total += gain * envelope * coloured(count, length, sample_rate, generator)
        return unit_power(total)


def bursts(count: int, length: int, sample_rate: int, generator: Generator) -> Tensor:
    """Impulses at random times that excite decaying coloured noise and damped tones: clicks, dishes."""
    rate = log_uniform((count, 1), 0.5, 30.0, generator) / sample_rate
    hit = (torch.rand(count, length, generator=generator, device=generator.device) < rate).float()
    amplitude = (normal((count, length), generator) * uniform((count, 1), 0.0, 1.2, generator)).exp()
    sign = normal((count, length), generator).sign()
    time = torch.arange(length, device=generator.device) / sample_rate
    decay = torch.exp(-time / log_uniform((count, 1), 0.002, 0.2, generator))
    ringing = torch.zeros(count, length, device=generator.device)
    for _ in range(3):
        frequency = log_uniform((count, 1), 150.0, 0.45 * sample_rate, generator)
        damping = torch.exp(-time / log_uniform((count, 1), 0.003, 0.3, generator))
        ringing += (
            damping * torch.sin(2 * math.pi * frequency * time) * uniform((count, 1), 0, 1.5, generator)
        )
    kernel = decay * coloured(count, length, sample_rate, generator) + ringing
    return unit_power(filtered(hit * amplitude * sign, torch.fft.rfft(kernel)))


def tones(count: int, length: int, sample_rate: int, generator: Generator, harmonics: int = 16) -> Tensor:
    """Harmonic tones with slowly varying pitch and random envelopes: motors, alarms, music, chirps."""
    total = torch.zeros(count, length, device=generator.device)
    for _ in range(2):
        pitch = log_uniform((count, 1), 40.0, 2000.0, generator)
        rate = log_uniform((count, 1), 0.3, 8.0, generator)
        bend = uniform((count, 1), 0.0, 1.0, generator) ** 3 * 0.5
        walk = smooth_process(count, length, sample_rate, rate, generator)
        phase = 2 * math.pi * (pitch * (bend * walk).exp()).cumsum(-1) / sample_rate
        weight = (normal((count, harmonics), generator)).exp()
        slope = uniform((count, 1), 0.0, 2.0, generator)
        voice = torch.zeros(count, length, device=generator.device)
        for number in range(1, harmonics + 1):
            audible = pitch * number < 0.45 * sample_rate
            partial = weight[:, number - 1 : number] * number ** (-slope) * audible
            voice += partial * torch.sin(number * phase)
        sigma = uniform((count, 1), 0.0, 2.0, generator)
        onset = log_uniform((count, 1), 0.3, 8.0, generator)
        envelope = (sigma * smooth_process(count, length, sample_rate, onset, generator)).exp()
        total += unit_power(voice * envelope) * uniform((count, 1), 0.0, 1.0, generator)
    return unit_power(total)


def reverberated(signals: Tensor, sample_rate: int, generator: Generator) -> Tensor:
    """Signals (B, T) in random rooms: exponentially decaying noise as impulse response, T60 0.1 to 1.2 s."""
    count, length = signals.shape
    time = torch.arange(length, device=signals.device) / sample_rate
    decay = torch.exp(-6.9 * time / uniform((count, 1), 0.1, 1.2, generator))
    response = normal((count, length), generator) * decay
    response = response / response.square().sum(-1, keepdim=True).sqrt()
    response[:, 0] += 10 ** (uniform((count,), -20.0, 15.0, generator) / 20)  # the direct sound
    return unit_power(filtered(signals, torch.fft.rfft(response)))


def babble(voices: Tensor, sample_rate: int, generator: Generator) -> Tensor:
    """Sums of up to V voices (B, V, T) at random levels, in a random room and with a random response."""
    count, most, length = voices.shape
    number = log_uniform((count, 1), 2.0, most + 0.99, generator).floor()
    used = torch.arange(most, device=voices.device) < number
    gain = 10 ** (uniform((count, most), -8.0, 0.0, generator) / 20) * used
    voices = unit_power(voices)
    layers = uniform((count, 1), 0.0, 4.0, generator).floor()  # crowds: the same voices again at other times
    total = torch.zeros(count, length, device=voices.device)
    for layer in range(4):
        choir = (voices * gain.roll(layer, 1).unsqueeze(-1)).sum(1)
        total += (layer <= layers) * choir.roll(layer * length // 5, -1)
    soft = random_response(count, length, sample_rate, generator).sqrt().sqrt()
    return reverberated(filtered(total, soft), sample_rate, generator)


FAMILIES: dict[str, NoiseFamily] = {
    "coloured": coloured,
    "modulated": ModulatedSum(),
    "bursts": bursts,
    "tones": tones,
}
"""The families without speech, by name."""

WEIGHTS = {"coloured": 1.0, "modulated": 1.6, "bursts": 0.8, "tones": 0.5, "babble": 2.4}
"""How often each family is drawn as the loudest."""


@dataclass(frozen=True)
class RandomNoise:
    """Sums of one to three families at random levels, some of which change within the signal.

    Args:
        families: weight in the draw of each name in `FAMILIES`, and of "babble", which needs voices.
        changes: share of the signals whose noise changes its level or its families at a random time.
    """

    families: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    changes: float = 0.3

    def __call__(
        self, count: int, length: int, sample_rate: int, generator: Generator, voices: Tensor | None = None
    ) -> Tensor:
        """Noise (B, T) of mean power 1.

        Args:
            count: B.
            length: T.
            sample_rate: Hz.
            generator: source of random numbers, on whose device the noise is.
            voices: speech for babble, (B, V, T).
        """
        signals, used = [], []
        for name, weight in self.families.items():
            if name != "babble":
                signals.append(FAMILIES[name](count, length, sample_rate, generator))
            elif voices is not None:
                signals.append(babble(voices, sample_rate, generator))
            else:
                continue
            used.append(weight)
        weights = torch.tensor(used, dtype=torch.float32, device=generator.device).expand(count, -1)
        gains = [self._gains(weights, generator) for _ in range(2)]
        time = torch.arange(length, device=generator.device) / length
        change = uniform((count, 1), 0.1, 0.9, generator)
        later = ((time - change) * length / (0.02 * sample_rate)).clamp(0, 1)
        changed = uniform((count, 1), 0.0, 1.0, generator) < self.changes
        later = torch.where(changed, later, torch.zeros_like(later))
        level = 10 ** (uniform((count, 1), -15.0, 15.0, generator) / 20)
        total = torch.zeros(count, length, device=generator.device)
        for index, signal in enumerate(signals):
            before, after = gains[0][:, index : index + 1], gains[1][:, index : index + 1] * level
            total += signal * ((1 - later) * before + later * after)
        return unit_power(total)

    @staticmethod
    def _gains(weights: Tensor, generator: Generator) -> Tensor:
        """Amplitudes of the families of every signal, (B, families): one at 0 dB, up to two below it."""
        count, families = weights.shape
        chosen = torch.multinomial(weights, min(3, families), generator=generator)
        gain = 10 ** (uniform(chosen.shape, -25.0, 0.0, generator) / 20)
        gain[:, 1:] *= uniform((count, chosen.shape[1] - 1), 0.0, 1.0, generator) < 0.4
        gain[:, 0] = 1.0
        return torch.zeros_like(weights).scatter(1, chosen, gain)
