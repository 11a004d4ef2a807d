"""Where enhancement loses: the same recordings with parts of the problem solved by an oracle.

    python benchmarks/oracles.py                    # 24 mixtures of the validation split
    python benchmarks/oracles.py --mixtures 72 --model a-vae-grid

Prints improvements over the noisy input in SI-SDR, PESQ and STOI, by type of noise:

    default                 the algorithm of the pair
    mcem                    Monte Carlo EM
    true noise              z as in mcem, at the true noise power, smoothed over 7 frames and 3 bins
    clean z                 z from the encoder at the clean speech, the noise fitted as in amortised EM
    clean z, true noise     both: what decoder and filter allow

The data is looked for in AVSE_DATA (default ../shared/data). Writes benchmarks/results/oracles_MODEL.md.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import common
import numpy as np
import torch
from quality import LEVELS, clips, evenly, noises
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import avg_pool2d

from avse import zoo
from avse.evaluation import benchmark
from avse.evaluation.metrics import improvements
from avse.inference.algorithm import Algorithm
from avse.inference.em.amortised import AmortisedEM
from avse.inference.em.m_steps import NoiseStep
from avse.inference.posterior import Posterior
from avse.inference.presets import algorithm_named, default_amortised, default_mcem
from avse.recording import Recording
from avse.zoo.pair import SpeechPair


@dataclass(frozen=True)
class KnownNoise:
    """A noise variance that is known: a start for schedules that leave it as it is.

    Attributes:
        power: V_b (*, N, F).
    """

    power: Tensor
    floor: float = 0.0

    @property
    def frame_gain(self) -> Tensor:
        return torch.ones_like(self.power[..., 0])

    def variance(self) -> Tensor:
        return self.power

    def cost(self, power: Tensor, speech_variance: Tensor, weights: Tensor) -> Tensor:
        return power.new_zeros(())


@dataclass(frozen=True)
class CleanGuide:
    """The encoder of a guide at the clean speech, whatever it is given."""

    clean: Tensor
    encoder: Callable[..., torch.distributions.Distribution]

    def posterior(self, power: Tensor | None = None, visual: Tensor | None = None) -> object:
        return self.encoder(self.clean)


def smoothed(power: Tensor) -> Tensor:
    """Mean of |b|^2 (1, N, F) over 7 frames and 3 bins."""
    return avg_pool2d(power.unsqueeze(1), (7, 3), 1, (3, 1), count_include_pad=False).squeeze(1)


def posteriors(pair: SpeechPair, noisy: Recording, clean: Tensor, noise: Tensor) -> dict[str, Posterior]:
    """The posterior under every oracle, at |s|^2 = `clean` and |b|^2 = `noise` (1, N, F)."""
    known = KnownNoise(smoothed(noise) + 1e-8)
    fixed = NoiseStep(updates=())
    mcem, amortised = default_mcem(), default_amortised()
    oracle = CleanGuide(clean, noisy.guide.posterior)

    def run(algorithm: Algorithm, guide: object) -> Posterior:
        generator = torch.Generator().manual_seed(0)
        return algorithm(noisy.speech, guide, noisy.power, None, generator, lambda f: None)  # type: ignore[arg-type]

    true_noise = replace(mcem, noise_init=lambda power, generator: known, em=replace(mcem.em, m_step=fixed))
    both: AmortisedEM = replace(amortised, noise_init=lambda power, generator: known, m_step=fixed)
    return {
        "default": run(algorithm_named("auto", pair.algorithm)[0], noisy.guide),
        "mcem": run(mcem, noisy.guide),
        "true noise": run(true_noise, noisy.guide),
        "clean z": run(amortised, oracle),
        "clean z, true noise": run(both, oracle),
    }


def measured(spec: benchmark.MixtureSpec, pair: SpeechPair) -> dict[str, dict[str, float]]:
    """Improvements of every oracle on one mixture."""
    speech, mixture = benchmark.make_mixture(spec)
    noisy = Recording.prepare(mixture, benchmark.RATE, pair)
    front_end = pair.config.front_end
    signal = torch.from_numpy(speech).float().unsqueeze(0)
    clean = front_end.stft.analysis(signal) * front_end.response() * noisy.scale.unsqueeze(-1)
    found = posteriors(pair, noisy, clean.abs().square(), (noisy.spectrum - clean).abs().square())
    rows = {}
    for name, posterior in found.items():
        filtered = posterior.wiener_gain.clamp_min(posterior.gain_floor) * noisy.spectrum
        estimate = noisy.stft.synthesis(filtered, signal.shape[-1]) / noisy.scale
        rows[name] = improvements(speech, mixture, estimate[0].numpy(), benchmark.RATE)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="a-vae", help="name in the zoo or folder")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--mixtures", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    pair = zoo.load(args.model)
    specs = evenly(benchmark.cross(clips(args.split), noises(), LEVELS, args.seed), args.mixtures)
    types = list(dict.fromkeys(spec.noise_type for spec in specs))
    rows = [
        (spec.noise_type, measured(spec, pair))
        for spec in track(specs, "mixtures", console=Console(stderr=True))
    ]
    lines = ["| SI-SDR (dB) / PESQ-wb / STOI | all | " + " | ".join(types) + " |"]
    lines.append("|---" * (len(types) + 2) + "|")
    for name in rows[0][1]:
        cells = []
        for kind in ("all", *types):
            own = [found[name] for noise, found in rows if kind in ("all", noise)]
            means = [np.mean([each[m] for each in own]) for m in ("si_sdr", "pesq_wb", "stoi")]
            cells.append(f"{means[0]:+.1f} / {means[1]:+.2f} / {means[2]:+.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"oracles_{Path(args.model).name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    common.run(main)
