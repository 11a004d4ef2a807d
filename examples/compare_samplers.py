"""MH, MALA, HMC and NUTS on one recording: how far do so many seconds go?

    python examples/compare_samplers.py --figure samplers.png

A synthetic voice in white noise, whose noise is fitted once and then held, so that all explore one posterior.
The lesson: count effective draws per second, and not draws, and only where the chains agree: above an R-hat
of 1.1 the ESS means nothing. The random walk takes many cheap steps and gets nowhere; gradients buy distance;
NUTS moves all frames together, and must please the slowest of them, where HMC frame by frame gives every
frame a step size and an acceptance of its own. All are given half of their moves to warm up.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import arviz as az
import numpy as np
import torch
from pyro.infer import MCMC
from torch import Generator, Tensor

import avse
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, white_noise
from avse.evaluation.figures import efficiency_figure, write_figure
from avse.evaluation.posterior.functionals import band_level, octaves, over_draws
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, MALA, Kernel, RandomWalk
from avse.inference.mcmc.log_density import closure
from avse.inference.mcmc.pyro_kernel import nuts
from avse.inference.presets import default_mcem
from avse.models.noisy import NoisySpeech


def main(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)  # NUTS draws from the global generator
    pair, generator = avse.load("a-vae"), Generator().manual_seed(args.seed)
    stft = pair.stft
    voice = utterance_speech(args.seed, speaker=0, index=0)
    clean = resample(voice.samples, voice.sample_rate, stft.sample_rate)
    clean = clean[: round(args.seconds * stft.sample_rate)]
    noisy, _ = mix(clean, white_noise(len(clean), np.random.default_rng(args.seed)), 0.0)
    spectrum, _ = pair.config.front_end.analysis(torch.from_numpy(noisy).float())
    power, bands = spectrum.abs().square(), octaves(stft.bins)
    fitted = default_mcem()(pair.model, pair.guide, power, None, generator)
    model, start = NoisySpeech(pair.model, fitted.noise), fitted.z[:, [0, -1]].flatten(0, 1)

    def by_chain(kernel: Kernel, moves: int, acceptance: float | None = None) -> Tensor:
        chain = Chain(kernel, num_steps=2 * moves, warmup=moves, target_acceptance=acceptance)
        draws, _ = chain(closure(model, power=power), ChainState(start), generator)
        return draws.z.transpose(0, 1)  # (C, D, N, L)

    def by_nuts() -> Tensor:
        found = []
        for z in start:
            kernel = nuts(model, {"z": z}, max_tree_depth=6)
            mcmc = MCMC(kernel, args.nuts_moves, args.nuts_moves, disable_progbar=True)
            mcmc.run(power=power)
            found.append(mcmc.get_samples()["z"])
        return torch.stack(found)

    samplers: dict[str, Callable[[], Tensor]] = {
        "MH": lambda: by_chain(RandomWalk(0.1), 8 * args.moves),
        "MALA": lambda: by_chain(MALA(0.1), 4 * args.moves, 0.57),
        "HMC": lambda: by_chain(HMC(0.1, 8), args.moves, 0.7),
        "NUTS": by_nuts,
    }
    print("sampler   seconds   ESS per second   R-hat")
    rates, rhats = {}, {}
    for name, sampler in samplers.items():
        begin = time.perf_counter()
        z = sampler()
        seconds = time.perf_counter() - begin
        z = z[:, :: max(1, z.shape[1] // 200)]
        levels = over_draws({"level": band_level(bands)}, model, z, power)["level"]
        found = az.summary(az.convert_to_dataset(levels.numpy()), kind="diagnostics", round_to="none")
        rates[name], rhats[name] = found["ess_bulk"].median() / seconds, found["r_hat"].median()
        ess = f"{rates[name]:.2f}" if rhats[name] < 1.1 else "-"
        print(f"{name:<8} {seconds:8.1f} {ess:>16} {rhats[name]:7.3f}", flush=True)
    if args.figure is not None:
        write_figure(args.figure, efficiency_figure(rates, rhats))


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
