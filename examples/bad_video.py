"""Which video frames have bad lips, and what do they cost? The share of the lips over time, beside the truth.

    AVSE_DATA=/path/to/recordings python examples/bad_video.py --figure alpha.png
    python examples/bad_video.py talking.mp4 --figure alpha.png      # a face with its clean sound

The lesson: a third of the video frames is corrupted in blocks (occluded, frozen, blurred, turned away,
missing), pink noise is added, and a mixture of an audio model and an audio-visual one decides frame by frame.
The prior p(alpha = 1 | v) comes from a classifier of lips that never hears. The posterior r(alpha = 1) adds
the evidence, which asks the component that explains the noisy sound better, and says little about the lips.
The default algorithm takes the prior, and trusts lips less in clear sound and in steady noise. Each is
scored by the area under the ROC curve, 0.5 for chance: 1.00, 0.51 and 0.99 on the default clip. The bad third
costs the default less than 0.01 of STOI; the posterior in its place costs 0.9 dB of SI-SDR and 0.03 of STOI.

The default clip is the first one of GRID's speaker s3, whom no shipped model was trained on.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

import avse
from avse.data.audio import read_audio, resample
from avse.data.lips import read_lips
from avse.data.lips.corruption import corrupt_lips
from avse.data.mixing import mix, pink_noise
from avse.evaluation.benchmark import RATE, table_rows
from avse.evaluation.figures import plain_text, write_figure
from avse.evaluation.lips_figures import lip_weight_figure
from avse.evaluation.metrics import si_sdr, stoi
from avse.inference.presets import mixture_mcem
from avse.inference.responsibilities import Tempered


def default_clip() -> Path:
    """The first clip of GRID's s3, a speaker of the validation split."""
    if "AVSE_DATA" not in os.environ:
        raise SystemExit("give a video, or set AVSE_DATA to the folder that holds splits.csv and grid/")
    rows = table_rows(Path(os.environ["AVSE_DATA"]) / "splits.csv", "av", "validation")
    return min(path for path, speaker in rows if speaker == "s3")


def main(args: argparse.Namespace) -> None:
    path = args.video or default_clip()
    audio, generator = read_audio(path), np.random.default_rng(args.seed)
    clean = resample(audio.samples.mean(axis=1), audio.sample_rate, RATE)
    noisy, _ = mix(clean, pink_noise(len(clean), generator), args.level)
    good_lips = read_lips(path)
    lips, bad = corrupt_lips(good_lips, generator, fraction=1 / 3)

    pair = avse.load("vae-mm")
    told = {"sample_rate": RATE, "seed": args.seed}
    evidence = replace(mixture_mcem(), alpha_step=Tempered(1.0))
    by_evidence = avse.enhance(noisy, video=lips, model=pair, algorithm=evidence, **told)
    default = avse.enhance(noisy, video=lips, **told)
    view = pair.config.lips
    assert view is not None
    assert default.lips is not None
    alphas = {
        "prior p(alpha = 1 | v)": pair.model.alpha_logit(view.visual(default.lips)).sigmoid().numpy(),
        "posterior r(alpha = 1)": by_evidence.posterior.responsibilities[1].flatten().numpy(),
        "weight of sound alone, default": default.posterior.responsibilities[1].flatten().numpy(),
    }
    times = np.asarray(pair.stft.frame_times(len(default.lips.valid)))
    truth = bad[np.abs(times[:, None] - lips.times).argmin(1)]
    for name, alpha in alphas.items():
        in_bad, in_good = alpha[truth], alpha[~truth]
        area = mannwhitneyu(in_bad, in_good).statistic / (len(in_bad) * len(in_good))
        print(f"{name:<31} area {area:.2f}, mean in bad {in_bad.mean():.2f}, in good {in_good.mean():.2f}")

    sounds = {
        "sound alone": avse.enhance(noisy, model="a-vae", **told),
        "default, good lips": avse.enhance(noisy, video=good_lips, **told),
        "default, a third of them bad": default,
        "by evidence, a third bad": by_evidence,
    }
    print(f"\n{path.name} in pink noise at {args.level:g} dB, improvement")
    for name, found in sounds.items():
        gain = [metric(clean, found.speech, RATE) - metric(clean, noisy, RATE) for metric in (si_sdr, stoi)]
        print(f"{name:<31} {gain[0]:+.1f} dB SI-SDR, {gain[1]:+.3f} STOI")
    if args.figure is not None:
        title = f"{path.name} in pink noise at {args.level:g} dB"
        write_figure(args.figure, lip_weight_figure(lips, bad, times, alphas, plain_text(title)))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("video", type=Path, nargs="?", help="a talking face with its clean sound")
    result.add_argument("--level", type=float, default=-5.0, help="dB of speech over noise")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
