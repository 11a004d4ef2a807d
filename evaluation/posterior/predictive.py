"""Does the model predict powers like those that were observed? A check of speech and noise together.

    T_b(x, z) = sum_{f in b} |x_f|^2 / V_f(z),    V = g sigma(z) + V_b

Replicated powers given z are exponential with means V, so that T of a replica is Gamma(F_b, 1) whatever z is.
Two uses of that:

    posterior predictive p-value   E_{z | x} P(T(x_rep, z) >= T(x, z)) of every frame and band (Gelman, Meng,
                                   Stern, Statistica Sinica 1996). It uses x twice and is conservative: in a
                                   right model it crowds around 1/2.
    pivotal value                  P(Gamma <= T(x, z_r)) at one posterior draw z_r. Since (x, z_r) has the
                                   distribution of (x, z), it is exactly uniform if the model is right, and
                                   independent between frames and bands (Johnson, Bayesian Analysis 2007).

The same holds for single bins, 1 - exp(-|x_f|^2 / V_f(z_r)). Pivotal values of all frames are compared with
the uniform distribution, by Kolmogorov and Smirnov.

What else can make a right model fail: chains that have not mixed, and the STFT itself. Its bins are not
independent as the model says: with a sine window, neighbours correlate by -1/2, and frames as far as windows
overlap. A `stride` of (window / hop, 2) leaves bins that are independent for white noise. And what can make a
wrong one pass: W and H were fitted to the same x.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from avse.evaluation.posterior.functionals import decibels, given_z, octaves
from avse.inference.responsibilities import draw_component
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech


@dataclass(frozen=True)
class PredictiveCheck:
    """Observed powers against predicted ones, in B bands of N frames; Q draws were looked at.

    Attributes:
        bands: ranges of bins.
        p_values: posterior predictive p-values, small where the power is larger than predicted, (*, N, B).
        pivots: pivotal values of T, uniform if the model is right, (Q, *, N / stride, B).
        excess: observed over predicted power, mean |x|^2 / V over frames and bins, dB, (B,).
        levels: Kolmogorov-Smirnov distance of the pivots of a band from uniform, median over looks, (B,).
        levels_p: its p-value, twice the median over looks (valid however the looks depend), (B,).
        bins: as `levels`, of the pivotal values of single bins.
        bins_p: its p-value.
    """

    bands: tuple[slice, ...]
    p_values: Tensor
    pivots: Tensor
    excess: Tensor
    levels: Tensor
    levels_p: Tensor
    bins: Tensor
    bins_p: Tensor

    def fits(self, false_alarms: float = 0.01) -> bool:
        """Whether no test rejects the model; a right one is rejected at most with this probability."""
        least = torch.minimum(self.levels_p, self.bins_p).min()
        return bool(least * 2 * len(self.bands) > false_alarms)

    def __str__(self) -> str:
        lines = ["bins         observed / predicted   distance of levels (p)   distance of bins (p)"]
        for b, band in enumerate(self.bands):
            lines.append(
                f"{band.start:4d} - {band.stop - 1:4d}   {float(self.excess[b]):+17.2f} dB"
                f"   {float(self.levels[b]):12.3f} ({float(self.levels_p[b]):.1e})"
                f"   {float(self.bins[b]):10.3f} ({float(self.bins_p[b]):.1e})"
            )
        said = "as the model predicts" if self.fits() else "not as the model predicts"
        return "\n".join([*lines, f"The powers are {said}."])


def predictive_check(
    model: NoisySpeech,
    z: Tensor,
    power: Tensor,
    generator: Generator,
    visual: Tensor | None = None,
    bands: Sequence[slice] | None = None,
    looks: int = 5,
    stride: tuple[int, int] = (1, 1),
) -> PredictiveCheck:
    """Compare the power of a recording with what speech and noise predict.

    Args:
        model: speech and noise.
        z: draws of the posterior (C, D, *, N, L).
        power: |x|^2 (*, N, F) at the model's level.
        generator: of alpha, which is drawn for every draw of z.
        visual: lips, where the model has them.
        bands: of bins; by default five octaves.
        looks: Q, draws of z whose pivotal values are compared, spread over all of them.
        stride: look at every so many frames and bins only.
    """
    pooled = z.flatten(0, 1)
    bands = octaves(power.shape[-1]) if bands is None else bands
    members = [torch.arange(power.shape[-1], device=power.device)[band][:: stride[1]] for band in bands]
    sizes = torch.tensor([len(own) for own in members], dtype=torch.float64, device=power.device)
    looked = set(np.linspace(0, len(pooled) - 1, min(looks, len(pooled))).round().astype(int).tolist())

    p_values = torch.zeros(*power.shape[:-1], len(bands), dtype=torch.float64, device=power.device)
    pivots, excess, tests = [], [], []
    with torch.no_grad(), cached_embeddings():
        for index, draw in enumerate(pooled):
            given = given_z(model, draw, power, visual)
            alpha = draw_component(given.weights, generator)
            ratio = power / torch.take_along_dim(given.variance, alpha[None, ..., None], 0)[0]
            parts = [ratio[..., own].double() for own in members]
            total = torch.stack([part.sum(-1) for part in parts], -1)
            p_values += torch.special.gammaincc(sizes, total) / len(pooled)
            if index in looked:
                pivot = torch.special.gammainc(sizes, total)[..., :: stride[0], :]
                pivots.append(pivot)
                excess.append(total.reshape(-1, len(bands)).mean(0) / sizes)
                tests.append(
                    [
                        [*_uniformity(pivot[..., b]), *_uniformity(-torch.expm1(-part[..., :: stride[0], :]))]
                        for b, part in enumerate(parts)
                    ]
                )
    levels, levels_p, bins, bins_p = torch.tensor(np.median(tests, axis=0)).unbind(-1)
    return PredictiveCheck(
        bands=tuple(bands),
        p_values=p_values,
        pivots=torch.stack(pivots),
        excess=decibels(torch.stack(excess).mean(0)),
        levels=levels,
        levels_p=_twice(levels_p, len(looked)),
        bins=bins,
        bins_p=_twice(bins_p, len(looked)),
    )


def _uniformity(values: Tensor) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of values in [0, 1] from the uniform distribution, and its p-value."""
    test = stats.kstest(values.flatten().cpu().numpy(), "uniform")
    return float(test.statistic), float(test.pvalue)


def _twice(median: Tensor, count: int) -> Tensor:
    """A valid p-value from the median of dependent ones: P(median <= a) <= 2 a. One stays as it is."""
    return median if count == 1 else (2 * median).clamp_max(1)
