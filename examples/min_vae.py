"""MIN-VAE: one decoder, two ways to find z. Which of them should start the search in noise?

    AVSE_DATA=/path/to/recordings python examples/min_vae.py --figure starts.png
    python examples/min_vae.py talking1.mp4 talking2.mp4 ... --figure starts.png

The lesson: the guide of a MIN-VAE is a mixture. q(z | s) hears the speech, q(z | v) sees the lips, and
r(alpha) says which of the two explains a frame better. Inference may start where either points, or with
chains from both; nothing but `latent_inits` changes. Noise misleads the encoder that hears: on the default
clips in pink noise the three gain 7.0, 8.7 and 9.5 dB at -5 dB, and the same (5.3 dB) at 5 dB. The default
clips are eight of GRID's speakers s3 and s32, whom no shipped model was trained on.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

import avse
from avse.data.audio import Samples, read_audio, resample
from avse.data.lips import read_lips
from avse.data.mixing import mix, pink_noise
from avse.evaluation.benchmark import RATE, table_rows
from avse.evaluation.figures import improvement_figure, mean_and_error, write_figure
from avse.evaluation.measures import measure
from avse.evaluation.metrics import METRICS
from avse.inference.em.initial import InitFromComponent
from avse.inference.presets import min_vae_mcem

MEASURED = ("si_sdr", "stoi")


def mono(path: Path) -> Samples:
    audio = read_audio(path)
    return resample(audio.samples.mean(axis=1), audio.sample_rate, RATE)


def default_clips(count: int = 4) -> list[Path]:
    """`count` clips of each of GRID's s3 and s32, evenly spaced by name."""
    if "AVSE_DATA" not in os.environ:
        raise SystemExit("give videos, or set AVSE_DATA to the folder that holds splits.csv and grid/")
    rows = table_rows(Path(os.environ["AVSE_DATA"]) / "splits.csv", "av", "validation")
    own = [sorted(path for path, speaker in rows if speaker == name) for name in ("s3", "s32")]
    return [paths[i * len(paths) // count] for paths in own for i in range(count)]


def main(args: argparse.Namespace) -> None:
    pair, schedule = avse.load("min-vae-v2"), min_vae_mcem()
    guide, view, front_end = pair.guide, pair.config.lips, pair.config.front_end
    starts = {
        "heard": (InitFromComponent(1),),
        "both": schedule.latent_inits,
        "seen": (InitFromComponent(0),),
    }
    paths = args.videos or default_clips()
    gains = {m: {name: np.zeros((len(args.levels), len(paths))) for name in starts} for m in MEASURED}
    explained = []
    for c, path in enumerate(track(paths, "enhancing")):
        clean, lips, generator = mono(path), read_lips(path), np.random.default_rng((args.seed, c))
        power = front_end.analysis(torch.from_numpy(clean).float()).values.abs().square()
        visual = view.visual(view.track(lips, pair.stft.frame_times(len(power))))
        with torch.no_grad():
            heard, seen = (guide.branch(alpha).posterior(power, visual) for alpha in (1, 0))
            log_odds = guide.responsibilities(heard, seen, power=power, visual=visual)
            explained.append(log_odds.gt(0).double().mean())
        noise = pink_noise(len(clean), generator)
        for k, level in enumerate(args.levels):
            noisy, _ = mix(clean, noise, level)
            for name, latent_inits in starts.items():
                algorithm = replace(schedule, latent_inits=latent_inits)
                told = {"video": lips, "model": pair, "algorithm": algorithm, "seed": args.seed}
                speech = avse.enhance(noisy, RATE, **told).speech
                for metric in MEASURED:
                    before, after = (METRICS[metric](clean, own, RATE) for own in (noisy, speech))
                    gains[metric][name][k, c] = after - before
    print(f"clean speech: sound explains {np.mean(explained):.0%} of the frames better than lips")
    print("improvement by the start, mean ± standard error, at", *(f"{level:g} dB" for level in args.levels))
    for metric, systems in gains.items():
        for name, values in systems.items():
            cells = (f"{m:+.3f} ± {e:.3f}" for m, e in zip(*mean_and_error(values), strict=True))
            print(f"{measure(metric).title:>13} {name:<5}", *cells)
    if args.figure is not None:
        write_figure(args.figure, improvement_figure(gains, args.levels, "starts of MIN-VAE's chains"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("videos", type=Path, nargs="*", help="talking faces with clean sound")
    result.add_argument("--levels", type=float, nargs="+", default=[-5.0, 0.0, 5.0])
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
