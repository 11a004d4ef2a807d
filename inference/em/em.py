"""Expectation-maximisation: one loop for every model, E-step and M-step.

    repeat:  draws of z ~ p(z | data; theta)                                            (E-step)
             theta <- theta with a lower mean over the draws of -log p(data, z; theta)  (M-step)

With Markov chain draws this is the MCEM of Leglaive et al. (MLSP 2018) and Sadeghi et al. (TASLP 2020).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Generator, Tensor

from avse.inference.mcmc.chain import ChainState, EStep
from avse.inference.mcmc.log_density import LogJoint, closure

M = TypeVar("M", bound=Callable[..., Any])


MStep = Callable[..., tuple[M, float]]
"""(model, draws z (R, *, N, L), **data) -> (new model, cost of the old model); a lower cost is better."""


class EMStep(NamedTuple):
    """The state after one iteration, as passed to a callback; `cost` belongs to the parameters before it."""

    iteration: int
    model: Any
    chain_state: ChainState
    cost: float
    acceptance: Tensor


class EMResult(NamedTuple, Generic[M]):
    """The result of EM.

    Attributes:
        model: the fitted model.
        chain_state: final state of the chains.
        costs: cost of the parameters before every iteration.
        converged: whether the relative change of the cost fell below the tolerance; None if the tolerance is
            0.
    """

    model: M
    chain_state: ChainState
    costs: list[float]
    converged: bool | None


@dataclass(frozen=True)
class EM(Generic[M]):
    """The EM loop and its parts.

    Args:
        e_step: draws of the posterior.
        m_step: update of the parameters, given draws.
        iterations: maximum number of iterations.
        tolerance: stop when the relative change of the cost falls below it; 0 runs all iterations.
        joint: returns the log joint of a model and its data; `log_density.traced` always uses a trace.
    """

    e_step: EStep
    m_step: MStep[M]
    iterations: int = 100
    tolerance: float = 1e-5
    joint: Callable[..., LogJoint] = closure

    def run(
        self,
        model: M,
        chain_state: ChainState,
        generator: Generator,
        callback: Callable[[EMStep], None] | None = None,
        **data: Tensor | None,
    ) -> EMResult[M]:
        """Fit the parameters of `model` to `data`, starting the chains at `chain_state`.

        To resume, pass the model and chain_state of an earlier result or callback.
        """
        costs: list[float] = []
        for iteration in range(self.iterations):
            draws, chain_state = self.e_step(self.joint(model, **data), chain_state, generator)
            model, cost = self.m_step(model, draws.z, **data)
            costs.append(cost)
            if callback is not None:
                callback(EMStep(iteration, model, chain_state, cost, draws.acceptance))
            if (
                self.tolerance > 0
                and len(costs) > 1
                and abs(costs[-2] - cost) <= self.tolerance * abs(costs[-2])
            ):
                return EMResult(model, chain_state, costs, converged=True)
        return EMResult(model, chain_state, costs, converged=False if self.tolerance > 0 else None)
