"""Model comparison on one recording: two predictive scores of every frame, in nats, and their differences.

All models are scored on the same x, so that an A-VAE, an AV-VAE and a mixture of them can be compared; the
density is that of the powers |x|^2, as everywhere in this package. W and H are treated as known, although
they are fitted to the same x. If the models have different noise models, speech and noise are scored together
and the fit of the noise may dominate: to compare the speech models alone, draw z for each of them with the
same noise.

    evidence of a frame    log p(x_n | v_n) = log int p(x_n | z, v_n) p(z | v_n) dz
    leave-one-bin-out      sum_f log p(x_fn | x_n without f, v_n)

Each frame has its own z, and frames are independent given the noise, so the leave-one-frame-out density of a
frame is its evidence. The weights 1 / p(x_n | z_r) of PSIS-LOO over posterior draws have an extremely heavy
tail for 513 bins at once; the evidence is therefore estimated by importance sampling from normal
distributions fitted to the chains. It depends on the prior, and so on what the lips tell about z. The
estimate of the density is unbiased however badly the chains mixed; its logarithm is too low on average, the
more the worse the proposal covers the posterior. A `pareto_k` above 0.7 shows poor coverage of the modes that
the chains found, but not a missing mode: chains of a mixture model should start in all of its components.

The second score leaves out one bin, which changes the posterior little, so that PSIS over the draws works. It
measures how well the rest of a frame predicts a bin and hardly depends on the prior. It needs chains that
have mixed. Neighbouring bins of an STFT are correlated, which none of the models represents, so the score
favours models that follow the fluctuations of neighbouring bins.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from avse.evaluation.posterior.psis import MAX_PARETO_K, psis
from avse.inference.mcmc.log_density import LogJoint
from avse.models.distributions import PowerSpectrum
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech

PROPOSAL_COVARIANCE_SCALE = 1.2
"""Factor on the fitted covariance; a proposal narrower than the posterior gives weights of large variance."""

EQUAL_WEIGHTS_ESS = 0.9
"""Effective sample size over the number of draws above which weights count as equal."""


class Evidence(NamedTuple):
    """log p(x_n | v_n) of every frame, its standard error, and the Pareto k of its weights: (*, N) each."""

    log_evidence: Tensor
    standard_error: Tensor
    pareto_k: Tensor


class LooBins(NamedTuple):
    """Leave-one-bin-out predictive densities.

    Attributes:
        elpd: sum_f log p(x_fn | x_n without f), in nats, (*, N).
        p_loo: effective number of parameters: the in-sample log density minus elpd, (*, N).
        pareto_k: Pareto k of the weights of every bin, (*, N, F).
        unreliable: whether the estimate of a bin is unreliable, (*, N, F): k is above 0.7 and the effective
            sample size of the weights is below 0.9 of the number of draws. The weights of a bin that the
            noise masks are nearly equal, so that their heavy tail does not matter.
    """

    elpd: Tensor
    p_loo: Tensor
    pareto_k: Tensor
    unreliable: Tensor


class Comparison(NamedTuple):
    """Mean score of a model, and that of the best model minus it, in nats per frame.

    Attributes:
        score: mean over frames.
        difference: score of the best model minus `score`, at least 0.
        standard_error: of the difference; NaN for fewer than two blocks of frames.
    """

    score: float
    difference: float
    standard_error: float


def frame_evidence(log_joint: LogJoint, z: Tensor, generator: Generator, samples: int = 1000) -> Evidence:
    """Evidence of every frame by importance sampling, at the cost of `samples` evaluations of the log joint.

    The proposal is a mixture of normal distributions, one around the mean of each chain, with the covariance
    within chains. A mode that no chain has found is not proposed.

    Args:
        log_joint: z -> log joint density of any model, such as `closure(model, power=power, visual=visual)`
            of `avse.inference.mcmc.log_density`; with lips, call this inside
            `avse.models.networks.lips.cached_embeddings()`.
        z: posterior draws (C, D, *, N, L), to which the proposal is fitted.
        generator: source of the random numbers.
        samples: S, the number of proposals, at least 25.

    Raises:
        ValueError: fewer than 25 samples.
    """
    means = z.double().mean(1)  # (C, *, N, L)
    root = _proposal_root((z.double() - means.unsqueeze(1)).flatten(0, 1))
    log_root = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_proposal(proposed: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(root, (proposed - means).unsqueeze(-1), upper=False).squeeze(-1)
        log_each = -(white.square() + math.log(2 * math.pi)).sum(-1) / 2 - log_root
        return log_each.logsumexp(0) - math.log(len(means))

    log_ratios = []
    with torch.no_grad():
        for index in range(samples):
            mean = means[index % len(means)]
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            proposed = mean + (root @ noise.unsqueeze(-1)).squeeze(-1)
            log_ratios.append(log_joint(proposed.to(z.dtype)).double() - log_proposal(proposed))
    ratios = torch.stack(log_ratios)
    log_evidence = ratios.logsumexp(0) - math.log(samples)
    variance = (ratios - log_evidence).exp().var(0) / samples  # of the estimated density over its mean
    return Evidence(log_evidence, variance.sqrt(), psis(ratios).k)


def _proposal_root(centred: Tensor) -> Tensor:
    """Cholesky factor (*, N, L, L) of the scaled covariance of centred draws (R, *, N, L).

    Correlations are shrunk by R / (R + L), since few draws estimate them poorly.
    """
    draws, size = centred.shape[0], centred.shape[-1]
    covariance = torch.einsum("r...l,r...m->...lm", centred, centred) / max(1, draws - 1)
    variances = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-6)
    kept = draws / (draws + size)
    shrunk = kept * covariance + torch.diag_embed((1 - kept) * variances)
    return torch.linalg.cholesky(PROPOSAL_COVARIANCE_SCALE * shrunk)


def loo_bins(model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None) -> LooBins:
    """Leave-one-bin-out densities by PSIS over the draws; alpha is summed out exactly.

    Args:
        model: speech and noise models.
        z: posterior draws (C, D, *, N, L), at least 25 over all chains.
        power: |x|^2 (*, N, F), scaled as for the model.
        visual: lips, where the model has them.
    """
    pooled = z.flatten(0, 1)
    noise_variance, gain = model.noise.variance(), model.noise.frame_gain
    results = []
    with torch.no_grad(), cached_embeddings():
        for n in range(power.shape[-2]):  # one frame at a time limits the memory to R x F values
            frame = slice(n, n + 1)
            lips = None if visual is None else visual[..., frame, :]
            log_prior, log_variance = model.speech.given(lips)(pooled[..., frame, :])
            # In float64: under loud noise the draws differ only in the last digits, which determine k.
            variance = gain[..., frame, None] * log_variance.double().exp() + noise_variance[..., frame, :]
            log_density = PowerSpectrum(variance.log(), validate_args=False).log_prob(power[..., frame, :])
            log_alpha = (log_prior + log_density.sum(-1)).log_softmax(0).unsqueeze(-1)
            # p(x_f | x without f, z) = 1 / sum_a p(a | x, z) / p(x_f | z, a)
            left_out = -(log_alpha - log_density).logsumexp(0)
            smoothed = psis(-left_out)
            elpd = (smoothed.log_weights + left_out).logsumexp(0)
            in_sample = (log_alpha + log_density).logsumexp(0).logsumexp(0) - math.log(len(pooled))
            unequal = 1 / smoothed.log_weights.exp().square().sum(0) < EQUAL_WEIGHTS_ESS * len(pooled)
            results.append(
                (elpd.sum(-1), (in_sample - elpd).sum(-1), smoothed.k, (smoothed.k > MAX_PARETO_K) & unequal)
            )
    elpds, p_loos, ks, unreliable = zip(*results, strict=True)
    return LooBins(torch.cat(elpds, -1), torch.cat(p_loos, -1), torch.cat(ks, -2), torch.cat(unreliable, -2))


def compare(scores: Mapping[str, Tensor], block: int = 16) -> dict[str, Comparison]:
    """Mean scores of models and their differences from the best model, best first.

    Neighbouring frames are dependent, so standard errors are computed over blocks of frames.

    Args:
        scores: log evidence or elpd of every frame, (*, N), by the name of the model.
        block: number of frames in a block; 16 frames of hop 256 at 16 kHz last a quarter of a second.
    """
    means = {name: float(score.double().mean()) for name, score in scores.items()}
    order = sorted(means, key=lambda name: -means[name])
    best = scores[order[0]]
    return {
        name: Comparison(
            means[name], means[order[0]] - means[name], _standard_error(best - scores[name], block)
        )
        for name in order
    }


def _standard_error(difference: Tensor, block: int) -> float:
    """Standard error of the mean difference (*, N), over whole blocks of frames; NaN for a single block."""
    size = min(block, difference.shape[-1])
    means = difference.double().unfold(-1, size, size).mean(-1).flatten()
    return float(means.std() / len(means) ** 0.5) if len(means) > 1 else math.nan
