"""Convergence of the chains of every frame: a table, a verdict, and what to change where chains fail.

    diagnosis = diagnose(NoisySpeech(pair.model, posterior.noise), posterior, power, visual)
    print(diagnosis)                  # the table and the verdict
    diagnosis.mixed                   # whether the draws can be used without restriction
    diagnosis.convergence["level"]    # R-hat, ESS and MCSE of every frame and band
    posterior.to_xarray(functionals=diagnosis.functionals)

A recording has hundreds of frames, each with chains of its own. The largest of thousands of R-hats is large
even if all chains have mixed, so the verdict uses the share of values that fail a threshold. It uses the
functionals that are estimated from the draws (speech levels, the Wiener gain, the log joint density) rather
than z: directions of z that the decoder hardly depends on may mix more slowly than the speech.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avse.evaluation.posterior.advice import (
    advise_draws,
    advise_larger_steps,
    advise_modes,
    advise_smaller_steps,
    advise_trajectories,
    advise_warmup,
)
from avse.evaluation.posterior.convergence import Convergence, bfmi, convergence
from avse.evaluation.posterior.functionals import Functional, default_functionals, octaves, over_draws
from avse.inference.mcmc.kernels import Kernel
from avse.inference.posterior import Posterior
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

RHAT_THRESHOLD = 1.01
"""Largest R-hat of a converged quantity (Vehtari et al. 2021)."""
RHAT_THRESHOLD_MEANS = 1.05
"""Largest R-hat at which means can still be used with their Monte Carlo standard errors."""
MIN_ESS_PER_CHAIN = 100
"""Effective sample size per chain that R-hat, ESS and MCSE need to be reliable (Vehtari et al. 2021)."""
MAX_FAILING_SHARE = 0.05
"""Largest tolerated share of values that fail a threshold; independent draws fail `RHAT_THRESHOLD` in about
1 % of the values."""
DRIFT_THRESHOLD = 4.0
"""Standard errors beyond which the log joint drifts; false alarms in 6e-5 of long recordings."""
SEPARATION_THRESHOLD = 10.0
"""Chains whose separation (`Diagnosis.separation`) exceeds this explore different regions."""
MAX_DIVERGENT_SHARE = 1e-3
"""Share of divergent transitions above which the verdict mentions them."""
MIN_BFMI = 0.3
"""Below this BFMI the momenta explore the energy too slowly (Betancourt, arXiv 1604.00695)."""
LOW_ACCEPTANCE, HIGH_ACCEPTANCE = 0.15, 0.95
"""Mean acceptance rates outside this range are reported."""


class LogJointDrift(NamedTuple):
    """Mean log joint of a frame in the second half of the chains minus that in the first half.

    The standard error is taken from the spread over frames, which are independent given the parameters, so it
    is valid however slowly the chains mix. Stationary chains drift by chance alone.

    Attributes:
        nats: the difference, in nats per frame.
        score: the difference over its standard error; NaN for a single frame.
    """

    nats: float
    score: float


@dataclass(frozen=True)
class Diagnosis:
    """How well the chains of N frames mixed; C chains, D draws, L latent dimensions.

    Attributes:
        functionals: draws of the functionals by name, (C, D, *, N) or (C, D, *, N, K).
        convergence: of every functional (*, N) or (*, N, K), and of "z" (*, N, L).
        drift: of the log joint along the chains.
        stuck: whether at least one chain of the frame never moved, (*, N).
        separation: variance between chain means over that between the halves of a chain, the median over
            values that fail `RHAT_THRESHOLD_MEANS`: about 1 for mixed chains, large if every chain stays in a
            region of its own.
        acceptance: acceptance rate, (*, N); None if the sampler does not report it.
        step_size: (C, *, N); None if the sampler does not report it.
        diverged: share of divergent transitions, (*, N); None if the sampler does not report it.
        bfmi: the smallest over the chains, (*, N); None for a sampler without an energy.
        kernel: transition kernel that made the draws, to which the advice refers; None if it is unknown.
    """

    functionals: dict[str, Tensor]
    convergence: dict[str, Convergence]
    drift: LogJointDrift
    stuck: Tensor
    separation: float
    acceptance: Tensor | None
    step_size: Tensor | None
    diverged: Tensor | None
    bfmi: Tensor | None
    kernel: Kernel | None = None

    @property
    def chains(self) -> int:
        """C, the number of chains."""
        return next(iter(self.functionals.values())).shape[0]

    @property
    def draws(self) -> int:
        """D, the number of draws per chain."""
        return next(iter(self.functionals.values())).shape[1]

    def failing_shares(self, name: str) -> dict[str, float]:
        """Shares of the values of a quantity that fail a threshold; NaN fails all of them.

        Keys: "rhat>1.01", "rhat>1.05" and "ess<100 a chain", the latter of the smaller of bulk and tail ESS.
        """
        own = self.convergence[name]
        ess = torch.minimum(own.ess_bulk, own.ess_tail)
        undefined = ess.isnan()  # where all draws are equal, ESS is defined and R-hat alone is NaN
        limits = (RHAT_THRESHOLD, RHAT_THRESHOLD_MEANS)
        failing = {f"rhat>{limit}": (own.rhat > limit) | undefined for limit in limits}
        failing[f"ess<{MIN_ESS_PER_CHAIN} a chain"] = (ess < MIN_ESS_PER_CHAIN * self.chains) | undefined
        return {key: _share(values) for key, values in failing.items()}

    def quantiles(self, name: str, levels: tuple[float, ...] = (0.05, 0.5, 0.95)) -> dict[str, list[float]]:
        """Quantiles over frames of R-hat, ESS and MCSE of a quantity, NaN excluded."""
        return {
            key: values.flatten().nanquantile(values.new_tensor(levels)).tolist()
            for key, values in self.convergence[name]._asdict().items()
        }

    def largest_failing_share(self, key: str) -> float:
        """The largest share over the functionals, for a key of `failing_shares`."""
        return max(self.failing_shares(name)[key] for name in self.functionals)

    @property
    def drifts(self) -> bool:
        """Whether the drift of the log joint exceeds `DRIFT_THRESHOLD` standard errors."""
        return abs(self.drift.score) > DRIFT_THRESHOLD

    @property
    def usable(self) -> bool:
        """Whether means of the functionals can be used with their Monte Carlo standard errors."""
        failing = self.largest_failing_share(f"rhat>{RHAT_THRESHOLD_MEANS}")
        agree = self.chains > 1 and failing <= MAX_FAILING_SHARE
        return agree and _share(self.stuck) <= MAX_FAILING_SHARE and not self.drifts

    @property
    def mixed(self) -> bool:
        """Whether means and quantiles of the functionals can be used."""
        rhat = self.largest_failing_share(f"rhat>{RHAT_THRESHOLD}")
        ess = self.largest_failing_share(f"ess<{MIN_ESS_PER_CHAIN} a chain")
        return self.usable and max(rhat, ess) <= MAX_FAILING_SHARE

    def __str__(self) -> str:
        return f"{convergence_table(self)}\n{verdict(self)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN and infinite values are None."""
        return {
            "chains": self.chains,
            "draws": self.draws,
            "mixed": self.mixed,
            "usable": self.usable,
            "verdict": verdict(self),
            "log_joint_drift": {key: _finite(value) for key, value in self.drift._asdict().items()},
            "stuck": _share(self.stuck),
            "quantities": {
                name: {
                    "quantiles": {key: list(map(_finite, own)) for key, own in self.quantiles(name).items()},
                    "failing_shares": self.failing_shares(name),
                }
                for name in self.convergence
            },
        }


