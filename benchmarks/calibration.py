"""Are the posteriors calibrated? Simulation-based: everything is drawn from the model, and found again.

    python benchmarks/calibration.py

z (and alpha), s and x are drawn from a shipped model in a known noise; the posterior of z given x comes from
HMC, from the papers' random walk, and from variational EM with the noise held at the truth. In frame after
frame the true level of the speech in a band of frequencies is compared with the posterior's draws of it: it
should lie in 50 % (90 %) intervals in 50 % (90 %) of the frames, and its rank among the draws should be
uniform (Talts et al., arXiv 1804.06788). Frames are independent given the noise, so that each is one trial.
The mean field does not cover: r(s) r(z) knows nothing of how s and z vary together.

Writes benchmarks/results/calibration.md and calibration.png.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import common
import torch
from matplotlib.figure import Figure
from scipy.stats import chi2
from torch import Generator, Tensor

from avse import zoo
from avse.evaluation.posterior.credible import level_draws
from avse.evaluation.posterior.functionals import decibels, octaves
from avse.guides.base import SpeechGuide
from avse.inference.mcmc.chain import Chain, ChainState
from avse.inference.mcmc.kernels import HMC, Kernel, RandomWalk
from avse.inference.mcmc.log_density import closure
from avse.inference.presets import default_vem
from avse.models.base import SpeechModel
from avse.models.distributions import ComplexNormal
from avse.models.nmf import RandomInit
from avse.models.noisy import NoisySpeech

BINS_OF_RANKS = 10


class Simulated(NamedTuple):
    """A recording from the model: |x|^2 (N, F), the noisy model and true levels (N, B), dB."""

    power: Tensor
    model: NoisySpeech
    level: Tensor


def simulate(speech: SpeechModel, frames: int, bands: list[slice], generator: Generator) -> Simulated:
    """z, alpha and s from the model, b from a random factorisation as loud as the median frame of speech."""
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    power = speech(frames=frames)
    shape = torch.zeros_like(power) + power.mean(-1).median()
    noise = RandomInit(rank=8)(shape, generator)
    phase = 2 * torch.pi * torch.rand(power.shape)
    spoken = torch.polar(power.sqrt(), phase)
    heard = ComplexNormal(spoken, noise.variance().log()).sample()
    level = decibels(torch.stack([power[:, band].mean(-1) for band in bands], -1))
    return Simulated(heard.abs().square(), NoisySpeech(speech, noise), level)


def by_chains(kernel: Kernel, moves: int, kept: int, target: float | None) -> Callable[..., Tensor]:
    """Draws of the levels from `kept` draws of each of four chains that start at prior draws."""

    def levels(data: Simulated, guide: SpeechGuide, bands: list[slice], generator: Generator) -> Tensor:
        mean = guide.posterior(data.power).mean
        start = torch.stack([mean + torch.randn(mean.shape, generator=generator) for _ in range(4)])
        with torch.no_grad():
            log_joint = closure(data.model, power=data.power)
            chain = Chain(kernel, num_steps=moves, warmup=moves // 2, target_acceptance=target)
            draws, _ = chain(log_joint, ChainState(start), generator)
            z = draws.z[:: max(1, len(draws.z) // kept)].transpose(0, 1)
            return level_draws(data.model, z, data.power, bands, generator)

    return levels


def by_vem(draws: int) -> Callable[..., Tensor]:
    """Draws of the levels from r(s), the noise held at the truth."""

    def levels(data: Simulated, guide: SpeechGuide, bands: list[slice], generator: Generator) -> Tensor:
        noise = data.model.noise
        vem = replace(default_vem(), noise_init=lambda power, generator: noise, updates=())
        posterior = vem(data.model.speech, guide, data.power, None, generator)
        mean = posterior.wiener_gain * data.power.sqrt()
        found = []
        for _ in range(draws):
            error = torch.randn(2, *mean.shape, generator=generator) * (posterior.variance / 2).sqrt()
            drawn = (mean + error[0]).square() + error[1].square()
            found.append(decibels(torch.stack([drawn[:, band].mean(-1) for band in bands], -1)))
        return torch.stack(found).unsqueeze(0)

    return levels


class Verdict(NamedTuple):
    """Coverage of 50 % and 90 % intervals, p-value of uniform ranks, and the histogram of ranks."""

    half: float
    most: float
    p_value: float
    ranks: Tensor


def judged(draws: Tensor, truth: Tensor) -> Verdict:
    """Draws (C, D, N, B) against the truth (N, B).

    The test of ranks takes one band a frame in turn, since the bands of a frame share its z.
    """
    shares = (draws.flatten(0, 1) < truth).double().mean(0)
    share, frames, count = shares.flatten(), *shares.shape
    one = shares[torch.arange(frames), torch.arange(frames) % count]
    counts = torch.histc(one, BINS_OF_RANKS, 0.0, 1.0)
    statistic = float(((counts - frames / BINS_OF_RANKS) ** 2 / (frames / BINS_OF_RANKS)).sum())
    covered = [float(((share > (1 - p) / 2) & (share < (1 + p) / 2)).double().mean()) for p in (0.5, 0.9)]
    return Verdict(covered[0], covered[1], float(chi2.sf(statistic, BINS_OF_RANKS - 1)), counts)


def picture(verdicts: dict[str, Verdict], methods: int) -> Figure:
    """Histograms of the ranks, one panel a method, one row a model; flat is calibrated.

    Args:
        verdicts: title -> verdict, all methods of one model after those of another.
        methods: how many there are.
    """
    rows = len(verdicts) // methods
    figure = Figure(figsize=(3.1 * methods, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, methods, sharex=True, sharey=True, squeeze=False)
    for axes, (name, verdict) in zip(panels.flat, verdicts.items(), strict=True):
        middle = (torch.arange(BINS_OF_RANKS) + 0.5) / BINS_OF_RANKS
        axes.bar(middle, verdict.ranks.tolist(), width=0.9 / BINS_OF_RANKS)
        axes.axhline(float(verdict.ranks.mean()), color="black", linewidth=0.8)
        axes.set(title=name, xticks=[0, 0.5, 1])
        axes.title.set_size(10)
    for axes in panels[-1]:
        axes.set_xlabel("rank of the truth among the draws")
    for axes in panels[:, 0]:
        axes.set_ylabel("frames")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["a-vae", "min-vae-v1"])
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--moves", type=int, default=400, help="of HMC, half of them warm-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    methods = {
        "HMC": by_chains(HMC(0.1, 8), args.moves, 50, 0.7),
        "random walk, the papers'": by_chains(RandomWalk(0.1), 100, 50, None),
        "VEM": by_vem(200),
    }
    verdicts: dict[str, Verdict] = {}
    head = "| model: method | 50 % interval | 90 % interval | p of uniform ranks | s |"
    lines = [head, "|---" * 5 + "|"]
    for name in args.models:
        pair = zoo.load(name)
        bands = octaves(pair.stft.bins)
        generator = Generator().manual_seed(args.seed)
        data = simulate(pair.model, args.frames, bands, generator)
        for method, levels in methods.items():
            start = time.perf_counter()
            verdict = judged(levels(data, pair.guide, bands, generator), data.level)
            spent = time.perf_counter() - start
            verdicts[f"{name}\n{method}"] = verdict
            cells = f"{verdict.half:.1%} | {verdict.most:.1%} | {verdict.p_value:.2g} | {spent:.0f}"
            lines.append(f"| {name}: {method} | {cells} |")
            print(lines[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "calibration.md").write_text("\n".join(lines) + "\n")
    picture(verdicts, len(methods)).savefig(args.out / "calibration.png", dpi=110)


if __name__ == "__main__":
    common.run(main)
