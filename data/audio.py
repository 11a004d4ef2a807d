"""Read, write and resample sound.

Samples are float32 arrays (T, C), T time samples of C channels, full scale ±1 for integer formats.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from avse.data.errors import InputError
from avse.data.files import atomic_path, check_destination

Samples = npt.NDArray[np.floating[Any]]

FULL_SCALE = 1 - 2.0**-15  # the largest positive sample of 16-bit PCM
BLOCK = 65536  # frames a call: libsndfile's Vorbis encoder overflows its stack on very long ones
GAP = 0.010  # s; a jump of the time stamps beyond it is a lost block, below it rounding
LONGEST_GAP = 60.0  # s; a longer jump is a wrong time stamp

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
# What is written of soundfile's sample formats, the default first.
_SUBTYPES = {
    "WAV": ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
    "FLAC": ("PCM_16", "PCM_24", "PCM_S8"),
    "OGG": ("VORBIS", "OPUS"),
}
_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")


class Audio(NamedTuple):
    """A recording as it was read.

    Attributes:
        samples: float32 (T, C), finite, T >= 1; beyond ±1 only where a float format or a lossy codec was.
        sample_rate: Hz.
        subtype: soundfile's name of the sample format ("PCM_24"), to write it back alike; None for the
            sound of a video.
        start: time in s of the first sample on the clock of the pictures' time stamps; 0 for a sound file.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    subtype: str | None = None
    start: float = 0.0


def read_audio(path: str | os.PathLike[str]) -> Audio:
    """Read a sound file, or the first sound track of a video.

    libsndfile reads wav, flac, ogg, mp3, aiff and the like; whatever it refuses goes to FFmpeg. The
    content decides, not the suffix. Damaged blocks of a track become silence of their length, so that
    sound and picture stay together, with one `UserWarning`. Integer samples are divided by full scale;
    32-bit ones keep the 24 bits of float32. Silent and clipped recordings are read as they are.

    Raises:
        InputError: the file is missing, a folder, empty, not permitted, not readable as sound, without a
            sound track, without samples, or holds NaN or infinite samples.
    """
    path = Path(path)
    _check_readable(path)
    try:
        audio = _read_sound_file(path)
    except (sf.LibsndfileError, TypeError):  # TypeError: headerless .raw, of unknown rate
        audio = _read_track(path)
    if audio.samples.size == 0:
        raise InputError(f"{path}: holds no samples; record or export it again")
    if not np.isfinite(audio.samples).all():
        raise InputError(f"{path}: holds NaN or infinite samples; export it again from its source")
    return audio


