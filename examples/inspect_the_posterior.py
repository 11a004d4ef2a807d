"""What the model is sure of: long chains that ArviZ checks, and credible levels that hold the truth.

    python examples/inspect_the_posterior.py --draws 400 --figures figures

A synthetic voice in white noise, so that the truth is known. The few draws of an enhancement have not mixed.
Whoever wants to read a posterior needs longer chains. The lesson: ask ArviZ whether they agree (`az.summary`,
`az.plot_trace`, `az.plot_rank`) and whether the model predicts such powers (`az.plot_ppc`, `az.loo`); name
the variables, since a recording has thousands of z. Only then believe intervals, and count how often the
truth lies in them. `avse diagnose` makes a page of all this, with sounds.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import arviz as az
import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.files import made_folder
from avse.data.mixing import mix, white_noise
from avse.evaluation.posterior.credible import credible_band, level_draws
from avse.evaluation.posterior.functionals import band_level, band_names, decibels, octaves, over_draws
from avse.inference.mcmc.chain import Chain
from avse.inference.mcmc.kernels import HMC
from avse.inference.presets import default_mcem
from avse.models.noisy import NoisySpeech


def noisy_voice(seconds: float, rate: int, seed: int) -> tuple[Tensor, Tensor]:
    """A synthetic voice, and the same in white noise as loud, each (T,)."""
    speech = utterance_speech(seed, speaker=0, index=0)
    clean = resample(speech.samples, speech.sample_rate, rate)[: round(seconds * rate)]
    mixture, _ = mix(clean, white_noise(len(clean), np.random.default_rng(seed)), level_db=0.0)
    return torch.from_numpy(clean).float(), torch.from_numpy(mixture).float()


def main(args: argparse.Namespace) -> None:
    pair = avse.load("a-vae")
    stft, front_end = pair.stft, pair.config.front_end
    clean, mixture = noisy_voice(args.seconds, stft.sample_rate, args.seed)
    spectrum, scale = front_end.analysis(mixture)
    power = spectrum.abs().square()
    generator = torch.Generator().manual_seed(args.seed)

    short, steps = default_mcem(), args.warmup + args.draws
    long = Chain(HMC(0.1, args.leapfrog_steps), steps, args.warmup, target_acceptance=0.7)
    infer = replace(short, latent_inits=args.chains // 2 * short.latent_inits, final=long)
    posterior = infer(pair.model, pair.guide, power, None, generator)
    model, z = NoisySpeech(pair.model, posterior.noise), posterior.z

    bands = octaves(stft.bins)
    names = band_names(bands, stft)
    levels = over_draws({"level": band_level(bands)}, model, z, power)
    axes = {"stft": stft, "coords": {"band": names}}
    idata = posterior.to_inference_data(pair.model, power, pointwise="bin", functionals=levels, **axes)
    print(az.summary(idata, var_names=["speech_level", "mean_wiener_gain"]).to_string(), end="\n\n")
    apart = {"frame": slice(0, None, 4), "frequency": slice(0, None, 8)}  # az.loo takes values one by one
    idata["log_likelihood"] = idata["log_likelihood"].isel(apart)
    print(az.loo(idata, reff=1.0), end="\n\n")
    if args.figures is not None:
        made_folder(args.figures)
        loudest = float(idata["posterior"]["level"].mean(("chain", "draw", "band")).idxmax())
        plots = {
            "trace": partial(az.plot_trace, var_names=["speech_level", "mean_wiener_gain"]),
            "rank": partial(az.plot_rank, var_names=["level"], coords={"frame": [loudest]}),
            "predictive": az.plot_ppc if hasattr(az, "plot_ppc") else az.plot_ppc_dist,  # ArviZ 0.x, 1.x
        }
        for name, plot in plots.items():
            plot(idata)
            pyplot.savefig(args.figures / f"{name}.png")
            pyplot.close()

    band = credible_band(level_draws(model, z, power, bands, generator), args.probability)
    true = (stft.analysis(clean) * front_end.response() * scale).abs().square()
    truth = decibels(torch.stack([true[:, at].mean(-1) for at in bands], -1))
    inside = ((band.lower <= truth) & (truth <= band.upper)).double().mean(0)
    for name, share, width in zip(names, inside, (band.upper - band.lower).median(0).values, strict=True):
        print(f"{name:>15}: {share:.0%} of the intervals, {width:.1f} dB wide (median), hold the true level")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, default=2.0)
    for name, value in {"chains": 4, "warmup": 200, "draws": 200, "leapfrog-steps": 10, "seed": 0}.items():
        result.add_argument(f"--{name}", type=int, default=value)
    result.add_argument("--probability", type=float, default=0.9, help="of intervals")
    result.add_argument("--figures", type=Path, help="folder for the plots of ArviZ")
    return result


if __name__ == "__main__":
    main(parser().parse_args())
