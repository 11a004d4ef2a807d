"""What the model is sure of: chains that are checked, credible levels, and sounds drawn from the posterior.

    python examples/inspect_the_posterior.py --draws 400 --figure levels.png --out sounds

A synthetic voice in white noise, so that the truth is known. Enhancement needs few draws, of chains that have
not mixed: a hedge over several starts. Whoever wants to read a posterior needs more. The lesson: run long
chains at the fitted noise, and ask whether they agree (`diagnose`) and whether the model predicts such powers
(`predictive_check`). Only then believe intervals, and count how often the truth lies in them. And listen:
sounds drawn from the posterior differ where the speech is unknown.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import avse
from avse.data.audio import resample, write_audio
from avse.data.corpora.synthetic import utterance_speech
from avse.data.files import made_folder
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import Intervals, intervals_figure, write_figure
from avse.evaluation.posterior.credible import credible_band, level_draws, sample_waveforms
from avse.evaluation.posterior.diagnosis import diagnose
from avse.evaluation.posterior.functionals import decibels, octaves
from avse.evaluation.posterior.predictive import predictive_check
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC
from avse.inference.mcmc.log_density import closure
from avse.inference.presets import default_mcem
from avse.models.noisy import NoisySpeech


def noisy_voice(seconds: float, rate: int, seed: int) -> tuple[Tensor, Tensor]:
    """A synthetic voice, and the same in white noise as loud, each (T,)."""
    speech = utterance_speech(seed, speaker=0, index=0)
    clean = resample(speech.samples, speech.sample_rate, rate)[: round(seconds * rate)]
    noise = white_noise(len(clean), np.random.default_rng(seed))
    mixture, _ = mix(clean, noise, level_db=0.0)
    return torch.from_numpy(clean).float(), torch.from_numpy(mixture).float()


def main(args: argparse.Namespace) -> None:
    pair = avse.load("a-vae")
    stft, front_end = pair.stft, pair.config.front_end
    clean, mixture = noisy_voice(args.seconds, stft.sample_rate, args.seed)
    spectrum, scale = front_end.analysis(mixture)
    power = spectrum.abs().square()
    generator = torch.Generator().manual_seed(args.seed)

    posterior = default_mcem()(pair.model, pair.guide, power, None, generator)
    model = NoisySpeech(pair.model, posterior.noise)
    start = posterior.z[torch.arange(args.chains) % len(posterior.z), -1 - torch.arange(args.chains) // 2]
    long = Chain(HMC(0.1, args.leapfrog_steps), args.warmup + args.draws, args.warmup, 0.7)
    draws, _ = long(closure(model, power=power), ChainState(start), generator)
    z = draws.z.transpose(0, 1)

    print(diagnose(model, z, power), end="\n\n")
    stride = (-(-stft.window_length // stft.hop_length), 2)
    print(predictive_check(model, z, power, generator, stride=stride), end="\n\n")

    bands = octaves(stft.bins)
    band = credible_band(level_draws(model, z, power, bands, generator), args.probability)
    true = (stft.analysis(clean) * front_end.response() * scale).abs().square()
    truth = decibels(torch.stack([true[:, own].mean(-1) for own in bands], -1))
    inside = ((band.lower <= truth) & (truth <= band.upper)).double().mean(0)
    spacing = stft.sample_rate / stft.window_length
    names = [f"{spacing * own.start:.0f} to {spacing * (own.stop - 1):.0f} Hz" for own in bands]
    for name, share, width in zip(names, inside, (band.upper - band.lower).median(0).values, strict=True):
        print(f"{name:>15}: {share:.0%} of the intervals, {width:.1f} dB wide (median), hold the true level")
    if args.figure is not None:
        rows = zip(band.lower.T, band.median.T, band.upper.T, truth.T, names, strict=True)
        panels = [Intervals("time (s)", stft.frame_times(len(truth)), *row) for row in rows]
        write_figure(args.figure, intervals_figure(panels[::-1], "level (dB)", args.probability))
    if args.out is not None:
        sounds = sample_waveforms(model, z, spectrum, stft, len(mixture), 3, generator)
        made_folder(args.out)
        for number, sound in enumerate(sounds / scale):
            write_audio(args.out / f"sound_{number}.wav", sound.numpy(), stft.sample_rate)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, default=2.0)
    result.add_argument("--chains", type=int, default=4)
    result.add_argument("--warmup", type=int, default=200)
    result.add_argument("--draws", type=int, default=200)
    result.add_argument("--leapfrog-steps", type=int, default=10)
    result.add_argument("--probability", type=float, default=0.9, help="of the intervals")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path, help="folder for the sounds")
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
