"""Do lips help, and when? The improvement by sound alone and by sound and lips, against the input's level.

    python examples/lips_help_at_low_snr.py --clips clean1.mp4 clean2.mp4 ... --figure lips_help.png

The clips are videos of one speaker each with clean sound: their lips are read, and noise is added at every
level. The lesson: compare clip by clip, with standard errors, and with a control. The audio-visual model is
also shown the lips played backwards: the same mouth in the same light, saying something else. Where it does
better with the true ones, it reads lips; where it does better than the model that listens, they help.

Without clips, synthetic voices with drawn mouths take their place; nothing is downloaded. They show how the
comparison works, with a model of drawn mouths (`av-vae-synthetic`), and nothing about real ones.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

import avse
from avse.data.audio import Samples, read_audio, resample
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.lips import Lips, read_lips
from avse.data.mixing import mix, noise_excerpt, pink_noise, white_noise
from avse.evaluation.benchmark import RATE
from avse.evaluation.figures import METRIC_NAMES, NOISE, SPEECH, write_figure
from avse.evaluation.metrics import METRICS

Values = NDArray[np.float64]
GENERATED = {"white": white_noise, "pink": pink_noise}
SYSTEMS = ("sound alone", "sound and lips", "sound and backward lips")
MEASURED = ("si_sdr", "stoi")
DRAWN = "synthetic voices with drawn mouths, new sentences of the voices that the model knows"


def mono(path: Path) -> Samples:
    audio = read_audio(path)
    return resample(audio.samples.mean(axis=1), audio.sample_rate, RATE)


def drawn_clips(voices: int, seed: int) -> list[tuple[Samples, Lips]]:
    """One sentence of each voice (T,) at `RATE`, and the drawn lips that say it."""
    faces = [talking_face(seed + index) for index in range(voices)]
    return [(resample(face.clean, face.sample_rate, RATE), face.lips) for face in faces]


def main(args: argparse.Namespace) -> None:
    drawn = args.clips is None
    args.model_a = args.model_a or ("a-vae" if drawn else "a-vae-grid")
    args.model_av = args.model_av or ("av-vae-synthetic" if drawn else "av-vae")
    if drawn:
        print(f"note: {DRAWN}; give --clips for real ones")
        clips = drawn_clips(args.voices, args.seed)
    else:
        clips = [(mono(path), read_lips(path)) for path in track(args.clips, "reading lips")]
    hears, sees = avse.load(args.model_a), avse.load(args.model_av)

    gains = np.zeros((len(MEASURED), len(SYSTEMS), len(args.levels), len(clips)))
    for c, (speech, lips) in enumerate(track(clips, "enhancing")):
        generator = np.random.default_rng((args.seed, c))
        if args.noise in GENERATED:
            noise = GENERATED[args.noise](len(speech), generator)
        else:
            noise = noise_excerpt(mono(args.noise), len(speech), generator)
        backward = replace(lips, images=lips.images[::-1].copy(), reasons=lips.reasons[::-1].copy())
        for k, level in enumerate(args.levels):
            mixture, _ = mix(speech, noise, level)
            for s, (pair, shown) in enumerate([(hears, None), (sees, lips), (sees, backward)]):
                enhanced = avse.enhance(mixture, RATE, video=shown, model=pair, seed=args.seed).speech
                for m, metric in enumerate(MEASURED):
                    before, after = (METRICS[metric](speech, sound, RATE) for sound in (mixture, enhanced))
                    gains[m, s, k, c] = after - before

    for metric, gain in zip(MEASURED, gains, strict=True):
        print(f"\nimprovement of {METRIC_NAMES[metric]}, mean ± standard error of {len(clips)} clips")
        print(f"{'input level (dB)':>32}" + "".join(f"{level:>16g}" for level in args.levels))
        for name, values in {**dict(zip(SYSTEMS, gain, strict=True)), **differences(gain)}.items():
            cells = (f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(*summary(values), strict=True))
            print(f"{name:>32}" + "".join(f"{cell:>16}" for cell in cells))
    title = f"{args.model_a} and {args.model_av} on {len(clips)} clips in {Path(args.noise).stem} noise"
    title += f"\n({DRAWN})" if args.clips is None else ""
    write_figure(args.figure, figure(gains, args.levels, title))


def differences(gain: Values) -> dict[str, Values]:
    """What the lips add (levels, clips), from the improvements by the three systems."""
    return {"lips over sound alone": gain[1] - gain[0], "lips over backward ones": gain[1] - gain[2]}


def summary(values: Values) -> tuple[Values, Values]:
    """Mean and standard error over clips, of (levels, clips)."""
    return values.mean(-1), values.std(-1) / np.sqrt(max(1, values.shape[-1] - 1))


def figure(gains: Values, levels: list[float], title: str) -> Figure:
    """Improvements (metrics, systems, levels, clips) above what the lips add to them."""
    result = Figure(figsize=(9.5, 6.8), layout="constrained")
    grid = result.subplots(2, len(gains), sharex=True, height_ratios=(3, 2), squeeze=False)
    for (top, bottom), metric, gain in zip(grid.T, MEASURED, gains, strict=True):
        top.plot(levels, gain[0].mean(-1), "s-", color=NOISE, label=SYSTEMS[0])
        top.plot(levels, gain[1].mean(-1), "o-", color=SPEECH, label=SYSTEMS[1])
        top.plot(levels, gain[2].mean(-1), "o:", color=SPEECH, label=SYSTEMS[2])
        for (name, values), style in zip(differences(gain).items(), ("o-", "o:"), strict=True):
            bottom.errorbar(levels, *summary(values), fmt=style, color=SPEECH, capsize=3, label=name)
        top.set(title=METRIC_NAMES[metric], ylabel="improvement", xticks=levels)
        bottom.set(xlabel="level of the input (dB)", ylabel="difference")
        for axes in (top, bottom):
            axes.axhline(0, color="black", linewidth=0.8)
    systems, gaps = (axes.get_legend_handles_labels() for axes in grid[:, 0])
    head = result.legend(*systems, title=title, loc="outside upper center", ncols=3, frameon=False)
    head.get_title().set_multialignment("center")
    result.legend(*gaps, loc="outside lower center", ncols=2, frameon=False)
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--clips", type=Path, nargs="+")
    result.add_argument("--model-a", help="by default a-vae-grid; for drawn mouths a-vae")
    result.add_argument("--model-av", help="by default av-vae; for drawn mouths av-vae-synthetic")
    result.add_argument("--levels", type=float, nargs="+", default=[-10.0, -5.0, 0.0, 5.0])
    result.add_argument("--noise", default="pink", help="white, pink or a file")
    result.add_argument("--voices", type=int, default=8, help="synthetic voices in the place of clips")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path, default=Path("lips_help.png"))
    return result


if __name__ == "__main__":
    main(parser().parse_args())