def write_audio(
    path: str | os.PathLike[str],
    samples: npt.ArrayLike,
    sample_rate: int,
    subtype: str | None = None,
) -> None:
    """Write samples (T,) or (T, C) to a .wav, .flac or .ogg file; the suffix decides the format.

    The file appears whole or not at all, and an older one is replaced only by a whole one. Samples are
    never rescaled. The default is 16-bit PCM for wav and flac, Vorbis for ogg. Where the peak exceeds 1,
    a wav becomes 32-bit float, which loses nothing; flac and ogg are clipped to ±1 with one `UserWarning`.

    Args:
        path: where to write.
        samples: floats, finite, T >= 1; kept as float32.
        sample_rate: Hz.
        subtype: soundfile's name of the sample format, such as `Audio.subtype`; one that is not
            written to the format of `path` (an mp3's, to a wav) gives the default.

    Raises:
        InputError: the path cannot be written or has another suffix, the samples are integers, not finite
            or of another shape, or the format cannot hold that many channels or that rate.
    """
    check_writable(path)
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"{path}: samples of shape {array.shape} cannot be written; give (T,) or (T, C)")
    if array.dtype.kind != "f":
        raise InputError(f"{path}: {array.dtype} samples cannot be written; divide them by their full scale")
    with np.errstate(over="ignore"):
        frames = array.astype(np.float32).reshape(len(array), -1)
    if not np.isfinite(frames).all():
        raise InputError(f"{path}: NaN or infinite samples cannot be written; mend the samples")
    channels = frames.shape[1]
    file_format = _FORMATS[Path(path).suffix.lower()]
    chosen = _subtype(file_format, subtype)
    peak = float(np.abs(frames).max())
    if peak > 1 and chosen not in _FLOAT_SUBTYPES:
        if file_format == "WAV":
            chosen = "FLOAT"
        else:
            warnings.warn(f"{path}: peak {peak:.3g} clipped to 1; write a .wav to keep it", stacklevel=2)
            frames = np.clip(frames, -1, 1)
    try:
        with (
            atomic_path(path) as temporary,
            sf.SoundFile(temporary, "w", sample_rate, channels, chosen, format=file_format) as sound,
        ):
            for begin in range(0, len(frames), BLOCK):
                sound.write(frames[begin : begin + BLOCK])
    except sf.LibsndfileError as error:
        raise InputError(
            f"{path}: {file_format} {chosen} with {channels} channels at {sample_rate} Hz could not be "
            f"written ({error.error_string}); write a .wav, or free space"
        ) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check, before a long computation, that `write_audio` can write at `path`.

    Raises:
        InputError: another suffix than .wav, .flac or .ogg, or see `check_destination`.
    """
    if Path(path).suffix.lower() not in _FORMATS:
        raise InputError(f"{path}: unknown sound format; let the name end in {', '.join(_FORMATS)}")
    check_destination(path)


def clipped_fraction(samples: npt.ArrayLike) -> float:
    """Fraction in [0, 1] of the samples at or beyond 16-bit full scale, |x| >= 1 - 2**-15."""
    return float(np.mean(np.abs(np.asarray(samples)) >= FULL_SCALE))


def resample(samples: Samples, rate_in: int, rate_out: int) -> Samples:
    """Band-limited resampling of (T,) or (T, C) along time (soxr, very high quality).

    Returns:
        Exactly ceil(T * rate_out / rate_in) time samples, float32 for float32 and float64 otherwise; the
        samples themselves where the rates agree. There and back gives at least T: see `match_length`.

    Raises:
        InputError: a rate is not positive, or the array has another number of dimensions.
    """
    if rate_in < 1 or rate_out < 1:
        raise InputError(f"sample rates must be positive, not {rate_in} and {rate_out} Hz; give them in Hz")
    array = np.asarray(samples)
    if array.ndim not in (1, 2):
        raise InputError(f"samples of shape {array.shape} cannot be resampled; give (T,) or (T, C)")
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    if rate_in == rate_out or array.size == 0:
        return array
    length = -(-len(array) * rate_out // rate_in)
    return match_length(soxr.resample(array, rate_in, rate_out, quality="VHQ"), length)


def match_length(samples: Samples, length: int) -> Samples:
    """Cut (T, ...) at the end, or append zeros, to `length` time samples."""
    missing = max(0, length - len(samples))
    padding = [(0, missing)] + [(0, 0)] * (samples.ndim - 1)
    return np.pad(samples[:length], padding)


def _check_readable(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a sound file or a video")
        if not path.exists():
            raise InputError(f"{path}: does not exist; check the name")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); record or copy it again")
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); check its name and permissions"
        ) from error


def _read_sound_file(path: Path) -> Audio:
    with sf.SoundFile(path) as sound:
        blocks = [sound.read(BLOCK, dtype="float32", always_2d=True)]
        while len(blocks[-1]):
            blocks.append(sound.read(BLOCK, dtype="float32", always_2d=True))
        return Audio(np.concatenate(blocks), sound.samplerate, sound.subtype)


def _read_track(path: Path) -> Audio:
    """Read the first sound track with FFmpeg, on the time line of its time stamps."""
    try:
        # An absolute name cannot be taken for a protocol; titles in odd encodings do not matter.
        container = av.open(os.path.abspath(path), metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path}: is neither a sound file nor a video that can be read ({error.strerror}); "
            "give a wav, flac, ogg or mp3 file, or a video with sound"
        ) from error
    with container:
        if not container.streams.audio:
            raise InputError(f"{path}: has no sound track; give a video with sound, or a sound file")
        blocks: list[npt.NDArray[np.float32]] = []
        position = lost = rate = 0
        start = 0.0
        for frame in _decode(container):
            block = _float_block(frame)
            if not blocks:
                rate = frame.sample_rate
                start = frame.time or 0.0
            elif frame.sample_rate != rate or block.shape[1] != blocks[0].shape[1]:
                continue  # a damaged header; the silence below takes its place
            gap = 0 if frame.time is None else round((frame.time - start) * rate) - position
            if GAP * rate < gap < LONGEST_GAP * rate:
                blocks.append(np.zeros((gap, block.shape[1]), np.float32))
                position += gap
                lost += gap
            blocks.append(block)
            position += len(block)
    if not blocks:
        raise InputError(f"{path}: its sound track cannot be decoded; export it again")
    if lost:
        warnings.warn(f"{path}: {lost / rate:.3f} s of damaged sound replaced by silence", stacklevel=3)
    return Audio(np.concatenate(blocks), rate, None, start)


def _decode(container: Any) -> Iterator[Any]:
    """Frames of the first sound track; damaged packets are skipped, a damaged container ends it."""
    try:
        for packet in container.demux(container.streams.audio[0]):
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                continue
    except av.error.FFmpegError:
        return


def _float_block(frame: Any) -> npt.NDArray[np.float32]:
    """The samples of an FFmpeg frame, planar or interleaved, integer or float, as float32 (T, C)."""
    array = frame.to_ndarray()
    block = array.T if frame.format.is_planar else array.reshape(frame.samples, -1)
    if block.dtype.kind == "u":
        return (block.astype(np.float32) - 128) / 128
    scale = -float(np.iinfo(block.dtype).min) if block.dtype.kind == "i" else 1.0
    return (block / scale).astype(np.float32)


def _subtype(file_format: str, wanted: str | None) -> str:
    if wanted is None:
        return _SUBTYPES[file_format][0]
    if wanted not in sf.available_subtypes():
        known = ", ".join(_SUBTYPES[file_format])
        raise InputError(f"unknown sample format {wanted!r}; {file_format} takes {known}")
    return wanted if wanted in _SUBTYPES[file_format] else _SUBTYPES[file_format][0]
