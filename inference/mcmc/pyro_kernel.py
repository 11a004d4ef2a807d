"""The kernels of this package under Pyro's own `MCMC`.

    kernel = FrameMCMCKernel(noisy, MALA(), z, seed=0)
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=100)
    mcmc.run(power=power)
    mcmc.get_samples()["z"]                       # (200, *, N, L)

`FrameMCMCKernel` adapts a kernel to Pyro's calling conventions: it builds the log joint from the model and
the arguments of `run`, and adapts the step sizes during warmup.

Pyro's own NUTS samples models whose frames are not independent, such as `SpeechInUnknownNoise`:

    mcmc = MCMC(nuts(model, {"z": z, "W": W, "H": H}), num_samples=500, warmup_steps=300)
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import NUTS
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from avse.inference.mcmc.kernels import Kernel, State, adapted
from avse.inference.mcmc.log_density import Model, closure
from avse.models.sites import Z


def nuts(model: Model, start: Mapping[str, Tensor], **options: Any) -> NUTS:
    """Pyro's NUTS on all sites of a model together, alpha (if any) summed out by enumeration.

    Hoffman and Gelman, Journal of Machine Learning Research 2014. The initial value of "z" also fixes
    its shape. Where z depends on alpha, Pyro would otherwise initialise z with the shape (2, N, L), one for
    each value of alpha, and sample an improper density: under one value of alpha, the z of the other is
    unconstrained.

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


class FrameMCMCKernel(MCMCKernel):
    """A kernel on z, frame by frame, for `pyro.infer.MCMC`. alpha is summed out.

    Dimensions left of N are chains: give `z` as (C, N, L) to run C chains in one tensor.

    Args:
        model: Pyro model with site "z" in a frames plate.
        kernel: transition kernel.
        z: initial values, (*, N, L); `MCMC(initial_params={"z": ...})` takes precedence.
        seed: seed of the random numbers.
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
        self._generator = torch.Generator(z.device).manual_seed(seed)
        super().__init__()

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Initial values of the chain: {"z": (*, N, L)}."""
        return {Z: self._initial_z}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_z = params[Z]

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Build the log joint from the arguments of `MCMC.run`, and evaluate it at the initial values."""
        if args:
            raise ValueError("pass the data by name, as in mcmc.run(power=power)")
        self._warmup = warmup_steps
        self._num_steps = 0
        self._log_joint = closure(self.model, **kwargs)
        self._state = self.kernel.init(self._initial_z, self._log_joint)
        self._step_size = torch.full_like(self._state.log_joint, self.kernel.step_size)
        self._accepted = torch.zeros_like(self._state.log_joint)
        self._divergences: list[int] = []

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One transition of every frame."""
        self._state, info = self.kernel.step(self._state, self._log_joint, self._step_size, self._generator)
        if self._num_steps < self._warmup:
            if self.target_acceptance is not None:
                self._step_size = adapted(self._step_size, info, self.target_acceptance, self._num_steps)
        else:
            self._accepted += info.accepted
            if info.diverged.any():
                self._divergences.append(self._num_steps - self._warmup)
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
            "divergences": self._divergences,
        }
