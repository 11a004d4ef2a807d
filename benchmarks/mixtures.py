"""Mixture models on talking faces with corrupted lips or noisy encoder input; alpha as a corruption detector.

    python benchmarks/mixtures.py              # enhancement, s1 test sentences, -5 and 0 dB
    python benchmarks/mixtures.py alpha        # AUC of alpha as a detector of corrupted lips
    python benchmarks/mixtures.py ablation     # VEM shared, VEM structured, MCEM collapsed, MCEM structured

Systems "-corrupted-lips": a third of the lips is corrupted (`avse.data.lips.corruption`), the same third for
all systems. Systems "-noisy-encoder": noise is added to the input of the audio encoder in a random third of
the frames. The noise types are those of `lips.py`; the data is read from AVSE_DATA (default ../shared/data).
Writes tables to benchmarks/results/.
"""

import argparse
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch
from lips import NOISES, own, read
from numpy.typing import NDArray
from quality import noises
from scipy.stats import rankdata

import avse
from avse import zoo
from avse.data.augmentation import ColouredNoise
from avse.data.lips import Lips
from avse.data.lips.corruption import corrupt_lips
from avse.enhancement import Enhancement
from avse.evaluation import benchmark, tables
from avse.evaluation.measures import measure
from avse.evaluation.metrics import improvements
from avse.evaluation.runner import in_processes
from avse.evaluation.scores import scored
from avse.guides.wrappers import CorruptedGuide, corrupted
from avse.inference.algorithm import Algorithm
from avse.inference.presets import default_vem, lips_mcem, min_vae_mcem, mixture_mcem, papers_vem
from avse.inference.responsibilities import Tempered
from avse.inference.vem.latent_factor import Structured
from avse.progress import progress_bar
from avse.zoo.pair import SpeechPair

LEVELS = (-5.0, 0.0)
MODELS = {
    "a": "a-vae-grid",
    "v": "v-vae",
    "av": "av-vae",
    "mm": "vae-mm",
    "min1": "min-vae-v1",
    "min2": "min-vae-v2",
}
AUDIO_ENCODERS = ("a", "av", "min1", "min2")
"""Models with an audio encoder at test time."""
SYSTEMS = [
    *MODELS,
    *(f"{name}-corrupted-lips" for name in MODELS if name != "a"),
    *(f"{name}-noisy-encoder" for name in AUDIO_ENCODERS),
]
ENCODER_NOISE = ColouredNoise(share=1 / 3, low=-10.0, high=0.0)


def corrupted_lips(clip: str, seed: int = 0) -> tuple[Lips, NDArray[np.bool_]]:
    """The lips of a clip, a third of them corrupted, and whether each video frame is corrupted."""
    return corrupt_lips(read(clip), np.random.default_rng(zlib.crc32(f"{seed}/{Path(clip).name}".encode())))


def with_noisy_encoder(pair: SpeechPair) -> SpeechPair:
    """The pair with noise added to the input of its guide in a third of the frames, as in training."""
    result = SpeechPair(pair.config)
    result.model, result.guide = pair.model, corrupted(pair.guide, ENCODER_NOISE)
    for part in result.guide.modules():
        part.training = isinstance(part, CorruptedGuide)
    return result


def enhanced(mixture: benchmark.Samples, spec: benchmark.MixtureSpec, system: str) -> benchmark.Samples:
    """The mixture enhanced by one of `SYSTEMS`."""
    name, _, condition = system.partition("-")
    pair = zoo.load(MODELS[name])
    lips = None if name == "a" else own(spec.clip, [])
    if condition == "corrupted-lips":
        lips, _ = corrupted_lips(spec.clip)
    if condition == "noisy-encoder":
        pair = with_noisy_encoder(pair)
        torch.manual_seed(spec.seed)
    return avse.enhance(mixture, benchmark.RATE, video=lips, model=pair, seed=spec.seed).speech


def quality(specs: Sequence[benchmark.MixtureSpec], systems: Sequence[str], jobs: int) -> str:
    """Tables of the improvements of every system and of its differences from the A-VAE and the AV-VAE."""
    with progress_bar("mixtures") as progress:
        scores = scored(specs, {name: partial(enhanced, system=name) for name in systems}, jobs, progress)
    parts = [tables.systems_table(scores)]
    parts += [
        tables.differences_table(scores, reference) for reference in ("a", "av") if reference in systems
    ]
    return "\n\n".join(parts)


def modes() -> dict[str, Algorithm]:
    """Algorithms by name that infer alpha; the last is that of the shipped VAE-MM."""
    mixture = mixture_mcem()
    return {
        "VEM, the paper's": papers_vem(),
        "VEM, shared": default_vem(),
        "VEM, structured": replace(default_vem(), factor=Structured(), alpha_step=mixture.alpha_step),
        "MCEM, structured, all evidence": replace(mixture, alpha_step=Tempered(1.0)),
        "MCEM, structured": mixture,
    }


