"""Enhance the sound of a video with the help of the lips in it, and look at what the model was shown.

    python examples/enhance_a_video.py noisy.mp4 --out enhanced.wav --figure enhanced.png

Without a file, a synthetic voice in pink noise is enhanced beside its drawn mouth; nothing is downloaded. The
lesson: a video is one more argument of `avse.enhance`, a file or lips that are cut out already.
`enhancement.lips` keeps what the model saw: pictures, where among them every frame of the sound looks, and
whether it sees lips there. Look at the strip before you believe the sound: if it does not show a mouth in
every picture, the model was guessing, and said so in `enhancement.report["notes"]`.
"""

import argparse
from pathlib import Path

import avse
from avse.data.audio import read_audio, write_audio
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.lips.files import LipsSource
from avse.evaluation.figures import write_figure
from avse.progress import progress_bar


def main(args: argparse.Namespace) -> None:
    video: LipsSource
    if args.video is None:
        _, samples, rate, video = talking_face(args.seed)
    else:
        samples, rate, *_ = read_audio(args.video)
        video = args.video

    # Drawn mouths have a model of their own: real lips have not taught it, nor the other way round.
    pair = avse.load(args.model or ("av-vae-synthetic" if args.video is None else "vae-mm"))
    with progress_bar("enhancing") as progress:
        enhancement = avse.enhance(samples, rate, video=video, model=pair, seed=args.seed, progress=progress)
    view, track = pair.config.lips, enhancement.lips
    if view is None or track is None:
        raise SystemExit(f"{pair.config.architecture} only listens: choose a model that looks at lips")

    seen = enhancement.report["video"]
    print(f"{seen['pictures']} pictures, {seen['fps']:.4g} a second: {seen['reasons']}")
    print(f"lips are seen in {seen['frames_with_lips']:.0%} of the {len(track.valid)} frames of the sound")
    print(f"the model is given {view.size} numbers of the lips with every frame")
    print(f"took {enhancement.report['real_time_factor']:.2f} of the recording's duration")
    for note in enhancement.report["notes"]:
        print(f"note: {note}")

    if args.out is not None:
        write_audio(args.out, enhancement.speech, rate)
    if args.figure is not None:
        write_figure(args.figure, enhancement.figure(title="with lips"))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("video", type=Path, nargs="?")
    result.add_argument("--model", help="name in the zoo, or folder")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
