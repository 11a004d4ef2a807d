"""Decode the frames of a video, one at a time."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from avse.data.audio import audio_stream, open_media
from avse.data.errors import InputError
from avse.data.files import check_source

LONGEST_MISSING_END = 0.5  # s; frames that end more than that before the file are missing some

LARGEST_FRAME = 2**26  # pixels, 8192 x 8192
LARGEST_PIXEL_ASPECT = 8.0  # width of a pixel over its height, or the inverse; beyond it the file is damaged

UNSPECIFIED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED


class VideoFrame(NamedTuple):
    """One frame of a video.

    Attributes:
        grey: upright, full range 0 to 255, square pixels, uint8 (H, W).
        time: s, its time stamp on the clock of the file.
        damaged: whether the decoder met an error in it, or in a frame that it is predicted from.
    """

    grey: NDArray[np.uint8]
    time: float
    damaged: bool


def read_video_frames(path: Path) -> Iterator[VideoFrame]:
    """The frames of a video, their time stamps strictly increasing.

    Damaged packets, and frames of a pixel format that cannot be converted, are skipped. One `UserWarning`
    where the frames end long before the file does.

    Raises:
        InputError: not a file that can be read as a video, no video frame in it that can be decoded, or
            frames of more than 2**26 pixels.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than a frame does
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
            grey = _upright(frame, stream, reformatter, path)
            if grey is None:
                broken = True
                continue
            broken = (broken and not frame.key_frame) or frame.is_corrupt
            period = period if last is None else time - last
            last = time
            yield VideoFrame(grey, time, broken)
        if last is None:
            raise InputError(f"{path}: none of its video frames can be decoded; export the video again")
        missing = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        missing -= last + period
        if missing > LONGEST_MISSING_END:
            warnings.warn(
                f"{path}: its video ends {missing:.1f} s before the file should; check that it is whole",
                stacklevel=3,
            )


def has_pictures(path: Path) -> bool:
    """Whether a file is a video; a sound file with a cover image is none."""
    try:
        with _opened(path) as container:
            _video_stream(container, path)
    except InputError:
        return False
    return True


def sound_start(path: Path, track: int | None = None) -> float | None:
    """Time stamp in s of the first sample of a sound track, as `Audio.start`; None without any.

    Args:
        path: of the video.
        track: number of the sound track, from 0; None for the first one.

    Raises:
        InputError: not a file that can be read as a video, or there is no track of that number.
    """
    with _opened(path) as container:
        if track is None and not container.streams.audio:
            return None
        for frame in _frames(container, audio_stream(container, track, path)):
            if frame is not None:
                return frame.time or 0.0
    return None


def _opened(path: Path) -> Any:
    check_source(path, "a video")
    try:
        return open_media(path)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be read as a video ({reason}); give a whole mp4, mkv, mov, avi, webm or mpg file"
        ) from error


def _video_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise InputError(f"{path}: has no video frames; give a video that shows the speaker")


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

    An avi file has only the former; FFmpeg guesses the latter, and fails where H.264 reorders its frames.
    """
    stamps = [float(stamp * frame.time_base) for stamp in (frame.pts, frame.dts) if stamp is not None]
    return next((stamp for stamp in stamps if last is None or stamp > last), stamps[0] if stamps else None)


def _upright(frame: Any, stream: Any, reformatter: VideoReformatter, path: Path) -> NDArray[np.uint8] | None:
    """Luma at full range, turned as the file says, with square pixels; None if it cannot be converted."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / LARGEST_PIXEL_ASPECT <= aspect <= LARGEST_PIXEL_ASPECT:
        aspect = 1.0
    width = max(1, round(frame.width * aspect))
    if max(width, frame.width) * frame.height > LARGEST_FRAME:
        raise InputError(
            f"{path}: frames of {width} x {frame.height} pixels, more than {LARGEST_FRAME} together; "
            "export the video with smaller frames"
        )
    # A colour space that FFmpeg cannot convert, such as YCgCo, is left out of the second try: luma as it is.
    for colour_space in (frame.colorspace, UNSPECIFIED):
        try:
            frame.colorspace = colour_space
            grey = reformatter.reformat(frame, width, format="gray", dst_color_range="JPEG").to_ndarray()
        except (av.error.FFmpegError, OSError, ValueError):
            continue
        return np.ascontiguousarray(np.rot90(grey, round(frame.rotation / 90)))
    return None
