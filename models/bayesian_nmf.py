"""A Bayesian noise model: a prior on the NMF factors of its variance, which are sampled together with z.

    W_k ~ Dirichlet(a, .., a)                          spectrum of component k, sums to 1 over the F bins
    h_kn ~ Gamma(c, c / m), E h = m, Var h = m^2 / c   its power in frame n; optionally smooth in n
    x_fn | z_n, v_n, W, H ~ N_c(0, sigma_f(z_n, v_n) + (W H)_fn)

A Dirichlet vector is one of independent Gamma(a) variates over their sum: this is the Gamma-Gamma
factorisation (Hoffman, Blei, Cook, ICML 2010) with the scale of each component given to H alone. With Gamma
priors on both factors as they are, W_k t and H_k / t have the same likelihood and only the priors
determine t; here h_kn is the power of component k in frame n, and draws of W and of H are interpretable.

With more than one component the posterior is invariant to their order. Use functions of the draws that do not
depend on it, such as the variance W H: `GammaNMF.noise(draws).variance()`.

    prior = GammaNMF.around(fitted.noise)
    model = SpeechInUnknownNoise(speech, prior)
    mcmc = MCMC(nuts(model, {"z": z, **prior.start(fitted.noise)}), num_samples=500, warmup_steps=300)
    mcmc.run(power=power)
    prior.noise(mcmc.get_samples()).variance()         # (500, N, F)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.models.base import SpeechModel
from avse.models.nmf import NMFNoise
from avse.models.noisy import sample_noisy
from avse.models.parameters import StoredModule
from avse.models.sites import H, W


@dataclass(frozen=True)
class GammaNMF:
    """The prior of W and H of one recording. Calling it samples both sites.

    Site "W" is (K, F), the transpose of the symbol: Pyro's simplex lies along the last dimension. Site "H" is
    (K, N).

    Args:
        bins: F.
        frames: N.
        level: m, mean power of a component in a frame, summed over the bins, ().
        rank: K.
        spectrum_shape: a; 1 gives a uniform prior, less favours sparse spectra.
        activation_shape: c; 1 over the relative variance of an activation.
        smoothness: lambda of a further factor exp(-lambda sum_kn [h_kn / h_k,n+1 + h_k,n+1 / h_kn - 2]), the
            prior of `NMFNoise`. It is a factor, not a site: it shapes the posterior, while H sampled without
            data still comes from the Gamma alone.
        floor: smallest noise variance, a power, ().

    Raises:
        InputError: a size below 1, or a shape or level that is not positive.
    """

    bins: int
    frames: int
    level: Tensor
    rank: int = 1
    spectrum_shape: float = 1.0
    activation_shape: float = 1.0
    smoothness: float = 0.0
    floor: Tensor | float = 0.0

    def __post_init__(self) -> None:
        positive = (self.spectrum_shape, self.activation_shape, float(self.level))
        if min(self.bins, self.frames, self.rank) < 1 or not min(positive) > 0:
            raise InputError(
                f"a prior of {self.rank} spectra of {self.bins} bins over {self.frames} frames, with shapes "
                f"and level {positive}: all must be positive"
            )

    @classmethod
    def around(
        cls, noise: NMFNoise, spectrum_shape: float = 1.0, activation_shape: float = 1.0
    ) -> "GammaNMF":
        """Sizes, level, smoothness and floor of a fitted noise model of one recording: empirical Bayes."""
        (bins, rank), frames = noise.W.shape, noise.H.shape[-1]
        level = (noise.W.sum(-2) @ noise.H).mean() / rank
        floor = torch.as_tensor(noise.floor).reshape(())
        return cls(bins, frames, level, rank, spectrum_shape, activation_shape, noise.smoothness, floor)

    def __call__(self) -> NMFNoise:
        """Sample W and H, and return the noise model, with frame gain 1."""
        ones = self.level.new_ones
        spectra = dist.Dirichlet(self.spectrum_shape * ones(self.rank, self.bins))
        rate = self.activation_shape / self.level
        activations = dist.Gamma(self.activation_shape * ones(self.rank, self.frames), rate)
        noise = self.noise(
            {W: pyro.sample(W, spectra.to_event(1)), H: pyro.sample(H, activations.to_event(2))}
        )
        if self.smoothness > 0:
            pyro.factor("smoothness", -noise.neg_log_smoothness_prior())
        return noise

    def noise(self, draws: Mapping[str, Tensor]) -> NMFNoise:
        """The noise model of values of the sites, "W" (*, K, F) and "H" (*, K, N)."""
        gain = torch.ones_like(draws[H][..., 0, :])
        return NMFNoise(draws[W].mT, draws[H], gain, self.smoothness, self.floor)

    def start(self, noise: NMFNoise) -> dict[str, Tensor]:
        """Values of the sites at a fitted noise model, clipped to the interior of the support."""
        least = 1e-6 / self.bins
        scale = noise.W.sum(-2)
        spectra = (noise.W / scale).mT.clamp_min(least)
        activations = (noise.H * scale.unsqueeze(-1)).clamp_min(least * self.level)
        return {W: spectra / spectra.sum(-1, keepdim=True), H: activations}


class SpeechInUnknownNoise(StoredModule):
    """Noisy speech, with the noise model itself a latent variable.

    W couples the frames: sample all sites jointly, as `avse.inference.mcmc.pyro_kernel.nuts` does, or z frame
        by
    frame at fixed W and H, which is `NoisySpeech(speech, prior.noise(draw))`.

    Args:
        speech: p(s, z, alpha | v).
        prior: samples the noise model, a `GammaNMF`.
    """

    def __init__(self, speech: SpeechModel, prior: Callable[[], NMFNoise]) -> None:
        super().__init__()
        self.speech = speech
        self.prior = prior

    def forward(self, power: Tensor | None = None, visual: Tensor | None = None) -> Tensor:
        """The generative model. Returns the power spectrum of the noisy speech, (N, F).

        Args:
            power: observed |x|^2 (N, F), or None to sample it.
            visual: lips (N, D), where the speech model has them.
        """
        return sample_noisy(self.speech, self.prior(), power, visual)
