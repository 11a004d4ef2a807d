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

import numpy as np
import torch
from matplotlib.figure import Figure

import avse
from avse.cli import progress_bar
from avse.commands import write_figure
from avse.data.audio import Samples, read_audio, write_audio
from avse.data.corpora.synthetic import synthetic_lips, utterance_speech
from avse.data.lip_front_end import LipFrontEnd, LipTrack
from avse.data.lips_files import LipsSource, lips_from_array
from avse.data.mixing import mix, pink_noise
from avse.evaluation.figures import DYNAMIC_RANGE, level_db
from avse.evaluation.lips_figures import INVALID

PICTURES = 16
"""In the strip of lips."""


def talking_mouth(seed: int) -> tuple[Samples, int, LipsSource]:
    """A synthetic voice in pink noise at 0 dB (T,), its rate in Hz, and the drawn mouth that speaks."""
    speech = utterance_speech(seed, speaker=0, index=0)
    noise = pink_noise(len(speech.samples), np.random.default_rng(seed))
    mixture, _ = mix(speech.samples, noise, level_db=0.0)
    pictures, _ = synthetic_lips(seed, speaker=0, index=0, fps=30.0)
    return mixture, speech.sample_rate, lips_from_array(pictures, fps=30.0)


def main(args: argparse.Namespace) -> None:
    if args.video is None:
        samples, rate, video = talking_mouth(args.seed)
    else:
        samples, rate, *_ = read_audio(args.video)
        video = args.video

    pair = avse.load(args.model)
    with progress_bar("enhancing") as progress:
        enhancement = avse.enhance(samples, rate, video=video, model=pair, seed=args.seed, progress=progress)
    view, track = pair.config.lips, enhancement.lips
    if view is None or track is None:
        raise SystemExit(f"{args.model} only listens: choose a model that looks at lips")

    seen = enhancement.report["video"]
    print(f"{seen['pictures']} pictures, {seen['fps']:.4g} a second: {seen['reasons']}")
    print(f"lips are seen in {seen['frames_with_lips']:.0%} of the {len(track.valid)} frames of the sound")
    print(f"a frame is shown {view.pictures} pictures, {view.spacing * 1000:.0f} ms apart")
    print(f"took {enhancement.report['real_time_factor']:.2f} of the recording's duration")
    for note in enhancement.report["notes"]:
        print(f"note: {note}")

    if args.out is not None:
        write_audio(args.out, enhancement.speech, rate)
    if args.figure is not None:
        write_figure(args.figure, figure(enhancement, view, track))


def figure(enhancement: avse.Enhancement, view: LipFrontEnd, track: LipTrack) -> Figure:
    """Spectrograms of the first channel above the lips of some frames, on one time axis."""
    noisy, gain = enhancement.spectrum[0], enhancement.gain[0]
    levels = {"noisy": level_db(noisy.abs().square()), "enhanced": level_db((gain * noisy).abs().square())}
    loudest = max(level.max() for level in levels.values())
    seconds = len(enhancement.speech) / enhancement.sample_rate
    kilohertz = enhancement.stft.sample_rate / 2000
    result = Figure(figsize=(10, 6.2), layout="constrained")
    *panels, strip = result.subplots(3, 1, sharex=True, height_ratios=(4, 4, 1.1))
    for axes, (name, level) in zip(panels, levels.items(), strict=True):
        extent = (0, seconds, 0, kilohertz)
        image = axes.imshow(level.T - loudest, "magma", origin="lower", aspect="auto", extent=extent)
        image.set_clim(-DYNAMIC_RANGE, 0)
        axes.set(title=name, ylabel="frequency (kHz)")
    result.colorbar(image, ax=panels, label="level (dB below the loudest bin)")

    # A frame is shown several instants; the one in the middle is its own
    shown = ((np.arange(PICTURES) + 0.5) / PICTURES * len(track.valid)).astype(int)
    visual = view.visual(track.frames(torch.from_numpy(shown)))
    pixels = visual[:, :-1].reshape(PICTURES, view.pictures, view.side, view.side)[:, view.pictures // 2]
    strip.imshow(np.hstack([*pixels.numpy()]), cmap="gray", aspect="auto", extent=(0, seconds, 0, 1))
    for k in np.flatnonzero(~track.valid[shown].numpy()):
        strip.text((k + 0.5) / PICTURES * seconds, 0.5, "not\nseen", color=INVALID, ha="center", va="center")
    strip.set(title="what the model sees of the lips", xlabel="time (s)", yticks=[], xlim=(0, seconds))
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("video", type=Path, nargs="?")
    result.add_argument("--model", default="av-vae")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path)
    result.add_argument("--figure", type=Path)
    return result


if __name__ == "__main__":
    main(parser().parse_args())
