"""The pictures of the page: SVG images that follow the colour scheme of the reader."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from avse.data.lips import Lips
from avse.data.lips.crop import SIDE
from avse.data.lips.drawing import draw_strip
from avse.data.lips.front_end import LipFrontEnd
from avse.data.stft import STFT
from avse.evaluation.figures import level_db
from avse.evaluation.posterior.figures import COLOURS, INK, spectrogram, svg_uri, uncertainty_map

WIDE, NARROW = (12.0, 4.0), (4.6, 3.6)
"""Width and height in inches of the picture of alpha and lips, on a desk and on a phone."""
STRIP_IMAGES = {WIDE: 14, NARROW: 6}
_STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def spectrograms(spectra: dict[str, Tensor], stft: STFT) -> dict[str, str]:
    """Spectrograms (N, F) on one dB scale, whose top is the loudest bin of all, as data URIs."""
    powers = {name: spectrum.abs().square().numpy() for name, spectrum in spectra.items()}
    top = max(float(level_db(power).max()) for power in powers.values())
    return {name: svg_uri(spectrogram(power, top, stft)) for name, power in powers.items()}


def uncertainty(mean: Tensor, std: Tensor, stft: STFT) -> str:
    """Posterior standard deviation over |mean| of every bin, (N, F) each, as a data URI."""
    return svg_uri(uncertainty_map(mean.abs().numpy(), std.numpy(), stft))


def alpha_and_lips(
    times: Tensor,
    lips: Lips | None,
    responsibilities: Tensor | None,
    names: Sequence[str],
    size: tuple[float, float],
) -> str:
    """Lips side by side in time over r(alpha), each where there is one, as a data URI.

    Args:
        times: of the frames, s, (N,).
        lips: of the speaker, or None.
        responsibilities: p(alpha_n | x), (A, N), or None.
        names: of the A values of alpha.
        size: `WIDE` or `NARROW`.
    """
    end = float(times[-1]) or 1.0
    with matplotlib.rc_context(_STYLE):
        shown = [lips is not None, responsibilities is not None]
        height = size[1] * (1 if all(shown) else 0.75 if shown[1] else 0.4)
        figure = Figure(figsize=(size[0], height), layout="constrained")
        ratios = [1.0, 2.2] if all(shown) else [1.0]
        rows = figure.subplots(sum(shown), 1, squeeze=False, height_ratios=ratios)
        if lips is not None:
            axes = rows[0, 0]
            track = LipFrontEnd(side=SIDE, instants=1, normalised=False).track(lips, times)
            draw_strip(axes, track, end, STRIP_IMAGES[size])
            axes.set(title="", xlabel="" if responsibilities is not None else "time (s)")
            axes.tick_params(labelbottom=responsibilities is None)
        if responsibilities is not None:
            axes = rows[-1, 0]
            labels = [f"α = {number}: {name}" for number, name in enumerate(names)]
            axes.stackplot(times, *responsibilities, labels=labels, colors=COLOURS[: len(names)])
            axes.set(xlabel="time (s)", ylabel="p(α | x)", xlim=(0, end), ylim=(0, 1))
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if size == NARROW else len(names))
        return svg_uri(figure)
