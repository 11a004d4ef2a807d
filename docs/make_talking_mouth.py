"""Draw docs/talking_mouth.png: what the synthetic corpus shows and how it moves with what it says."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from avse.data.corpora.synthetic.espeak import PAUSE, Voice, synthesise
from avse.data.corpora.synthetic.mouth import SIZE, draw_mouth, random_face
from avse.data.corpora.synthetic.visemes import APERTURE, PROTRUSION, articulation

SOUNDS = {
    "pause": PAUSE,
    "map": "m",
    "five": "f",
    "see": "s",
    "ship": "S",
    "heed": "i:",
    "hard": "A:",
    "who": "u:",
}
TEXT = "My father bought two fresh pears by the river."


def main() -> None:
    """Write the figure beside this script."""
    # Each sound alone, held long enough to reach its shape.
    shapes = np.concatenate([articulation([(s, 0.0)], 0.4, np.array([0.2])) for s in SOUNDS.values()])
    rows = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        rows.append(np.hstack(draw_mouth(random_face(generator), shapes, generator)))

    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 9), height_ratios=(6.2, 1.5, 1.2), layout="constrained"
    )
    top.imshow(np.vstack(rows), cmap="gray", vmin=0, vmax=255)
    top.set_xticks((np.arange(len(SOUNDS)) + 0.5) * SIZE, list(SOUNDS))
    top.set_yticks([])

    speech = synthesise(TEXT, Voice("en"))
    duration = len(speech.samples) / speech.sample_rate
    times = np.arange(0, duration, 0.005)
    track = articulation(speech.phonemes, duration, times)
    middle.plot(times, track[:, APERTURE], label="aperture")
    middle.plot(times, track[:, PROTRUSION], label="protrusion", linewidth=0.8)
    middle.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize="small", frameon=False)
    middle.set(xlim=(0, duration), ylim=(0, 1.65), xticks=[], yticks=[0, 0.5, 1])
    ends = [start for _, start in speech.phonemes[1:]] + [duration]
    for index, ((symbol, start), end) in enumerate(zip(speech.phonemes, ends, strict=True)):
        height = 1.1 + 0.17 * (index % 3)  # neighbours on three lines, in the middle of their sounds
        middle.text((start + end) / 2, height, symbol, fontsize=8, ha="center")
        middle.axvline(start, color="0.85", linewidth=0.6, zorder=0)
    bottom.plot(np.arange(len(speech.samples)) / speech.sample_rate, speech.samples, linewidth=0.3)
    bottom.set(xlim=(0, duration), yticks=[], xlabel=f"time (s)    “{TEXT}”")
    figure.savefig(Path(__file__).with_name("talking_mouth.png"), dpi=100)


if __name__ == "__main__":
    main()
