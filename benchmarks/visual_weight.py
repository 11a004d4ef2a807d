"""Fit the weight of the lips in `mcem-anchored`, and what it gives on the speaker that was left out.

    python benchmarks/visual_weight.py                     # GRID speakers of the validation split
    python benchmarks/visual_weight.py --mixtures 24       # a share of the mixtures

Every mixture is enhanced by both components of `vae-mm`, with its own lips, those of another sentence of
the speaker, those of the other speaker and its own reversed in time. The coefficients of `VisualWeight`
maximise the mean improvement in SI-SDR over the audio-only component; a loss counts three times, mixtures
with lips of another recording less than those with their own. Prints the improvements with coefficients
that were fitted on the other speaker, and the coefficients fitted on all. The data is looked for in
AVSE_DATA (default ../shared/data). Writes benchmarks/results/visual_weight.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from lips import LEVELS, other, read, reordered
from quality import noises
from rich.console import Console
from rich.progress import track
from torch import Tensor

from avse import zoo
from avse.data.lips import Lips
from avse.evaluation import benchmark
from avse.inference.em.anchored import AnchoredMCEM, VisualWeight, components
from avse.inference.presets import anchored_mcem
from avse.recording import Recording
from avse.zoo.pair import SpeechPair

SPEAKERS = ("s3", "s32")
OWN = "own"
LOSS_FACTOR = 2.0
"""A loss of x dB counts as -(1 + LOSS_FACTOR) x."""
OTHER_LIPS = 0.35
"""Weight of a mixture with lips that are not its own."""


class Case(NamedTuple):
    """One mixture with one video.

    Attributes:
        speaker: of the mixture.
        level: signal-to-noise ratio, dB.
        lips: "own", "other sentence", "other speaker" or "reversed".
        features: of `VisualWeight`, (N, 5).
        usable: validity of the lips times the probability that they are intact, (N,).
        target: inner products of the clean speech with both estimates in every frame, (2, N).
        energy: inner products of the two estimates in every frame, (2, 2, N).
        clean: energy of the clean speech.
    """

    speaker: str
    level: float
    lips: str
    features: Tensor
    usable: Tensor
    target: Tensor
    energy: Tensor
    clean: Tensor

    def improvement(self, weight: Tensor) -> Tensor:
        """SI-SDR in dB of the estimate with weights (N,), minus that of the audio-only estimate."""
        return self._si_sdr(weight) - self._si_sdr(torch.zeros_like(weight))

    def _si_sdr(self, weight: Tensor) -> Tensor:
        shares = torch.stack([1 - weight, weight])
        signal = (shares * self.target).sum().square() / self.clean
        error = torch.einsum("in,jn,ijn->", shares, shares, self.energy) - signal
        return 10 * torch.log10(signal / error.clamp_min(1e-6))


def videos(clip: str, clips: list[str], generator: np.random.Generator) -> dict[str, Lips]:
    """The lips of a clip, and others in their place."""
    own = read(clip)
    others = [each for each in clips if Path(each).parent != Path(clip).parent]
    return {
        OWN: own,
        "other sentence": other(clip, clips),
        "other speaker": read(others[generator.integers(len(others))]),
        "reversed": reordered(own, np.arange(len(own.images))[::-1]),
    }


@torch.no_grad()
def cases(
    spec: benchmark.MixtureSpec, clips: list[str], pair: SpeechPair, algorithm: AnchoredMCEM
) -> list[Case]:
    """Both components fitted to a mixture, with every video."""
    speech, mixture = benchmark.make_mixture(spec)
    clean = Recording.prepare(speech, benchmark.RATE, pair, None).spectrum[0]
    heard = Recording.prepare(mixture, benchmark.RATE, pair, None)
    models = components(heard.speech, heard.guide)
    assert models is not None
    audio = algorithm.audio(*models[1], heard.power, None, torch.Generator().manual_seed(spec.seed))
    found = []
    for kind, lips in videos(spec.clip, clips, np.random.default_rng(spec.seed)).items():
        recording = Recording.prepare(mixture, benchmark.RATE, pair, lips)
        assert recording.visual is not None
        generator = torch.Generator().manual_seed(spec.seed)
        fits = algorithm.fit_visual(heard.speech, models, audio, recording.power, recording.visual, generator)
        gains = torch.stack([fits.audio.wiener_gain[0].clamp_min(fits.audio.gain_floor), fits.visual_gain[0]])
        estimates = gains * recording.spectrum[0]
        found.append(
            Case(
                Path(spec.clip).parent.name,
                spec.level,
                kind,
                algorithm.weight.features(fits, recording.power)[0],
                fits.usable[0],
                (clean.conj() * estimates).real.sum(-1),
                (estimates[:, None].conj() * estimates).real.sum(-1),
                clean.abs().square().sum(),
            )
        )
    return found


def weights(case: Case, parameters: Tensor, max_weight: float) -> Tensor:
    """`VisualWeight` with intercept and coefficients (6,), for one mixture: (N,)."""
    return max_weight * case.usable * torch.sigmoid(parameters[0] + case.features @ parameters[1:])


def fitted(data: Sequence[Case], max_weight: float, steps: int = 250) -> Tensor:
    """Intercept and coefficients of highest utility, (6,). The features are standardised for the search."""
    features = torch.cat([case.features for case in data])
    shift, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    standard = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([standard], 0.05)
    importance = torch.tensor([1.0 if case.lips == OWN else OTHER_LIPS for case in data])

    def parameters() -> Tensor:
        slopes = standard[1:] / scale
        return torch.cat([standard[:1] - (slopes * shift).sum(), slopes])

    for _ in range(steps):
        gains = torch.stack([case.improvement(weights(case, parameters(), max_weight)) for case in data])
        utility = gains - LOSS_FACTOR * gains.clamp_max(0).neg()
        loss = -(importance * utility).sum() / importance.sum() + 0.02 * standard[1:].square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters().detach()


def table(improvements: Sequence[tuple[Case, float]]) -> list[str]:
    """Mean improvement in dB for each kind of lips and level, and the worst."""
    lines = ["| lips | " + " | ".join(f"{level:g} dB" for level in LEVELS) + " | mean | worst |"]
    lines.append("|---" * (len(LEVELS) + 3) + "|")
    for kind in dict.fromkeys(case.lips for case, _ in improvements):
        own = [(case.level, gain) for case, gain in improvements if case.lips == kind]
        at = {level: [gain for found, gain in own if found == level] for level in LEVELS}
        means = [np.mean(at[level]) if at[level] else np.nan for level in LEVELS]
        values = [gain for _, gain in own]
        cells = [*means, np.mean(values), min(values)]
        shown = " | ".join("-" if np.isnan(cell) else f"{cell:+.2f}" for cell in cells)
        lines.append(f"| {kind} | {shown} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixtures", type=int, default=168)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    rows = benchmark.table_rows(common.recordings() / "splits.csv", "av", "validation")
    names = [str(path) for path, speaker in rows if speaker in SPEAKERS]
    chosen: list[benchmark.MixtureSpec] = []
    for speaker in SPEAKERS:
        specs = benchmark.cross([path for path, own in rows if own == speaker], noises(), LEVELS, args.seed)
        order = np.random.default_rng(args.seed).permutation(len(specs))
        chosen += [specs[index] for index in order[: max(1, args.mixtures // len(SPEAKERS))]]
    pair, algorithm = zoo.load("vae-mm"), anchored_mcem()
    work = track(chosen, "mixtures", console=Console(stderr=True))
    data = [case for spec in work for case in cases(spec, names, pair, algorithm)]

    limit = algorithm.weight.max_weight
    left_out = []
    for speaker in SPEAKERS:
        parameters = fitted([case for case in data if case.speaker != speaker], limit)
        for case in data:
            if case.speaker == speaker:
                left_out.append((case, float(case.improvement(weights(case, parameters, limit)))))
    shipped = torch.tensor([algorithm.weight.intercept, *algorithm.weight.coefficients])
    now = [(case, float(case.improvement(weights(case, shipped, limit)))) for case in data]
    names_of = ("intercept", "snr", "local_ratio", "ratio", "synchrony", "variation")
    values = ", ".join(
        f"{name} {value:.3g}" for name, value in zip(names_of, fitted(data, limit).tolist(), strict=True)
    )
    lines = [
        f"{len(chosen)} mixtures of {' and '.join(SPEAKERS)}, SI-SDR minus the audio-only component, dB.",
        "",
        "Fitted on one speaker, measured on the other:",
        "",
        *table(left_out),
        "",
        f"{VisualWeight.__name__} as it is shipped, fitted on both speakers:",
        "",
        *table(now),
        "",
        f"Fitted on all of these: {values}.",
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "visual_weight.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    common.run(main)
