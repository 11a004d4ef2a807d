"""A new prior in ten lines, and every algorithm runs on it.

    python examples/swap_the_prior.py

The shipped A-VAE says z ~ N(0, I). Here its decoder stands behind two other priors: independent Student-t
variables, whose tails are heavy, and a mixture of four normals with a discrete alpha, fitted to what the
encoder hears in clean voices. The lesson: a model is one method, `latent`. The algorithms read densities off
a trace of it and find alpha, with all its values, by themselves; none knows a model by name, and the last
one, Pyro's No-U-Turn sampler, nothing of this package at all. The table tells the SI-SDR of a noisy voice
after each, of which half a decibel is chance. Expect no more: the decoder was trained with the first prior.
"""

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, pink_noise
from avse.evaluation.metrics import si_sdr
from avse.guides.base import SpeechGuide
from avse.inference.algorithm import Algorithm
from avse.inference.posterior import Posterior
from avse.inference.presets import default_mcem, default_vem, mixture_mcem, papers_mcem
from avse.inference.vem.latent_factor import Structured
from avse.inference.wiener import average_filter
from avse.models.base import SpeechModel
from avse.models.noisy import NoisySpeech
from avse.models.sites import ALPHA, Z
from avse.zoo.pair import SpeechPair


class HeavyTails(SpeechModel):
    def __init__(self, decoder: nn.Module, size: int) -> None:
        super().__init__()
        self.decoder, self.size = decoder, size

    def latent(self, visual: Tensor | None = None) -> Tensor:
        z = pyro.sample(Z, dist.StudentT(5.0).expand([self.size]).to_event(1))
        return self.decoder(z)


class Mixture(SpeechModel):
    def __init__(self, decoder: nn.Module, weight: Tensor, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.decoder, self.weight, self.mean, self.scale = decoder, weight, mean, scale

    def latent(self, visual: Tensor | None = None) -> Tensor:
        alpha = pyro.sample(ALPHA, dist.Categorical(self.weight))
        z = pyro.sample(Z, dist.Normal(self.mean[alpha], self.scale[alpha]).to_event(1))
        return self.decoder(z)


def fitted_mixture(z: Tensor, values: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (A,), means and scales (A, L) of A normals, by EM on z (N, L)."""
    mean = z[torch.randperm(len(z))[:values]]
    weight, scale = torch.full((values,), 1 / values), z.std(0).expand_as(mean)
    for _ in range(30):
        r = (weight.log() + dist.Normal(mean, scale).to_event(1).log_prob(z.unsqueeze(1))).softmax(1)
        count = r.sum(0).unsqueeze(1)
        weight, mean = r.mean(0), r.mT @ z / count
        scale = (r.mT @ z.square() / count - mean.square()).clamp_min(1e-3).sqrt()
    return weight, mean, scale


@dataclass(frozen=True)
class NoUTurn:
    """The noise of one channel as `first` fits it; then z of all frames at once by Pyro, alpha summed out."""

    first: Algorithm
    draws: int

    def __call__(self, speech: SpeechModel, guide: SpeechGuide, power: Tensor, *rest: Any) -> Posterior:
        fitted = self.first(speech, guide, power[0], *rest)
        model = NoisySpeech(speech, fitted.noise)
        kernel = NUTS(model, max_plate_nesting=1, max_tree_depth=5)
        mcmc = MCMC(kernel, self.draws, self.draws, {Z: fitted.z[0, -1]}, disable_progbar=True)
        mcmc.run(power=power[0])
        z = mcmc.get_samples()[Z]
        return replace(fitted, z=z.unsqueeze(0), **average_filter(model, z, power[0])._asdict())


def algorithms(steps: int, draws: int) -> dict[str, Algorithm]:
    """The presets, with so many iterations each."""
    mcem, papers = (replace(p, em=replace(p.em, iterations=steps)) for p in (default_mcem(), papers_mcem()))
    vem, structured = (replace(p, iterations=steps) for p in (default_vem(), mixture_mcem()))
    return {
        "MCEM": mcem,
        "MCEM of the papers": papers,
        "MCEM, chains for each alpha": structured,
        "VEM, one r(z)": vem,
        "VEM, r(z | alpha)": replace(vem, factor=Structured()),
        "NUTS": NoUTurn(mcem, draws),
    }


def heard(pair: SpeechPair, voices: int, seed: int) -> Tensor:
    """z ~ q(z | s) of the frames of clean voices, (N, L)."""
    spoken = [utterance_speech(seed, speaker, index=0) for speaker in range(1, voices + 1)]
    samples = np.concatenate([voice.samples for voice in spoken])
    sound = torch.from_numpy(resample(samples, spoken[0].sample_rate, pair.stft.sample_rate))
    return pair.guide.posterior(pair.config.front_end.analysis(sound).values.abs().square()).sample()


def main(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    pair = avse.load("a-vae")
    decoder, z = pair.model.decoder, heard(pair, args.voices, args.seed)
    priors = {
        "N(0, I)": pair.model,
        "Student-t": HeavyTails(decoder, z.shape[-1]),
        "four normals": Mixture(decoder, *fitted_mixture(z, values=4)),
    }
    speech = utterance_speech(args.seed, speaker=0, index=0)
    rate, clean = speech.sample_rate, speech.samples[: round(args.seconds * speech.sample_rate)]
    noisy, _ = mix(clean, pink_noise(len(clean), np.random.default_rng(args.seed)), level_db=0.0)
    print(f"SI-SDR of the noisy voice: {si_sdr(clean, noisy, rate):.1f} dB")
    print(f"{'after (values of alpha)':27}" + "".join(f"{name:>16}" for name in priors))
    for name, algorithm in algorithms(args.iterations, args.draws).items():
        print(f"{name:27}", end="")
        for model in priors.values():
            pair.model = model
            found = avse.enhance(noisy, rate, model=pair, algorithm=algorithm, seed=args.seed)
            cell = f"{si_sdr(clean, found.speech, rate):.1f} ({len(found.posterior.responsibilities)})"
            print(f"{cell:>16}", end="", flush=True)
        print()


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, default=2.0)
    result.add_argument("--voices", type=int, default=12, help="that the mixture is fitted to")
    result.add_argument("--iterations", type=int, default=20, help="of EM")
    result.add_argument("--draws", type=int, default=20, help="by NUTS")
    result.add_argument("--seed", type=int, default=0)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
