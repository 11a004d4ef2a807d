"""E-steps: ways to represent the posterior p(z | data) of every frame at fixed parameters.

Each takes the log joint and a `ChainState`, and returns draws and the new `ChainState`, from which the next
call continues (warm start).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.mcmc.kernels import Info, Kernel, State, adapted
from avse.inference.mcmc.log_density import LogJoint
from avse.models.coupling import INDEPENDENT_FRAMES, Coupling, check_serves


class ChainState(NamedTuple):
    """The current state of the chains of all frames.

    Attributes:
        z: latents (*, N, L).
        step_size: step size of every frame (*, N), in units of z; None before the first call.
        adaptations: number of step size adaptations so far.
    """

    z: Tensor
    step_size: Tensor | None = None
    adaptations: int = 0


class Draws(NamedTuple):
    """Draws of the posterior and the quantities that MCMC diagnostics need; None where the method has none.

    Attributes:
        z: draws of the latents, (R, *, N, L).
        acceptance: mean acceptance rate over all transitions, warmup included, (*, N).
        log_joint: log p(data, z) of every draw, (R, *, N).
        diverged: whether the transition to the draw diverged (`Info.diverged`), (R, *, N).
        energy: Hamiltonian of every draw with its momentum (`Info.energy`), (R, *, N).
    """

    z: Tensor
    acceptance: Tensor
    log_joint: Tensor | None = None
    diverged: Tensor | None = None
    energy: Tensor | None = None


def by_chain(values: Tensor | None) -> Tensor | None:
    """Put chains before draws: (D, C, *, N) -> (C, D, *, N); None stays None."""
    return None if values is None else values.transpose(0, 1)


class EStep(Protocol):
    """An approximation of p(z | data) at fixed parameters by draws."""

    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """The draws of chains that start at `chain_state`, and the new chain state."""
        ...


@dataclass(frozen=True)
class Chain:
    """One Markov chain per frame: `num_steps` transitions, of which the first `warmup` are discarded.

    The remaining num_steps - warmup draws are all kept, without thinning. The papers use 40 and 30, and 100
    and 75 for the final estimate.

    Args:
        kernel: the transition kernel.
        num_steps: number of transitions.
        warmup: number of discarded transitions, less than `num_steps`.
        target_acceptance: acceptance rate towards which the step size of every frame is adapted during
            warmup; None keeps the step size of the kernel.

    Raises:
        InputError: `warmup` is not between 0 and `num_steps` - 1, so that no draw would be kept.
    """

    kernel: Kernel
    num_steps: int = 40
    warmup: int = 30
    target_acceptance: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.num_steps:
            raise InputError(f"{self.num_steps} steps keep no draw after a warmup of {self.warmup}")

    @property
    def couplings(self) -> frozenset[Coupling]:
        """Those of the kernel."""
        return getattr(self.kernel, "couplings", INDEPENDENT_FRAMES)

    @torch.no_grad()
    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """Run the chains of all frames.

        Raises:
            InputError: the kernel does not serve the coupling of the frames.
        """
        check_serves(self.kernel, log_joint)
        state = self.kernel.init(chain_state.z, log_joint)
        step_size = chain_state.step_size
        if step_size is None:
            step_size = torch.full_like(state.log_joint, self.kernel.step_size)
        adaptations = chain_state.adaptations
        accepted: list[Tensor] = []
        states: list[State] = []
        infos: list[Info] = []
        for step in range(self.num_steps):
            state, info = self.kernel.step(state, log_joint, step_size, generator)
            accepted.append(info.accepted)
            if step >= self.warmup:
                states.append(state._replace(gradient=None))
                infos.append(info)
            elif self.target_acceptance is not None:
                step_size = adapted(step_size, info, self.target_acceptance, adaptations)
                adaptations += 1
        energies = [info.energy for info in infos if info.energy is not None]
        draws = Draws(
            z=torch.stack([drawn.z for drawn in states]),
            acceptance=torch.stack(accepted).to(state.z).mean(0),
            log_joint=torch.stack([drawn.log_joint for drawn in states]),
            diverged=torch.stack([info.diverged for info in infos]),
            energy=torch.stack(energies) if energies else None,
        )
        return draws, ChainState(state.z, step_size, adaptations)
