"""What a visitor gives: read within limits, and spoken of without a path of the server."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from avse.data.audio import BLOCK, audio_stream, open_media, read_audio
from avse.data.errors import InputError
from avse.data.lips import Lips
from avse.data.lips.video import has_pictures
from avse.data.sections import sections

MAX_BYTES = 50 * 10**6
MIN_SECONDS, MAX_SECONDS = 0.25, 15.0
MAX_CHANNELS = 8
MAX_VIDEO_FRAMES = 1000
MAX_PIXELS = 3840 * 2160

TOO_LARGE = (
    f"the file is larger than the {MAX_BYTES // 10**6} MB that this page takes: cut it to a shorter part"
)
TOO_LONG = (
    f"the recording is longer than the {MAX_SECONDS:g} s that this page takes: cut it to a shorter part"
)

NAME = "the recording"
"""What messages call an upload."""
_FOLDERS = re.compile(r"(?<![\w/])(?:/[^/\s:;,'\"()]+)*/(?=[^/\s:;,'\"()]+)")


class Source(NamedTuple):
    """A recording of one channel.

    Attributes:
        samples: (T,).
        sample_rate: Hz.
        lips: of the speaker, or None.
        clean: the speech without the noise where it is known, (T,), or None.
        notes: on how it was read, for people.
    """

    samples: NDArray[np.floating]
    sample_rate: int
    lips: Lips | None = None
    clean: NDArray[np.floating] | None = None
    notes: tuple[str, ...] = ()


def without_paths(text: object, path: Path | None = None) -> str:
    """A message with `NAME` in place of `path`, and any other path reduced to the name of its file."""
    said = str(text) if path is None else str(text).replace(str(path), NAME)
    return _FOLDERS.sub("", said)


def read_sound(path: Path) -> Source:
    """The sound of an upload, its channels averaged. At most `MAX_SECONDS` of it are ever decoded twice.

    Raises:
        InputError: it cannot be read as sound, or is beyond the limits of this module.
    """
    check_sound(path)
    audio = read_audio(path)
    seconds = len(audio.samples) / audio.sample_rate
    if seconds > MAX_SECONDS:
        raise InputError(TOO_LONG)
    if seconds < MIN_SECONDS:
        raise InputError(f"{NAME} lasts {seconds:.2f} s: give at least {MIN_SECONDS:g} s")
    channels = audio.samples.shape[1]
    notes = (f"its {channels} channels were averaged",) if channels > 1 else ()
    return Source(audio.samples.mean(axis=1), audio.sample_rate, notes=notes)


def check_sound(path: Path) -> None:
    """Decode an upload until it ends or is too long, so that a small file cannot unfold to gigabytes.

    Raises:
        InputError: it is longer than `MAX_SECONDS`, has more than `MAX_CHANNELS` channels, consists of
            several recordings, or has no sound that can be decoded.
    """
    if not path.stat().st_size:
        raise InputError(f"{NAME} is empty: record or export it again")
    if len(sections(path)) > 1:
        raise InputError(f"{NAME} consists of several that were joined in one file: export it as one")
    try:
        with sf.SoundFile(os.fsencode(path)) as sound:
            _check_channels(sound.channels)
            count = 0
            while block := len(sound.read(BLOCK, dtype="float32", always_2d=True)):
                count += block
                if count > MAX_SECONDS * sound.samplerate:
                    raise InputError(TOO_LONG)
    except (sf.LibsndfileError, TypeError):  # what libsndfile does not read; TypeError: headerless .raw
        _check_track(path)


def _check_channels(channels: int) -> None:
    if channels > MAX_CHANNELS:
        raise InputError(f"{NAME} has {channels} channels: give at most {MAX_CHANNELS}")


def _check_track(path: Path) -> None:
    """`check_sound` by FFmpeg, which reads videos and what a browser records.

    What it cannot open or decode is left to `read_audio`, which says so.
    """
    try:
        with open_media(path) as container:
            stream = audio_stream(container, None, path)
            seconds, start = 0.0, None
            for frame in container.decode(stream):
                _check_channels(frame.layout.nb_channels)
                time = frame.time or 0.0
                start = time if start is None else start
                seconds += frame.samples / frame.sample_rate
                if max(seconds, time - start) > MAX_SECONDS:
                    raise InputError(TOO_LONG)
    except (av.error.FFmpegError, ValueError):
        return


def check_pictures(path: Path) -> None:
    """Refuse a video that would take minutes to look through; only its packets are counted.

    Raises:
        InputError: more than `MAX_VIDEO_FRAMES` frames, or frames of more than `MAX_PIXELS`.
    """
    if not has_pictures(path):
        return
    try:
        with open_media(path) as container:
            (stream, *_) = container.streams.video
            if stream.width * stream.height > MAX_PIXELS:
                raise InputError(
                    f"its frames of {stream.width} x {stream.height} pixels are too large: export "
                    "the video with smaller frames"
                )
            for number, _ in enumerate(container.demux(stream)):
                if number > MAX_VIDEO_FRAMES:
                    raise InputError(
                        f"the video has more than {MAX_VIDEO_FRAMES} frames: cut it to a shorter part"
                    )
    except av.error.FFmpegError:
        return
