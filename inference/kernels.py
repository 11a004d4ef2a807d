"""Markov kernels on z, all frames in parallel, accepted or rejected frame by frame.

A kernel is a pure transition: (state, log joint, step, generator) -> (state, info), with one step size a
frame. The frames must be independent given the parameters (no recurrent prior or decoder), or a per-frame
acceptance is not a valid kernel. The log density (and its gradient, where used) is carried in the state, so
that one move costs one evaluation.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from avse.inference.joint import LogJoint


class State(NamedTuple):
    """Where the chains are: z (*, N, L), its log joint (*, N) and, for gradient kernels, d log joint / dz."""

    z: Tensor
    log_joint: Tensor
    gradient: Tensor | None = None


class Info(NamedTuple):
    """What happened in a move, each (*, N): accepted or not, and log p(z') q(z | z') - log p(z) q(z' | z)."""

    accepted: Tensor
    log_ratio: Tensor

    @property
    def probability(self) -> Tensor:
        """Of acceptance, min(1, exp(log_ratio)), (*, N); zero for a proposal without density."""
        return self.log_ratio.clamp_max(0).exp().nan_to_num_(nan=0.0)


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

    Roberts and Tweedie, Bernoulli 1996. Mixes far better than the random walk for one gradient a move.

    Args:
        step_size: standard deviation of the proposal to begin with; best where 57 % are accepted.
    """

    step_size: float = 0.1

    def init(self, z: Tensor, log_joint: LogJoint) -> State:
        """The state at z: one evaluation and its gradient."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = log_joint(z)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return State(z.detach(), value.detach(), gradient)

    def step(
        self, state: State, log_joint: LogJoint, step_size: Tensor, generator: Generator
    ) -> tuple[State, Info]:
        """One move of every frame: one evaluation of the log joint and its gradient."""
        noise = normal_like(state.z, generator)
        step = step_size.unsqueeze(-1)
        proposed = self.init(state.z + step**2 / 2 * _gradient(state) + step * noise, log_joint)
        # The reverse move would need the noise (z - z' - step^2 / 2 grad') / step.
        reverse = (state.z - proposed.z) / step - step / 2 * _gradient(proposed)
        log_ratio = (noise.square().sum(-1) - reverse.square().sum(-1)) / 2
        return metropolis(state, proposed, log_ratio, generator)


def _gradient(state: State) -> Tensor:
    if state.gradient is None:
        raise ValueError(
            "this kernel needs a state that carries the gradient: make it with the kernel's init"
        )
    return state.gradient


def normal_like(z: Tensor, generator: Generator) -> Tensor:
    """Standard normal variates of the shape, precision and device of z."""
    return torch.empty_like(z, memory_format=torch.contiguous_format).normal_(generator=generator)


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
    uniform = torch.empty_like(log_accept, memory_format=torch.contiguous_format).uniform_(
        generator=generator
    )
    accepted = uniform.log_() < log_accept  # never where it is no number
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
