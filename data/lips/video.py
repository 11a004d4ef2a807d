"""Decode the pictures of a video, one at a time."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from avse.data.errors import InputError

EARLY = 0.5  # s; pictures that end more than that before the file are missing some

UNSPECIFIED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED


class Picture(NamedTuple):
    """A picture of a video.

    Attributes:
        grey: upright, full range 0 to 255, square pixels, uint8 (H, W).
        time: s, its time stamp on the clock of the file.
        damaged: whether the decoder met an error in it, or in a picture that it builds on.
    """

    grey: NDArray[np.uint8]
    time: float
    damaged: bool


def pictures(path: Path) -> Iterator[Picture]:
    """The pictures of a video, their time stamps strictly increasing.

    Damaged packets are skipped. One `UserWarning` where the pictures end long before the file does.

    Raises:
        InputError: not a file that can be read as a video, or no picture in it.
    """
    with _opened(path) as container:
        stream = _picture_stream(container, path)
        period = float(1 / (stream.average_rate or 25))
        last: float | None = None
        broken = False
        for frame in _frames(container, stream):
            if frame is None:
                broken = True
                continue
            time = _time(frame, last)
            if time is None:
                time = 0.0 if last is None else last + period
            if last is not None and time <= last:
                continue
            broken = (broken and not frame.key_frame) or frame.is_corrupt
            period = period if last is None else time - last
            last = time
            yield Picture(_upright(frame, stream), time, broken)
        if last is None:
            raise InputError(f"{path}: none of its pictures can be decoded; export the video again")
        missing = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        missing -= last + period
        if missing > EARLY:
            warnings.warn(
                f"{path}: its pictures end {missing:.1f} s before the file should; check that it is whole",
                stacklevel=3,
            )


def has_pictures(path: Path) -> bool:
    """Whether a file is a video; a sound file with a cover picture is none."""
    try:
        with _opened(path) as container:
            _picture_stream(container, path)
    except InputError:
        return False
    return True


def sound_start(path: Path) -> float | None:
    """Time stamp in s of the first sample of the first sound track, as `Audio.start`; None without one."""
    with _opened(path) as container:
        for stream in container.streams.audio[:1]:
            for frame in _frames(container, stream):
                if frame is not None:
                    return frame.time or 0.0
    return None


def _opened(path: Path) -> Any:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a video")
        if not path.exists():
            raise InputError(f"{path}: does not exist; check the name")
        # An absolute name cannot be taken for a protocol; titles in odd encodings do not matter.
        return av.open(os.path.abspath(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be read as a video ({reason}); give a whole mp4, mkv, mov, avi, webm or mpg file"
        ) from error


def _picture_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise InputError(f"{path}: has no pictures; give a video that shows the speaker")


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; None in the place of what cannot be decoded. A damaged container ends them."""
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                yield None
    except av.error.FFmpegError:
        return


def _time(frame: Any, last: float | None) -> float | None:
    """Time stamp of a frame in s; the one for decoding it, if the one for showing it is not after `last`.

    An avi file has only the former; FFmpeg guesses the latter, and fails where H.264 reorders its pictures.
    """
    stamps = [float(stamp * frame.time_base) for stamp in (frame.pts, frame.dts) if stamp is not None]
    return next((stamp for stamp in stamps if last is None or stamp > last), stamps[0] if stamps else None)


def _upright(frame: Any, stream: Any) -> NDArray[np.uint8]:
    """Luma at full range, turned as the file says, with square pixels."""
    width = round(frame.width * float(stream.sample_aspect_ratio or 1))
    try:
        grey = frame.reformat(width=width, format="gray", dst_color_range="JPEG")
    except av.error.FFmpegError:  # a colour space that FFmpeg cannot convert, such as YCgCo: luma as it is
        frame.colorspace = UNSPECIFIED
        grey = frame.reformat(width=width, format="gray", dst_color_range="JPEG")
    return np.ascontiguousarray(np.rot90(grey.to_ndarray(), round(frame.rotation / 90)))
