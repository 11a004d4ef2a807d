"""Mixture models on talking faces with corrupted lips or noisy encoder input; alpha as a corruption detector.

    python benchmarks/mixtures.py              # enhancement, s1 test sentences, -5 and 0 dB
    python benchmarks/mixtures.py alpha        # AUC of alpha as a detector of corrupted lips
    python benchmarks/mixtures.py ablation     # VEM shared, VEM structured, MCEM collapsed, MCEM structured
    python benchmarks/mixtures.py damage --speakers s30 s34 --share 20      # by kind of damage, strangers

Systems "-corrupted-lips": a third of the lips is corrupted (`avse.data.lips.corruption`), the same third for
all systems. Systems "-noisy-encoder": noise is added to the input of the audio encoder in a random third of
the frames. The part "damage" corrupts a third of the lips by one kind of damage at a time, of those that the
shipped models were trained with and of those held out. The noise types are those of `lips.py`; the data is
read from AVSE_DATA (default ../shared/data). Writes tables to benchmarks/results/.
"""

import argparse
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from avse.data.lips.corruption import HELD_OUT_KINDS, TRAINING_KINDS, corrupt_lips
from avse.enhancement import Enhancement
from avse.evaluation import benchmark, tables
from avse.evaluation.measures import measure
from avse.evaluation.metrics import improvements, si_sdr, stoi
from avse.evaluation.processes import in_processes
from avse.evaluation.scores import scored
from avse.guides.wrappers import CorruptedGuide, corrupted
from avse.inference.algorithm import Algorithm
from avse.inference.em.anchored import corruption_probability
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


def corrupted_lips(
    clip: str, seed: int = 0, kinds: Sequence[str] = TRAINING_KINDS
) -> tuple[Lips, NDArray[np.bool_]]:
    """The lips of a clip, a third of them corrupted, and whether each video frame is corrupted."""
    generator = np.random.default_rng(zlib.crc32(f"{seed}/{Path(clip).name}".encode()))
    return corrupt_lips(read(clip), generator, kinds=kinds)


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
    result: Enhancement,
    score: torch.Tensor,
    lips: Lips,
    corrupt: NDArray[np.bool_],
    speech: benchmark.Samples,
) -> NDArray:
    """A score (N,) and whether the lips are corrupted, in the N' frames with speech: (N', 2)."""
    times = np.asarray(result.stft.frame_times(len(score)))
    nearest = np.abs(times[:, None] - lips.times).argmin(1)
    power = result.stft.analysis(torch.from_numpy(speech.astype(np.float32))).abs().square().mean(-1)
    active = (power > 1e-3 * power.mean()).numpy()
    return np.stack([score.numpy()[active], corrupt[nearest][active]], axis=1)


def alpha_row(spec: benchmark.MixtureSpec, clean: bool, model: str, algorithm: Algorithm) -> NDArray:
    """`alpha_in_speech` for one mixture, or for its clean speech."""
    torch.set_num_threads(1)
    speech, mixture = benchmark.make_mixture(spec)
    lips, corrupt = corrupted_lips(spec.clip)
    samples = speech if clean else mixture
    result = avse.enhance(
        samples, benchmark.RATE, video=lips, model=model, algorithm=algorithm, seed=spec.seed
    )
    return alpha_in_speech(result, result.posterior.responsibilities[1].reshape(-1), lips, corrupt, speech)


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


class Damaged(NamedTuple):
    """A mixture with a third of its lips corrupted, enhanced by A-VAE, AV-VAE and VAE-MM.

    Attributes:
        gains: improvement in SI-SDR (dB) and STOI of the three models, (3, 2).
        unusable: 1 - valid_n p(alpha_n = 0 | v_n), from the lips alone, and truth, as of `alpha_in_speech`.
        sound: r(alpha_n = 1), the weight of sound alone, and truth, likewise.
    """

    gains: NDArray
    unusable: NDArray
    sound: NDArray


