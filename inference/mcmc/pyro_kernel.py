"""The kernels of this package under Pyro's own `MCMC`.

    kernel = FrameMCMCKernel(noisy, MALA(), z, seed=0)                   # z (*, N, L)
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=100)
    mcmc.run(power=power)
    mcmc.get_samples()["z"]                                              # (200, *, N, L)

`FrameMCMCKernel` adapts a kernel to Pyro's calling conventions: it builds the log joint from the model and
the arguments of `run`, and adapts the step sizes during warmup. `VectorizedMCMC` is `pyro.infer.MCMC` for
several chains that advance together in one tensor, which Pyro and ArviZ then see as chains:

    mcmc = VectorizedMCMC(FrameMCMCKernel(noisy, MALA(), z, seed=0), 200, 100)        # z (C, *, N, L)
    mcmc.run(power=power)
    mcmc.get_samples(group_by_chain=True)["z"]                           # (C, 200, *, N, L)
    arviz.from_pyro(mcmc)

Pyro's own NUTS samples models whose frames are not independent, such as `NoisySpeech` with a `GammaNMF`:

    mcmc = MCMC(nuts(model, {"z": z, "W": W, "H": H}), num_samples=500, warmup_steps=300)
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from avse.inference.mcmc.kernels import Kernel, State, adapted
from avse.inference.mcmc.log_density import Model, check_coupling, closure
from avse.models.coupling import check_serves
from avse.models.sites import Z


def nuts(model: Model, start: Mapping[str, Tensor], **options: Any) -> NUTS:
    """Pyro's NUTS on all sites of a model together, alpha (if any) summed out by enumeration.

    Hoffman and Gelman, Journal of Machine Learning Research 2014. The initial value of "z" also fixes
    its shape. Where z depends on alpha, Pyro would otherwise initialise z with the shape (A, N, L), one for
    each value of alpha, and sample an improper density: under one value of alpha, the z of the others is
    unconstrained. The models refuse such a z (`avse.models.handlers`).

    Args:
        model: with or without an enumerated alpha.
        start: initial values of its sites in their constrained space, "z" (N, L) among them.
        options: further arguments of `pyro.infer.NUTS`, such as max_tree_depth.

    Raises:
        ValueError: there is no initial value for "z".
    """
    if Z not in start:
        raise ValueError(
            'nuts needs an initial value for "z": an enumerated alpha would give it a wrong shape'
        )
    return NUTS(model, init_strategy=init_to_value(values=dict(start)), **options)


class TransitionStatistics(NamedTuple):
    """Of one draw: log joint, energy (None for a kernel without momentum) and divergence, each (*, N)."""

    log_joint: Tensor
    energy: Tensor | None
    diverged: Tensor


class FrameMCMCKernel(MCMCKernel):
    """A kernel on z, frame by frame, for `pyro.infer.MCMC`. alpha is summed out.

    Every dimension left of L has chains of its own. `pyro.infer.MCMC` takes `z` (*, N, L) for one chain;
    `VectorizedMCMC` takes the first dimension of `z` (C, *, N, L) for chains.

    Args:
        model: Pyro model with site "z" in a frames plate.
        kernel: transition kernel.
        z: initial values, (*, N, L); `MCMC(initial_params={"z": ...})` takes precedence.
        seed: seed of the random numbers. Chains that Pyro runs in processes of their own have streams of
            their own, which also depend on the seed of torch.
        target_acceptance: acceptance rate towards which step sizes are adapted during warmup; None keeps
            them.
    """

    def __init__(
        self, model: Model, kernel: Kernel, z: Tensor, seed: int, target_acceptance: float | None = None
    ) -> None:
        self.model = model
        self.kernel = kernel
        self.target_acceptance = target_acceptance
        self.transforms: dict[str, Any] = {}  # otherwise MCMC calls setup again after sampling
        self._initial_z = z
        self._seed, self._process = seed, os.getpid()
        self._generator = torch.Generator(z.device)
        self._seeded = False
        super().__init__()

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Initial values of the chain: {"z": (*, N, L)}."""
        return {Z: self._initial_z}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_z = params[Z]

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Build the log joint from the arguments of `MCMC.run`, and evaluate it at the initial values.

        Raises:
            InputError: the kernel does not serve the coupling of the model's frames.
        """
        check_serves(self.kernel, self.model)
        if args:
            raise ValueError("pass the data by name, as in mcmc.run(power=power)")
        if not self._seeded or self._process != os.getpid():
            # Pyro seeds torch differently in the process of every chain.
            shift = 0 if self._process == os.getpid() else torch.initial_seed()
            self._generator.manual_seed((self._seed + shift) % 2**63)
            self._seeded, self._process = True, os.getpid()
        self._warmup = warmup_steps
        self._num_steps = 0
        self._log_joint = closure(self.model, **kwargs)
        check_coupling(self._log_joint, self._initial_z)
        self._state = self.kernel.init(self._initial_z, self._log_joint)
        self._step_size = torch.full_like(self._state.log_joint, self.kernel.step_size)
        self._accepted = torch.zeros_like(self._state.log_joint)
        self.statistics: list[TransitionStatistics] = []

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One transition of every frame."""
        self._state, info = self.kernel.step(self._state, self._log_joint, self._step_size, self._generator)
        if self._num_steps < self._warmup:
            if self.target_acceptance is not None:
                self._step_size = adapted(self._step_size, info, self.target_acceptance, self._num_steps)
        else:
            self._accepted += info.accepted
            self.statistics.append(TransitionStatistics(self._state.log_joint, info.energy, info.diverged))
        self._num_steps += 1
        return {Z: self._state.z}

    @property
    def state(self) -> State:
        """The current state of the chain."""
        return self._state

    def logging(self) -> "OrderedDict[str, str]":
        """Mean step size and acceptance, for the progress bar."""
        kept = max(1, self._num_steps - self._warmup)
        return OrderedDict(
            [
                ("step size", f"{self._step_size.mean():.2e}"),
                ("acc. prob", f"{self._accepted.mean() / kept:.3f}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Acceptance rate after warmup and step size of every frame, (*, N); indices of divergent draws."""
        kept = max(1, self._num_steps - self._warmup)
        return {
            "acceptance rate": self._accepted / kept,
            "step size": self._step_size,
            "divergences": [index for index, draw in enumerate(self.statistics) if draw.diverged.any()],
        }

    def chain_diagnostics(self) -> list[dict[str, Any]]:
        """`diagnostics` of every chain of z (C, *, N, L), each (*, N)."""
        kept = max(1, self._num_steps - self._warmup)
        return [
            {
                "acceptance rate": self._accepted[chain] / kept,
                "step size": self._step_size[chain],
                "divergences": [
                    index for index, draw in enumerate(self.statistics) if draw.diverged[chain].any()
                ],
            }
            for chain in range(len(self._initial_z))
        ]


class ChainsKernel(Protocol):
    """A kernel for `pyro.infer.MCMC` whose sites have a leading dimension of chains."""

    statistics: list[TransitionStatistics]
    """Of every draw, with a leading dimension of chains."""

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Initial values of the sites, (C, ...)."""
        ...

    def chain_diagnostics(self) -> list[dict[str, Any]]:
        """The diagnostics of every chain."""
        ...


class VectorizedMCMC(MCMC):
    """`pyro.infer.MCMC` with C chains that advance together.

    `get_samples(group_by_chain=True)` has the shape (C, D, *) at every site. Pyro's own `num_chains` runs
    chains one after the other or in processes; here one transition moves all chains of a tensor, and
    `get_samples`, `diagnostics`, `summary` and `arviz.from_pyro` see C chains.

    Args:
        kernel: a `FrameMCMCKernel` at z (C, *, N, L), or another `ChainsKernel`.
        num_samples: number D of draws kept per chain.
        warmup_steps: number of transitions before them; by default D.
        hook_fn: called as (kernel, sites, stage, index) after each transition, as by `pyro.infer.MCMC`.
        disable_progbar: show no progress bar.
    """

    def __init__(
        self,
        kernel: ChainsKernel,
        num_samples: int,
        warmup_steps: int | None = None,
        hook_fn: Callable[..., None] | None = None,
        disable_progbar: bool = True,
    ) -> None:
        super().__init__(kernel, num_samples, warmup_steps, hook_fn=hook_fn, disable_progbar=disable_progbar)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Run all chains on the data, given by name."""
        self.num_chains = 1  # of tensors, as long as Pyro collects the draws
        super().run(*args, **kwargs)
        collected: dict[str, Tensor] = self._samples  # type: ignore[has-type]
        self._samples = {name: draws[0].transpose(0, 1) for name, draws in collected.items()}
        self._diagnostics = self.kernel.chain_diagnostics()
        self.num_chains = len(self._diagnostics)
