"""Which component of a mixture a frame of a recording belongs to, given z: exactly, and by draws.

    p(alpha_n | x_n, z_n, v_n) proportional to p(x_n | z_n, v_n, alpha_n) p(z_n | v_n, alpha_n) p(alpha_n)

Given z the frames are independent of each other.
"""

from contextlib import ExitStack

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from torch import Generator, Tensor

from avse.data.errors import InputError
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z


def responsibilities(model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None) -> Tensor:
    """p(alpha | x, z, v), in closed form: (A, *, N), 1 for a model without alpha.

    Args:
        model: speech and noise.
        z: latents (*, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
    """
    return model.log_joint(z, power, visual).softmax(0)


def sample_alpha(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None, generator: Generator
) -> Tensor:
    """A draw of alpha ~ p(alpha | x, z, v) for every frame, by Pyro's `infer_discrete`: (*, N).

    For any model that samples a discrete alpha; `responsibilities` are its exact probabilities.

    Args:
        model: speech and noise.
        z: latents (*, N, L); alpha is drawn for each of what stands left of N.
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.
        generator: seeds the draw; nothing else is random, and the global generator is left alone.

    Raises:
        InputError: the model has no alpha.
    """

    def story() -> None:
        with ExitStack() as plates:
            for dim in range(-z.dim() + 1, -1):  # chains and channels, left of the frames
                plates.enter_context(pyro.plate(f"_left{-dim}", z.shape[dim - 1], dim=dim))
            poutine.condition(model, {Z: z})(power=power, visual=visual)

    drawn = infer_discrete(
        config_enumerate(story), first_available_dim=-z.dim(), strict_enumeration_warning=False
    )
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.no_grad(), torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
        torch.manual_seed(seed)
        trace = poutine.trace(drawn).get_trace()
    if ALPHA not in trace.nodes:
        raise InputError("this model has no alpha to sample: it is not a mixture")
    alpha: Tensor = trace.nodes[ALPHA]["value"]
    return alpha.expand(z.shape[:-1])
