"""Which frames have bad lips? alpha over time, beside the truth.

    python examples/bad_video.py --figure alpha.png                  # a drawn mouth; trains for a minute
    python examples/bad_video.py talking.mp4 --figure alpha.png      # a real one, with shipped weights

The lesson: a third of the video frames is corrupted in blocks (occluded, frozen, blurred, turned away,
missing), and a VAE-MM, a mixture of an audio model and an audio-visual one, decides frame by frame. Its alpha
has two sources. The prior p(alpha | v) comes from a classifier that was trained on corrupted lips without any
noise. The evidence asks which component explains the sound better. Each is printed alone and together, as the
share of pairs of a bad and a good frame that alpha puts in the right order (the area under the ROC curve; 0.5
is chance).

Without a video the mixture is put together from two shipped models, and its prior trained, in six lines.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

import avse
from avse import zoo
from avse.data.audio import read_audio
from avse.data.augmentation import LipAugmentation
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.lips import read_lips
from avse.data.lips.corruption import corrupt_lips
from avse.evaluation.figures import write_figure
from avse.evaluation.lips_figures import INVALID, draw_strip
from avse.inference.presets import mixture_mcem
from avse.inference.responsibilities import Tempered
from avse.progress import progress_bar
from avse.zoo.pair import SpeechPair
from avse.zoo.recipes import RECIPES, run


def drawn_mouths(args: argparse.Namespace) -> SpeechPair:
    """A VAE-MM of `a-vae` and `av-vae-synthetic` that has learnt what corrupted drawn mouths look like."""
    recipe = RECIPES["vae-mm"]()
    heard, seen = recipe.pretrained
    pretrained = (replace(heard, pair="a-vae"), replace(seen, pair="av-vae-synthetic"))
    drawn = zoo.load("av-vae-synthetic").config  # a model of drawn mouths, which sees their pixels
    arguments = {**recipe.pair.arguments, "second": drawn.arguments}
    recipe = replace(
        recipe,
        pair=replace(recipe.pair, arguments=arguments, lips=drawn.lips),
        augmentations=(LipAugmentation(drawn.lips, hidden=0.0),),
    )
    settings = replace(recipe.settings, max_epochs=args.epochs, seed=args.seed)
    corpus = SyntheticCorpus(speakers=args.speakers, sentences=args.sentences)
    with tempfile.TemporaryDirectory() as folder:
        pair, _ = run(replace(recipe, pretrained=pretrained, settings=settings), [corpus], Path(folder))
    return pair


def main(args: argparse.Namespace) -> None:
    if args.video is None:
        pair = drawn_mouths(args)
        _, samples, rate, lips = talking_face(args.seed)
    else:
        pair = zoo.load("vae-mm")
        samples, rate, *_ = read_audio(args.video)
        lips = read_lips(args.video)
    lips, bad = corrupt_lips(lips, np.random.default_rng(args.seed), fraction=1 / 3)

    mixture = mixture_mcem()
    steps = {
        "prior alone": Tempered(0.0),
        "evidence and prior": mixture.alpha_step,
        "all evidence and prior": Tempered(1.0),
    }
    alphas: dict[str, NDArray[np.floating]] = {}
    for name, step in steps.items():
        with progress_bar(name) as progress:
            result = avse.enhance(
                samples,
                rate,
                video=lips,
                model=pair,
                algorithm=replace(mixture, alpha_step=step),
                seed=args.seed,
                progress=progress,
            )
        alphas[name] = result.posterior.responsibilities[1].reshape(-1).numpy()
        times = np.asarray(result.stft.frame_times(len(alphas[name])))
        truth = bad[np.abs(times[:, None] - lips.times).argmin(1)]
        means = [alphas[name][frames].mean() for frames in (truth, ~truth)]
        print(
            f"{name:<24} in order {in_order(alphas[name], truth):.2f}, "
            f"mean alpha in bad frames {means[0]:.2f}, in good ones {means[1]:.2f}"
        )

    if args.figure is not None:
        figure = Figure(figsize=(10, 4), layout="constrained")
        strip, axes = figure.subplots(2, 1, height_ratios=(1, 3), sharex=True)
        assert result.lips is not None
        draw_strip(strip, result.lips, times[-1])
        strip.set(xlabel="")
        axes.fill_between(times, truth, step="mid", color=INVALID, alpha=0.2, label="corrupted on purpose")
        for name, values in alphas.items():
            axes.plot(times, values, label=name, linewidth=1)
        axes.set(xlabel="time (s)", ylabel="r(alpha = 1): audio only", ylim=(-0.02, 1.02))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False)
        write_figure(args.figure, figure)


def in_order(alpha: NDArray[np.floating], bad: NDArray[np.bool_]) -> float:
    """Share of pairs of a bad and a good frame of which the bad one has the larger alpha; ties count half."""
    ranks, count = rankdata(alpha), int(bad.sum())
    return float((ranks[bad].sum() - count * (count + 1) / 2) / max(count * (len(bad) - count), 1))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("video", type=Path, nargs="?")
    result.add_argument("--speakers", type=int, default=10)
    result.add_argument("--sentences", type=int, default=6)
    result.add_argument("--epochs", type=int, default=4)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
