"""The result of inference: draws, the fitted noise, the Wiener gain and diagnostics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from avse.data.stft import STFT
from avse.inference.inference_data import Pointwise, Tree, to_inference_data
from avse.models.base import SpeechModel
from avse.models.noisy import NoiseModel

if TYPE_CHECKING:
    import xarray


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
