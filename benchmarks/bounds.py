"""What the lips tell of clean speech: evidence lower bounds on held-out talking faces.

    python benchmarks/bounds.py                                     # validation split: s1, s3, s32
    python benchmarks/bounds.py --split test --speakers s30 s34

For every speaker (s1 was seen in training with other sentences, the others were not): the bound of the V-VAE
with the right lips, with shuffled lips, with those of another sentence and with hidden lips, beside the
log-likelihood of a constant spectrum; and the bound of the AV-VAE likewise, beside the A-VAE trained on the
same clips. Nats a frame, at the common level; higher is better. The data is looked for in AVSE_DATA (default
../shared/data). Writes benchmarks/results/bounds.md, or bounds_test.md.
"""

import argparse
from pathlib import Path

import common
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from avse import zoo
from avse.data.caches import LipsCache, SpectrumCache, default_cache
from avse.data.corpora.base import Utterance
from avse.data.corpora.grid import GridCorpus
from avse.inference.svi.elbo import AnalyticKLTraceEnumELBO
from avse.models.distributions import exponential_cost
from avse.models.networks.spectrum import POWER_FLOOR
from avse.zoo.pair import SpeechPair


def bound(pair: SpeechPair, power: Tensor, visual: Tensor | None) -> float:
    """The bound summed over frames, one draw a frame."""
    torch.manual_seed(0)
    pair.model.requires_grad_(True)  # Pyro's bound is one to differentiate
    elbo = AnalyticKLTraceEnumELBO(max_plate_nesting=1)
    given = {} if visual is None else {"visual": visual}
    return -float(elbo.differentiable_loss(pair.model, pair.guide, power=power, **given).detach())


def visuals(
    pair: SpeechPair, utterance: Utterance, other: Utterance, frames: int
) -> dict[str, Tensor | None]:
    """What the pair is shown: nothing if it only listens."""
    view = pair.config.lips
    if view is None:
        return {"sound alone": None}
    times, cache = pair.stft.frame_times(frames), LipsCache(default_cache())
    right = view.visual(view.track(cache.lips(utterance), times))
    order = torch.from_numpy(np.random.default_rng(0).permutation(frames))
    return {
        "right lips": right,
        "shuffled lips": right[order],
        "another sentence": view.visual(view.track(cache.lips(other), times)),
        "hidden lips": torch.zeros_like(right),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=["test", "validation"], default="validation")
    parser.add_argument("--speakers", nargs="+", default=["s1", "s3", "s32"])
    parser.add_argument("--visual", default="v-vae", help="V-VAE: name in the zoo, or folder")
    args = parser.parse_args()
    corpus = GridCorpus(common.recordings() / "grid", kinds=("av",))
    names = {"v-vae": args.visual, "a-vae-grid": "a-vae-grid", "av-vae": "av-vae"}
    pairs = {name: zoo.load(source) for name, source in names.items()}
    spectra = SpectrumCache(default_cache(), pairs["v-vae"].config.front_end)
    training = torch.cat([spectra.power(each) for each in corpus.utterances("train")[::8]])
    constant = training.mean(0) + POWER_FLOOR
    sums: dict[str, dict[str, float]] = {}
    for speaker in args.speakers:
        own = [each for each in corpus.utterances(args.split) if each.speaker == speaker]
        count = 0
        for index, utterance in enumerate(track(own, speaker, transient=True)):
            power = spectra.power(utterance) + POWER_FLOOR
            count += len(power)
            cost = exponential_cost(power, constant.expand_as(power).clone())
            rows = {"constant spectrum": -float(cost.sum())}
            for name, pair in pairs.items():
                for what, visual in visuals(pair, utterance, own[index - 1], len(power)).items():
                    rows[f"{name}, {what}"] = bound(pair, power, visual)
            for row, value in rows.items():
                cells = sums.setdefault(row, dict.fromkeys(args.speakers, 0.0))
                cells[speaker] += value
        for cells in sums.values():
            cells[speaker] /= count
    head = f"| nats a frame | {' | '.join(args.speakers)} |"
    lines = [head, "|---" * (len(args.speakers) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(f'{v:.0f}' for v in cells.values())} |" for row, cells in sums.items()]
    table = "\n".join(lines)
    name = "bounds" if args.split == "validation" else "bounds_test"
    out = Path(__file__).parent / "results" / f"{name}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    common.run(main)