def auc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of a score that should be larger for positives; ties count half."""
    ranks, count = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def alpha_in_speech(
    result: Enhancement, lips: Lips, corrupt: NDArray[np.bool_], speech: benchmark.Samples
) -> NDArray:
    """r(alpha = 1) and whether the lips are corrupted, in the N' frames with speech: (N', 2)."""
    r = result.posterior.responsibilities[1].reshape(-1)
    times = np.asarray(result.stft.frame_times(len(r)))
    nearest = np.abs(times[:, None] - lips.times).argmin(1)
    power = result.stft.analysis(torch.from_numpy(speech.astype(np.float32))).abs().square().mean(-1)
    active = (power > 1e-3 * power.mean()).numpy()
    return np.stack([r.numpy()[active], corrupt[nearest][active]], axis=1)


def alpha_row(spec: benchmark.MixtureSpec, clean: bool, model: str, algorithm: Algorithm) -> NDArray:
    """`alpha_in_speech` for one mixture, or for its clean speech."""
    torch.set_num_threads(1)
    speech, mixture = benchmark.make_mixture(spec)
    lips, corrupt = corrupted_lips(spec.clip)
    samples = speech if clean else mixture
    result = avse.enhance(
        samples, benchmark.RATE, video=lips, model=model, algorithm=algorithm, seed=spec.seed
    )
    return alpha_in_speech(result, lips, corrupt, speech)


def alpha(specs: Sequence[benchmark.MixtureSpec], jobs: int) -> str:
    """Table of the AUC of alpha in the VAE-MM, by algorithm and level."""
    levels = sorted({spec.level for spec in specs}, reverse=True)
    head = ["clean speech", *(f"{level:g} dB" for level in levels)]
    lines = [f"| AUC | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    work = [(spec, False) for spec in specs] + [(spec, True) for spec in specs if spec.level == levels[0]]
    for name, algorithm in modes().items():
        rows = list(
            in_processes(partial(alpha_row, model="vae-mm", algorithm=algorithm), work, jobs, ordered=True)
        )
        cells = []
        for clean, level in [(True, levels[0]), *((False, level) for level in levels)]:
            own_rows = [
                row for (spec, c), row in zip(work, rows, strict=True) if (c, spec.level) == (clean, level)
            ]
            score, corrupt = np.concatenate(own_rows).T
            cells.append(f"{auc(score, corrupt > 0.5):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ablation_row(spec: benchmark.MixtureSpec, model: str, algorithm: Algorithm) -> list[float]:
    """Improvements, real-time factor and final objective for one mixture with corrupted lips."""
    torch.set_num_threads(1)
    speech, mixture = benchmark.make_mixture(spec)
    lips, _ = corrupted_lips(spec.clip)
    start = time.perf_counter()
    result = avse.enhance(
        mixture, benchmark.RATE, video=lips, model=model, algorithm=algorithm, seed=spec.seed
    )
    spent = (time.perf_counter() - start) / (len(mixture) / benchmark.RATE)
    gains = improvements(speech, mixture, result.speech, benchmark.RATE)
    return [*(gains[metric] for metric in tables.SHOWN), spent, result.posterior.costs[-1]]


def ablation(specs: Sequence[benchmark.MixtureSpec], jobs: int) -> str:
    """Table of quality, time and objective of the algorithms, for VAE-MM and MIN-VAE.

    The objective is the free energy (VEM) or the mean of -log p(x | z) (MCEM) per frame and bin, at the level
    of the recording; objectives of VEM and MCEM cannot be compared.
    """
    collapsed = {"vae-mm": lips_mcem(), "min-vae-v1": min_vae_mcem(), "min-vae-v2": min_vae_mcem()}
    names = [*(measure(metric).title for metric in tables.SHOWN), "times real time", "objective"]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for model, one in collapsed.items():
        for name, algorithm in {**modes(), "MCEM, alpha summed out at every z": one}.items():
            work = [(spec, model, algorithm) for spec in specs]
            means = np.nanmean(list(in_processes(ablation_row, work, jobs, ordered=True)), axis=0)
            forms = ("+.2f", "+.2f", "+.3f", ".2f", ".3f")
            cells = " | ".join(f"{value:{form}}" for value, form in zip(means, forms, strict=True))
            lines.append(f"| {model}: {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=["quality", "alpha", "ablation"], default="quality")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--speakers", nargs="+", default=["s1"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS)
    parser.add_argument("--share", type=int, default=4, help="use one mixture in SHARE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    rows = benchmark.table_rows(common.recordings() / "splits.csv", "av", args.split)
    clips = [path for path, speaker in rows if speaker in args.speakers]
    specs = benchmark.cross(clips, noises(NOISES), args.levels, args.seed, args.share)
    start = time.perf_counter()
    if args.part == "quality":
        table = quality(specs, args.systems, args.jobs)
    else:
        table = {"alpha": alpha, "ablation": ablation}[args.part](specs, args.jobs)
    print(f"{len(specs)} mixtures ({args.split}) in {(time.perf_counter() - start) / 60:.1f} min\n\n{table}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"mixtures_{args.part}_{args.split}_{'-'.join(args.speakers)}.md").write_text(table + "\n")


if __name__ == "__main__":
    common.run(main)
