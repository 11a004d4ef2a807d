"""Speech from lips alone: what the V-VAE imagines when it sees a mouth and hears nothing.

    python examples/speech_from_lips.py talking.mp4 --out imagined

The guide q(z | v) gives a z for every frame, the decoder the variance of its spectrum, and a draw of
N_c(0, sigma(z)) a sound: a whisper, for variances know no phases. The picture shows it under the spectrogram
of the true sound. The lesson: model and guide are called directly; no inference is needed where there is
nothing to infer from.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from avse import zoo
from avse.data.audio import read_audio, resample, write_audio
from avse.data.lips import read_lips
from avse.evaluation.figures import draw_spectrogram, level_db, write_figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path, help="a talking face with its clean sound")
    parser.add_argument("--model", default="v-vae", help="name in the zoo, or folder")
    parser.add_argument("--out", type=Path, default=Path("imagined"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pair = zoo.load(args.model)
    view, stft = pair.config.lips, pair.stft
    assert view is not None, "this model does not look at lips"
    audio = read_audio(args.video)
    sound = resample(audio.samples.mean(axis=1), audio.sample_rate, stft.sample_rate)
    true, scale = pair.config.front_end.analysis(torch.from_numpy(sound).float())

    # What the lips say: z ~ q(z | v), then s ~ N_c(0, sigma(z)).
    visual = view.visual(view.track(read_lips(args.video), stft.frame_times(len(true))))
    generator = torch.Generator().manual_seed(args.seed)
    with torch.no_grad():
        z = pair.guide.posterior(visual=visual).mean
        deviation = pair.model.given(visual)(z).log_variance[0].div(2).exp()
    imagined = deviation * torch.randn(true.shape, dtype=torch.complex64, generator=generator)

    args.out.mkdir(parents=True, exist_ok=True)
    whisper = stft.synthesis(imagined, len(sound)) / scale
    peak = max(1.0, float(whisper.abs().max()))
    write_audio(args.out / "imagined.wav", whisper.numpy() / peak, stft.sample_rate)

    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = {"heard": true.abs().square(), "imagined from the lips (variance)": deviation.square()}
    top = level_db(panels["heard"]).max()
    for row, (title, power) in enumerate(panels.items()):
        axes = figure.add_subplot(2, 1, row + 1)
        draw_spectrogram(axes, level_db(power) - top, stft)
        axes.set(title=title, xlabel="time (s)", ylabel="frequency (Hz)")
    write_figure(args.out / "imagined.png", figure)
    error = np.abs(level_db(panels["heard"].mean(1)) - level_db(deviation.square().mean(1)))
    print(f"median error of the level of a frame: {np.median(error):.1f} dB")
    print(args.out / "imagined.wav", args.out / "imagined.png", sep="\n")


if __name__ == "__main__":
    main()
