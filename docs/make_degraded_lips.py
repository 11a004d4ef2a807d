"""Draw docs/degraded_lips.png: every kind of damage to the lips, around the beginning and end of a block."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from avse.data.corpora.synthetic import synthetic_lips
from avse.data.lips.corruption import KINDS, TRAINING_KINDS

FPS = 30.0
START, STOP = 20, 40  # the block, pictures
SHOWN = [16, 19, 20, 25, 30, 35, 39, 40, 43]


def main() -> None:
    """Write the figure beside this script."""
    clear, times = synthetic_lips(0, 4, 0, FPS)
    rows = [clear]
    for seed, damage in enumerate(KINDS[kind] for kind in TRAINING_KINDS):
        spoilt = clear.copy()
        spoilt[START:STOP] = damage(clear[START - 1 : STOP], np.random.default_rng(seed))[1:]
        rows.append(spoilt)

    side = clear.shape[-1]
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    axes.imshow(np.vstack([np.hstack(row[SHOWN]) for row in rows]), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks((np.arange(len(SHOWN)) + 0.5) * side, [f"{times[index]:.2f}" for index in SHOWN])
    axes.set_yticks((np.arange(len(rows)) + 0.5) * side, ["clear", *TRAINING_KINDS])
    axes.set_xlabel("s")
    axes.tick_params(length=0)
    for edge in (START, STOP):
        axes.axvline(SHOWN.index(edge) * side - 0.5, ymax=len(TRAINING_KINDS) / len(rows), color="tab:red")
    figure.savefig(Path(__file__).with_name("degraded_lips.png"), dpi=85, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
