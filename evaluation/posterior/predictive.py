"""Posterior predictive check: does the model of speech and noise predict powers like the observed ones?

    T_b(x, z) = sum_{f in b} |x_f|^2 / V_f(z),    V = g sigma(z) + V_b

Replicated powers given z are exponential with mean V, so that T of a replicate is Gamma(F_b, 1) for any z.
Two statistics follow from this:

    posterior predictive p-value   E_{z | x} P(T(x_rep, z) >= T(x, z)) of every frame and band (Gelman, Meng,
                                   Stern, Statistica Sinica 1996). It uses x twice and is conservative: under
                                   a correct model it is concentrated around 1/2.
    pivotal value                  P(Gamma <= T(x, z_r)) at one posterior draw z_r. Since (x, z_r) has the
                                   distribution of (x, z), it is exactly uniform under a correct model, and
                                   independent between frames and bands (Johnson, Bayesian Analysis 2007).

The same holds for single bins, 1 - exp(-|x_f|^2 / V_f(z_r)). A Kolmogorov-Smirnov test compares the pivotal
values of all frames with the uniform distribution.

A correct model can fail because the chains have not mixed, or because the bins of an STFT are not independent
as the model assumes: with a sine window, neighbouring bins have a correlation of -1/2, and frames are
correlated as far as their windows overlap. A `stride` of (window / hop, 2) leaves bins that are independent
for white noise. A wrong model can pass because W and H are fitted to the same x.
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
    """Observed against predicted powers, in B bands of N frames; Q posterior draws give pivotal values.

    Attributes:
        bands: ranges of bins.
        p_values: posterior predictive p-values, small if the power is larger than predicted, (*, N, B).
        pivots: pivotal values of T, uniform under a correct model, (Q, *, N / stride, B).
        excess: observed over predicted power, the mean of |x|^2 / V over frames and bins in dB, (B,).
        band_distance: Kolmogorov-Smirnov distance of the pivots of a band from the uniform distribution, the
            median over draws, (B,).
        band_p_value: twice the median p-value over draws, valid for dependent draws, (B,).
        bin_distance: as `band_distance`, for the pivotal values of single bins.
        bin_p_value: as `band_p_value`, for the pivotal values of single bins.
    """

    bands: tuple[slice, ...]
    p_values: Tensor
    pivots: Tensor
    excess: Tensor
    band_distance: Tensor
    band_p_value: Tensor
    bin_distance: Tensor
    bin_p_value: Tensor

    def fits(self, false_alarm_rate: float = 0.01) -> bool:
        """Whether no test rejects the model; a correct model is rejected at most at this rate."""
        smallest = torch.minimum(self.band_p_value, self.bin_p_value).min()
        return bool(smallest * 2 * len(self.bands) > false_alarm_rate)  # Bonferroni

    def __str__(self) -> str:
        lines = ["bins         observed / predicted   KS distance of bands (p)   KS distance of bins (p)"]
        for b, band in enumerate(self.bands):
            lines.append(
                f"{band.start:4d} - {band.stop - 1:4d}   {float(self.excess[b]):+17.2f} dB"
                f"   {float(self.band_distance[b]):14.3f} ({float(self.band_p_value[b]):.1e})"
                f"   {float(self.bin_distance[b]):13.3f} ({float(self.bin_p_value[b]):.1e})"
            )
        result = "as the model predicts" if self.fits() else "not as the model predicts"
        return "\n".join([*lines, f"The powers are {result}."])


def predictive_check(
    model: NoisySpeech,
    z: Tensor,
    power: Tensor,
    generator: Generator,
    visual: Tensor | None = None,
    bands: Sequence[slice] | None = None,
    num_draws: int = 5,
    stride: tuple[int, int] = (1, 1),
) -> PredictiveCheck:
    """Compare the power of a recording with what speech and noise predict.

    Args:
        model: speech and noise models.
        z: posterior draws (C, D, *, N, L).
        power: |x|^2 (*, N, F), scaled as for the model.
        generator: source of the draws of alpha, one for every draw of z.
        visual: lips, where the model has them.
        bands: ranges of bins; by default five octaves.
        num_draws: Q, the number of draws of z, equally spaced, whose pivotal values are tested.
        stride: (frames, bins) between the values that are tested.
    """
    pooled = z.flatten(0, 1)
    bands = octaves(power.shape[-1]) if bands is None else bands
    members = [torch.arange(power.shape[-1], device=power.device)[band][:: stride[1]] for band in bands]
    sizes = torch.tensor([len(own) for own in members], dtype=torch.float64, device=power.device)
    tested = set(np.linspace(0, len(pooled) - 1, min(num_draws, len(pooled))).round().astype(int).tolist())

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
            if index in tested:
                pivot = torch.special.gammainc(sizes, total)[..., :: stride[0], :]
                pivots.append(pivot)
                excess.append(total.reshape(-1, len(bands)).mean(0) / sizes)
                tests.append(
                    [
                        [*_uniformity(pivot[..., b]), *_uniformity(-torch.expm1(-part[..., :: stride[0], :]))]
                        for b, part in enumerate(parts)
                    ]
                )
    medians = torch.tensor(np.median(tests, axis=0))
    band_distance, band_p_value, bin_distance, bin_p_value = medians.unbind(-1)
    return PredictiveCheck(
        bands=tuple(bands),
        p_values=p_values,
        pivots=torch.stack(pivots),
        excess=decibels(torch.stack(excess).mean(0)),
        band_distance=band_distance,
        band_p_value=_combined_p_value(band_p_value, len(tested)),
        bin_distance=bin_distance,
        bin_p_value=_combined_p_value(bin_p_value, len(tested)),
    )


def _uniformity(values: Tensor) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of values in [0, 1] from the uniform distribution, and its p-value."""
    test = stats.kstest(values.flatten().cpu().numpy(), "uniform")
    return float(test.statistic), float(test.pvalue)


def _combined_p_value(median: Tensor, count: int) -> Tensor:
    """A valid p-value from the median of `count` dependent ones, since P(median <= a) <= 2 a."""
    return median if count == 1 else (2 * median).clamp_max(1)
