"""How sure is the noise? W, H and z sampled together, beside the one noise that EM settles for.

    python examples/full_bayes_noise.py --figure noise.png

Enhancement fits W and H to the recording and then believes them. Here they get a prior and become sites of
the Pyro program, next to z, and `pyro.infer.MCMC` draws from the posterior of all of them. The lesson: EM
gives one number where a short recording leaves decibels open; the intervals say how many. They hold the truth
about as often as they claim, because the frames hardly overlap and every fourth bin is used: the model takes
frames and bins as independent, and overlapping ones make it too sure (try --hop 256 --stride 1). To enhance
with such a noise: avse.enhance(x, rate, algorithm="mcmc-full-bayes").
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.infer import MCMC
from pyro.ops.stats import effective_sample_size
from torch import Tensor

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import Intervals, intervals_figure, level_db, write_figure
from avse.inference.mcmc.pyro_kernel import nuts
from avse.inference.presets import default_mcem
from avse.models.a_vae import AVAE
from avse.models.bayesian_nmf import GammaNMF
from avse.models.nmf import QuantileInit
from avse.models.noisy import NoisySpeech


def noisy_voice(seconds: float, rate: int, seed: int) -> tuple[Tensor, Tensor]:
    """A synthetic voice in white noise (T,), and 20 s of that noise as loud as there."""
    speech = utterance_speech(seed, speaker=0, index=0)
    clean = resample(speech.samples, speech.sample_rate, rate)[: round(seconds * rate)]
    noise = white_noise(20 * rate, np.random.default_rng(seed))
    mixture, added = mix(clean, noise[: len(clean)], level_db=0.0)
    noise *= np.linalg.norm(added) / np.linalg.norm(noise[: len(clean)])
    return torch.from_numpy(mixture).double(), torch.from_numpy(noise).double()


def main(args: argparse.Namespace) -> None:
    pyro.set_rng_seed(args.seed)
    pair = avse.load("a-vae")
    speech, guide = pair.model.double().requires_grad_(False), pair.guide.double()
    front_end = replace(pair.config.front_end, stft=replace(pair.stft, hop_length=args.hop))
    mixture, noise = noisy_voice(args.seconds, pair.stft.sample_rate, args.seed)
    spectrum, scale = front_end.analysis(mixture)
    power = spectrum[1:-1].abs().square()  # the first and the last frame hang over the ends
    true = (front_end.stft.analysis(noise) * front_end.response() * scale).abs().square().mean(0)
    em = replace(default_mcem(), noise_init=QuantileInit(rank=1, quantile=0.2, factor=4.0, smoothness=20.0))
    fitted = em(speech, guide, power, None, torch.Generator().manual_seed(args.seed))
    bins = slice(4, None, args.stride)  # above the high-pass that the spectra are made with
    estimate = replace(fitted.noise, W=fitted.noise.W[bins])
    thinned = AVAE(speech.prior, lambda z: speech.decoder(z)[..., bins])
    prior = GammaNMF.around(estimate)
    start = {"z": fitted.z[0, -1], **prior.start(estimate)}
    kernel = nuts(NoisySpeech(thinned, prior), start, max_tree_depth=args.max_tree_depth)
    mcmc = MCMC(kernel, num_samples=args.draws, warmup_steps=args.draws)
    mcmc.run(power=power[:, bins])
    draws = mcmc.get_samples()
    variance = prior.noise(draws).variance()  # (R, N, F)
    ess = effective_sample_size(variance.mean(-1).log().unsqueeze(0), chain_dim=0, sample_dim=1)
    print(f"effective draws of a frame's level: {ess.median():.0f} of {args.draws}")
    times = front_end.stft.frame_times(len(spectrum))[1:-1]
    frequencies = torch.arange(len(true))[bins] * pair.stft.sample_rate / pair.stft.window_length / 1000
    panels = []
    for axis, at, dim, truth in (
        ("time (s)", times, -1, true[bins].mean().expand(len(power))),
        ("frequency (kHz)", frequencies, -2, true[bins]),
    ):
        point, level = level_db(estimate.variance().mean(dim)), level_db(truth)
        low, middle, high = np.quantile(level_db(variance.mean(dim)), [0.05, 0.5, 0.95], axis=0)
        off = [np.sqrt(np.mean((own - level) ** 2)) for own in (point, middle)]
        inside = np.mean((low <= level) & (level <= high))
        print(f"{axis}: rms error of EM {off[0]:.2f} dB, of the posterior median {off[1]:.2f} dB;", end=" ")
        print(f"{inside:.0%} of the truth lies in 90 % intervals, {np.median(high - low):.1f} dB wide")
        panels.append(Intervals(axis, at, low, middle, high, level, others={"EM": point}))
    if args.figure is not None:
        write_figure(args.figure, intervals_figure(panels, "noise level (dB)"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, default=1.8)
    result.add_argument("--hop", type=int, default=900, help="samples between frames")
    result.add_argument("--stride", type=int, default=4, help="bins between those used")
    result.add_argument("--draws", type=int, default=200, help="after as many of warm-up")
    result.add_argument("--max-tree-depth", type=int, default=6)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
