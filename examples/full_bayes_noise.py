"""How sure is the noise? W, H and z sampled together, beside the one noise that EM settles for.

    python examples/full_bayes_noise.py --figure noise.png

Enhancement fits W and H to the recording and then believes them. Here they get a prior and become two more
sites of the Pyro program, next to z, and `pyro.infer.MCMC` with NUTS draws from the posterior of all of them.
The noise is made, so that its true variance is known. The lesson: EM gives one number, the posterior says how
sure the model is of it, and the truth says whether the model may be. Look at how often the intervals hold it:
they are those of a model in which this voice is a draw from the VAE, and it is not, so that part of what the
decoder cannot say counts as noise. Where everything is drawn from the model (benchmarks/calibration.py),
intervals are right. Full Bayes adds the uncertainty of the noise, and none of that of the model.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC
from pyro.ops.stats import effective_sample_size
from torch import Tensor

import avse
from avse.commands import write_figure
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, pink_noise
from avse.inference.mcem import default_mcem
from avse.inference.mcmc import nuts
from avse.models.bayesian_nmf import GammaNMF, SpeechInUnknownNoise
from avse.models.nmf import QuantileStart


def noisy_voice(seconds: float, rate: int, level: float, seed: int) -> tuple[Tensor, Tensor]:
    """A synthetic voice in pink noise (T,), and 20 s of that noise at the level that it has there."""
    speech = utterance_speech(seed, speaker=0, index=0)
    clean = resample(speech.samples, speech.sample_rate, rate)[: round(seconds * rate)]
    noise = pink_noise(20 * rate, np.random.default_rng(seed))
    mixture, scaled = mix(clean, noise[: len(clean)], level_db=level)
    noise *= np.linalg.norm(scaled) / np.linalg.norm(noise[: len(clean)])
    return torch.from_numpy(mixture).double(), torch.from_numpy(noise).double()


def decibels(power: Tensor) -> Tensor:
    return 10 * power.log10()


def main(args: argparse.Namespace) -> None:
    pyro.set_rng_seed(args.seed)
    pair = avse.load(args.model)
    speech, guide = pair.model.double().requires_grad_(False), pair.guide.double()
    stft, front_end = pair.stft, pair.config.front_end
    mixture, noise = noisy_voice(args.seconds, stft.sample_rate, args.level, args.seed)
    spectrum, scale = front_end.analysis(mixture)
    power = spectrum.abs().square()
    true = (stft.analysis(noise) * front_end.response() * scale).abs().square().mean(0)  # (F,)

    # The point estimate.
    start = QuantileStart(args.rank, quantile=0.2, factor=4.0, smoothness=20.0)
    generator = torch.Generator().manual_seed(args.seed)
    fitted = replace(default_mcem(), noise_start=start)(speech, guide, power, None, generator)

    # The posterior, from there on.
    prior = GammaNMF.around(fitted.noise)
    kernel = nuts(
        SpeechInUnknownNoise(speech, prior),
        {"z": fitted.z[0, -1], **prior.start(fitted.noise)},
        max_tree_depth=args.max_tree_depth,
    )
    mcmc = MCMC(kernel, num_samples=args.draws, warmup_steps=args.warm_up, disable_progbar=args.quiet)
    mcmc.run(power=power)
    variance = prior.noise(mcmc.get_samples()).variance()  # (R, N, F)

    print(f"{len(power)} frames: {mcmc.get_samples()['z'][0].numel()} latents of speech, ", end="")
    print(f"{sum(mcmc.get_samples()[name][0].numel() for name in 'WH')} numbers of noise")
    levels = decibels(variance.mean(-1))
    ess = effective_sample_size(levels.unsqueeze(0), chain_dim=0, sample_dim=1)
    divergences = len(mcmc.diagnostics()["divergences"]["chain 0"])
    print(f"effective draws of the level of a frame: {ess.median():.0f} of {args.draws} (median); ", end="")
    print(f"{divergences} divergences")
    estimate = fitted.noise.variance()
    for name, draws, point, truth in (
        ("level of a frame", levels, decibels(estimate.mean(-1)), decibels(true.mean())),
        ("level of a bin", decibels(variance.mean(-2)), decibels(estimate.mean(-2)), decibels(true)),
    ):
        low, high = draws.quantile(torch.tensor([0.05, 0.95], dtype=draws.dtype), dim=0)
        inside = ((low <= truth) & (truth <= high)).double().mean()
        print(
            f"{name}: EM is {(point - truth).square().mean().sqrt():.2f} dB off, the posterior mean "
            f"{(draws.mean(0) - truth).square().mean().sqrt():.2f} dB (rms); 90 % intervals of "
            f"{(high - low).median():.1f} dB (median) hold the truth in {inside:.0%}"
        )
    if args.figure is not None:
        write_figure(args.figure, figure(variance, estimate, true))


def figure(variance: Tensor, estimate: Tensor, true: Tensor) -> Figure:
    """Level over time and over frequency: draws (R, N, F), estimate (N, F), truth (F,)."""
    result = Figure(figsize=(9, 6), layout="constrained")
    over_time, over_frequency = result.subplots(2, 1)
    for axes, dim, truth in ((over_time, -1, true.mean().expand(len(estimate))), (over_frequency, -2, true)):
        draws = decibels(variance.mean(dim))
        low, middle, high = draws.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=draws.dtype), dim=0)
        axes.fill_between(range(len(low)), low, high, color="#1b6ca8", alpha=0.3, label="posterior, 90 %")
        axes.plot(middle, color="#1b6ca8", label="posterior, median")
        axes.plot(decibels(estimate.mean(dim)), "--", color="#c0504d", label="EM")
        axes.plot(decibels(truth), color="black", linewidth=0.8, label="truth")
        axes.set(ylabel="noise level (dB)")
    over_time.set(title="in every frame", xlabel="frame")
    over_frequency.set(title="in every bin", xlabel="bin")
    over_time.legend(frameon=False, ncols=4)
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--model", default="a-vae")
    result.add_argument("--seconds", type=float, default=0.4)
    result.add_argument("--level", type=float, default=0.0, help="of the voice, dB above the noise")
    result.add_argument("--rank", type=int, default=1, help="components of the noise")
    result.add_argument("--draws", type=int, default=100)
    result.add_argument("--warm-up", type=int, default=100)
    result.add_argument("--max-tree-depth", type=int, default=7)
    result.add_argument("--quiet", action="store_true", help="no progress bar")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
