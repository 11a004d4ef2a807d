"""Effective sample size per second of the samplers of z, on one recording.

    python benchmarks/samplers.py

A synthetic voice in pink noise at 0 dB; the noise model is fitted by the default schedule and then held, and
all samplers sample the same posterior p(z | x) of the shipped A-VAE with four chains from the same four
initial values, two from each chain of that schedule. The ESS is the rank-normalised bulk ESS of the log joint
of each frame and of its speech level in five octaves, the median over frames and functionals. NUTS is Pyro's,
on all frames jointly; the row "under Pyro MCMC" runs HMC by `FrameMCMCKernel` in `pyro.infer.MCMC`, with the
chains in one tensor (`VectorizedMCMC`). Times are those of sampling, warmup included. HMC should have five
times the rate of the papers' random walk, and three times that of joint NUTS. Writes
benchmarks/results/samplers.md.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from pyro.infer import MCMC
from torch import Generator, Tensor

from avse import zoo
from avse.data.audio import resample
from avse.data.corpora.synthetic import utterance_speech
from avse.data.mixing import mix, pink_noise
from avse.evaluation.posterior.convergence import convergence
from avse.evaluation.posterior.functionals import band_level, log_joint, octaves, over_draws
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, MALA, Kernel, RandomWalk
from avse.inference.mcmc.log_density import closure
from avse.inference.mcmc.pyro_kernel import FrameMCMCKernel, VectorizedMCMC, nuts
from avse.inference.presets import default_mcem
from avse.models.noisy import NoisySpeech
from avse.zoo.pair import SpeechPair


class Run(NamedTuple):
    """Draws (C, D, N, L) and the time in s that they took."""

    z: Tensor
    seconds: float


def by_chain(kernel: Kernel, num_steps: int, target: float | None) -> Callable[..., Run]:
    """A `Chain` for all frames and chains at once; half of the transitions are warmup."""

    def run(model: NoisySpeech, power: Tensor, start: Tensor, generator: Generator) -> Run:
        begin = time.perf_counter()
        with torch.no_grad():
            chain = Chain(kernel, num_steps, num_steps // 2, target)
            draws, _ = chain(closure(model, power=power), ChainState(start), generator)
        return Run(draws.z.transpose(0, 1), time.perf_counter() - begin)

    return run


def by_pyro(kernel: Kernel, num_steps: int, target: float | None) -> Callable[..., Run]:
    """The same under `pyro.infer.MCMC`, all frames and chains in one tensor; half of the steps are warmup."""

    def run(model: NoisySpeech, power: Tensor, start: Tensor, generator: Generator) -> Run:
        seed = int(torch.randint(2**31, (), generator=generator))
        begin = time.perf_counter()
        with torch.no_grad():
            frame_kernel = FrameMCMCKernel(model, kernel, start, seed, target)
            half = num_steps // 2
            mcmc = VectorizedMCMC(frame_kernel, num_samples=half, warmup_steps=half)
            mcmc.run(power=power)
        return Run(mcmc.get_samples(group_by_chain=True)["z"], time.perf_counter() - begin)

    return run


def by_nuts(num_steps: int, depth: int) -> Callable[..., Run]:
    """Chains on all frames jointly, one after the other; half of the transitions are warmup."""

    def run(model: NoisySpeech, power: Tensor, start: Tensor, generator: Generator) -> Run:
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        begin = time.perf_counter()
        chains = []
        for z in start:
            kernel = nuts(model, {"z": z}, max_tree_depth=depth)
            mcmc = MCMC(kernel, num_samples=num_steps // 2, warmup_steps=num_steps // 2, disable_progbar=True)
            mcmc.run(power=power)
            chains.append(mcmc.get_samples()["z"])
        return Run(torch.stack(chains), time.perf_counter() - begin)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=400, help="transitions of HMC; cheaper kernels get more")
    parser.add_argument("--nuts-steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    pair, generator = zoo.load("a-vae"), Generator().manual_seed(args.seed)
    voice = utterance_speech(args.seed, speaker=0, index=0)
    clean = np.resize(voice.samples, round(args.seconds * voice.sample_rate))
    noisy, _ = mix(clean, pink_noise(len(clean), np.random.default_rng(args.seed)), 0.0)
    power = recording_power(pair, noisy, voice.sample_rate)
    fitted = default_mcem()(pair.model, pair.guide, power, None, generator)
    model, start = NoisySpeech(pair.model, fitted.noise), fitted.z[:, [0, -1]].flatten(0, 1)

    samplers = {
        "random walk, the papers'": by_chain(RandomWalk(0.1), 8 * args.steps, None),
        "random walk, adapted": by_chain(RandomWalk(0.1), 8 * args.steps, 0.234),
        "MALA": by_chain(MALA(0.1), 4 * args.steps, 0.57),
        "HMC, 8 steps": by_chain(HMC(0.1, 8), args.steps, 0.7),
        "HMC, 8 steps, under Pyro MCMC": by_pyro(HMC(0.1, 8), args.steps, 0.7),
        "NUTS, all frames jointly": by_nuts(args.nuts_steps, 6),
    }
    lines = ["| sampler | draws | s | ESS a second | median R-hat |", "|---" * 5 + "|"]
    rates: dict[str, float] = {}
    for name, sampler in samplers.items():
        run = sampler(model, power, start, generator)
        functionals = {"log joint": log_joint, "level": band_level(octaves(power.shape[-1]))}
        thinned = run.z[:, :: max(1, run.z.shape[1] // 400)]  # an ESS of thinned draws is at most that of all
        values = over_draws(functionals, model, thinned, power)
        found = [convergence(own) for own in values.values()]
        ess = float(torch.cat([each.ess_bulk.flatten() for each in found]).median())
        rhat = float(torch.cat([each.rhat.flatten() for each in found]).median())
        rates[name] = ess / run.seconds
        count = run.z.shape[0] * run.z.shape[1]
        lines.append(f"| {name} | {count} | {run.seconds:.1f} | {rates[name]:.2f} | {rhat:.3f} |")
        print(lines[-1], flush=True)
    for other, least in (("random walk, the papers'", 5.0), ("NUTS, all frames jointly", 3.0)):
        ratio = rates["HMC, 8 steps"] / rates[other]
        print(f"HMC / {other}: {ratio:.1f} (at least {least:g}): {'reached' if ratio >= least else 'MISSED'}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "samplers.md").write_text("\n".join(lines) + "\n")


def recording_power(pair: SpeechPair, samples: np.ndarray, rate: int) -> Tensor:
    """|x|^2 (N, F) at the sample rate and level of the pair."""
    signal = torch.from_numpy(resample(samples, rate, pair.stft.sample_rate)).float()
    return pair.config.front_end.analysis(signal).values.abs().square()


if __name__ == "__main__":
    common.run(main)
