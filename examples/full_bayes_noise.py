"""How sure is the noise? W, H and z sampled together, beside the one noise that EM settles for.

    python examples/full_bayes_noise.py --figure noise.png

Enhancement fits W and H to the recording and then believes them. Here they get a prior and become two more
sites of the Pyro program, next to z, and `pyro.infer.MCMC` draws from the posterior of all of them. The noise
is made, so that its true variance is known. The lesson: EM gives one number where a short recording leaves
decibels open; the intervals say how many, and hold the truth about as often as they claim. They do so because
the frames hardly overlap and every fourth bin is used: the model believes that frames and bins are drawn
independently, and told the same thing four times it is surer than it should be (try --hop 256 --stride 1).
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
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import level_db, write_figure
from avse.inference.mcmc.pyro_kernel import nuts
from avse.inference.presets import default_mcem
from avse.models.a_vae import AVAE
from avse.models.bayesian_nmf import GammaNMF, SpeechInUnknownNoise


def noisy_voice(seconds: float, rate: int, level: float, seed: int) -> tuple[Tensor, Tensor]:
    """A synthetic voice in white noise (T,), and 20 s of that noise as loud as there."""
    speech = utterance_speech(seed, speaker=0, index=0)
    clean = resample(speech.samples, speech.sample_rate, rate)[: round(seconds * rate)]
    noise = white_noise(20 * rate, np.random.default_rng(seed))
    mixture, added = mix(clean, noise[: len(clean)], level_db=level)
    noise *= np.linalg.norm(added) / np.linalg.norm(noise[: len(clean)])
    return torch.from_numpy(mixture).double(), torch.from_numpy(noise).double()


def main(args: argparse.Namespace) -> None:
    pyro.set_rng_seed(args.seed)
    pair = avse.load("a-vae")
    speech, guide = pair.model.double().requires_grad_(False), pair.guide.double()
    front_end = replace(pair.config.front_end, stft=replace(pair.stft, hop_length=args.hop))
    mixture, noise = noisy_voice(args.seconds, pair.stft.sample_rate, args.level, args.seed)
    spectrum, scale = front_end.analysis(mixture)
    power = spectrum[1:-1].abs().square()  # the first and the last frame hang over the ends
    true = (front_end.stft.analysis(noise) * front_end.response() * scale).abs().square().mean(0)

    # The point estimate.
    em = default_mcem()
    em = replace(em, noise_init=replace(em.noise_init, rank=args.rank))
    fitted = em(speech, guide, power, None, torch.Generator().manual_seed(args.seed))

    # The posterior, of the bins above the high-pass that the spectra are made with.
    bins = slice(4, None, args.stride)
    estimate = replace(fitted.noise, W=fitted.noise.W[bins])
    thinned = AVAE(speech.prior, lambda z: speech.decoder(z)[..., bins])
    prior = GammaNMF.around(estimate)
    start = {"z": fitted.z[0, -1], **prior.start(estimate)}
    kernel = nuts(SpeechInUnknownNoise(thinned, prior), start, max_tree_depth=args.max_tree_depth)
    mcmc = MCMC(kernel, num_samples=args.draws, warmup_steps=args.warmup, disable_progbar=args.quiet)
    mcmc.run(power=power[:, bins])
    draws = mcmc.get_samples()
    variance = prior.noise(draws).variance()  # (R, N, F)

    sizes = {name: values[0].numel() for name, values in draws.items()}
    print(f"sampled: {sizes['z']} latents of {len(power)} frames, {sizes['W'] + sizes['H']} numbers of noise")
    ess = effective_sample_size(variance.mean(-1).log().unsqueeze(0), chain_dim=0, sample_dim=1)
    lost = len(mcmc.diagnostics()["divergences"]["chain 0"])
    print(f"effective draws of a frame's level: {ess.median():.0f} of {args.draws}, {lost} divergences")
    frequency = torch.arange(len(true))[bins] * pair.stft.sample_rate / pair.stft.window_length / 1000
    panels = [
        (
            front_end.stft.frame_times(len(spectrum))[1:-1],
            "time (s)",
            -1,
            true[bins].mean().expand(len(power)),
        ),
        (frequency, "frequency (kHz)", -2, true[bins]),
    ]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for row, (at, axis, dim, truth) in enumerate(panels):
        levels, point, level = (
            level_db(own) for own in (variance.mean(dim), estimate.variance().mean(dim), truth)
        )
        low, middle, high = np.quantile(levels, [0.05, 0.5, 0.95], axis=0)
        error, point_error = (np.sqrt(np.mean((own - level) ** 2)) for own in (middle, point))
        print(
            f"noise level over {axis.split()[0]}: EM {point_error:.2f} dB off (rms), posterior median "
            f"{error:.2f} dB; the 90 % intervals, {np.median(high - low):.1f} dB wide, hold the truth in "
            f"{np.mean((low <= level) & (level <= high)):.0%}"
        )
        axes = figure.add_subplot(2, 1, row + 1, xlabel=axis, ylabel="noise level (dB)")
        axes.fill_between(at, low, high, color="#1b6ca8", alpha=0.3, label="posterior, 90 %")
        axes.plot(at, middle, color="#1b6ca8", label="posterior, median")
        axes.plot(at, point, "--", color="#c0504d", label="EM")
        axes.plot(at, level, color="black", linewidth=0.8, label="truth")
    figure.axes[0].legend(frameon=False, ncols=4)
    if args.figure is not None:
        write_figure(args.figure, figure)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, default=1.8)
    result.add_argument("--level", type=float, default=0.0, help="of the voice, dB above the noise")
    result.add_argument("--hop", type=int, default=900, help="samples between frames")
    result.add_argument("--stride", type=int, default=4, help="bins between those used")
    result.add_argument("--rank", type=int, default=1, help="components of the noise")
    result.add_argument("--draws", type=int, default=200)
    result.add_argument("--warmup", type=int, default=200)
    result.add_argument("--max-tree-depth", type=int, default=6)
    result.add_argument("--quiet", action="store_true", help="no progress bar")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
