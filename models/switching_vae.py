"""Switching VAE: a VAE-MM whose alpha is a Markov chain over time.

    p(alpha_1 | v_1)                 that of the VAE-MM
    p(alpha_n | alpha_{n-1}, v_n)    proportional to T(alpha_{n-1}, alpha_n) p(alpha_n | v_n)
    z_n | v_n, alpha_n = k ~ p_k(z | v_n),    s_fn | z_n, v_n, alpha_n = k ~ N_c(0, sigma^k_f(z_n, v_n))

Sadeghi, Alameda-Pineda, ICASSP 2021 (arXiv 2102.04144), whose factor of alpha is a step of variational EM.
Here the chain belongs to the model: `forward` is the program, frame after frame with `pyro.markov`, in which
Pyro enumerates alpha, and `alpha_chain` is the same in closed form. T keeps alpha with probability
1 - 1 / frames and is uniform otherwise; the classifier d(v) of the VAE-MM takes part in every frame.

Given the path of alpha the frames are independent, so that component-wise Monte Carlo EM serves the model:
chains for every alpha, then the path by the forward and backward recursions.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.models.alpha_chain import AlphaChain
from avse.models.base import SpeechModel
from avse.models.coupling import Coupling
from avse.models.distributions import PowerSpectrum
from avse.models.mixture import SelectedDistribution, selected
from avse.models.sites import ALPHA, S, Z
from avse.models.vae_mm import VAEMM, component_log_variance, component_prior


class SwitchingVAE(VAEMM):
    """A mixture of speech models of which one lasts for many frames.

        SwitchingVAE(a_vae.model, av_vae.model, pi=0.3, frames=30)

    Args:
        first, second, others, pi, corruption_classifier: as for `VAEMM`.
        frames: mean duration of a value of alpha by T alone, in frames, more than 1.

    Raises:
        InputError: as `VAEMM`, or `frames` is not above 1.
    """

    def __init__(
        self, first: SpeechModel, second: SpeechModel, *others: Any, frames: float = 30.0, **settings: Any
    ) -> None:
        super().__init__(first, second, *others, **settings)
        if not frames > 1:
            raise InputError(f"a mean duration of alpha of {frames} frames: it must be more than 1")
        self.frames = frames

    @property
    def coupling(self) -> Coupling:
        """By alpha."""
        return Coupling.ALPHA

    def log_durations(self) -> Tensor:
        """log T, (A, A)."""
        values = len(self.component_models())
        away = torch.full((values, values), -math.log(self.frames * (values - 1))).to(self.pi)
        return away.fill_diagonal_(math.log1p(-1 / self.frames))

    def alpha_chain(self, visual: Tensor | None = None) -> AlphaChain:
        """p(alpha_1 | v_1) and p(alpha_n | alpha_{n-1}, v_n) at lips (*, N, D), which d(v) reads."""
        log_alpha = self.log_alpha(visual)
        if log_alpha.dim() == 1:
            return AlphaChain(log_alpha, (self.log_durations() + log_alpha).log_softmax(-1))
        every = log_alpha.movedim(0, -1)  # (*, N, A)
        transition = (self.log_durations() + every[..., 1:, None, :]).log_softmax(-1)
        return AlphaChain(log_alpha[..., 0], transition)

    def forward(
        self, power: Tensor | None = None, visual: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """The generative model of one recording, sites "alpha_n", "z_n", "s_n"; the power spectrum (N, F).

        Args:
            power: observed |s|^2 (N, F), or None to sample it.
            visual: lips (N, D), where the components have them.
            frames: N, needed when neither `power` nor `visual` is given.

        Raises:
            InputError: several recordings or channels, or no number of frames.
        """
        given = [data for data in (power, visual) if data is not None]
        if any(data.dim() != 2 for data in given):
            raise InputError("a switching VAE takes one recording at a time: power (N, F), lips (N, D)")
        number = len(given[0]) if given else frames
        if number is None:
            raise InputError("the number of frames: give power, lips or frames")
        log_alpha = self.log_alpha(visual)
        if log_alpha.dim() == 1:
            log_alpha = log_alpha.unsqueeze(-1).expand(-1, number)
        durations, models = self.log_durations(), self.component_models()
        alpha, spectrum = torch.zeros(()), []
        for n in pyro.markov(range(number)):
            logits = log_alpha[:, n]
            if n > 0:
                logits = logits + durations[alpha.long()]
            alpha = pyro.sample(
                f"{ALPHA}_{n}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"}
            )
            lips = None if visual is None else visual[n]
            z = pyro.sample(
                f"{Z}_{n}", SelectedDistribution(alpha, [component_prior(own, lips) for own in models])
            )
            log_variance = selected(alpha, [component_log_variance(own, z, lips) for own in models], 1)
            observed = None if power is None else power[n]
            s = pyro.sample(f"{S}_{n}", PowerSpectrum(log_variance).to_event(1), obs=observed)
            spectrum.append(s)
        return torch.stack(spectrum, -2)
