"""Do lips help, and when? The improvement by sound alone and by sound and lips, against the input's level.

    AVSE_DATA=/path/to/recordings python examples/lips_help_at_low_snr.py       # takes some minutes
    python examples/lips_help_at_low_snr.py --clips clean1.mp4 clean2.mp4 ... --figure lips_help.png

The lesson: compare clip by clip, with standard errors, in more than one metric, and with a control, the same
lips played backwards. Where the default does better with the true lips than with those, it reads them; where
it does better than the A-VAE, they help. On the default clips in pink noise lips add 0.04 of STOI at -10 dB
and 0.02 at 5 dB, and change SI-SDR by 0.1 dB at most. Lips that are played backwards cost 0.4 dB at -10 dB
and nothing at 5 dB: the default trusts lips less, the clearer the sound.

The default clips are eight of GRID's speakers s3 and s32: no shipped model was trained on them, but settings
were chosen on them. Without AVSE_DATA, drawn mouths with a model of their own show how the comparison works.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

import avse
from avse.data.audio import Samples, read_audio, resample
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.lips import read_lips
from avse.data.mixing import mix, noise_excerpt, pink_noise
from avse.evaluation.benchmark import RATE, table_rows
from avse.evaluation.figures import improvement_figure, mean_and_error, plain_text, write_figure
from avse.evaluation.measures import measure
from avse.evaluation.metrics import METRICS

SYSTEMS = ("sound alone", "sound and lips", "sound and backward lips")
MEASURED = ("si_sdr", "stoi")


def mono(path: Path) -> Samples:
    audio = read_audio(path)
    return resample(audio.samples.mean(axis=1), audio.sample_rate, RATE)


def default_clips(data: Path, count: int = 4) -> list[Path]:
    """`count` clips of each of GRID's s3 and s32, evenly spaced by name."""
    rows = table_rows(data / "splits.csv", "av", "validation")
    own = [sorted(path for path, speaker in rows if speaker == name) for name in ("s3", "s32")]
    return [paths[i * len(paths) // count] for paths in own for i in range(count)]


def main(args: argparse.Namespace) -> None:
    data = os.environ.get("AVSE_DATA")
    paths = args.clips or (default_clips(Path(data)) if data else None)
    if paths is None:
        print("note: drawn mouths and synthetic voices that their model knows; give --clips for real ones")
        faces = [talking_face(args.seed + index) for index in range(args.voices)]
        clips = [(resample(face.clean, face.sample_rate, RATE), face.lips) for face in faces]
        sees = avse.load("av-vae-synthetic")
    else:
        clips = [(mono(path), read_lips(path)) for path in track(paths, "reading lips")]
        sees = avse.load("vae-mm")  # what model="auto" takes for a video
    hears = avse.load("a-vae")

    gains = np.zeros((len(MEASURED), len(SYSTEMS), len(args.levels), len(clips)))
    for c, (speech, lips) in enumerate(track(clips, "enhancing")):
        generator = np.random.default_rng((args.seed, c))
        noise = pink_noise(len(speech), generator)
        if args.noise is not None:
            noise = noise_excerpt(mono(args.noise), len(speech), generator)
        backward = replace(lips, images=lips.images[::-1].copy(), reasons=lips.reasons[::-1].copy())
        for k, level in enumerate(args.levels):
            mixture, _ = mix(speech, noise, level)
            for s, (pair, shown) in enumerate([(hears, None), (sees, lips), (sees, backward)]):
                enhanced = avse.enhance(mixture, RATE, video=shown, model=pair, seed=args.seed).speech
                for m, metric in enumerate(METRICS[name] for name in MEASURED):
                    gains[m, s, k, c] = metric(speech, enhanced, RATE) - metric(speech, mixture, RATE)
    told = {m: dict(zip(SYSTEMS, gain, strict=True)) for m, gain in zip(MEASURED, gains, strict=True)}
    print("improvement, mean ± standard error, at", *(f"{level:g} dB" for level in args.levels))
    for metric, (sound, lips, backward) in zip(MEASURED, gains, strict=True):
        more = {"lips over sound alone": lips - sound, "lips over backward ones": lips - backward}
        for name, values in (told[metric] | more).items():
            cells = (f"{m:+.3f} ± {e:.3f}" for m, e in zip(*mean_and_error(values), strict=True))
            print(f"{measure(metric).title:>13} {name:<24}", *cells)
    title = f"{sees.name} beside a-vae, {len(clips)} clips, {args.noise.stem if args.noise else 'pink'} noise"
    write_figure(args.figure, improvement_figure(told, args.levels, plain_text(title)))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--clips", type=Path, nargs="+", help="talking faces with clean sound")
    result.add_argument("--levels", type=float, nargs="+", default=[-10.0, -5.0, 0.0, 5.0])
    result.add_argument("--noise", type=Path, help="sound file; without it the noise is pink")
    result.add_argument("--voices", type=int, default=8, help="synthetic voices in the place of clips")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path, default=Path("lips_help.png"))
    return result


if __name__ == "__main__":
    main(parser().parse_args())
