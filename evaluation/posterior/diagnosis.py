"""Can these draws be trusted? Convergence of every frame, and what to do where it fails.

    diagnosis = diagnose(NoisySpeech(pair.model, posterior.noise), posterior, power, visual)
    print(diagnosis)                  # a table and a verdict
    diagnosis.mixed                   # the verdict in one bit
    diagnosis.convergence["level"]    # R-hat, ESS and MCSE of every frame and band
    posterior.to_xarray(functionals=diagnosis.functionals)

A recording has hundreds of frames, each with chains of its own. The largest R-hat of thousands is large even
where all is well, so that shares of the frames are judged, and judged by what is asked of the draws (levels
of the speech, the filter, the log joint): latents that nobody hears may mix later than the speech.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avse.evaluation.posterior.convergence import Convergence, bfmi, convergence
from avse.evaluation.posterior.functionals import Functional, octaves, over_draws, usual_functionals
from avse.inference.posterior import Posterior
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z

STRICT, LOOSE = 1.01, 1.05
"""R-hats: what Vehtari et al. (2021) ask for, and what still serves for a mean with its standard error."""
ESS_PER_CHAIN = 100
"""Effective draws a chain that R-hat, ESS and the standard errors themselves need to be reliable."""
TOLERATED = 0.05
"""Share of values that may lie past a threshold: draws of a perfect sampler leave about 1 % past `STRICT`."""
SURE = 4.0
"""Standard errors beyond which the log joint is said to change: by chance in 6e-5 of long recordings."""
ELSEWHERE = 10.0
"""Chains so many times farther apart than their halves have each stayed in a place of their own."""
SELDOM = 1e-3
"""Share of diverging moves that is not worth a word."""
POOR_BFMI = 0.3
"""Below it, momenta explore the energy slowly (Betancourt, arXiv 1604.00695)."""


class LogJointDrift(NamedTuple):
    """Log joint of a frame, second half of the chains minus first half: nats, and in standard errors.

    Frames are independent given the parameters, so that their spread gives the standard error, however slowly
    their chains mix. Chains that have forgotten their start change by nothing but chance.
    """

    nats: float
    score: float


@dataclass(frozen=True)
class Diagnosis:
    """How well the chains of N frames mixed; C chains, D draws, L latents.

    Attributes:
        functionals: draws of what was judged, by name, (C, D, *, N) or (C, D, *, N, K).
        convergence: of every functional (*, N) or (*, N, K), and of "z" (*, N, L).
        change: of the log joint along the chains.
        stuck: whether a chain of the frame never moved, (*, N).
        apart: how much farther apart chains are than the halves of one chain, median over what fails
            `LOOSE`: 1 in mixed chains, some units where all move slowly, large where each stays elsewhere.
        acceptance: (*, N), and `step_size` (C, *, N): of the sampler, where they are known.
        step_size: see there.
        diverged: share of the moves that lost their trajectory, (*, N), where the sampler tells.
        bfmi: of the least chain, (*, N), where the sampler has an energy.
    """

    functionals: dict[str, Tensor]
    convergence: dict[str, Convergence]
    change: LogJointDrift
    stuck: Tensor
    apart: float
    acceptance: Tensor | None
    step_size: Tensor | None
    diverged: Tensor | None
    bfmi: Tensor | None

    @property
    def chains(self) -> int:
        """C."""
        return next(iter(self.functionals.values())).shape[0]

    @property
    def draws(self) -> int:
        """D."""
        return next(iter(self.functionals.values())).shape[1]

    def past(self, name: str) -> dict[str, float]:
        """Shares of the values of a quantity that are past a threshold; what is no number is past all.

        Keys: "rhat>1.01", "rhat>1.05" and "ess<100 a chain", of the smaller of bulk and tail ESS.
        """
        own = self.convergence[name]
        least = torch.minimum(own.ess_bulk, own.ess_tail)
        unknown = least.isnan()  # but where all draws are equal, R-hat alone is
        shares = {f"rhat>{limit}": (own.rhat > limit) | unknown for limit in (STRICT, LOOSE)}
        shares[f"ess<{ESS_PER_CHAIN} a chain"] = (least < ESS_PER_CHAIN * self.chains) | unknown
        return {key: float(share.double().mean()) for key, share in shares.items()}

    def quantiles(self, name: str, levels: tuple[float, ...] = (0.05, 0.5, 0.95)) -> dict[str, list[float]]:
        """Quantiles over frames of R-hat, ESS and MCSE of a quantity; values that are no number left out."""
        return {
            key: values.flatten().nanquantile(values.new_tensor(levels)).tolist()
            for key, values in self.convergence[name]._asdict().items()
        }

    def worst(self, key: str) -> float:
        """The largest share among the functionals, by a key of `past`."""
        return max(self.past(name)[key] for name in self.functionals)

    @property
    def changes(self) -> bool:
        """Whether the log joint changes along the chains by more than chance."""
        return abs(self.change.score) > SURE

    @property
    def usable(self) -> bool:
        """Whether means of the functionals can be used with their standard errors (mcse)."""
        stuck = float(self.stuck.double().mean())
        agree = self.chains > 1 and self.worst(f"rhat>{LOOSE}") <= TOLERATED
        return agree and stuck <= TOLERATED and not self.changes

    @property
    def mixed(self) -> bool:
        """Whether the draws can be used for all that the functionals are asked, quantiles as well."""
        strict, size = self.worst(f"rhat>{STRICT}"), self.worst(f"ess<{ESS_PER_CHAIN} a chain")
        return self.usable and max(strict, size) <= TOLERATED

    def __str__(self) -> str:
        return f"{table(self)}\n{verdict(self)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None is what is no number."""
        return {
            "chains": self.chains,
            "draws": self.draws,
            "mixed": self.mixed,
            "usable": self.usable,
            "verdict": verdict(self),
            "change_of_log_joint": {key: _plain(value) for key, value in self.change._asdict().items()},
            "stuck": float(self.stuck.double().mean()),
            "quantities": {
                name: {
                    "quantiles": {key: list(map(_plain, own)) for key, own in self.quantiles(name).items()},
                    "past": self.past(name),
                }
                for name in self.convergence
            },
        }