def convergence_table(diagnosis: Diagnosis) -> str:
    """One line per quantity: quantiles over frames of R-hat and ESS, and the shares that fail a threshold."""
    head = "R-hat 50 %   95 %  > 1.01  > 1.05   bulk ESS 5 %   50 %   tail ESS 5 %   50 %   < 100 a chain"
    lines = [f"{diagnosis.chains} chains of {diagnosis.draws} draws", f"{'':>10}  {head}"]
    for name in diagnosis.convergence:
        quantiles, failing = diagnosis.quantiles(name), list(diagnosis.failing_shares(name).values())
        _, median, high = quantiles["rhat"]
        bulk, tail = quantiles["ess_bulk"], quantiles["ess_tail"]
        lines.append(
            f"{name:>10}  {median:10.3f} {high:6.3f} {failing[0]:7.1%} {failing[1]:7.1%}   {bulk[0]:12.0f} "
            f"{bulk[1]:6.0f}   {tail[0]:12.0f} {tail[1]:6.0f}   {failing[2]:13.1%}"
        )
    return "\n".join(lines)


def verdict(diagnosis: Diagnosis) -> str:
    """Whether the chains mixed, what failed, and what to change: one statement per line.

    The advice fits the kernel of the diagnosis, and names options of `avse diagnose` and arguments of
    `avse.posterior_run.ChainSettings`.
    """
    return "\n".join([_summary(diagnosis), *_failures(diagnosis), *_sampler_failures(diagnosis)])


