"""A Bayesian noise model: a prior on the NMF factors of its variance, which are sampled together with z.

    W_k ~ Dirichlet(a, .., a)                          spectrum of component k, sums to 1 over the F bins
    h_kn ~ p(h), E h = m                               its power in frame n
        Gamma(c, c / m), Var h = m^2 / c                        `GammaNMF`
        InverseGamma(c + 2, (c + 1) m), Var h = m^2 / c         `InverseGammaNMF`
        Gamma(k, k / h_k,n-1) given h_k,n-1: smooth in n        `GammaChainNMF`
    g_n ~ Gamma(c_g, c_g), or 1                        frame gain of the speech
    x_fn | z_n, v_n, W, H, g ~ N_c(0, g_n sigma_f(z_n, v_n) + (W H)_fn)

A Dirichlet vector is one of independent Gamma(a) variates over their sum: this is the Gamma-Gamma
factorisation (Hoffman, Blei, Cook, ICML 2010) with the scale of each component given to H alone. With Gamma
priors on both factors as they are, W_k t and H_k / t have the same likelihood and only the priors
determine t; here h_kn is the power of component k in frame n, and draws of W and of H are interpretable.

With more than one component the posterior is invariant to their order. Use functions of the draws that do not
depend on it, such as the variance W H: `GammaNMF.noise(draws).variance()`.

    prior = GammaNMF.around(fitted.noise)
    model = NoisySpeech(speech, prior)
    mcmc = MCMC(nuts(model, {"z": z, **prior.start(fitted.noise)}), num_samples=500, warmup_steps=300)
    mcmc.run(power=power)
    prior.noise(mcmc.get_samples()).variance()         # (500, N, F)

`avse.inference.mcmc.pyro_mcmc.PyroMCMC` enhances a recording with such a prior.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from avse.data.errors import InputError
from avse.models.gamma_chain import GammaChain
from avse.models.nmf import NMFNoise
from avse.models.noisy import NoisySpeech
from avse.models.sites import G, H, W


@dataclass(frozen=True)
class GammaNMF:
    """The prior of W and H of one recording. Calling it samples both sites, and g where it has a prior.

    Site "W" is (K, F), the transpose of the symbol: Pyro's simplex lies along the last dimension. Site "H" is
    (K, N), site "g" (N,). A subclass may override `activations`.

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
        gain_shape: c_g, 1 over the variance of the frame gain of the speech, whose mean is 1; None for g = 1.

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
    gain_shape: float | None = None

    def __post_init__(self) -> None:
        positive = (
            self.spectrum_shape,
            self.activation_shape,
            float(self.level),
            1.0 if self.gain_shape is None else self.gain_shape,
        )
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

    def spectra(self) -> dist.TorchDistribution:
        """p(W), of event shape (K, F)."""
        shape = self.level.new_full((self.rank, self.bins), self.spectrum_shape)
        return dist.Dirichlet(shape).to_event(1)

    def activations(self) -> dist.TorchDistribution:
        """p(H), of event shape (K, N)."""
        shape = self.level.new_full((self.rank, self.frames), self.activation_shape)
        return dist.Gamma(shape, self.activation_shape / self.level).to_event(2)

    def __call__(self) -> NMFNoise:
        """Sample W and H, and g where it has a prior; return the noise model of their values."""
        draws = {W: pyro.sample(W, self.spectra()), H: pyro.sample(H, self.activations())}
        if self.gain_shape is not None:
            shape = self.level.new_full((self.frames,), self.gain_shape)
            draws[G] = pyro.sample(G, dist.Gamma(shape, shape).to_event(1))
        noise = self.noise(draws)
        noise.smoothness_factor()
        return noise

    def noise(self, draws: Mapping[str, Tensor]) -> NMFNoise:
        """The noise model of values of the sites, "W" (*, K, F), "H" (*, K, N) and perhaps "g" (*, N)."""
        gain = draws[G] if G in draws else torch.ones_like(draws[H][..., 0, :])
        return NMFNoise(draws[W].mT, draws[H], gain, self.smoothness, self.floor)

    def start(self, noise: NMFNoise) -> dict[str, Tensor]:
        """Values of the sites at a fitted noise model, clipped to the interior of the support."""
        least = 1e-6 / self.bins
        scale = noise.W.sum(-2)
        spectra = (noise.W / scale).mT.clamp_min(least)
        activations = (noise.H * scale.unsqueeze(-1)).clamp_min(least * self.level)
        values = {W: spectra / spectra.sum(-1, keepdim=True), H: activations}
        return values if self.gain_shape is None else {**values, G: noise.frame_gain.clamp_min(least)}


@dataclass(frozen=True)
class InverseGammaNMF(GammaNMF):
    """`GammaNMF` with h_kn ~ InverseGamma(c + 2, (c + 1) m): mean m, variance m^2 / c, a heavier upper tail.

    Févotte, Bertin, Durrieu, Neural Computation 2009, use it for components that are never silent.
    """

    def activations(self) -> dist.TorchDistribution:
        """p(H), of event shape (K, N)."""
        c = self.activation_shape
        shape = self.level.new_full((self.rank, self.frames), c + 2)
        return dist.InverseGamma(shape, (c + 1) * self.level).to_event(2)


@dataclass(frozen=True)
class GammaChainNMF(GammaNMF):
    """`GammaNMF` with activations that are smooth in time: h_k1 ~ Gamma(c, c / m), then a `GammaChain`.

    Args:
        coupling: k; the relative standard deviation from one frame to the next is 1 / sqrt(k).
    """

    coupling: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.coupling > 0:
            raise InputError(f"a coupling of {self.coupling}: it must be positive")

    def activations(self) -> dist.TorchDistribution:
        """p(H), of event shape (K, N)."""
        level = self.level.expand(self.rank)
        return GammaChain(self.activation_shape, level, self.coupling, self.frames).to_event(1)


SpeechInUnknownNoise = NoisySpeech
"""Former name of `NoisySpeech` with a noise prior."""
