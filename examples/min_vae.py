"""MIN-VAE: one decoder, two ways to find z. Which of them should start the search in noise?

    AVSE_DATA=/path/to/recordings python examples/min_vae.py --figure starts.png
    python examples/min_vae.py talking1.mp4 talking2.mp4 ... --noise cafe.wav --figure starts.png

LESSON
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
from avse.data.mixing import mix, noise_excerpt, pink_noise
from avse.evaluation.benchmark import RATE, table_rows
from avse.evaluation.figures import METRIC_NAMES, grouped_bars_figure, mean_and_error, write_figure
from avse.evaluation.metrics import METRICS
from avse.guides.mixture import MixtureGuide
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
    assert isinstance(guide, MixtureGuide)
    assert view is not None
    starts = {
        "heard": (InitFromComponent(1),),
        "seen": (InitFromComponent(0),),
        "both": schedule.latent_inits,
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
            explained.append(guide.responsibilities(heard, seen, power, visual).gt(0).double().mean())
        noise = pink_noise(len(clean), generator)
        if args.noise is not None:
            noise = noise_excerpt(mono(args.noise), len(clean), generator)
        for k, level in enumerate(args.levels):
            noisy, _ = mix(clean, noise, level)
            for name, latent_inits in starts.items():
                algorithm = replace(schedule, latent_inits=latent_inits)
                found = avse.enhance(noisy, RATE, video=lips, model=pair, algorithm=algorithm, seed=args.seed)
                for metric in MEASURED:
                    before, after = (METRICS[metric](clean, own, RATE) for own in (noisy, found.speech))
                    gains[metric][name][k, c] = after - before
        print(
            path.name,
            {m: {n: v[:, c].round(3).tolist() for n, v in g.items()} for m, g in gains.items()},
            flush=True,
        )

    print(f"clean speech: sound explains {np.mean(explained):.0%} of the frames better than lips")
    for m, g in gains.items():
        for n, v in g.items():
            print(m, n, mean_and_error(v))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("videos", type=Path, nargs="*", help="talking faces with clean sound")
    result.add_argument("--noise", type=Path, help="sound file; without it the noise is pink")
    result.add_argument("--levels", type=float, nargs="+", default=[-5.0, 0.0, 5.0])
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