def table(diagnosis: Diagnosis) -> str:
    """One line a quantity: quantiles over frames of R-hat and ESS, and shares past the thresholds."""
    head = "R-hat 50 %   95 %  > 1.01  > 1.05   bulk ESS 5 %   50 %   tail ESS 5 %   50 %   < 100 a chain"
    lines = [f"{diagnosis.chains} chains of {diagnosis.draws} draws", f"{'':>10}  {head}"]
    for name in diagnosis.convergence:
        found, past = diagnosis.quantiles(name), list(diagnosis.past(name).values())
        _, median, high = found["rhat"]
        bulk, tail = found["ess_bulk"], found["ess_tail"]
        lines.append(
            f"{name:>10}  {median:10.3f} {high:6.3f} {past[0]:7.1%} {past[1]:7.1%}   {bulk[0]:12.0f} "
            f"{bulk[1]:6.0f}   {tail[0]:12.0f} {tail[1]:6.0f}   {past[2]:13.1%}"
        )
    return "\n".join(lines)


def verdict(diagnosis: Diagnosis) -> str:
    """Mixed or not, why, and what to do: one sentence a line."""
    lines = [_summary(diagnosis), *_causes(diagnosis), *_sampler(diagnosis)]
    return "\n".join(lines)


def _summary(diagnosis: Diagnosis) -> str:
    if diagnosis.chains < 2:
        return (
            "Unknown: one chain cannot show whether it found all there is. Run four, from different starts."
        )
    if diagnosis.mixed:
        latent = diagnosis.past(Z)[f"rhat>{LOOSE}"]
        if latent > TOLERATED:
            return (
                f"Mixed in what was judged. The latents themselves are not ({latent:.0%} have R-hat above "
                f"{LOOSE}): use the draws for the speech, not for z."
            )
        return "Mixed: means and quantiles can be used, within their standard errors."
    if diagnosis.usable:
        return (
            f"Nearly mixed: R-hat is below {LOOSE} where it matters. Means can be used within their standard "
            f"errors, quantiles and tails not yet."
        )
    return "Not mixed: these draws are no sample of the posterior. What they average to is a hedge at best."


def _causes(diagnosis: Diagnosis) -> list[str]:
    lines = []
    stuck = float(diagnosis.stuck.double().mean())
    if stuck > 0:
        lines.append(f"In {stuck:.1%} of the frames a chain never moved: take smaller steps.")
    if diagnosis.changes:
        lines.append(
            f"The log joint still changes along the chains ({diagnosis.change.nats:+.2f} nats a frame from "
            f"half to half, {diagnosis.change.score:+.1f} standard errors): more warm-up."
        )
    if diagnosis.worst(f"rhat>{LOOSE}") > TOLERATED and diagnosis.apart > ELSEWHERE:
        lines.append(
            "Chains disagree and each stays where it is: several modes, or steps that are far too small. "
            "More draws of this kernel will not help; a gradient kernel with long trajectories (HMC) may."
        )
    elif not diagnosis.mixed and diagnosis.chains > 1:
        factor = _more(diagnosis)
        if factor > 20:
            lines.append(
                f"At least {factor:.0f} times the draws are needed: rather take a gradient kernel, with "
                "longer trajectories if it is one (HMC with more leapfrog steps)."
            )
        elif factor > 1:
            lines.append(f"About {factor:.1f} times the draws are needed.")
    return lines


