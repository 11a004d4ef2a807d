"""Markov kernels on z, all frames in parallel, accepted or rejected frame by frame.

A kernel is a pure transition: (state, log joint, step, generator) -> (state, info), with one step size a
frame. The frames must be independent given the parameters (no recurrent prior or decoder), or a per-frame
acceptance is not a valid kernel. The log density (and its gradient, where used) is carried in the state, so
that one move costs one evaluation, and one of L leapfrog steps costs L.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.mcmc.log_density import LogJoint

DIVERGENCE = 1000.0
"""A log ratio below minus this, in nats, is no unlucky proposal: the integrator has left the trajectory."""


class State(NamedTuple):
    """Where the chains are: z (*, N, L), its log joint (*, N) and, for gradient kernels, d log joint / dz."""

    z: Tensor
    log_joint: Tensor
    gradient: Tensor | None = None


class Info(NamedTuple):
    """What happened in a move, each (*, N).

    Attributes:
        accepted: or not.
        log_ratio: log p(z') q(z | z') - log p(z) q(z' | z); minus the change of the energy, if there is one.
        energy: -log p(z) + |r|^2 / 2 at the new state, r the momentum; None for a kernel without momentum.
    """

    accepted: Tensor
    log_ratio: Tensor
    energy: Tensor | None = None

    @property
    def probability(self) -> Tensor:
        """Of acceptance, min(1, exp(log_ratio)), (*, N); zero for a proposal without density."""
        return self.log_ratio.clamp_max(0).exp().nan_to_num_(nan=0.0)

    @property
    def diverged(self) -> Tensor:
        """Whether the proposal was lost by more than `DIVERGENCE` nats, or is no number, (*, N)."""
        return ~(self.log_ratio > -DIVERGENCE)


class Kernel(Protocol):
    """A transition that leaves the density exp(log_joint) of every frame invariant."""

    @property
    def step_size(self) -> float:
        """The step to begin with: a standard deviation, in units of z."""
        ...

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z (*, N, L)."""
        ...

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One move of every frame with its step size (*, N)."""
        ...


@dataclass(frozen=True)
class RandomWalk:
    """Random-walk Metropolis-Hastings: z' ~ N(z, step^2 I), accepted with min(1, p(z') / p(z)).

    Args:
        step_size: standard deviation of the proposal. The papers' variance 0.01 is a step of 0.1.
    """

    step_size: float = 0.1

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z: one evaluation."""
        return State(z, log_joint(z).detach())

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One move of every frame: one evaluation of the log joint."""
        proposal = torch.addcmul(state.z, step_size.unsqueeze(-1), normal_like(state.z, generator))
        return metropolis(state, self.init(proposal, log_joint), None, generator)


@dataclass(frozen=True)
class MALA:
    """Metropolis-adjusted Langevin: z' ~ N(z + step^2 / 2 grad log p(z), step^2 I), then Metropolis-Hastings.

    Roberts and Tweedie, Bernoulli 1996. It is HMC with one leapfrog step, and the noise is its momentum.

    Args:
        step_size: standard deviation of the proposal to begin with; best where 57 % are accepted.
    """

    step_size: float = 0.1

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z: one evaluation and its gradient."""
        return differentiated(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One move of every frame: one evaluation of the log joint and its gradient."""
        noise = normal_like(state.z, generator)
        step = step_size.unsqueeze(-1)
        proposed = self.init(state.z + step**2 / 2 * _gradient(state) + step * noise, log_joint)
        # The reverse move would need the noise (z - z' - step^2 / 2 grad') / step.
        reverse = (state.z - proposed.z) / step - step / 2 * _gradient(proposed)
        return _accept_by_energy(state, noise, proposed, reverse, generator)


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: a momentum r ~ N(0, I), leapfrog steps along it, then Metropolis-Hastings.

    Accepted with min(1, exp(H(z, r) - H(z', r'))), H(z, r) = -log p(z) + |r|^2 / 2. Duane et al., Physics
    Letters B 1987; Neal, Handbook of MCMC 2011. A move reaches as far as leapfrog_steps x step_size, where a
    diffusing kernel needs the square of so many moves. The best acceptance is 0.65 in many dimensions (Beskos
    et al., Bernoulli 2013), and up to 0.8 is safer: adapt to that range, not to 0.57.

    Args:
        step_size: of one leapfrog step, to begin with, in units of z.
        leapfrog_steps: in a move; each costs one gradient.
        jitter: every frame's step is multiplied by U(1 - jitter, 1 + jitter), anew in each move and whatever
            the state, so that no trajectory has the length at which it comes back to its start.

    Raises:
        InputError: no step, or a jitter outside [0, 1).
    """

    step_size: float = 0.1
    leapfrog_steps: int = 8
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.leapfrog_steps < 1 or not 0 <= self.jitter < 1:
            raise InputError(
                f"{self.leapfrog_steps} leapfrog steps with jitter {self.jitter}: there must be at least 1, "
                "and a jitter from 0 to below 1"
            )

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z: one evaluation and its gradient."""
        return differentiated(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One move of every frame: `leapfrog_steps` evaluations of the log joint and their gradients."""
        if self.jitter > 0:
            step_size = step_size * (1 + self.jitter * (2 * uniform_like(step_size, generator) - 1))
        momentum = normal_like(state.z, generator)
        proposed, after = leapfrog(state, momentum, log_joint, step_size, self.leapfrog_steps)
        return _accept_by_energy(state, momentum, proposed, after, generator)


def leapfrog(
    state: State, momentum: Tensor, log_joint: LogJoint, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    """Follow dz = r dt, dr = grad log p(z) dt from (z, r): half a kick, a drift, half a kick; `steps` times.

    The map keeps volumes, undoes itself when r is turned round, and changes the energy by O(step_size^2).

    Args:
        state: z (*, N, L) with its gradient.
        momentum: r (*, N, L).
        log_joint: whose gradient is the force.
        step_size: (*, N).
        steps: of the integrator.
    """
    step = step_size.unsqueeze(-1)
    for _ in range(steps):
        momentum = momentum + step / 2 * _gradient(state)
        # A frame that runs off to infinity is rejected for its momentum; no model need be asked about it.
        z = (state.z + step * momentum).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        state = differentiated(z, log_joint)
        momentum = momentum + step / 2 * _gradient(state)
    return state, momentum


def differentiated(z: Tensor, log_joint: LogJoint) -> State:
    """The state at z with its gradient: one evaluation."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_joint(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return State(z.detach(), value.detach(), gradient)


def _gradient(state: State) -> Tensor:
    if state.gradient is None:
        raise ValueError(
            "this kernel needs a state that carries the gradient: make it with the kernel's init"
        )
    return state.gradient


def normal_like(z: Tensor, generator: Generator) -> Tensor:
    """Standard normal variates of the shape, precision and device of z."""
    return torch.empty_like(z, memory_format=torch.contiguous_format).normal_(generator=generator)


def uniform_like(values: Tensor, generator: Generator) -> Tensor:
    """Uniform variates on [0, 1) of the shape, precision and device of `values`."""
    return torch.empty_like(values, memory_format=torch.contiguous_format).uniform_(generator=generator)


def _accept_by_energy(
    current: State, momentum: Tensor, proposed: State, after: Tensor, generator: Generator
) -> tuple[State, Info]:
    """Accept the proposal for its energy -log p(z) + |r|^2 / 2, r = `momentum` before and `after`."""
    kinetic, kinetic_after = momentum.square().sum(-1) / 2, after.square().sum(-1) / 2
    state, info = metropolis(current, proposed, kinetic - kinetic_after, generator)
    energy = torch.where(info.accepted, kinetic_after, kinetic) - state.log_joint
    return state, info._replace(energy=energy)


def metropolis(
    current: State, proposed: State, log_ratio: Tensor | None, generator: Generator
) -> tuple[State, Info]:
    """Accept the proposal in each frame with probability min(1, p(z') / p(z) exp(log_ratio)).

    A proposal whose density is not a number is rejected.

    Args:
        current: the state to leave.
        proposed: where to.
        log_ratio: log q(z | z') - log q(z' | z), (*, N); None for a symmetric proposal.
        generator: source of the uniform variates.
    """
    log_accept = proposed.log_joint - current.log_joint
    if log_ratio is not None:
        log_accept = log_accept + log_ratio
    accepted = uniform_like(log_accept, generator).log_() < log_accept  # never where it is no number
    chosen = accepted.unsqueeze(-1)
    state = State(
        torch.where(chosen, proposed.z, current.z),
        torch.where(accepted, proposed.log_joint, current.log_joint),
        None if current.gradient is None else torch.where(chosen, _gradient(proposed), current.gradient),
    )
    return state, Info(accepted, log_accept)


def adapted(step_size: Tensor, info: Info, target: float, moves: int) -> Tensor:
    """The step size of every frame (*, N), larger where more than `target` is accepted, else smaller.

    log step <- log step + (moves + 1)^(-1/2) (probability - target) / 2, a stochastic approximation whose
    changes die out (Robbins and Monro 1951). For warm-up only: a kernel whose step depends on its past does
    not leave its target invariant.

    Args:
        step_size: (*, N).
        info: of the last move.
        target: acceptance to aim at.
        moves: how often the step size has been adapted before.
    """
    rate = 0.5 * (moves + 1) ** -0.5
    return (step_size * torch.exp(rate * (info.probability - target))).clamp(1e-4, 10.0)
