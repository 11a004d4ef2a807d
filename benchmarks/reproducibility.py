"""How far the output of one recording depends on the seed and on the number of threads.

    python benchmarks/reproducibility.py --models a-vae vae-mm min-vae-v1 --mixtures 4

For each model the relative difference ||y - y'|| / ||y|| of two outputs in per cent: between those of
different seeds (mean over pairs and mixtures), and between those of one and of two threads at the same seed
(largest over mixtures). Mixtures of GRID speakers of the validation split in the noises of
benchmarks/lips.py; the data is looked for in AVSE_DATA (default ../shared/data). Writes
benchmarks/results/reproducibility.md.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import common
import numpy as np
import torch
from lips import LEVELS, NOISES, read
from quality import noises
from rich.console import Console
from rich.progress import track

import avse
from avse.evaluation import benchmark

SPEAKERS = ("s3", "s32")


def mixtures(count: int) -> list[benchmark.MixtureSpec]:
    """`count` mixtures spread over the clips, noises and levels of the validation speakers."""
    rows = benchmark.table_rows(common.recordings() / "splits.csv", "av", "validation")
    clips = [path for path, speaker in rows if speaker in SPEAKERS]
    specs = benchmark.cross(clips, noises(NOISES), LEVELS)
    return specs[:: max(1, len(specs) // count)][:count]


def output(spec: benchmark.MixtureSpec, model: str, seed: int, threads: int) -> np.ndarray:
    """Enhanced speech (T,)."""
    _, mixture = benchmark.make_mixture(spec)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return avse.enhance(mixture, benchmark.RATE, video=read(spec.clip), model=model, seed=seed).speech
    finally:
        torch.set_num_threads(before)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Relative difference in per cent."""
    return 100 * float(np.linalg.norm(first - second) / np.linalg.norm(first))


def row(model: str, specs: Sequence[benchmark.MixtureSpec], seeds: int) -> str:
    """Differences of one model, as a row of the table."""
    by_seed, by_threads = [], []
    for spec in track(specs, model, console=Console(stderr=True)):
        outputs = [output(spec, model, seed, 1) for seed in range(seeds)]
        by_seed += [difference(a, b) for a, b in combinations(outputs, 2)]
        by_threads.append(difference(outputs[0], output(spec, model, 0, 2)))
    return f"| {model} | {np.mean(by_seed):.1f} % | {max(by_threads):.2f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=["a-vae", "av-vae", "vae-mm", "min-vae-v1", "min-vae-v2"]
    )
    parser.add_argument("--mixtures", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    specs = mixtures(args.mixtures)
    lines = ["| model | another seed | another number of threads, worst |", "|---|---|---|"]
    lines += [row(model, specs, args.seeds) for model in args.models]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "reproducibility.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    common.run(main)
