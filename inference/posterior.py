"""The result of inference: draws, the fitted noise, the Wiener gain and diagnostics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avse.data.stft import STFT
from avse.models.noisy import NoiseModel
from avse.models.sites import G, H, W

if TYPE_CHECKING:
    import xarray

COMPONENT = "component"
"""Name of the dimension over the values of alpha."""
LAST_DIMENSIONS = {"level": "band", "alpha": COMPONENT}
"""Names of the last dimension of functionals with more than one number per frame."""

NOISE_DIMENSIONS = {
    W: ["noise_component", "frequency"],
    H: ["noise_component", "frame"],
    G: ["frame"],
}
"""Dimensions of the sites of a sampled noise, after chain and draw."""


@dataclass(frozen=True, repr=False)
class Posterior:
    """The posterior of the speech in a recording of N frames; C chains, D draws, L latents, F bins.

    Attributes:
        z: draws of the latents, (C, D, *, N, L).
        noise: fitted noise model.
        wiener_gain: mean Wiener gain, (*, N, F): E[s | x] = wiener_gain x.
        gain_floor: smallest gain that is applied in synthesis; not a part of the posterior.
        variance: Var[s | x], a power in the units of |x|^2, (*, N, F).
        responsibilities: p(alpha | x), (A, *, N), with A = 1 for a model without alpha.
        acceptance: mean acceptance rate of the final transitions, (*, N).
        costs: cost before every iteration, in nats per frame and bin: the mean of -log p(x | z) over the
            draws in MCEM, the free energy in VEM.
        converged: whether the objective changed by less than the tolerance; None where the number of
            iterations is fixed.
        step_size: step sizes of the final transitions, in units of z, (C, *, N); None where they are not
            kept.
        energy: Hamiltonian of every draw, (C, D, *, N); None for a kernel without momentum.
        diverged: whether the transition to a draw diverged, (C, D, *, N); None where it is not kept.
        visual_weight: weight of the gain that depends on the lips, 0 to 1, (*, N); None where the algorithm
            does not weigh gains with and without lips.
        noise_draws: draws of the sites of a sampled noise, "W" (C, D, *, K, F), "H" (C, D, *, K, N) and
            perhaps "g" (C, D, *, N), of which `noise` is the mean; None where the noise is an estimate.
    """

    z: Tensor
    noise: NoiseModel
    wiener_gain: Tensor
    variance: Tensor
    responsibilities: Tensor
    acceptance: Tensor
    costs: list[float]
    converged: bool | None
    gain_floor: float = 0.0
    step_size: Tensor | None = None
    energy: Tensor | None = None
    diverged: Tensor | None = None
    visual_weight: Tensor | None = None
    noise_draws: Mapping[str, Tensor] | None = None

    def __repr__(self) -> str:
        """Shapes in one line."""
        chains, draws, *_, frames, latents = self.z.shape
        return f"Posterior({chains} chains, {draws} draws, {frames} frames, {latents} latents)"

    def to_xarray(
        self, channel: int = 0, functionals: Mapping[str, Tensor] | None = None, stft: STFT | None = None
    ) -> "xarray.Dataset":
        """Draws of one channel with named dimensions, ready for ArviZ.

        Variables: z (chain, draw, frame, latent); energy and diverged, where there are any (chain, draw,
        frame); W (chain, draw, noise_component, frequency), H (chain, draw, noise_component, frame) and g
        (chain, draw, frame), where the noise is sampled; step_size (chain, frame); wiener_gain and speech_std
        (frame, frequency); responsibilities (component, frame); acceptance (frame).

        Args:
            channel: index into the leading dimensions *, flattened.
            functionals: draws of more variables by name, (C, D, *, N) or (C, D, *, N, K), as
                `avse.evaluation.posterior.functionals.over_draws` gives them; they get the dimensions (chain,
                draw, frame) and one more: band for "level", component for "alpha", else NAME_dim.
            stft: if given, adds the coordinates frequency in Hz, and time in s on the dimension frame.
        """
        import arviz as az

        draws = {"z": self.z, "energy": self.energy, "diverged": self.diverged, **(functionals or {})}
        last = {"z": "latent", **LAST_DIMENSIONS}
        variables, dims = {}, {}
        for name, values in draws.items():
            if values is not None:
                after = values.dim() - self.z.dim() + 2  # frame, and perhaps one more
                variables[name] = _one_channel(values, 2, after, channel)
                dims[name] = ["frame", last.get(name, f"{name}_dim")][:after]
        for name, values in (self.noise_draws or {}).items():
            dims[name] = NOISE_DIMENSIONS[name]
            variables[name] = _one_channel(values, 2, len(dims[name]), channel)
        dataset: Any = az.convert_to_dataset(variables, dims=dims)
        no_draws = {
            "wiener_gain": (self.wiener_gain, 0, ("frame", "frequency")),
            "speech_std": (self.variance.sqrt(), 0, ("frame", "frequency")),
            "responsibilities": (self.responsibilities, 1, (COMPONENT, "frame")),
            "acceptance": (self.acceptance, 0, ("frame",)),
            "step_size": (self.step_size, 1, ("chain", "frame")),
        }
        dataset = dataset.assign(
            {
                name: (names, _one_channel(values, before, len(names) - before, channel))
                for name, (values, before, names) in no_draws.items()
                if values is not None
            }
        )
        if stft is None:
            return dataset
        spacing = stft.sample_rate / stft.window_length
        return dataset.assign_coords(
            frequency=spacing * np.arange(self.wiener_gain.shape[-1]),
            time=("frame", stft.frame_times(self.wiener_gain.shape[-2]).numpy()),
        )


def _one_channel(values: Tensor, before: int, after: int, channel: int) -> NDArray[Any]:
    """Flatten the dimensions between the first `before` and the last `after`, and select index `channel`."""
    inner = values.reshape(*values.shape[:before], -1, *values.shape[values.dim() - after :])
    return inner.select(before, channel).cpu().numpy()


def join_channels(posteriors: Sequence[Posterior]) -> Posterior:
    """Posteriors of one channel each, (1, N, F), as one of C channels, (C, N, F).

    The objective is averaged over channels; a channel that settled early keeps its last value.
    """
    first = posteriors[0]
    if len(posteriors) == 1:
        return first
    iterations = max(len(each.costs) for each in posteriors)
    costs = [[*each.costs, *each.costs[-1:] * (iterations - len(each.costs))] for each in posteriors]
    return replace(
        first,
        z=torch.cat([each.z for each in posteriors], 2),
        noise=first.noise.joined([each.noise for each in posteriors]),
        wiener_gain=torch.cat([each.wiener_gain for each in posteriors]),
        variance=torch.cat([each.variance for each in posteriors]),
        responsibilities=torch.cat([each.responsibilities for each in posteriors], 1),
        acceptance=torch.cat([each.acceptance for each in posteriors]),
        costs=[sum(each) / len(each) for each in zip(*costs, strict=True)],
        converged=None if first.converged is None else all(bool(each.converged) for each in posteriors),
        step_size=_joined([each.step_size for each in posteriors], 1),
        energy=_joined([each.energy for each in posteriors], 2),
        diverged=_joined([each.diverged for each in posteriors], 2),
        visual_weight=_joined([each.visual_weight for each in posteriors], 0),
        noise_draws=None
        if first.noise_draws is None
        else {
            name: torch.cat([(each.noise_draws or {})[name] for each in posteriors], 2)
            for name in first.noise_draws
        },
    )


def _joined(parts: Sequence[Tensor | None], dim: int) -> Tensor | None:
    """Parts side by side; None where there are none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found, dim) if found else None