def damage_rows(spec: benchmark.MixtureSpec) -> dict[str, Damaged]:
    """One mixture with its lips corrupted by every kind of damage in turn."""
    torch.set_num_threads(1)
    speech, mixture = benchmark.make_mixture(spec)

    def enhanced_by(model: str, lips: Lips | None) -> Enhancement:
        return avse.enhance(mixture, benchmark.RATE, video=lips, model=model, seed=spec.seed)

    def gain(result: Enhancement) -> list[float]:
        return [
            metric(speech, result.speech, benchmark.RATE) - metric(speech, mixture, benchmark.RATE)
            for metric in (si_sdr, stoi)
        ]

    pair, heard, found = zoo.load("vae-mm"), gain(enhanced_by("a-vae", None)), {}
    assert pair.config.lips is not None
    for kind in (*TRAINING_KINDS, *HELD_OUT_KINDS):
        lips, corrupt = corrupted_lips(spec.clip, kinds=(kind,))
        seen, mixed = enhanced_by("av-vae", lips), enhanced_by("vae-mm", lips)
        assert mixed.lips is not None
        visual = pair.config.lips.visual(mixed.lips)
        unusable = 1 - visual[:, -1] * (1 - corruption_probability(pair.model, visual))
        sound = mixed.posterior.responsibilities[1].reshape(-1)
        found[kind] = Damaged(
            np.array([heard, gain(seen), gain(mixed)]),
            *(alpha_in_speech(mixed, score, lips, corrupt, speech) for score in (unusable, sound)),
        )
    return found


def damage(specs: Sequence[benchmark.MixtureSpec], jobs: int) -> str:
    """Table by kind of damage: AUC of both scores, improvements, and VAE-MM minus the better of A and AV.

    The better one is that of the higher mean SI-SDR in the row; the standard error is over mixtures.
    """
    heads = [
        "AUC, lips alone",
        "AUC, r(alpha)",
        "A",
        "AV",
        "MM",
        "MM minus the better (dB)",
        "worst, MM minus A",
    ]
    lines = [f"| corrupted by | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows = list(in_processes(damage_rows, [(spec,) for spec in specs], jobs))
    kinds = {kind: (kind,) for kind in (*TRAINING_KINDS, *HELD_OUT_KINDS)}
    kinds |= {"all five of training": TRAINING_KINDS, "all five held out": HELD_OUT_KINDS}
    for name, several in kinds.items():
        own = [row[kind] for row in rows for kind in several]
        areas = []
        for scores in ([each.unusable for each in own], [each.sound for each in own]):
            score, corrupt = np.concatenate(scores).T
            areas.append(f"{auc(score, corrupt > 0.5):.2f}")
        gains = np.stack([each.gains for each in own])  # (mixtures, models, metrics)
        shown = [f"{ratio:+.2f} dB / {intelligible:+.3f}" for ratio, intelligible in gains.mean(0)]
        better = gains[:, :2, 0].mean(0).argmax()
        difference = gains[:, 2, 0] - gains[:, better, 0]
        by_mixture = difference.reshape(len(rows), len(several)).mean(1)
        error = by_mixture.std(ddof=1) / len(rows) ** 0.5
        worst = (gains[:, 2, 0] - gains[:, 0, 0]).min()
        cells = [*areas, *shown, f"{difference.mean():+.2f} ± {error:.2f}", f"{worst:+.2f}"]
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
    parser.add_argument(
        "part", nargs="?", choices=["quality", "alpha", "ablation", "damage"], default="quality"
    )
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
        table = {"alpha": alpha, "ablation": ablation, "damage": damage}[args.part](specs, args.jobs)
    print(f"{len(specs)} mixtures ({args.split}) in {(time.perf_counter() - start) / 60:.1f} min\n\n{table}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"mixtures_{args.part}_{args.split}_{'-'.join(args.speakers)}.md").write_text(table + "\n")


if __name__ == "__main__":
    common.run(main)
