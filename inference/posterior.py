"""What inference leaves behind: draws, fitted noise, the Wiener gain and how it went."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from avse.models.noisy import NoiseModel

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class Posterior:
    """The posterior of the speech in a recording of N frames; C chains, D draws, L latents, F bins.

    Attributes:
        z: draws of the latents, (C, D, *, N, L).
        noise: fitted noise model.
        gain: mean Wiener gain, (*, N, F): E[s | x] = gain x.
        gain_floor: smallest gain to apply when the speech is heard; no part of the posterior.
        variance: Var[s | x], a power in the units of the mixture, (*, N, F).
        responsibilities: p(alpha | x), (A, *, N), with A = 1 for a model without alpha.
        acceptance: mean acceptance of the final moves, (*, N).
        costs: of the noise model before every iteration, a frame and bin: the mean of -log p(x | z) over the
            draws in MCEM, the free energy in VEM.
        converged: whether the iterations settled within the tolerance.
    """

    z: Tensor
    noise: NoiseModel
    gain: Tensor
    variance: Tensor
    responsibilities: Tensor
    acceptance: Tensor
    costs: list[float]
    converged: bool
    gain_floor: float = 0.0

    def to_xarray(self, channel: int = 0) -> "xarray.Dataset":
        """Draws of one channel with named dimensions, ready for ArviZ.

        Variables: z (chain, draw, frame, latent); gain and speech_deviation (frame, frequency); acceptance
        (frame).
        """
        import arviz as az

        z = self.z.flatten(2, -3)[:, :, channel] if self.z.dim() > 4 else self.z
        dataset: Any = az.convert_to_dataset({"z": z.cpu().numpy()}, dims={"z": ["frame", "latent"]})
        frame_data = {
            "gain": (("frame", "frequency"), self.gain),
            "speech_deviation": (("frame", "frequency"), self.variance.sqrt()),
            "acceptance": (("frame",), self.acceptance),
        }
        return dataset.assign(
            {
                name: (
                    dims,
                    (v.flatten(0, -len(dims) - 1)[channel] if v.dim() > len(dims) else v).cpu().numpy(),
                )
                for name, (dims, v) in frame_data.items()
            }
        )
