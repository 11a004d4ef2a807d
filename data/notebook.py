"""Parts of HTML with which objects show themselves in a notebook: players, pictures and tables.

Sounds and pictures are embedded as data URIs, so that a saved notebook is whole and loads nothing. All text
is escaped. Players and pictures have labels for those who do not see them.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_VALUES = 2**19
"""Samples times channels of the longest sound in a player: 33 s of one channel at 16 kHz, some 1 MB."""
MAX_CHANNELS = 2
"""Channels of a player, the first ones of a recording with more."""
MAX_SECONDS = 30.0
"""s of a recording that a picture shows, from its start."""
PEAK = 0.9
"""Peak amplitude of the loudest of several sounds, where one exceeds full scale; they keep their ratios."""
LOWEST_RATE, HIGHEST_RATE = 3000, 384000
"""Hz, of sounds that browsers play."""


def players(sounds: Mapping[str, NDArray[np.floating[Any]]], sample_rate: int) -> str:
    """Players of sounds one below the other, of at most `MAX_VALUES` values each; longer ones are cut.

    Args:
        sounds: samples (T, C) by name, at one level.
        sample_rate: Hz.
    """
    peak = max((float(np.abs(own).max()) for own in sounds.values() if own.size), default=0.0)
    gain = PEAK / peak if peak > 1 else 1.0
    return "".join(_player(name, own, gain, sample_rate) for name, own in sounds.items())


def _player(name: str, samples: NDArray[np.floating[Any]], gain: float, rate: int) -> str:
    length, channels = samples.shape
    shown = min(channels, MAX_CHANNELS)
    kept = min(length, MAX_VALUES // shown)
    cut = f", the first {kept / rate:.1f} s of {length / rate:.1f} s" if kept < length else ""
    some = f", channels 1 and 2 of {channels}" if shown < channels else ""
    label = escape(f"{name}{cut}{some}")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        return f"<p>{label}: no player for {rate} samples per second</p>"
    return (
        f'<figure style="margin:.4em 0"><figcaption>{label}</figcaption>'
        f'<audio controls preload="metadata" aria-label="{label}" '
        f'src="{flac_uri(gain * samples[:kept, :shown], rate)}"></audio></figure>'
    )


def flac_uri(samples: NDArray[np.floating[Any]], sample_rate: int) -> str:
    """Samples (T,) or (T, C), full scale +-1, as a data URI of a FLAC file of 16 bits."""
    written = io.BytesIO()
    sf.write(written, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(written.getvalue()).decode()


def picture(figure: "Figure", alt: str) -> str:
    """A matplotlib figure as an image with a text alternative."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=72)
    return _image("image/png", written.getvalue(), alt)


def picture_of_svg(text: str, alt: str) -> str:
    """The text of an SVG element as an image with a text alternative."""
    return _image("image/svg+xml", text.encode("utf-8"), alt)


def _image(kind: str, content: bytes, alt: str) -> str:
    address = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img alt="{escape(alt)}" style="max-width:100%;background:white" src="{address}">'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table whose first column names the rows."""
    head = "".join(f'<th scope="col" style="text-align:left">{escape(each)}</th>' for each in headings)
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(first)}</th>'
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<table><caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def facts(values: Mapping[str, object], caption: str) -> str:
    """A table of names and values."""
    return table(("", "value"), [(name, str(value)) for name, value in values.items()], caption)


def folded(summary: str, content: str) -> str:
    """HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def section(label: str, *parts: str) -> str:
    """Parts of HTML under a heading."""
    name = escape(label)
    return f'<section aria-label="{name}"><p><strong>{name}</strong></p>{"".join(parts)}</section>'
