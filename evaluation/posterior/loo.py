"""Which model explains a recording better? Two scores of every frame, in nats, and their differences.

All models are scored on the same x, so that an A-VAE, an AV-VAE and a mixture of them can be compared; the
density is that of the powers |x|^2, as everywhere in this package. W and H count as known, though they were
fitted to the same x. If every model comes with a noise model of its own, it is the pair that is scored, and
the fit of the noise may outweigh the rest: to compare models of speech alone, draw z for each of them under
one and the same noise.

    evidence of a frame    log p(x_n | v_n) = log int p(x_n | z, v_n) p(z | v_n) dz
    leave-one-bin-out      sum_f log p(x_fn | x_n without f, v_n)

A frame has a z of its own, and frames are independent given the noise: what is known of a frame when it is
left out is its prior. Its leave-one-out density is the evidence, and weights 1 / p(x_n | z_r) over posterior
draws, as PSIS-LOO would take them, are hopeless for 513 bins at once. So the evidence is estimated by
importance sampling from normal distributions fitted to the chains. It asks what the prior is worth, which is
where lips speak. Before the logarithm the estimate is unbiased, however badly the chains mixed; after it, it
is too low as a rule, by more the less the proposal covers. `pareto_k` above 0.7 tells of what is covered
badly, not of what no chain has found: chains of a mixture model should start from all its components.

The other score leaves out one bin, which moves the posterior little, so that PSIS over the draws works. It
asks how well the rest of a frame predicts a bin; the prior hardly matters. It needs chains that have mixed.
Neighbouring bins of an STFT are correlated, of which no model here knows: a model that tracks every
fluctuation is rewarded for it.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from avse.evaluation.posterior.psis import GOOD_K, psis
from avse.inference.mcmc.log_density import LogJoint
from avse.models.distributions import PowerSpectrum
from avse.models.networks.lips import cached_embeddings
from avse.models.noisy import NoisySpeech

INFLATION = 1.2
"""Of the fitted covariance: a proposal narrower than the posterior has weights without a variance."""

NEARLY_EQUAL = 0.9
"""Effective share of weights that hardly differ."""


class Evidence(NamedTuple):
    """log p(x_n | v_n) of every frame, its standard error and the tail shape of its weights, each (*, N)."""

    log_evidence: Tensor
    standard_error: Tensor
    pareto_k: Tensor


class LooBins(NamedTuple):
    """Bins predicted from the rest of their frame.

    Attributes:
        elpd: sum_f log p(x_fn | the rest of x_n), nats, (*, N).
        p_loo: by how much the bins are predicted better when they are seen: effective parameters, (*, N).
        pareto_k: tail shape of the weights of every bin, (*, N, F).
        doubtful: whether the estimate of a bin is not to be believed: k is above 0.7, and the weights differ
            (their effective number is below nine tenths of the draws). Where noise covers a bin they are
            nearly equal, and a heavy tail of what little they differ does no harm. (*, N, F).
    """

    elpd: Tensor
    p_loo: Tensor
    pareto_k: Tensor
    doubtful: Tensor


class Comparison(NamedTuple):
    """Score of a model, and how much it is behind the best one, with a standard error: nats a frame."""

    score: float
    behind: float
    standard_error: float


def frame_evidence(log_joint: LogJoint, z: Tensor, generator: Generator, samples: int = 1000) -> Evidence:
    """Evidence of every frame by importance sampling; `samples` evaluations of the log joint.

    The proposal is a mixture of normal distributions, one around the mean of each chain, with the covariance
    within chains: what no chain has found is not proposed.

    Args:
        log_joint: of any model, such as `closure(model, power=power, visual=visual)` of
            `avse.inference.mcmc.log_density`; with lips, call this inside
            `avse.models.networks.lips.cached_embeddings()`.
        z: draws of the posterior (C, D, *, N, L), to which the proposal is fitted.
        generator: of the proposals.
        samples: S, at least 25.
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
    variance = (ratios - log_evidence).exp().var(0) / samples  # of p-hat / p
    return Evidence(log_evidence, variance.sqrt(), psis(ratios).k)


def _proposal_root(centred: Tensor) -> Tensor:
    """Cholesky factor (*, N, L, L) of the inflated covariance of draws (R, *, N, L).

    Correlations are shrunk by R / (R + L): few draws know little of them.
    """
    draws, size = centred.shape[0], centred.shape[-1]
    covariance = torch.einsum("r...l,r...m->...lm", centred, centred) / max(1, draws - 1)
    variances = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-6)
    kept = draws / (draws + size)
    shrunk = kept * covariance + torch.diag_embed((1 - kept) * variances)
    return torch.linalg.cholesky(INFLATION * shrunk)


def loo_bins(model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None) -> LooBins:
    """Every bin predicted from the others of its frame, by PSIS over the draws; alpha is summed out exactly.

    Args:
        model: speech and noise.
        z: draws of the posterior (C, D, *, N, L), at least 25 in all.
        power: |x|^2 (*, N, F) at the model's level.
        visual: lips, where the model has them.
    """
    pooled = z.flatten(0, 1)
    noise_variance, gain = model.noise.variance(), model.noise.frame_gain
    results = []
    with torch.no_grad(), cached_embeddings():
        for n in range(power.shape[-2]):  # one frame at a time: R draws of F bins are kept
            frame = slice(n, n + 1)
            seen = None if visual is None else visual[..., frame, :]
            log_prior, log_variance = model.speech.given(seen)(pooled[..., frame, :])
            # In float64: where the noise is loud, draws differ in the last digits alone, and k is theirs.
            variance = gain[..., frame, None] * log_variance.double().exp() + noise_variance[..., frame, :]
            log_density = PowerSpectrum(variance.log(), validate_args=False).log_prob(power[..., frame, :])
            log_alpha = (log_prior + log_density.sum(-1)).log_softmax(0).unsqueeze(-1)
            # p(x_f | the rest, z) = 1 / sum_a p(a | x, z) / p(x_f | z, a)
            left_out = -(log_alpha - log_density).logsumexp(0)
            smoothed = psis(-left_out)
            elpd = (smoothed.log_weights + left_out).logsumexp(0)
            seen_too = (log_alpha + log_density).logsumexp(0).logsumexp(0) - math.log(len(pooled))
            differ = 1 / smoothed.log_weights.exp().square().sum(0) < NEARLY_EQUAL * len(pooled)
            results.append(
                (elpd.sum(-1), (seen_too - elpd).sum(-1), smoothed.k, (smoothed.k > GOOD_K) & differ)
            )
    elpds, p_loos, ks, doubts = zip(*results, strict=True)
    return LooBins(torch.cat(elpds, -1), torch.cat(p_loos, -1), torch.cat(ks, -2), torch.cat(doubts, -2))


def compare(scores: Mapping[str, Tensor], block: int = 16) -> dict[str, Comparison]:
    """Mean scores of models and their differences to the best one, best first.

    Neighbouring frames say the same things: standard errors are taken over blocks of frames.

    Args:
        scores: log evidence or elpd of every frame, (*, N), by model.
        block: frames in a block; a quarter of a second is 16 frames of hop 256 at 16 kHz.
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
    """Of the mean of differences (*, N), from the spread over whole blocks of frames; NaN of a single one."""
    size = min(block, difference.shape[-1])
    means = difference.double().unfold(-1, size, size).mean(-1).flatten()
    return float(means.std() / len(means) ** 0.5) if len(means) > 1 else math.nan
