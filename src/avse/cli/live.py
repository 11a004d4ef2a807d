"""What `avse enhance --stream` does: samples from one pipe, speech to another."""

import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from avse.data.audio import FULL_SCALE
from avse.data.errors import InputError
from avse.stream import Stream

FORMATS: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
"""Names of sample formats, as FFmpeg and SoX have them."""
PIECE = 65536
"""Most bytes that are read at once; fewer where fewer are there."""


def enhance_pcm(
    source: IO[bytes],
    target: IO[bytes],
    note: Callable[[str], None],
    *,
    rate: int,
    channels: int,
    sample_format: str,
    model: str = "auto",
    algorithm: str = "auto",
    seed: int = 0,
    link_channels: bool | None = None,
    device: str = "cpu",
) -> None:
    """Enhance interleaved samples as they come, until they end or nobody reads the speech any more.

    Args:
        source: of the noisy samples.
        target: for as many samples of speech, in the same format.
        note: is told the latency.
        rate: Hz.
        channels: C.
        sample_format: "s16le", 16-bit integers, or "f32le", 32-bit floats; little-endian.
        model: as for `avse.Stream`.
        algorithm: as for `avse.Stream`.
        seed: as for `avse.Stream`.
        link_channels: as for `avse.Stream`.
        device: as for `avse.Stream`.

    Raises:
        InputError: an unknown format, see `avse.Stream`, or floats that are not finite.
    """
    if sample_format not in FORMATS:
        raise InputError(f"sample format {sample_format!r}: use one of {', '.join(FORMATS)}")
    stream = Stream(
        rate,
        channels,
        model=model,
        algorithm=algorithm,
        seed=seed,
        link_channels=link_channels,
        device=device,
    )
    note(f"each sample comes back at most {stream.latency:.2f} s later, and the time that computing takes")
    try:
        for speech in stream.enhanced(pieces(source, channels, FORMATS[sample_format])):
            target.write(encoded(speech, FORMATS[sample_format]))
            target.flush()
    except BrokenPipeError:  # the reader has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())  # so that the last flush is silent


def pieces(source: IO[bytes], channels: int, sample_type: np.dtype[Any]) -> Iterator[NDArray[np.float32]]:
    """Samples (T', C), full scale 1, as they come; a last sample that is cut is left out."""
    size = sample_type.itemsize * channels
    read = getattr(source, "read1", source.read)
    left = b""
    while content := read(PIECE):
        content = left + content
        whole = len(content) // size * size
        left = content[whole:]
        samples = np.frombuffer(content[:whole], sample_type).reshape(-1, channels)
        scale = 1.0 if sample_type.kind == "f" else 2.0**-15
        yield samples.astype(np.float32) * np.float32(scale)


def encoded(speech: NDArray[np.float32], sample_type: np.dtype[Any]) -> bytes:
    """Samples as bytes; integers are clipped to full scale."""
    if sample_type.kind == "f":
        return speech.astype(sample_type).tobytes()
    return np.rint(np.clip(speech, -1, FULL_SCALE) * 2**15).astype(sample_type).tobytes()
