"""The posterior of Markov chains on z: their draws and statistics, and the filter averaged over them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from avse.inference.mcmc.chain import ChainState, Draws, by_chain
from avse.inference.posterior import Posterior
from avse.inference.wiener import AverageFilter
from avse.models.noisy import NoiseModel
from avse.models.sites import Z


class ChainDraws(NamedTuple):
    """Draws of C chains.

    Attributes:
        sites: draws by site, (C, D, ...): z, and those of the noise where it is sampled.
        acceptance: mean acceptance rate, (C, *, N).
        step_size: final step sizes, (C, *, N), in units of z; None where there is none for each frame.
        energy: Hamiltonian of every draw, (C, D, *, N); None where it is not kept.
        diverged: whether the transition to a draw diverged, (C, D, *, N); None where it is not kept.
    """

    sites: Mapping[str, Tensor]
    acceptance: Tensor
    step_size: Tensor | None
    energy: Tensor | None
    diverged: Tensor | None

    @classmethod
    def of(cls, draws: Draws, chain_state: ChainState) -> "ChainDraws":
        """The draws (D, C, *, N, L) of z that an E-step returns for C chains, and their final state."""
        return cls(
            sites={Z: draws.z.transpose(0, 1)},
            acceptance=draws.acceptance,
            step_size=chain_state.step_size,
            energy=by_chain(draws.energy),
            diverged=by_chain(draws.diverged),
        )


def chain_posterior(
    drawn: ChainDraws,
    average: AverageFilter,
    noise: NoiseModel,
    *,
    costs: Sequence[float],
    converged: bool | None,
    gain_floor: float,
) -> Posterior:
    """The posterior of chains on p(z | x), or on p(z, W, H | x) where the noise is sampled.

    Args:
        drawn: the chains.
        average: Wiener gain, variance and responsibilities, averaged over all draws.
        noise: fitted noise, or the mean of its draws.
        costs: of the fit of the noise, see `Posterior`.
        converged: of the fit of the noise, see `Posterior`.
        gain_floor: smallest gain that is applied in synthesis.
    """
    noise_draws = {name: own for name, own in drawn.sites.items() if name != Z}
    return Posterior(
        z=drawn.sites[Z],
        noise=noise,
        wiener_gain=average.gain,
        variance=average.variance,
        responsibilities=average.responsibilities,
        acceptance=drawn.acceptance.mean(0),
        costs=list(costs),
        converged=converged,
        gain_floor=gain_floor,
        step_size=drawn.step_size,
        energy=drawn.energy,
        diverged=drawn.diverged,
        noise_draws=noise_draws or None,
    )