def _summary(diagnosis: Diagnosis) -> str:
    if diagnosis.chains < 2:
        return (
            "Unknown: a single chain cannot show whether it has explored the whole posterior. Run four "
            "chains from different initial values."
        )
    if diagnosis.mixed:
        failing = diagnosis.failing_shares(Z)[f"rhat>{RHAT_THRESHOLD_MEANS}"]
        if failing > MAX_FAILING_SHARE:
            return (
                f"Mixed for the speech, but not for the latent variables z ({failing:.0%} have an R-hat "
                f"above {RHAT_THRESHOLD_MEANS}): use the draws for the speech, not for z."
            )
        return "Mixed: means and quantiles can be used, within their standard errors."
    if diagnosis.usable:
        return (
            f"Nearly mixed: R-hat is below {RHAT_THRESHOLD_MEANS} for nearly all values. Means can be used "
            "within their standard errors, quantiles and tails cannot yet."
        )
    return "Not mixed: the draws do not represent the posterior; their averages depend on the initial values."


def _failures(diagnosis: Diagnosis) -> list[str]:
    lines = []
    kernel, stuck = diagnosis.kernel, _share(diagnosis.stuck)
    if stuck > 0:
        lines.append(f"In {stuck:.1%} of the frames a chain never moved: {advise_smaller_steps(kernel)}.")
    if diagnosis.drifts:
        lines.append(
            f"The log joint still drifts along the chains ({diagnosis.drift.nats:+.2f} nats per frame "
            f"between halves, {diagnosis.drift.score:+.1f} standard errors): {advise_warmup()}."
        )
    failing = diagnosis.largest_failing_share(f"rhat>{RHAT_THRESHOLD_MEANS}")
    if failing > MAX_FAILING_SHARE and diagnosis.separation > SEPARATION_THRESHOLD:
        lines.append(
            "The chains explore different regions, so the posterior has several modes or the steps are far "
            f"too small: more draws will not help; {advise_modes(kernel)}."
        )
    elif not diagnosis.mixed and diagnosis.chains > 1:
        factor = _missing_draws_factor(diagnosis)
        if factor > 20:
            lines.append(f"At least {factor:.0f} times the draws are needed: {advise_trajectories(kernel)}.")
        elif factor > 1:
            draws = math.ceil(factor * diagnosis.draws)
            lines.append(f"About {factor:.1f} times the draws are needed: {advise_draws(draws)}.")
    return lines


def _missing_draws_factor(diagnosis: Diagnosis) -> float:
    """Factor on the number of draws at which all but `MAX_FAILING_SHARE` of the values have enough ESS."""
    ess = [
        torch.minimum(own.ess_bulk, own.ess_tail).flatten().nanquantile(MAX_FAILING_SHARE)
        for name, own in diagnosis.convergence.items()
        if name in diagnosis.functionals
    ]
    return MIN_ESS_PER_CHAIN * diagnosis.chains / float(torch.stack(ess).min())


