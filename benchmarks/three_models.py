"""A mixture of A-, V- and AV-VAE beside the VAE-MM, on talking faces with their own and with corrupted lips.

    python benchmarks/three_models.py                          # 12 validation mixtures of unseen speakers
    python benchmarks/three_models.py --mixtures 40 --pi 0.05 0.15 0.8

All components are those that ship, and every system has the schedule `mcem-mixture` and the same classifier
of corrupted lips. The trained V-VAE reads pixels and the AV-VAE shapes of the mouth: here a frame has both,
and every part reads its own. "Corrupted": a third of the lips, see `mixtures.py`. The data is looked for in
AVSE_DATA (default ../shared/data). Writes benchmarks/results/three_models.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from lips import NOISES, own
from mixtures import corrupted_lips
from numpy.typing import NDArray
from quality import noises
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from avse import zoo
from avse.data.lips import Lips
from avse.evaluation import benchmark, tables
from avse.evaluation.measures import measure
from avse.evaluation.metrics import improvements
from avse.guides.audio_visual import AudioVisualGuide
from avse.guides.base import SpeechGuide
from avse.guides.mixture import MixtureGuide, OptimalResponsibilities
from avse.guides.visual import VisualGuide
from avse.inference.presets import algorithm_named
from avse.models.av_vae import AVVAE
from avse.models.base import SpeechModel
from avse.models.vae_mm import VAEMM
from avse.recording import Recording

SPEAKERS = ("s3", "s32")
LEVELS = (-5.0, 0.0)
SYSTEMS = ("a-vae", "vae-mm", "a-v-av")


class Part(nn.Module):
    """What reads a part of the visual features.

    Args:
        network: visual (*, N, D) -> any.
        features: its own among all of them.
    """

    def __init__(self, network: nn.Module, features: slice) -> None:
        super().__init__()
        self.network, self.features = network, features

    def forward(self, visual: Tensor) -> Tensor:
        """The network at its own features of visual (*, N, ..)."""
        found: Tensor = self.network(visual[..., self.features])
        return found


class Pair(NamedTuple):
    """A model and its guide."""

    model: SpeechModel
    guide: SpeechGuide


def three_models(pi: Sequence[float]) -> Pair:
    """The mixture of A-, V- and AV-VAE, whose visual features are pixels (first) and shapes."""
    mixture, visual = zoo.load("vae-mm"), zoo.load("v-vae")
    pixels, shapes = slice(0, visual.config.lips.size), slice(visual.config.lips.size, None)
    both, guide = mixture.model.second, mixture.guide.branch(0)
    model = VAEMM(
        mixture.model.first,
        visual.model,
        AVVAE(Part(both.lips, shapes), both.prior, both.decoder),
        pi=tuple(pi),
        corruption_classifier=Part(mixture.model.corruption_classifier, shapes),
    )
    guides = [
        mixture.guide.branch(1),
        VisualGuide(Part(visual.guide.lips, pixels), visual.guide.network),
        AudioVisualGuide(guide.features, Part(guide.lips, shapes), guide.encoder),
    ]
    return Pair(model.eval(), MixtureGuide(*guides, responsibilities=OptimalResponsibilities(model)).eval())


@torch.no_grad()
def scores(spec: benchmark.MixtureSpec, lips: Lips, pi: Sequence[float]) -> NDArray[np.floating]:
    """Improvements of `SYSTEMS`, in their order, (3, metrics)."""
    speech, mixture = benchmark.make_mixture(spec)
    pair, deaf, seeing = (zoo.load(name) for name in ("vae-mm", "a-vae", "v-vae"))
    recording = Recording.prepare(mixture, benchmark.RATE, pair, lips)
    pixels = Recording.prepare(mixture, benchmark.RATE, seeing, lips).visual
    assert pixels is not None
    assert recording.visual is not None
    rows = []
    for algorithm, (model, guide), visual in (
        ("mcem", Pair(deaf.model, deaf.guide), None),
        ("mcem-mixture", Pair(pair.model, pair.guide), recording.visual),
        ("mcem-mixture", three_models(pi), torch.cat([pixels, recording.visual], -1)),
    ):
        infer, _ = algorithm_named(algorithm)
        generator = torch.Generator().manual_seed(spec.seed)
        posterior = infer(model, guide, recording.power, visual, generator)
        gain = posterior.wiener_gain.clamp_min(posterior.gain_floor)
        estimate = recording.stft.synthesis(gain * recording.spectrum, recording.signal.shape[-1])
        enhanced = (estimate / recording.scale)[0, : len(speech)].numpy()
        gains = improvements(speech, mixture, enhanced, benchmark.RATE)
        rows.append([gains[metric] for metric in tables.SHOWN])
    return np.array(rows)


def table(found: dict[str, NDArray[np.floating]]) -> str:
    """Means over mixtures, and of the differences from the VAE-MM, with standard errors."""
    lines = [
        f"| lips: system | {' | '.join(measure(metric).title for metric in tables.SHOWN)} |",
        "|---" * (len(tables.SHOWN) + 1) + "|",
    ]
    for kind, values in found.items():  # (mixtures, systems, metrics)
        shown = {name: values[:, number] for number, name in enumerate(SYSTEMS)}
        shown["a-v-av minus vae-mm"] = values[:, 2] - values[:, 1]
        for name, rows in shown.items():
            errors = rows.std(0, ddof=1) / len(rows) ** 0.5
            cells = [f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(rows.mean(0), errors, strict=True)]
            lines.append(f"| {kind}: {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixtures", type=int, default=12)
    parser.add_argument("--pi", nargs=3, type=float, default=(0.05, 0.15, 0.8), help="of A-, V- and AV-VAE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    rows = benchmark.table_rows(common.recordings() / "splits.csv", "av", "validation")
    clips = [path for path, speaker in rows if speaker in SPEAKERS]
    specs = benchmark.cross(clips, noises(NOISES), LEVELS, args.seed, 1)
    order = np.random.default_rng(args.seed).permutation(len(specs))[: args.mixtures]
    found: dict[str, list[NDArray[np.floating]]] = {"own": [], "corrupted": []}
    for number in track(order, "mixtures", console=Console(stderr=True)):
        spec = specs[number]
        for kind, lips in (("own", own(spec.clip, [])), ("corrupted", corrupted_lips(spec.clip)[0])):
            found[kind].append(scores(spec, lips, args.pi))
    text = table({kind: np.stack(values) for kind, values in found.items()})
    print(f"{len(order)} mixtures (validation)\n\n{text}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "three_models.md").write_text(text + "\n")


if __name__ == "__main__":
    common.run(main)
