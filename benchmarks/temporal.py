"""What a prior over time tells of clean speech: evidence lower bounds, frames in order and shuffled.

    avse train dkf --corpus grid --root ../shared/data --out runs/dkf
    python benchmarks/temporal.py --models a-vae runs/dkf/pair              # validation split

The bound of every model on clean speech at the common level, nats a frame, higher is better; and the same
with the frames of every utterance in random order, which takes from a temporal model what it gains (the
negative control; models of single frames do not notice). The data is looked for in AVSE_DATA (default
../shared/data). Writes benchmarks/results/temporal.md.
"""

import argparse
from pathlib import Path

import common
import torch
from bounds import bound
from rich.console import Console
from rich.progress import track

from avse import zoo
from avse.data.caches import SpectrumCache, default_cache
from avse.data.corpora.grid import GridCorpus
from avse.models.networks.spectrum import POWER_FLOOR


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["a-vae"], help="names or folders")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--utterances", type=int, default=60, help="evenly from those of the split")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    found = GridCorpus(common.recordings()).utterances(args.split)
    chosen = found[:: max(1, len(found) // args.utterances)]
    lines = ["| nats a frame | frames in order | frames shuffled |", "|---|---|---|"]
    for name in args.models:
        pair = zoo.load(name)
        spectra = SpectrumCache(default_cache(), pair.config.front_end)
        sums, count = [0.0, 0.0], 0
        for number, utterance in enumerate(track(chosen, name, transient=True, console=Console(stderr=True))):
            power = spectra.power(utterance) + POWER_FLOOR
            order = torch.randperm(len(power), generator=torch.Generator().manual_seed(number))
            sums = [sums[0] + bound(pair, power, None), sums[1] + bound(pair, power[order], None)]
            count += len(power)
        lines.append(f"| {name} | {sums[0] / count:.1f} | {sums[1] / count:.1f} |")
    table = "\n".join(lines)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "temporal.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    common.run(main)
