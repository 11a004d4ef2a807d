"""Markov transition kernels on z: all frames in parallel, accepted or rejected frame by frame.

A kernel is a pure function (state, log joint, step size, generator) -> (state, info), with one step size per
frame. The frames must be independent given the parameters (no recurrent prior or decoder); otherwise
accepting per frame does not leave the target invariant, and the kernels of `avse.inference.mcmc.coupled` are
made of these. The state carries the log density (and its gradient,
where it is used), so that one transition costs one evaluation, and one of L leapfrog steps costs L.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.mcmc.log_density import LogJoint

DIVERGENCE = 1000.0
"""A transition whose log acceptance ratio is below -DIVERGENCE, in nats, counts as divergent, as in Stan."""


class State(NamedTuple):
    """z (*, N, L), its log joint (*, N) and, for gradient-based kernels, d log joint / dz (*, N, L)."""

    z: Tensor
    log_joint: Tensor
    gradient: Tensor | None = None


class Info(NamedTuple):
    """Acceptance statistics of one transition, each (*, N).

    Attributes:
        accepted: whether the proposal was accepted.
        log_ratio: log p(z') q(z | z') - log p(z) q(z' | z); minus the change of the energy for a
            kernel with momentum.
        energy: -log p(z) + |r|^2 / 2 at the new state, r the momentum; None for a kernel without momentum.
    """

    accepted: Tensor
    log_ratio: Tensor
    energy: Tensor | None = None

    @property
    def probability(self) -> Tensor:
        """Acceptance probability min(1, exp(log_ratio)), (*, N); zero where the log ratio is NaN."""
        return self.log_ratio.clamp_max(0).exp().nan_to_num_(nan=0.0)

    @property
    def diverged(self) -> Tensor:
        """Whether the log ratio is below -`DIVERGENCE` nats or NaN, (*, N)."""
        return ~(self.log_ratio > -DIVERGENCE)


class Kernel(Protocol):
    """A Markov transition that leaves the density exp(log_joint) of every frame invariant."""

    @property
    def step_size(self) -> float:
        """The initial step size, in units of z."""
        ...

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z (*, N, L)."""
        ...

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame with its own step size (*, N)."""
        ...


@dataclass(frozen=True)
class RandomWalk:
    """Random-walk Metropolis-Hastings: z' ~ N(z, step^2 I), accepted with min(1, p(z') / p(z)).

    Args:
        step_size: standard deviation of the proposal. The papers' variance of 0.01 is a step size of 0.1.
    """

    step_size: float = 0.1

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z, by one evaluation of the log joint."""
        return State(z, log_joint(z).detach())

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame, at the cost of one evaluation of the log joint."""
        proposal = torch.addcmul(state.z, step_size.unsqueeze(-1), normal_like(state.z, generator))
        return metropolis(state, self.init(proposal, log_joint), None, generator)


@dataclass(frozen=True)
class MALA:
    """Metropolis-adjusted Langevin: z' ~ N(z + step^2 / 2 grad log p(z), step^2 I), then Metropolis-Hastings.

    Roberts and Tweedie, Bernoulli 1996. It equals HMC with one leapfrog step, with the noise as the momentum.

    Args:
        step_size: initial standard deviation of the proposal; the optimal acceptance rate is 0.57.
    """

    step_size: float = 0.1

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z, by one evaluation of the log joint and its gradient."""
        return differentiated(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame, at the cost of one evaluation of the log joint and its gradient."""
        noise = normal_like(state.z, generator)
        step = step_size.unsqueeze(-1)
        proposed = self.init(state.z + step**2 / 2 * _gradient(state) + step * noise, log_joint)
        # The reverse transition would need the noise (z - z' - step^2 / 2 grad') / step.
        reverse = (state.z - proposed.z) / step - step / 2 * _gradient(proposed)
        return _accept_by_energy(state, noise, proposed, reverse, generator)


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: a momentum r ~ N(0, I), leapfrog steps, then Metropolis-Hastings.

    The acceptance probability is min(1, exp(H(z, r) - H(z', r'))), H(z, r) = -log p(z) + |r|^2 / 2. Duane et
    al., Physics Letters B 1987; Neal, Handbook of MCMC 2011. One transition covers a distance of up to
    leapfrog_steps x step_size, for which a random walk needs in the order of leapfrog_steps^2 transitions.
    The optimal acceptance rate is 0.65 in high dimensions (Beskos et al., Bernoulli 2013), and rates up to
    0.8 are safer: adapt to that range, not to 0.57.

    Args:
        step_size: initial size of one leapfrog step, in units of z.
        leapfrog_steps: number of leapfrog steps per transition; each costs one gradient.
        jitter: the step size of every frame is multiplied by a factor from U(1 - jitter, 1 + jitter), drawn
            anew in each transition and independently of the state, so that trajectories do not all have a
            length at which they return to their initial point.

    Raises:
        InputError: `leapfrog_steps` is below 1, or `jitter` outside [0, 1).
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
        """The state at z, by one evaluation of the log joint and its gradient."""
        return differentiated(z, log_joint)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One transition of every frame, at the cost of `leapfrog_steps` gradients of the log joint."""
        if self.jitter > 0:
            step_size = step_size * (1 + self.jitter * (2 * uniform_like(step_size, generator) - 1))
        momentum = normal_like(state.z, generator)
        proposed, after = leapfrog(state, momentum, log_joint, step_size, self.leapfrog_steps)
        return _accept_by_energy(state, momentum, proposed, after, generator)


def leapfrog(
    state: State, momentum: Tensor, log_joint: LogJoint, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    """Integrate dz = r dt, dr = grad log p(z) dt from (z, r) by `steps` leapfrog steps.

    A step updates r by half a step, z by a full step, and r by half a step. The map preserves volume, is
    reversible under r -> -r, and changes the energy by O(step_size^2).

    Args:
        state: z (*, N, L) with its gradient.
        momentum: r (*, N, L).
        log_joint: log density, z (*, N, L) -> (*, N).
        step_size: (*, N).
        steps: number of leapfrog steps.
    """
    step = step_size.unsqueeze(-1)
    for _ in range(steps):
        momentum = momentum + step / 2 * _gradient(state)
        # A frame whose z is not finite is rejected for its momentum; the model is evaluated at 0 instead.
        z = (state.z + step * momentum).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        state = differentiated(z, log_joint)
        momentum = momentum + step / 2 * _gradient(state)
    return state, momentum


def differentiated(z: Tensor, log_joint: LogJoint) -> State:
    """The state at z with its gradient, by one evaluation of the log joint."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_joint(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return State(z.detach(), value.detach(), gradient)


def _gradient(state: State) -> Tensor:
    if state.gradient is None:
        raise ValueError(
            "this kernel needs a state with a gradient: create it with the init method of the kernel"
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
    """Metropolis step on the energy -log p(z) + |r|^2 / 2, where r is `momentum` before and `after` after."""
    kinetic, kinetic_after = momentum.square().sum(-1) / 2, after.square().sum(-1) / 2
    state, info = metropolis(current, proposed, kinetic - kinetic_after, generator)
    energy = torch.where(info.accepted, kinetic_after, kinetic) - state.log_joint
    return state, info._replace(energy=energy)


def metropolis(
    current: State, proposed: State, log_ratio: Tensor | None, generator: Generator
) -> tuple[State, Info]:
    """Accept the proposal in each frame with probability min(1, p(z') / p(z) exp(log_ratio)).

    A proposal whose density is NaN is rejected.

    Args:
        current: the current state.
        proposed: the proposed state.
        log_ratio: log q(z | z') - log q(z' | z), (*, N); None for a symmetric proposal.
        generator: source of the uniform variates.
    """
    log_accept = proposed.log_joint - current.log_joint
    if log_ratio is not None:
        log_accept = log_accept + log_ratio
    accepted = uniform_like(log_accept, generator).log_() < log_accept  # false where log_accept is NaN
    chosen = accepted.unsqueeze(-1)
    state = State(
        torch.where(chosen, proposed.z, current.z),
        torch.where(accepted, proposed.log_joint, current.log_joint),
        None if current.gradient is None else torch.where(chosen, _gradient(proposed), current.gradient),
    )
    return state, Info(accepted, log_accept)


def adapted(step_size: Tensor, info: Info, target: float, adaptations: int) -> Tensor:
    """The adapted step size of every frame (*, N): larger where the acceptance exceeds `target`, else
    smaller.

    log step <- log step + (adaptations + 1)^(-1/2) (probability - target) / 2, a stochastic
    approximation with vanishing gains (Robbins and Monro 1951). For warmup only: a kernel whose step size
    depends on past states does not leave its target invariant.

    Args:
        step_size: current step sizes (*, N), in units of z.
        info: acceptance statistics of the last transition.
        target: target acceptance rate.
        adaptations: number of earlier adaptations.
    """
    rate = 0.5 * (adaptations + 1) ** -0.5
    return (step_size * torch.exp(rate * (info.probability - target))).clamp(1e-4, 10.0)
