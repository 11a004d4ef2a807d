"""Effect handlers that the models run under."""

from typing import Any

from pyro.poutine.messenger import Messenger

from avse.data.errors import InputError
from avse.models.sites import Z


class OneZForAllAlpha(Messenger):
    """Refuses a given z with a value for each value of an enumerated alpha.

    Pyro's NUTS and HMC take the initial shape of z from a run with alpha enumerated, where z has the shape
    (A, N, L), and then sample an improper density: under one value of alpha, the z of the others is
    unconstrained. Everywhere else, alpha is enumerated left of all dimensions of a given z.

    Raises:
        InputError: such a z.
    """

    def __enter__(self) -> Any:
        self._alpha_dims: list[int] = []
        return super().__enter__()

    def _pyro_post_sample(self, msg: Any) -> None:
        dim = msg["infer"].get("_enumerate_dim")
        if dim is not None:
            self._alpha_dims.append(dim)
        if msg["name"] != Z or not msg["is_observed"]:
            return
        batch = msg["value"].shape[: msg["value"].dim() - msg["fn"].event_dim]
        if any(-dim <= len(batch) and batch[dim] > 1 for dim in self._alpha_dims):
            raise InputError(
                f'site "z" is given with shape {tuple(msg["value"].shape)}, a value for each alpha: under '
                'NUTS or HMC give an initial z (N, L), as nuts(model, {"z": z}) of '
                "avse.inference.mcmc.pyro_kernel does"
            )
