"""E-steps: ways to represent the posterior p(z | data) of every frame at fixed parameters.

Each takes the log joint and a `ChainState` to start from, and answers with draws and the chain_state to start
from next time (warm start).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.mcmc.kernels import Info, Kernel, State, adapted
from avse.inference.mcmc.log_density import LogJoint


class ChainState(NamedTuple):
    """Where the chains stand: z (*, N, L), their step sizes (*, N) once there are any, and their warm-up."""

    z: Tensor
    step_size: Tensor | None = None
    adaptations: int = 0


class Draws(NamedTuple):
    """Draws of the posterior, with what diagnostics ask of a Markov chain; None where there is none.

    Attributes:
        z: (R, *, N, L).
        acceptance: mean acceptance of the moves behind them, (*, N).
        log_joint: log p(data, z) of every draw, (R, *, N).
        diverged: whether the move to it lost its trajectory (`Info.diverged`), (R, *, N).
        energy: of every draw with its momentum (`Info.energy`), (R, *, N).
    """

    z: Tensor
    acceptance: Tensor
    log_joint: Tensor | None = None
    diverged: Tensor | None = None
    energy: Tensor | None = None


class EStep(Protocol):
    """p(z | data) at fixed parameters, by draws."""

    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """Draws started at `chain_state`, and where to go on from."""
        ...


@dataclass(frozen=True)
class Chain:
    """One Markov chain a frame: `moves` transitions of which the first `warmup` are thrown away.

    All moves - warmup remaining draws are kept. The papers take 40 and 30, and 100 and 75 for the final
    estimate.

    Args:
        kernel: the transition.
        num_steps: transitions in all.
        warmup: transitions thrown away, less than `moves`.
        target_acceptance: adapt every frame's step size during burn-in towards this acceptance; None keeps
            the kernel's.

    Raises:
        InputError: nothing would be kept.
    """

    kernel: Kernel
    num_steps: int = 40
    warmup: int = 30
    target_acceptance: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.num_steps:
            raise InputError(f"a chain of {self.num_steps} moves keeps none after a burn-in of {self.warmup}")

    @torch.no_grad()
    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """Run the chains of all frames."""
        state = self.kernel.init(chain_state.z, log_joint)
        step_size = chain_state.step_size
        if step_size is None:
            step_size = torch.full_like(state.log_joint, self.kernel.step_size)
        adaptations = chain_state.adaptations
        accepted: list[Tensor] = []
        states: list[State] = []
        infos: list[Info] = []
        for move in range(self.num_steps):
            state, info = self.kernel.step(state, log_joint, step_size, generator)
            accepted.append(info.accepted)
            if move >= self.warmup:
                states.append(state._replace(gradient=None))
                infos.append(info)
            elif self.target_acceptance is not None:
                step_size = adapted(step_size, info, self.target_acceptance, adaptations)
                adaptations += 1
        energies = [info.energy for info in infos if info.energy is not None]
        draws = Draws(
            z=torch.stack([kept.z for kept in states]),
            acceptance=torch.stack(accepted).to(state.z).mean(0),
            log_joint=torch.stack([kept.log_joint for kept in states]),
            diverged=torch.stack([info.diverged for info in infos]),
            energy=torch.stack(energies) if energies else None,
        )
        return draws, ChainState(state.z, step_size, adaptations)
