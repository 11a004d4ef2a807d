"""The kernels of this package under Pyro's own `MCMC`.

    kernel = FrameMCMCKernel(noisy, MALA(), z, seed=0)
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=100)
    mcmc.run(power=power)
    mcmc.get_samples()["z"]                       # (200, *, N, L)

The shell adds nothing to a kernel but Pyro's calling conventions: it builds the log joint from the model and
the arguments of `run`, and adapts the step sizes during warm-up.

Pyro's own NUTS samples models that do not fall apart into frames, such as `SpeechInUnknownNoise`:

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

    Hoffman and Gelman, Journal of Machine Learning Research 2014. The start matters for more than warm-up.
    Where z depends on alpha, Pyro left to itself draws z of the shape (2, N, L), one for each value, and
    samples a density of the pair that has no integral: under one alpha, the z of the other may be anywhere.
    A value of the right shape for "z" prevents it.

    Args:
        model: with or without an enumerated alpha.
        start: values of its sites in their own space, "z" (N, L) among them.
        options: of `pyro.infer.NUTS`, such as max_tree_depth.

    Raises:
        ValueError: no start for "z".
    """
    if Z not in start:
        raise ValueError('nuts needs a start for "z": an enumerated alpha would give it a wrong shape')
    return NUTS(model, init_strategy=init_to_value(values=dict(start)), **options)


class FrameMCMCKernel(MCMCKernel):
    """A kernel on z, frame by frame, for `pyro.infer.MCMC`. alpha is summed out.

    Dimensions left of N are chains: start `z` as (C, N, L) to run C chains in one tensor.

    Args:
        model: Pyro model with site "z" in a frames plate.
        kernel: pure transition.
        z: where to start, (*, N, L); `MCMC(initial_params={"z": ...})` takes precedence.
        seed: of the chain.
        target_acceptance: adapt the step size of every frame during warm-up; None keeps the kernel's.
    """

    def __init__(
        self, model: Model, kernel: Kernel, z: Tensor, seed: int, target_acceptance: float | None = None
    ) -> None:
        self.model = model
        self.kernel = kernel
        self.target_acceptance = target_acceptance
        self.transforms: dict[str, Any] = {}  # or MCMC would set the kernel up again after sampling
        self._start = z
        self._generator = torch.Generator(z.device).manual_seed(seed)
        super().__init__()

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Where the chain starts: {"z": (*, N, L)}."""
        return {Z: self._start}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._start = params[Z]

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Build the log joint from the arguments of `MCMC.run`, and evaluate it where the chain starts."""
        if args:
            raise ValueError("pass the data by name, as in mcmc.run(power=power)")
        self._warmup = warmup_steps
        self._moves = 0
        self._log_joint = closure(self.model, **kwargs)
        self._state = self.kernel.init(self._start, self._log_joint)
        self._step_size = torch.full_like(self._state.log_joint, self.kernel.step_size)
        self._accepted = torch.zeros_like(self._state.log_joint)
        self._divergences: list[int] = []

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One move of every frame."""
        self._state, info = self.kernel.step(self._state, self._log_joint, self._step_size, self._generator)
        if self._moves < self._warmup:
            if self.target_acceptance is not None:
                self._step_size = adapted(self._step_size, info, self.target_acceptance, self._moves)
        else:
            self._accepted += info.accepted
            if info.diverged.any():
                self._divergences.append(self._moves - self._warmup)
        self._moves += 1
        return {Z: self._state.z}

    @property
    def state(self) -> State:
        """Where the chain stands."""
        return self._state

    def logging(self) -> "OrderedDict[str, str]":
        """Mean step size and acceptance, for the progress bar."""
        kept = max(1, self._moves - self._warmup)
        return OrderedDict(
            [
                ("step size", f"{self._step_size.mean():.2e}"),
                ("acc. prob", f"{self._accepted.mean() / kept:.3f}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Acceptance after warm-up and step size of every frame, (*, N); draws with a diverging frame."""
        kept = max(1, self._moves - self._warmup)
        return {
            "acceptance rate": self._accepted / kept,
            "step size": self._step_size,
            "divergences": self._divergences,
        }
