"""MH, MALA, HMC, NUTS and variational EM on one recording: how far do so many seconds go?

    python examples/compare_samplers.py --figure samplers.png

A synthetic voice in white noise, whose noise is fitted once and then held, so that all explore one posterior.
The lesson: count effective draws a second, and not draws. The random walk of the papers takes many cheap
steps and gets nowhere; gradients buy distance; NUTS moves all frames together, and must please the slowest of
them, where HMC frame by frame gives every frame a step size and an acceptance of its own. Variational EM has
no draws to count: it is quick, and too sure of itself.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC
from torch import Generator, Tensor

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import write_figure
from avse.evaluation.posterior.convergence import convergence
from avse.evaluation.posterior.credible import credible_band, level_draws
from avse.evaluation.posterior.functionals import band_level, decibels, octaves, over_draws
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, MALA, Kernel, RandomWalk
from avse.inference.mcmc.log_density import closure
from avse.inference.mcmc.pyro_kernel import nuts
from avse.inference.presets import default_mcem, default_vem
from avse.models.noisy import NoisySpeech


def chains(
    kernel: Kernel,
    moves: int,
    target: float | None,
    model: NoisySpeech,
    power: Tensor,
    start: Tensor,
    generator: Generator,
) -> Tensor:
    """Draws (C, D, N, L), after as many moves of warm-up."""
    chain = Chain(kernel, 2 * moves, moves, target)
    draws, _ = chain(closure(model, power=power), ChainState(start), generator)
    return draws.z.transpose(0, 1)


def joint_nuts(moves: int, model: NoisySpeech, power: Tensor, start: Tensor) -> Tensor:
    """Draws (C, D, N, L) of Pyro's NUTS on all frames together."""
    found = []
    for z in start:
        mcmc = MCMC(nuts(model, {"z": z}, max_tree_depth=6), moves, moves, disable_progbar=True)
        mcmc.run(power=power)
        found.append(mcmc.get_samples()["z"])
    return torch.stack(found)


def main(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)  # NUTS draws from the global generator
    pair, generator = avse.load("a-vae"), Generator().manual_seed(args.seed)
    stft, front_end = pair.stft, pair.config.front_end
    voice = utterance_speech(args.seed, speaker=0, index=0)
    clean = resample(voice.samples, voice.sample_rate, stft.sample_rate)[
        : round(args.seconds * stft.sample_rate)
    ]
    noisy, _ = mix(clean, white_noise(len(clean), np.random.default_rng(args.seed)), 0.0)
    spectrum, scale = front_end.analysis(torch.from_numpy(noisy).float())
    power, bands = spectrum.abs().square(), octaves(stft.bins)
    true = (stft.analysis(torch.from_numpy(clean).float()) * front_end.response() * scale).abs().square()
    truth = decibels(torch.stack([true[:, band].mean(-1) for band in bands], -1))
    spoken = true.mean(-1) > 1e-2 * true.mean()

    fitted = default_mcem()(pair.model, pair.guide, power, None, generator)
    model, start = NoisySpeech(pair.model, fitted.noise), fitted.z[:, [0, -1]].flatten(0, 1)
    told = (model, power, start)
    samplers = {
        "MH": lambda: chains(RandomWalk(0.1), 8 * args.moves, None, *told, generator),
        "MALA": lambda: chains(MALA(0.1), 4 * args.moves, 0.57, *told, generator),
        "HMC": lambda: chains(HMC(0.1, 8), args.moves, 0.7, *told, generator),
        "NUTS": lambda: joint_nuts(args.nuts_moves, *told),
    }
    print("sampler   seconds   ESS a second   R-hat   error (dB)   truth in 90 % intervals")
    rates, rhats, levels = {}, {}, {}
    for name, sampler in samplers.items():
        begin = time.perf_counter()
        z = sampler()
        seconds = time.perf_counter() - begin
        z = z[:, :: max(1, z.shape[1] // 200)]
        found = convergence(over_draws({"level": band_level(bands)}, model, z, power)["level"])
        rates[name] = float(found.ess_bulk.median()) / seconds
        rhats[name] = float(found.rhat.median())
        levels[name] = level_draws(model, z, power, bands, generator)
        told_of = f"{seconds:9.1f} {rates[name]:14.2f} {rhats[name]:7.3f}"
        print(f"{name:<8} {told_of} {scored(levels[name], truth, spoken)}", flush=True)

    vem = replace(default_vem(), noise_init=lambda power, generator: fitted.noise, updates=())
    begin = time.perf_counter()
    field = vem(pair.model, pair.guide, power, None, generator)
    seconds = time.perf_counter() - begin
    deviation, mean = (field.variance / 2).sqrt(), field.wiener_gain * power.sqrt()
    drawn = [
        (mean + deviation * torch.randn(mean.shape, generator=generator)).square()
        + (deviation * torch.randn(mean.shape, generator=generator)).square()
        for _ in range(200)
    ]
    level = torch.stack([decibels(torch.stack([s[:, band].mean(-1) for band in bands], -1)) for s in drawn])
    print(f"{'VEM':<8} {seconds:9.1f} {'-':>14} {'-':>7} {scored(level.unsqueeze(0), truth, spoken)}")
    if args.figure is not None:
        write_figure(args.figure, figure(rates, rhats))


def scored(draws: Tensor, truth: Tensor, spoken: Tensor) -> str:
    """Median error of the mean of draws (C, D, N, B), and share of the truth (N, B) in 90 % intervals."""
    band = credible_band(draws, 0.9)
    error = (draws.mean((0, 1)) - truth).abs()[spoken].median()
    inside = ((band.lower <= truth) & (truth <= band.upper))[spoken].double().mean()
    return f"{float(error):12.2f} {float(inside):12.0%}"


def figure(rates: dict[str, float], rhats: dict[str, float]) -> Figure:
    """Effective draws a second; pale where R-hat says that the chains disagree, so that ESS means nothing."""
    axes = (result := Figure(figsize=(6, 2.6), layout="constrained")).add_subplot()
    bars = axes.barh(list(rates), list(rates.values()))
    for bar, rhat in zip(bars, rhats.values(), strict=True):
        bar.set_alpha(1.0 if rhat < 1.1 else 0.3)
    axes.bar_label(bars, labels=[f"{rates[n]:.2f}  (R-hat {rhats[n]:.2f})" for n in rates], padding=3)
    axes.set(xlabel="effective draws a second, medians; pale: R-hat above 1.1, not converged")
    axes.margins(x=0.45)
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--seconds", type=float, default=1.5)
    result.add_argument("--moves", type=int, default=150)
    result.add_argument("--nuts-moves", type=int, default=20)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