def _more(diagnosis: Diagnosis) -> float:
    """How many times the draws are needed for the effective size wanted, in all but the tolerated share."""
    least = [
        torch.minimum(own.ess_bulk, own.ess_tail).flatten().nanquantile(TOLERATED)
        for name, own in diagnosis.convergence.items()
        if name in diagnosis.functionals
    ]
    return ESS_PER_CHAIN * diagnosis.chains / float(torch.stack(least).min())


def _sampler(diagnosis: Diagnosis) -> list[str]:
    lines = []
    if diagnosis.acceptance is not None:
        accepted = float(diagnosis.acceptance.double().mean())
        if not 0.15 < accepted < 0.95:
            steps = "smaller" if accepted < 0.15 else "larger"
            lines.append(f"{accepted:.0%} of the moves were accepted: take {steps} steps, or adapt them.")
    if diagnosis.diverged is not None and _share(diagnosis.diverged) > SELDOM:
        lines.append(f"{_share(diagnosis.diverged):.1%} of the moves diverged: take smaller steps.")
    if diagnosis.bfmi is not None:
        poor = _share(diagnosis.bfmi < POOR_BFMI)
        if poor > TOLERATED:
            lines.append(
                f"The energy moves slowly (BFMI below {POOR_BFMI} in {poor:.0%} of the frames): more draws, "
                "or longer trajectories."
            )
    return lines


def _share(values: Tensor) -> float:
    return float(values.double().mean())


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def diagnose(
    model: NoisySpeech,
    posterior: Posterior | Tensor,
    power: Tensor,
    visual: Tensor | None = None,
    functionals: Mapping[str, Functional] | None = None,
) -> Diagnosis:
    """How well the chains behind a posterior mixed.

    Args:
        model: speech and noise that the draws are of.
        posterior: what inference left behind, or draws of z alone (C, D, *, N, L).
        power: |x|^2 (*, N, F) at the model's level.
        visual: lips, where the model has them.
        functionals: what to judge the draws by, besides the log joint; by default the mean filter, the level
            of the speech in five octaves and the responsibilities of alpha.
    """
    told = posterior if isinstance(posterior, Posterior) else None
    z = posterior.z if isinstance(posterior, Posterior) else posterior
    usual = usual_functionals(octaves(power.shape[-1]))
    wanted = usual if functionals is None else {"log_joint": usual["log_joint"], **functionals}
    values = over_draws(wanted, model, z, power, visual)
    if functionals is None and values[ALPHA].shape[-1] == 1:
        del values[ALPHA]
    found = {name: convergence(own) for name, own in values.items()}
    moved = (z != z[:, :1]).flatten(1, 1).any(-1).any(1)
    return Diagnosis(
        functionals=values,
        convergence={**found, Z: convergence(z)},
        change=_change(values["log_joint"]),
        stuck=~moved.all(0),
        apart=_apart(values, found),
        acceptance=None if told is None else told.acceptance,
        step_size=None if told is None else told.step_size,
        diverged=None if told is None or told.diverged is None else told.diverged.double().mean((0, 1)),
        bfmi=None if told is None or told.energy is None else bfmi(told.energy).amin(0),
    )


def _halves(draws: Tensor) -> Tensor:
    """Means of the first and the last half of every chain: (C, D, *) -> (2, C, *)."""
    half = draws.shape[1] // 2
    return torch.stack([draws[:, :half].double().mean(1), draws[:, -half:].double().mean(1)])


def _change(log_joint: Tensor) -> LogJointDrift:
    first, last = _halves(log_joint)
    frames = (last - first).mean(0).flatten()
    nats = float(frames.mean())
    error = float(frames.std() / len(frames) ** 0.5) if len(frames) > 1 else math.nan
    return LogJointDrift(
        nats, nats / error if error != 0 else 0.0
    )  # no frame changed: its chains never moved


def _apart(functionals: Mapping[str, Tensor], found: Mapping[str, Convergence]) -> float:
    """Median of 2 Var_c(mean of chain c) / mean_c((difference of its halves)^2 / 2) over what fails."""
    ratios: list[Tensor] = []
    for name, draws in functionals.items():
        if len(draws) < 2:
            continue
        halves = _halves(draws)
        chains, within = 2 * halves.mean(0).var(0), halves.diff(dim=0).square().mean((0, 1)) / 2
        ratios.append((chains / within)[found[name].rhat > LOOSE])
    return float(torch.cat(ratios).nanmedian()) if sum(map(len, ratios)) else 1.0
