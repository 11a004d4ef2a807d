"""The evidence of every frame of a recording, to compare models by, and differences of scores between models.

    log p(x_n | v_n) = log int p(x_n | z, v_n) p(z | v_n) dz    in nats

Each frame has its own z, and frames are independent given the noise, so that the evidence of a frame is its
leave-one-frame-out density. `az.loo` estimates the same from the draws, by weights 1 / p(x_n | z_r) over all
bins of the frame at once, whose tail is extremely heavy: of 64 frames of a voice in white noise, with 800
draws, 77 % had a Pareto k above 0.7, and the estimate was 5.5 nats a frame above that of this module. Here it
is estimated by importance sampling from normal distributions fitted to the chains. It depends on the
prior, and so on what the lips tell about z. The estimate of the density is unbiased however badly the chains
mixed; its logarithm is too low on average, the more the worse the proposal covers the posterior. A `pareto_k`
above 0.7 shows poor coverage of the modes that the chains found, but not a missing mode: chains of a mixture
model should start in all of its components.

All models are scored on the same x, so that an A-VAE, an AV-VAE and a mixture of them can be compared; the
density is that of the powers |x|^2, as everywhere in this package. W and H are treated as known, although
they are fitted to the same x. If the models have different noise models, speech and noise are scored together
and the fit of the noise may dominate: to compare the speech models alone, draw z for each of them with the
same noise.

How well the rest of a frame predicts one of its bins is another score, `az.loo` of
`posterior.to_inference_data(speech, power, visual, pointwise="bin")`, whose weights are good. It hardly
depends on the prior. Neighbouring bins of an STFT are correlated, which none of the models represents, so
that it favours models that follow the fluctuations of neighbouring bins; take bins and frames that are far
enough apart for `az.compare`, whose standard errors assume that they are independent.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import torch
import xarray
from torch import Generator, Tensor

from avse.inference.mcmc.log_density import LogJoint

PROPOSAL_COVARIANCE_SCALE = 1.2
"""Factor on the fitted covariance; a proposal narrower than the posterior gives weights of large variance."""


class Evidence(NamedTuple):
    """log p(x_n | v_n) of every frame, its standard error, and the Pareto k of its weights: (*, N) each."""

    log_evidence: Tensor
    standard_error: Tensor
    pareto_k: Tensor


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
        samples: S, the number of proposals.
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
    return Evidence(log_evidence, variance.sqrt(), pareto_k(ratios))


def pareto_k(log_ratios: Tensor) -> Tensor:
    """Shape k of the tail of importance ratios (S, *), by ArviZ: (*).

    Below 0.5 the variance of the weights is finite, up to 0.7 weighted means are still reliable, above 0.7
    they are not, and above 1 the mean of the weights is infinite (Vehtari et al., arXiv 1507.02646).
    """
    columns = log_ratios.double().flatten(1).T.contiguous().cpu().numpy()
    if hasattr(az, "psislw"):  # ArviZ 0.x
        _, k = az.psislw(columns)
    else:  # ArviZ 1.x takes log likelihoods, the negative log ratios of leave-one-out
        _, k = xarray.DataArray(-columns, dims=("set", "sample")).azstats.psislw(dim="sample")
    return torch.from_numpy(np.asarray(k)).reshape(log_ratios.shape[1:])


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


def compare_scores(scores: Mapping[str, Tensor], block: int = 16) -> dict[str, Comparison]:
    """Mean scores of models and their differences from the best model, best first.

    Neighbouring frames are dependent, so standard errors are computed over blocks of frames.

    Args:
        scores: log evidence or another score of every frame, (*, N), by the name of the model.
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