def _sampler_failures(diagnosis: Diagnosis) -> list[str]:
    lines = []
    kernel = diagnosis.kernel
    if diagnosis.acceptance is not None:
        accepted = float(diagnosis.acceptance.double().mean())
        if accepted < LOW_ACCEPTANCE:
            lines.append(f"{accepted:.0%} of the proposals were accepted: {advise_smaller_steps(kernel)}.")
        if accepted > HIGH_ACCEPTANCE:
            lines.append(f"{accepted:.0%} of the proposals were accepted: {advise_larger_steps(kernel)}.")
    if diagnosis.diverged is not None and _share(diagnosis.diverged) > MAX_DIVERGENT_SHARE:
        lines.append(
            f"{_share(diagnosis.diverged):.1%} of the transitions diverged: {advise_smaller_steps(kernel)}."
        )
    if diagnosis.bfmi is not None:
        poor = _share(diagnosis.bfmi < MIN_BFMI)
        if poor > MAX_FAILING_SHARE:
            lines.append(
                f"The energy mixes slowly (BFMI below {MIN_BFMI} in {poor:.0%} of the frames): "
                f"{advise_draws(2 * diagnosis.draws)}, or {advise_trajectories(kernel)}."
            )
    return lines


def _share(values: Tensor) -> float:
    return float(values.double().mean())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def diagnose(
    model: NoisySpeech,
    posterior: Posterior | Tensor,
    power: Tensor,
    visual: Tensor | None = None,
    functionals: Mapping[str, Functional] | None = None,
    kernel: Kernel | None = None,
) -> Diagnosis:
    """Convergence of the chains of a posterior.

    Args:
        model: speech and noise models that the draws were made with.
        posterior: the result of an algorithm, or draws of z alone (C, D, *, N, L).
        power: |x|^2 (*, N, F), scaled as for the model.
        visual: lips, where the model has them.
        functionals: functionals that the verdict is based on, besides the log joint; by default the mean
            Wiener gain, the speech level in five octaves and the responsibilities of alpha.
        kernel: transition kernel that made the draws, to which the advice of the verdict refers.
    """
    result = posterior if isinstance(posterior, Posterior) else None
    z = posterior.z if isinstance(posterior, Posterior) else posterior
    defaults = default_functionals(octaves(power.shape[-1]))
    wanted = defaults if functionals is None else {"log_joint": defaults["log_joint"], **functionals}
    values = over_draws(wanted, model, z, power, visual)
    if functionals is None and values[ALPHA].shape[-1] == 1:
        del values[ALPHA]
    quality = {name: convergence(own) for name, own in values.items()}
    moved = (z != z[:, :1]).flatten(1, 1).any(-1).any(1)
    diverged = None if result is None else result.diverged
    energy = None if result is None else result.energy
    return Diagnosis(
        functionals=values,
        convergence={**quality, Z: convergence(z)},
        drift=_drift(values["log_joint"]),
        stuck=~moved.all(0),
        separation=_separation(values, quality),
        acceptance=None if result is None else result.acceptance,
        step_size=None if result is None else result.step_size,
        diverged=None if diverged is None else diverged.double().mean((0, 1)),
        bfmi=None if energy is None else bfmi(energy).amin(0),
        kernel=kernel,
    )


def _half_means(draws: Tensor) -> Tensor:
    """Means of the first and of the second half of every chain: (C, D, *) -> (2, C, *)."""
    half = draws.shape[1] // 2
    return torch.stack([draws[:, :half].double().mean(1), draws[:, -half:].double().mean(1)])


def _drift(log_joint: Tensor) -> LogJointDrift:
    """Drift of the log joint (C, D, *, N)."""
    first, last = _half_means(log_joint)
    frames = (last - first).mean(0).flatten()
    nats = float(frames.mean())
    error = float(frames.std() / len(frames) ** 0.5) if len(frames) > 1 else math.nan
    return LogJointDrift(nats, nats / error if error != 0 else 0.0)  # no error: the chains never moved


def _separation(functionals: Mapping[str, Tensor], quality: Mapping[str, Convergence]) -> float:
    """Median of 2 Var_c(mean of chain c) / mean_c((difference of its halves)^2 / 2) over failing values."""
    ratios: list[Tensor] = []
    for name, draws in functionals.items():
        if len(draws) < 2:
            continue
        halves = _half_means(draws)
        between, within = 2 * halves.mean(0).var(0), halves.diff(dim=0).square().mean((0, 1)) / 2
        ratios.append((between / within)[quality[name].rhat > RHAT_THRESHOLD_MEANS])
    return float(torch.cat(ratios).nanmedian()) if sum(map(len, ratios)) else 1.0
