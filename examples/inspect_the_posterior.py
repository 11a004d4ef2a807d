"""What the model is sure of: chains that are checked, credible levels, and sounds drawn from the posterior.

    python examples/inspect_the_posterior.py --draws 400 --figure levels.png --out sounds

A synthetic voice in white noise, so that the truth is known. Enhancement needs few draws, of chains that have
not mixed: a hedge over several starts. Whoever wants to read a posterior needs more. The lesson has four
steps. Run long chains at the fitted noise, and ask whether they agree (`diagnose`). Ask whether the model
predicts such powers at all (`predictive_check`). Only then believe intervals, and count how often the truth
lies in them. And listen: sounds drawn from the posterior differ where the speech is unknown.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import avse
from avse.data.audio import resample, write_audio
from avse.data.corpora.synthetic import utterance_speech
from avse.data.files import made_folder
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import write_figure
from avse.evaluation.posterior.credible import CredibleBand, credible_band, level_draws, sample_waveforms
from avse.evaluation.posterior.diagnosis import diagnose
from avse.evaluation.posterior.functionals import decibels, octaves
from avse.evaluation.posterior.predictive import predictive_check
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC
from avse.inference.mcmc.log_density import closure
from avse.inference.presets import default_mcem
from avse.models.noisy import NoisySpeech


def noisy_voice(seconds: float, rate: int, level: float, seed: int) -> tuple[Tensor, Tensor]:
    """A synthetic voice, and the same in white noise, each (T,)."""
    speech = utterance_speech(seed, speaker=0, index=0)
    clean = resample(speech.samples, speech.sample_rate, rate)[: round(seconds * rate)]
    noise = white_noise(len(clean), np.random.default_rng(seed))
    mixture, _ = mix(clean, noise, level_db=level)
    return torch.from_numpy(clean).float(), torch.from_numpy(mixture).float()


def main(args: argparse.Namespace) -> None:
    pair = avse.load(args.model)
    stft, front_end = pair.stft, pair.config.front_end
    clean, mixture = noisy_voice(args.seconds, stft.sample_rate, args.level, args.seed)
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
        print(
            f"{name:>15}: the true level lies in {share:.0%} of the {args.probability:.0%} intervals, whose "
            f"median width is {width:.1f} dB"
        )
    if args.figure is not None:
        write_figure(args.figure, figure(band, truth, stft.frame_times(len(truth)), names))
    if args.out is not None:
        sounds = sample_waveforms(model, z, spectrum, stft, len(mixture), args.sounds, generator)
        made_folder(args.out)
        for number, sound in enumerate(sounds / scale):
            write_audio(args.out / f"sound_{number}.wav", sound.numpy(), stft.sample_rate)


def figure(band: CredibleBand, truth: Tensor, times: Tensor, names: list[str]) -> Figure:
    """Intervals and truth (N, B), a panel for each band, highest on top."""
    result = Figure(figsize=(9, 1.9 * truth.shape[1]), layout="constrained")
    panels = np.atleast_1d(result.subplots(truth.shape[1], 1, sharex=True))
    for b, axes in enumerate(panels[::-1]):
        axes.fill_between(times, band.lower[:, b], band.upper[:, b], alpha=0.3, label="credible interval")
        axes.plot(times, band.median[:, b], label="median")
        axes.plot(times, truth[:, b], color="black", linewidth=0.8, label="truth")
        axes.set(title=names[b], ylabel="level (dB)")
        shown = torch.cat([band.lower[:, b], band.upper[:, b], truth[:, b].clamp_min(truth[:, b].max() - 80)])
        axes.set(ylim=(float(shown.min()) - 3, float(shown.max()) + 3))
    panels[-1].set_xlabel("time (s)")
    result.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--model", default="a-vae")
    result.add_argument("--seconds", type=float, default=2.0)
    result.add_argument("--level", type=float, default=0.0, help="of the voice, dB above the noise")
    result.add_argument("--chains", type=int, default=4)
    result.add_argument("--warmup", type=int, default=200)
    result.add_argument("--draws", type=int, default=200)
    result.add_argument("--leapfrog-steps", type=int, default=10)
    result.add_argument("--probability", type=float, default=0.9, help="of the intervals")
    result.add_argument("--sounds", type=int, default=3, help="how many to draw")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path, help="folder for the sounds")
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
