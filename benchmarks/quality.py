"""Quality of enhancement on real speech in real noise.

    python benchmarks/quality.py                      # the test split, default algorithm
    python benchmarks/quality.py --systems mcem paper --share 18
    python benchmarks/quality.py --split validation --speech grid --mixtures 6 --systems mcem mcmc

The last compares algorithms on six recordings of 3 s; enhancement by `pyro.infer.MCMC` should be within
0.3 dB SI-SDR of the default.

Speech: the sound-only clips and the GRID clips of unseen speakers of a split; noise: six types at -5, 0 and
5 dB. The data is looked for in AVSE_DATA (default ../shared/data). Prints improvements over the noisy input
and writes them to benchmarks/results/.
"""

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import common
import numpy as np

import avse
from avse.evaluation import benchmark, tables
from avse.evaluation.scores import save_scores, scored
from avse.progress import progress_bar

GRID_SPEAKERS = {"test": ("s30", "s34"), "validation": ("s3", "s32")}
NOISES = ("cafe", "street", "babble", "car", "domestic_other", "white")
LEVELS = (-5.0, 0.0, 5.0)
TARGETS = {"si_sdr": 6.0, "pesq_wb": 0.12, "stoi": 0.0}


MCMC_TARGET = -0.3
"""dB SI-SDR, of "mcmc" less "mcem"."""


def clips(split: str, kinds: Sequence[str] = ("sound", "grid")) -> list[Path]:
    """Clips of a split: "sound", those without pictures; "grid", 3 s each, of unseen speakers."""
    table = common.recordings() / "splits.csv"
    speech = [path for path, _ in benchmark.table_rows(table, "speech", split)]
    grid = [p for p, speaker in benchmark.table_rows(table, "av", split) if speaker in GRID_SPEAKERS[split]]
    return [path for kind, paths in (("sound", speech), ("grid", grid)) if kind in kinds for path in paths]


def evenly(specs: Sequence[benchmark.MixtureSpec], count: int | None) -> list[benchmark.MixtureSpec]:
    """So many of the mixtures, from all over the list and at all levels in turn; all for None."""
    if count is None or count >= len(specs):
        return list(specs)
    return [specs[index * (len(specs) // count) + index % len(LEVELS)] for index in range(count)]


def noises(names: Sequence[str] = NOISES) -> dict[str, list[Path]]:
    rows = benchmark.table_rows(common.recordings() / "splits.csv", "noise", "all")
    return {name: sorted(path for path, own in rows if own == name) for name in names}


def enhanced(mixture: np.ndarray, spec: benchmark.MixtureSpec, model: str, algorithm: str) -> np.ndarray:
    return avse.enhance(mixture, benchmark.RATE, model=model, algorithm=algorithm, seed=spec.seed).speech


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=list(GRID_SPEAKERS), default="test")
    parser.add_argument("--model", default="a-vae", help="name in the zoo or folder")
    parser.add_argument("--systems", nargs="+", default=["amortised"], help="algorithms")
    parser.add_argument("--share", type=int, default=1, help="take every so-manyth mixture")
    parser.add_argument("--mixtures", type=int, help="take so many mixtures, evenly spaced")
    parser.add_argument("--speech", nargs="+", choices=["sound", "grid"], default=["sound", "grid"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    specs = benchmark.cross(clips(args.split, args.speech), noises(), LEVELS, args.seed, args.share)
    specs = evenly(specs, args.mixtures)
    systems = {name: partial(enhanced, model=args.model, algorithm=name) for name in args.systems}
    start = time.perf_counter()
    with progress_bar("mixtures") as progress:
        scores = scored(specs, systems, args.jobs, progress)
    print(f"{len(specs)} mixtures of the {args.split} split in {(time.perf_counter() - start) / 60:.1f} min")

    args.out.mkdir(parents=True, exist_ok=True)
    for name in systems:
        own = [s for s in scores if s.system == name]
        stem = f"quality_{args.split}_{Path(args.model).name}_{name}" + (
            f"_{args.share}" if args.share > 1 else ""
        )
        save_scores(args.out / f"{stem}.jsonl", own)
        table = tables.markdown_table(own)
        (args.out / f"{stem}.md").write_text(table + "\n")
        print(f"\n{args.model}, {name}: improvement over the noisy input\n\n{table}\n")
        for metric, target in TARGETS.items():
            report(metric, tables.mean_gain(own, metric), target)
        noise, level, worst = tables.worst_cell(own)
        report(f"si_sdr, worst cell ({noise} at {level:g} dB)", worst, 0.0)
    if len(systems) > 1:
        table = tables.systems_table(scores)
        (args.out / f"systems_{args.split}_{Path(args.model).name}_{args.share}.md").write_text(table + "\n")
        names = {s.system for s in scores}
        if {"mcem", "mcmc"} <= names:
            own = {n: tables.mean_gain([s for s in scores if s.system == n], "si_sdr") for n in names}
            report("si_sdr, mcmc less mcem", own["mcmc"] - own["mcem"], MCMC_TARGET)
        print(f"\nall systems on the same {len(specs)} mixtures\n\n{table}")


def report(name: str, value: float, target: float) -> None:
    print(f"{name}: {value:+.3f} (at least {target:+g}): {'reached' if value >= target else 'MISSED'}")


if __name__ == "__main__":
    common.run(main)
