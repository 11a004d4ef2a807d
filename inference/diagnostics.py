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

import torch
from torch import Tensor

from avse.inference.convergence import Convergence, bfmi, convergence
from avse.inference.diagnosis import LOOSE, Change, Diagnosis
from avse.inference.functionals import Functional, octaves, over_draws, usual_functionals
from avse.inference.posterior import Posterior
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z


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


def _change(log_joint: Tensor) -> Change:
    first, last = _halves(log_joint)
    frames = (last - first).mean(0).flatten()
    nats = float(frames.mean())
    error = float(frames.std() / len(frames) ** 0.5) if len(frames) > 1 else math.nan
    return Change(nats, nats / error if error != 0 else 0.0)  # no frame changed: its chains never moved


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
