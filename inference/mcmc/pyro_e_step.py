"""An E-step by `pyro.infer.MCMC`: Pyro's own HMC or NUTS within EM.

    em = EM(PyroChain(NUTS, num_steps=20, warmup=10), NoiseStep(updates))

One step size serves all frames of a chain, so that it needs smaller steps than `Chain`, whose step sizes are
those of single frames; it is the reference that the kernels of this package are compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.infer import HMC as PyroHMC
from pyro.infer import MCMC, NUTS
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.inference.mcmc.chain import ChainState, Draws
from avse.inference.mcmc.log_density import LogJoint, frame_terms
from avse.models.base import TRACE_LOCK
from avse.models.coupling import EVERY_COUPLING
from avse.models.sites import Z

INITIAL_STEP_SIZE = 0.1
"""Initial leapfrog step size of the first call, in units of z."""


@dataclass(frozen=True)
class PyroChain:
    """z of all frames together by `pyro.infer.MCMC`, one chain after the other.

    The first dimension of z (C, *, N, L) counts chains; z (N, L) is one chain. A call continues where the one
    before ended, with its step sizes.

    Args:
        kernel: `pyro.infer.NUTS` or `pyro.infer.HMC`.
        num_steps: number of transitions in a call.
        warmup: number of discarded transitions, less than `num_steps`, during which step size and mass adapt.
        options: arguments of the kernel, such as {"max_tree_depth": 5}.

    Raises:
        InputError: `warmup` is not between 0 and `num_steps` - 1, so that no draw would be kept.
    """

    kernel: type[PyroHMC] = NUTS
    num_steps: int = 40
    warmup: int = 30
    options: Mapping[str, Any] | None = None
    couplings: ClassVar = EVERY_COUPLING

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.num_steps:
            raise InputError(f"{self.num_steps} steps keep no draw after a warmup of {self.warmup}")

    def __call__(
        self, log_joint: LogJoint, chain_state: ChainState, generator: Generator
    ) -> tuple[Draws, ChainState]:
        """As `EStep.__call__`; the acceptance rate, of the kept transitions, is the same in all frames."""
        log_joint = frame_terms(log_joint)
        batched = chain_state.z.dim() > 2
        chains = chain_state.z if batched else chain_state.z.unsqueeze(0)
        step_sizes = [INITIAL_STEP_SIZE] * len(chains)
        if chain_state.step_size is not None:
            step_sizes = [float(own.mean()) for own in chain_state.step_size.reshape(len(chains), -1)]
        found = [
            self._chain(log_joint, z, step_size, generator)
            for z, step_size in zip(chains, step_sizes, strict=True)
        ]
        z = torch.stack([draws for draws, _, _, _ in found], 1)  # (R, C, *, N, L)
        frames = chains[..., 0]
        acceptance, step_size = torch.zeros_like(frames), torch.zeros_like(frames)
        diverged = torch.zeros_like(z[..., 0], dtype=torch.bool)
        for chain, (_, rate, size, divergences) in enumerate(found):
            acceptance[chain], step_size[chain] = rate, size
            diverged[divergences, chain] = True
        if not batched:
            z, acceptance, step_size, diverged = z[:, 0], acceptance[0], step_size[0], diverged[:, 0]
        with torch.no_grad():
            draws = Draws(z, acceptance, torch.stack([log_joint(draw) for draw in z]), diverged)
        return draws, ChainState(z[-1], step_size, chain_state.adaptations + self.warmup)

    def _chain(
        self, log_joint: LogJoint, z: Tensor, step_size: float, generator: Generator
    ) -> tuple[Tensor, float, float, list[int]]:
        """Draws (R, *, N, L) of one chain, its acceptance rate and step size, and its divergent draws."""

        def potential(values: Mapping[str, Tensor]) -> Tensor:
            return -log_joint(values[Z]).sum()

        kernel = self.kernel(potential_fn=potential, step_size=step_size, **(self.options or {}))
        mcmc = MCMC(
            kernel,
            self.num_steps - self.warmup,
            self.warmup,
            initial_params={Z: z.detach()},
            disable_progbar=True,
        )
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        with TRACE_LOCK, torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            mcmc.run()
        statistics = mcmc._diagnostics[0]  # `mcmc.diagnostics` also needs four draws, for R-hat
        return (
            mcmc.get_samples()[Z],
            float(statistics["acceptance rate"]),
            float(kernel.step_size),
            list(statistics["divergences"]),
        )
