"""MIN-VAE: one decoder, two ways to find z. Which of them should start the search in noise?

    python examples/min_vae.py --figure starts.png       # drawn mouths; trains for about two minutes
    python examples/min_vae.py talking.mp4 --noise cafe.wav --level 0       # with shipped weights

The lesson: the guide of a MIN-VAE is a mixture. q(z | s) hears the speech, q(z | v) sees the lips, and
r(alpha) says which of the two explains a frame better. On clean speech that is the one that hears, nearly
always. In noise the encoder that hears is misled, and the one that sees is not: inference may start where
either points, or with a chain from each. The generative model is the same in all cases, and nothing but
`latent_inits` changes.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import avse
from avse import zoo
from avse.data.audio import Samples, read_audio, resample
from avse.data.augmentation import LipAugmentation
from avse.data.corpora.synthetic import SyntheticCorpus
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.lips import Lips, read_lips
from avse.data.mixing import mix, noise_excerpt, pink_noise
from avse.evaluation.benchmark import RATE
from avse.evaluation.figures import metrics_figure, write_figure
from avse.evaluation.metrics import all_metrics
from avse.guides.mixture import MixtureGuide
from avse.inference.em.initial import InitFromComponent
from avse.inference.presets import min_vae_mcem
from avse.models.min_vae import MINVAE
from avse.progress import progress_bar
from avse.zoo.pair import SpeechPair
from avse.zoo.recipes import RECIPES, run


def trained_on_drawings(args: argparse.Namespace) -> SpeechPair:
    """A MIN-VAE (version 2) from the parts of `a-vae` and `av-vae-synthetic`, trained on drawn mouths."""
    recipe = RECIPES["min-vae-v2"]()
    heard, seen = recipe.pretrained
    pretrained = (replace(heard, pair="a-vae"), replace(seen, pair="av-vae-synthetic"))
    drawn = zoo.load("av-vae-synthetic").config  # a model of drawn mouths, which sees their pixels
    arguments = {"version": 2, "latent_size": 32, "visual_activation": "relu"}
    recipe = replace(
        recipe,
        pair=replace(recipe.pair, arguments=arguments, lips=drawn.lips),
        augmentations=(*recipe.augmentations[:-1], LipAugmentation(drawn.lips)),
    )
    settings = replace(recipe.settings, max_epochs=args.epochs, seed=args.seed)
    corpus = SyntheticCorpus(speakers=8, sentences=args.sentences)  # the eight voices that these parts know
    with tempfile.TemporaryDirectory() as folder:
        pair, report = run(replace(recipe, pretrained=pretrained, settings=settings), [corpus], Path(folder))
    print(f"trained for {report.epochs} epochs, {report.seconds:.0f} s")
    return pair


def recording(args: argparse.Namespace) -> tuple[Samples, Samples, int, Lips]:
    """Clean and noisy samples (T,), their rate, and the lips."""
    if args.video is None:
        return talking_face(args.seed)
    sound, generator = read_audio(args.video), np.random.default_rng(args.seed)
    clean = resample(sound.samples.mean(axis=1), sound.sample_rate, RATE)
    if args.noise is None:
        noise = pink_noise(len(clean), generator)
    else:
        other = read_audio(args.noise)
        noise = resample(other.samples.mean(axis=1), other.sample_rate, RATE)
    noisy, _ = mix(clean, noise_excerpt(noise, len(clean), generator), args.level)
    return clean, noisy, RATE, read_lips(args.video)


def main(args: argparse.Namespace) -> None:
    pair = trained_on_drawings(args) if args.video is None else zoo.load("min-vae-v2")
    clean, noisy, rate, lips = recording(args)
    model, guide, view = pair.model, pair.guide, pair.config.lips
    assert isinstance(model, MINVAE)
    assert isinstance(guide, MixtureGuide)
    assert view is not None
    at_rate = torch.from_numpy(resample(clean, rate, pair.stft.sample_rate)).float()
    power = pair.config.front_end.analysis(at_rate).values.abs().square()
    visual = view.visual(view.track(lips, pair.stft.frame_times(len(power))))
    with torch.no_grad():
        heard, seen = (guide.branch(alpha).posterior(power, visual) for alpha in (1, 0))
        chosen = guide.responsibilities(heard, seen, power, visual) > 0
        print(f"pi = {float(model.pi):.3f}: how often z comes from the prior of what is heard")
    print(f"clean speech: sound explains {float(chosen.float().mean()):.0%} of the frames better than lips")

    schedule = min_vae_mcem()
    starts = {
        "heard": (InitFromComponent(1),),
        "seen": (InitFromComponent(0),),
        "both": schedule.latent_inits,
    }
    systems = {"noisy": all_metrics(clean, noisy, rate)}
    for name, latent_inits in starts.items():
        with progress_bar(f"starting from what is {name}") as progress:
            enhancement = avse.enhance(
                noisy,
                rate,
                video=lips,
                model=pair,
                algorithm=replace(schedule, latent_inits=latent_inits),
                seed=args.seed,
                progress=progress,
            )
        systems[name] = all_metrics(clean, enhancement.speech, rate)
    for name, metrics in systems.items():
        print(f"{name:<6}", "  ".join(f"{metric} {value:.2f}" for metric, value in metrics.items()))
    if args.figure is not None:
        write_figure(args.figure, metrics_figure(systems))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("video", type=Path, nargs="?", help="a talking face with clean sound")
    result.add_argument("--noise", type=Path, help="sound file; without it the noise is pink")
    result.add_argument("--level", type=float, default=0.0, help="dB of speech over noise")
    result.add_argument("--sentences", type=int, default=20)
    result.add_argument("--epochs", type=int, default=6)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
