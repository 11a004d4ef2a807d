"""M-steps: updates of the parameters, given draws of the latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avse.models.coupling import check_alpha
from avse.models.distributions import exponential_cost
from avse.models.linear_gaussian import LinearGaussian
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech, noisy_variance

NoiseUpdate = Callable[[Any, Tensor, Any, Tensor], Any]
"""(noise, power (*, N, F), R speech variances (*, N, F), weights (R, *, N)) -> updated noise."""


@dataclass(frozen=True)
class NoiseStep:
    """Update of the noise parameters by majorise-minimise steps, one after the other.

    Every draw of z is weighted by the exact posterior of alpha given z, so that alpha is summed out and not
    sampled.

    Args:
        updates: updates of W, H and, optionally, of the frame gain.
        rounds: number of passes over the updates.
    """

    updates: Sequence[NoiseUpdate] = (NMFNoise.updated_spectra, NMFNoise.updated_activations)
    rounds: int = 1

    def __call__(
        self, model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None
    ) -> tuple[NoisySpeech, float]:
        """The model with updated noise, and the cost of the old noise in nats per frame and bin.

        Args:
            model: the speech and noise models.
            z: draws (R, *, N, L), or (R, C, *, N, L) of C chains.
            power: |x|^2 (*, N, F).
            visual: lips, where the model has them.
        """
        check_alpha(model)
        with torch.no_grad():
            z = z.reshape(-1, *power.shape[:-1], z.shape[-1])
            speech_variance, weights = weighted_speech_variance(model, z, power, visual)
            noise, cost = self.updated(model.noise, power, speech_variance, weights)
            return NoisySpeech(model.speech, noise), cost

    def updated(self, noise: Any, power: Tensor, speech_variance: Any, weights: Tensor) -> tuple[Any, float]:
        """The updated noise, and the cost of the old noise in nats per frame and bin.

        Args:
            noise: noise model.
            power: |x|^2 (*, N, F).
            speech_variance: speech variance of every draw, (R, *, N, F).
            weights: weights of the draws, (R, *, N).
        """
        cost = noise.cost(power, speech_variance, weights).sum() / power.numel()
        for _ in range(self.rounds):
            for update in self.updates:
                noise = update(noise, power, speech_variance, weights)
        return noise, float(cost)


@torch.no_grad()
def weighted_speech_variance(
    model: NoisySpeech, z: Tensor, power: Tensor, visual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Speech variance at every draw and value of alpha, and the posterior weight of each.

    Args:
        model: the speech and noise models.
        z: draws (R, *, N, L).
        power: |x|^2 (*, N, F).
        visual: lips, where the model has them.

    Returns:
        S (R A, *, N, F), without the frame gain, and p(alpha | x, z_r) / R (R A, *, N), which sum to 1 over R
        A.
    """
    speech_variance = power.new_empty(0)
    weights = []
    given = model.speech.given(visual)
    for index, draw in enumerate(z):  # one draw at a time, so that its arrays fit in the processor cache
        log_prior, log_variance = given(draw)
        if index == 0:
            speech_variance = log_variance.new_empty(len(z), *log_variance.shape)
        torch.exp(log_variance, out=speech_variance[index])
        if log_prior.shape[0] == 1:
            weights.append(torch.ones_like(log_prior))
        else:
            variance = noisy_variance(log_variance, model.noise)
            weights.append((log_prior - exponential_cost(power, variance)).softmax(0))
    return speech_variance.flatten(0, 1), torch.cat(weights).div_(len(z))


@dataclass(frozen=True)
class LinearGaussianStep:
    """The closed-form maximum of E log p(s, z) for the linear Gaussian model."""

    def __call__(self, model: LinearGaussian, z: Tensor, s: Tensor) -> tuple[LinearGaussian, float]:
        """The maximising model at draws z (R, N, L), and minus the log evidence per frame of the old one."""
        second_moment = torch.einsum("rnl,rnm->lm", z, z) / z.shape[0]
        cost = -model.log_evidence(s).mean()
        return model.maximised(s, z.mean(0), second_moment), float(cost)
