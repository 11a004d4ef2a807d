"""z and the noise in turn, for `pyro.infer.MCMC`: a Gibbs sampler whose two steps are Markov transitions.

    z | x, v, W, H       any kernel on z, frame by frame (frames are independent given the noise)
    W, H, g | x, z       a kernel on all sites of the noise together, in unconstrained coordinates

Both steps leave the posterior of all sites invariant, hence so does their composition. The speech model is
evaluated once for the second step, however many gradients it takes. Chains are a leading dimension.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.transforms import Transform
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import biject_to

from avse.data.errors import InputError
from avse.inference.mcmc.kernels import HMC, Info, Kernel, State, adapted
from avse.inference.mcmc.log_density import LogJoint, closure, sum_out_alpha
from avse.inference.mcmc.pyro_kernel import TransitionStatistics
from avse.models.base import TRACE_LOCK
from avse.models.bayesian_nmf import GammaNMF
from avse.models.coupling import check_serves
from avse.models.distributions import exponential_cost
from avse.models.noisy import NoisySpeech
from avse.models.sites import W, Z

NOISE_KERNEL = HMC(0.02, leapfrog_steps=10)


class NoiseSites:
    """The sites of a noise prior as one vector of unconstrained numbers per chain, in double precision.

    A spectrum is a simplex, whose coordinates are shares of what the earlier bins have left over. Where the
    last bins hold less than 1e-7 of the power, nothing is left in single precision: the density is NaN, and
    every proposal is rejected.

    Args:
        prior: samples the sites.
    """

    def __init__(self, prior: GammaNMF) -> None:
        self.prior = prior
        with TRACE_LOCK, torch.random.fork_rng(devices=[]):
            trace = poutine.trace(prior).get_trace()
        self.names = list(trace.stochastic_nodes)
        self._transforms: dict[str, Transform] = {
            name: biject_to(trace.nodes[name]["fn"].support) for name in self.names
        }
        self._shapes = {
            name: self._transforms[name].inv(trace.nodes[name]["value"]).shape for name in self.names
        }

    def free(self, values: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained coordinates of values (C, ...) of the sites: (C, U)."""
        double = {name: values[name].double() for name in self.names}
        if W in double:  # which sums to 1 in its own precision
            double[W] = double[W] / double[W].sum(-1, keepdim=True)
        return torch.cat([self._transforms[name].inv(own).flatten(1) for name, own in double.items()], -1)

    def values(self, free: Tensor) -> dict[str, Tensor]:
        """Values (C, ...) of the sites at unconstrained coordinates (C, U), in the precision of the prior."""
        values = {name: self._transforms[name](own) for name, own in self._split(free).items()}
        return self._rounded(values)

    def _rounded(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: own.to(self.prior.level.dtype) for name, own in values.items()}

    def log_prior(self, free: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """log p of the coordinates (C, U), with the Jacobian of the transforms, (C,); and `values`."""
        parts = self._split(free)
        values = {name: self._transforms[name](own) for name, own in parts.items()}
        with TRACE_LOCK:
            trace = poutine.trace(poutine.condition(self.prior, values)).get_trace()
            trace.compute_log_prob()
        terms = [node["log_prob"] for node in trace.nodes.values() if node["type"] == "sample"]
        for name, own in parts.items():
            jacobian = self._transforms[name].log_abs_det_jacobian(own, values[name])
            terms.append(jacobian)
        total: Tensor = sum(term.reshape(len(free), -1).sum(-1) for term in terms)  # type: ignore[assignment]
        return total, self._rounded(values)

    def _split(self, free: Tensor) -> dict[str, Tensor]:
        sizes = [self._shapes[name].numel() for name in self.names]
        return {
            name: own.reshape(len(free), *self._shapes[name])
            for name, own in zip(self.names, free.split(sizes, -1), strict=True)
        }


class AlternatingKernel(MCMCKernel):
    """Transitions of z and of the noise in turn. alpha is summed out. For `VectorizedMCMC`.

    Args:
        model: speech with a noise prior.
        kernel: transition of z.
        start: initial values of z (C, N, L) and of the sites of the noise, (C, ...).
        seed: seed of the random numbers.
        target_acceptance: of z, towards which the step size of every frame is adapted during warmup.
        noise_kernel: transition of the noise; its step size is adapted to an acceptance rate of 0.8.
    """

    def __init__(
        self,
        model: NoisySpeech,
        kernel: Kernel,
        start: Mapping[str, Tensor],
        seed: int,
        target_acceptance: float = 0.7,
        noise_kernel: Kernel = NOISE_KERNEL,
    ) -> None:
        self.model = model
        self.kernel, self.noise_kernel = kernel, noise_kernel
        self.target_acceptance = target_acceptance
        self.transforms: dict[str, Any] = {}  # draws are returned in the constrained space
        self.statistics: list[TransitionStatistics] = []
        self._start = dict(start)
        self._generator = torch.Generator(start[Z].device).manual_seed(seed)
        self._sites = NoiseSites(model.noise)
        super().__init__()

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Initial values of the sites, (C, ...)."""
        return self._start

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._start = params

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Prepare the model for the data, which are given by name: power (N, F) and perhaps visual (N, D).

        Raises:
            InputError: power of several channels, which would share W and H, or a kernel that does not serve
                the coupling of the model's frames.
        """
        check_serves(self.kernel, self.model)
        if kwargs["power"].dim() != 2:
            raise InputError(
                f"power of shape {tuple(kwargs['power'].shape)}: W and H are sampled for one channel (N, F) "
                "at a time"
            )
        self._warmup, self._num_steps = warmup_steps, 0
        self._power: Tensor = kwargs["power"]
        self._visual: Tensor | None = kwargs.get("visual")
        z = self._start[Z]
        self._free = self._sites.free(self._start)
        self._step_size = torch.full_like(z[..., 0], self.kernel.step_size)
        self._noise_step_size = torch.full_like(z[:, :1, 0], self.noise_kernel.step_size)
        self._accepted = torch.zeros_like(z[..., 0])
        self.statistics = []

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One transition of z in every frame, then one of the noise."""
        z = params[Z]
        noise = self.model.noise.noise({name: params[name] for name in self._sites.names})
        log_joint = closure(NoisySpeech(self.model.speech, noise), power=self._power, visual=self._visual)
        state, info = self.kernel.step(
            self.kernel.init(z, log_joint), log_joint, self._step_size, self._generator
        )
        density = self._noise_density(state.z)
        noise_state, noise_info = self.noise_kernel.step(
            self.noise_kernel.init(self._free.unsqueeze(1), density),
            density,
            self._noise_step_size,
            self._generator,
        )
        self._free = noise_state.z.squeeze(1)
        self._record(state, info, noise_state, noise_info)
        return {Z: state.z, **self._sites.values(self._free)}

    def _noise_density(self, z: Tensor) -> LogJoint:
        """Coordinates of the noise (C, 1, U) -> log p(x, z, noise | v) up to a constant, (C, 1), double."""
        with torch.no_grad():
            log_prior, log_variance = self.model.speech.given(self._visual)(z)  # (A, C, N), (A, C, N, F)
            speech_variance = log_variance.exp()

        def density(free: Tensor) -> Tensor:
            log_noise_prior, values = self._sites.log_prior(free.squeeze(1))
            noise = self.model.noise.noise(values)
            variance = torch.addcmul(noise.variance(), speech_variance, noise.frame_gain.unsqueeze(-1))
            frames = sum_out_alpha(log_prior - exponential_cost(self._power, variance))
            return (frames.double().sum(-1) + log_noise_prior).unsqueeze(-1)

        return density

    def _record(self, state: State, info: Info, noise_state: State, noise_info: Info) -> None:
        """Adapt the step sizes during warmup; afterwards keep the statistics."""
        if self._num_steps < self._warmup:
            self._step_size = adapted(self._step_size, info, self.target_acceptance, self._num_steps)
            self._noise_step_size = adapted(self._noise_step_size, noise_info, 0.8, self._num_steps).to(
                self._noise_step_size
            )
        else:
            self._accepted += info.accepted
            diverged = info.diverged | noise_info.diverged
            self.statistics.append(TransitionStatistics(state.log_joint, info.energy, diverged))
        self._num_steps += 1

    def logging(self) -> "OrderedDict[str, str]":
        """Step size of the noise, and the mean of those of z, for the progress bar."""
        return OrderedDict(
            [
                ("step size", f"{self._step_size.mean():.2e}"),
                ("noise step size", f"{self._noise_step_size.mean():.2e}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Of all chains together: acceptance rate and step size of z, (C, N); indices of divergent draws."""
        return {
            "acceptance rate": self._accepted / max(1, len(self.statistics)),
            "step size": self._step_size,
            "noise step size": self._noise_step_size,
            "divergences": [index for index, draw in enumerate(self.statistics) if draw.diverged.any()],
        }

    def chain_diagnostics(self) -> list[dict[str, Any]]:
        """`diagnostics` of every chain."""
        together = self.diagnostics()
        return [
            {
                **{
                    name: together[name][chain]
                    for name in ("acceptance rate", "step size", "noise step size")
                },
                "divergences": [
                    index for index, draw in enumerate(self.statistics) if draw.diverged[chain].any()
                ],
            }
            for chain in range(len(self._start[Z]))
        ]
