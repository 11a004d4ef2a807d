"""The result of inference: draws, the fitted noise, the Wiener gain and diagnostics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.data.stft import STFT
from avse.inference.inference_data import Pointwise, Tree, to_inference_data
from avse.models.base import SpeechModel
from avse.models.noisy import NoiseModel

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


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
        diverged: whether the transition to a draw diverged, (C, D, *, N); None where the draws are not Markov
            chains on p(z | x) but come from a guide, from a variational factor r(z), or from components that
            are mixed afterwards.
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

    def to_inference_data(
        self,
        speech: SpeechModel | None = None,
        power: Tensor | None = None,
        visual: Tensor | None = None,
        *,
        channel: int = 0,
        functionals: Mapping[str, Tensor] | None = None,
        stft: STFT | None = None,
        coords: Mapping[str, Any] | None = None,
        pointwise: Pointwise = "frame",
        predictive_draws: int = 50,
        seed: int = 0,
    ) -> Tree:
        """One channel as ArviZ's InferenceData (ArviZ 0.x) or an xarray DataTree (ArviZ 1.x).

        ArviZ's functions work on the result as it comes: `az.summary`, `az.plot_trace`, `az.plot_rank`,
        `az.plot_forest`, `az.plot_energy`, `az.plot_ppc` (`az.plot_ppc_dist` of ArviZ 1.x), `az.loo` and
        `az.compare`. `avse.inference.inference_data` lists the groups and their variables. Where a recording
        has many frames, name the variables: `az.summary(idata, var_names=["speech_level"])`.

        Args:
            speech: the speech model that z was drawn from. Without it there are no quantities that depend on
                the density: lp, log_likelihood, posterior_predictive, alpha and the levels of the recording.
            power: |x|^2 that the posterior was given, (*, N, F); the speech model needs it.
            visual: lips (*, N, D), where the speech model has them.
            channel: index into the leading dimensions *, flattened.
            functionals: draws of more variables by name, (C, D, *, N) or (C, D, *, N, K), as
                `avse.evaluation.posterior.functionals.over_draws` gives them; they get the dimensions (chain,
                draw, frame) and one more: band for "level", component for "alpha", else NAME_dim.
            stft: if given, the coordinates of frame are times in s, and those of frequency are in Hz.
            coords: values of further dimensions by name, such as {"band": ["0 to 500 Hz", ...]}.
            pointwise: what one entry of log_likelihood stands for, and `az.loo` leaves out: a "frame", or a
                "bin" of a frame given its other bins, which takes C D N F numbers.
            predictive_draws: number of draws that posterior_predictive has a replicate of, over all chains,
                equally spaced and rounded up to the same number per chain; each takes N F numbers.
            seed: of the replicates.

        Raises:
            InputError: a speech model without the power of the recording.
        """
        return to_inference_data(
            self,
            speech,
            power,
            visual,
            channel=channel,
            functionals=functionals,
            stft=stft,
            coords=coords,
            pointwise=pointwise,
            predictive_draws=predictive_draws,
            seed=seed,
        )

    def plot_cost(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the cost before every iteration, on new axes if none are given; returns the axes."""
        from avse.data.drawing import axes_or_new
        from avse.inference.drawing import draw_costs

        axes = axes_or_new(axes)
        draw_costs(axes, self.costs)
        return axes

    def plot_wiener_gain(
        self, axes: "Axes | None" = None, *, channel: int = 0, stft: STFT | None = None
    ) -> "Axes":
        """Draw the Wiener gain of one channel, 0 to 1, on new axes if none are given; returns the axes.

        Args:
            axes: to draw on.
            channel: index into the leading dimensions *, flattened.
            stft: for axes in s and Hz; else frames and bins are numbered.
        """
        from avse.data.drawing import axes_or_new, draw_gain

        axes, gain = axes_or_new(axes), self.wiener_gain.reshape(-1, *self.wiener_gain.shape[-2:])
        draw_gain(axes, gain[channel].cpu().numpy(), stft)
        return axes

    def plot_responsibilities(
        self, axes: "Axes | None" = None, *, channel: int = 0, stft: STFT | None = None
    ) -> "Axes":
        """Draw p(alpha | x) of one channel over time, on new axes if none are given; returns the axes.

        Args:
            axes: to draw on.
            channel: index into the leading dimensions *, flattened.
            stft: for an axis in s; else frames are numbered.
        """
        from avse.data.drawing import axes_or_new
        from avse.inference.drawing import draw_responsibilities

        axes = axes_or_new(axes)
        own = self.responsibilities
        values = own.reshape(len(own), -1, own.shape[-1])[:, channel].cpu().numpy()
        frames = torch.arange(values.shape[-1]) if stft is None else stft.frame_times(values.shape[-1])
        draw_responsibilities(axes, values, frames.numpy(), "frame" if stft is None else "time (s)")
        return axes

    def plot_trace(
        self, name: str = "z", at: Mapping[str, Any] | None = None, axes: Any = None, **data: Any
    ) -> Any:
        """Density and trace of one number of every draw, by `az.plot_trace`; returns what ArviZ returns.

            posterior.plot_trace("z", {"frame": 0.5, "latent": 3}, stft=pair.stft)

        Args:
            name: variable of the group posterior of `to_inference_data`.
            at: where, by dimension; the nearest there is, and the middle of dimensions that are not named.
            axes: two in a row, (1, 2), for density and trace; ArviZ 1.x takes none.
            data: arguments of `to_inference_data`, such as speech and power for "speech_level".

        Raises:
            InputError: no such variable or dimension.
        """
        from avse.inference.drawing import plot_trace, scalar_at

        tree = self.to_inference_data(**data)
        return plot_trace(tree, name, scalar_at(tree, name, at), axes)

    def plot_rank(
        self, name: str = "z", at: Mapping[str, Any] | None = None, axes: Any = None, **data: Any
    ) -> Any:
        """Ranks of one number among the draws of all chains, by `az.plot_rank`: flat if the chains agree.

        Arguments, errors and result are those of `plot_trace`, with one axes.
        """
        from avse.inference.drawing import plot_rank, scalar_at

        tree = self.to_inference_data(**data)
        return plot_rank(tree, name, scalar_at(tree, name, at), axes)

    def plot_energy(self, axes: Any = None, *, channel: int = 0) -> Any:
        """The energy of one channel and its changes between draws, by `az.plot_energy`.

        Raises:
            InputError: the draws are of a kernel without momentum.
        """
        from avse.inference.drawing import plot_energy

        if self.energy is None:
            raise InputError("these draws have no energy: they are of a kernel without momentum")
        return plot_energy(self.to_inference_data(channel=channel), axes)

    def _facts(self) -> dict[str, str]:
        """What the posterior consists of and how inference went, in words."""
        chains, draws, *channels, frames, latents = self.z.shape
        found = {
            "chains x draws": f"{chains} x {draws}",
            "frames, latents, bins": f"{frames}, {latents}, {self.wiener_gain.shape[-1]}",
            "channels": str(torch.Size(channels).numel()),
            "values of alpha": str(len(self.responsibilities)),
            "iterations": str(len(self.costs)),
            "acceptance rate": f"{float(self.acceptance.mean()):.2f}",
        }
        if self.costs:
            found["last cost"] = f"{self.costs[-1]:.4g} nats per frame and bin"
        if self.converged is not None:
            found["converged"] = "yes" if self.converged else "no"
        if self.diverged is not None:
            found["divergent draws"] = f"{float(self.diverged.float().mean()):.1%}"
        if self.noise_draws is not None:
            found["sampled noise"] = ", ".join(self.noise_draws)
        return found

    def _repr_html_(self) -> str:
        """For a notebook: what it consists of, and pictures of the gain, the cost and alpha of a channel."""
        from matplotlib.figure import Figure

        from avse.data.notebook import facts, picture, section

        mixed = len(self.responsibilities) > 1
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        axes = figure.subplots(1, 3 if mixed else 2)
        self.plot_wiener_gain(axes[0])
        self.plot_cost(axes[1])
        if mixed:
            self.plot_responsibilities(axes[2])
        alt = f"Wiener gain over frames and bins, and cost over {len(self.costs)} iterations"
        drawn = picture(figure, f"{alt}; p(alpha | x) over frames." if mixed else f"{alt}.")
        return section("Posterior", facts(self._facts(), "draws and fit"), drawn)

    def to_xarray(
        self, channel: int = 0, functionals: Mapping[str, Tensor] | None = None, stft: STFT | None = None
    ) -> "xarray.Dataset":
        """Draws and estimates of one channel in one dataset; `to_inference_data` is what ArviZ works on.

        Variables: those of its posterior, z (chain, draw, frame, latent) and the functionals; energy and
        diverged, where there are any (chain, draw, frame); W (chain, draw, noise_component, frequency), H
        (chain, draw, noise_component, frame) and g (chain, draw, frame), where the noise is sampled;
        step_size (chain, frame); wiener_gain and speech_std (frame, frequency); responsibilities (component,
        frame); acceptance (frame).

        Args:
            channel: as for `to_inference_data`.
            functionals: as for `to_inference_data`.
            stft: if given, adds the coordinates frequency in Hz, and time in s on the dimension frame.
        """
        tree: Any = self.to_inference_data(channel=channel, functionals=functionals, stft=stft)
        constant = tree["constant_data"]
        found = {name: constant[name] for name in ("wiener_gain", "speech_std", "responsibilities")}
        found["acceptance"] = constant["acceptance_rate"]
        if self.energy is not None:
            found["energy"] = tree["sample_stats"]["frame_energy"]
        if self.diverged is not None:
            found["diverged"] = tree["sample_stats"]["frame_diverging"]
        if self.step_size is not None:
            found["step_size"] = tree["sample_stats"]["step_size"].isel(draw=0, drop=True)
        posterior = tree["posterior"]
        dataset = getattr(posterior, "ds", posterior).assign(found)  # a DataTree holds its dataset as ds
        if stft is None:
            return dataset
        times = dataset["frame"].values
        return dataset.assign_coords(time=("frame", times), frame=range(len(times)))


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
