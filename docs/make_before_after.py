"""Draw docs/before_after.png: the demo's recording before and after enhancement, and the lips used."""

from pathlib import Path

from matplotlib.figure import Figure

import avse
from avse.data.corpora.synthetic.demo import talking_face
from avse.data.drawing import draw_spectrogram, level_db
from avse.data.lips.drawing import draw_strip

SHOWN = 4.0
"""Seconds of the recording that are shown."""


def main() -> None:
    """Write the figure beside this script."""
    face = talking_face(seed=0)
    found = avse.enhance(face.noisy, face.sample_rate, video=face.lips, model="av-vae-synthetic", seed=0)
    assert found.lips is not None
    frames = slice(0, round(SHOWN * found.stft.frame_rate))
    noisy = found.spectrum[0, frames]
    panels = {"noisy, -5 dB": noisy, "enhanced": found.wiener_gain[0, frames] * noisy}
    levels = {name: level_db(values.abs().square()) for name, values in panels.items()}
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 1.1))
    for column, (name, level) in enumerate(levels.items()):
        axes = figure.add_subplot(grid[0, column])
        draw_spectrogram(axes, level - levels["noisy, -5 dB"].max(), found.stft)
        axes.set(title=name, xlabel="time (s)", ylabel="frequency (Hz)" if column == 0 else "")
    strip = figure.add_subplot(grid[1, :])
    draw_strip(strip, found.lips.frames(frames), level.shape[0] / found.stft.frame_rate)
    strip.set(title="", ylabel="lips")
    figure.savefig(Path(__file__).with_name("before_after.png"), dpi=90, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
