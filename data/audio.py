"""Read, write and resample sound.

Samples are float32 arrays (T, C), T time samples of C channels, full scale ±1 for integer formats.
"""

import io
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from avse.data.errors import InputError
from avse.data.files import atomic_path, check_destination, check_source
from avse.data.sections import announced_bytes, ogg_is_cut, sections

Samples = npt.NDArray[np.floating[Any]]

FULL_SCALE = 1 - 2.0**-15  # the largest positive sample of 16-bit PCM
BLOCK = 65536  # frames a call: libsndfile's Vorbis encoder overflows its stack on very long ones
GAP = 0.010  # s; a jump of the time stamps beyond it is a lost block, below it rounding
LONGEST_GAP = 60.0  # s; a longer jump is a wrong time stamp
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # Hz; a header that says otherwise is damaged
LARGEST = 2**31  # samples of all channels together, 8 GiB of float32; small files can unfold to any size
LONGEST_MISSING_END = 0.5  # s; a track that ends more than that before its file announces is cut

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


def read_audio(path: str | os.PathLike[str], track: int | None = None) -> Audio:
    """Read a sound file, or a sound track of a video.

    libsndfile reads wav, flac, ogg, mp3, aiff and the like; whatever it refuses goes to FFmpeg. The
    content decides, not the suffix. Damaged blocks of a track become silence of their length, so that
    sound and video stay together, with one `UserWarning`. Integer samples are divided by full scale;
    32-bit ones keep the 24 bits of float32. Silent and clipped recordings are read as they are.

    Files that were joined end to end (chained Ogg, MP3, FLAC, WAV) are read to their end; a `UserWarning`
    tells of parts that are left out because their rate or channels differ, of samples that the header
    announces and the file lacks, and of further sound tracks where `track` is None.

    Args:
        path: of the file.
        track: number of the sound track, from 0; None for the first one.

    Raises:
        InputError: the file is missing, a folder, a pipe, empty, not permitted, not readable as sound,
            without that sound track, without samples, of a sample rate outside 1 to 768 kHz, of more
            than 2**31 samples, or holds NaN or infinite samples.
    """
    path = Path(path)
    if track is not None and track < 0:
        raise InputError(f"{path}: sound track {track} cannot be read; tracks are counted from 0")
    check_source(path, "a sound file or a video")
    try:
        audio = _read_sound_file(path)
    except (sf.LibsndfileError, TypeError):  # TypeError: headerless .raw, of unknown rate
        audio = _read_track(path, track)
    else:
        if track:
            raise InputError(f"{path}: has no sound track {track}, only track 0")
    if audio.samples.size == 0:
        raise InputError(f"{path}: holds no samples; record or export it again")
    if not np.isfinite(audio.samples).all():
        raise InputError(f"{path}: holds NaN or infinite samples; export it again from its source")
    return audio


@dataclass(frozen=True)
class AudioBlocks:
    """A sound file that was read through once, and can be read again block by block.

    Attributes:
        path: of the file.
        sample_rate: Hz.
        channels: C.
        frames: T, time samples.
        subtype: as for `Audio`.
        peak: largest |x|.
        clipped_fraction: as `clipped_fraction` gives it.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int
    subtype: str
    peak: float
    clipped_fraction: float

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """The samples from the start, (T', C) each.

        Raises:
            InputError: the file is gone, or cannot be read any more.
        """
        try:
            with sf.SoundFile(os.fsencode(self.path)) as sound:
                while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                    yield block
        except (sf.LibsndfileError, OSError) as error:
            raise InputError(f"{self.path}: could be read once, but not again ({error})") from error


def long_audio(path: str | os.PathLike[str], seconds: float) -> AudioBlocks | None:
    """A sound file that is longer than so many seconds; None for all that `read_audio` is to read as a whole.

    That are shorter files, joined ones, what libsndfile does not read, and what cannot be used, of which
    `read_audio` tells.

    Raises:
        InputError: the file holds NaN, infinite or more than 2**31 samples.
    """
    path = Path(path)
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return None
        with sf.SoundFile(os.fsencode(path)) as sound:
            rate = sound.samplerate
            if sound.frames <= seconds * rate or not LOWEST_RATE <= rate <= HIGHEST_RATE:
                return None
            if len(sections(path)) > 1:
                return None
            channels, subtype, announced = sound.channels, sound.subtype, _missing_frames(sound, path)
            frames, peak, clipped = 0, 0.0, 0
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                frames += len(block)
                _check_size(frames * channels, path)
                size = np.abs(block)
                if not np.isfinite(size).all():
                    raise InputError(
                        f"{path}: holds NaN or infinite samples; export it again from its source"
                    )
                peak, clipped = max(peak, float(size.max())), clipped + int((size >= FULL_SCALE).sum())
    except (sf.LibsndfileError, OSError, TypeError):
        return None
    if frames <= seconds * rate:
        return None
    _warn_of_missing_end(path, (announced - frames) / rate)
    _warn_of_cut_ogg(path)
    return AudioBlocks(path, rate, channels, frames, subtype, peak, clipped / (frames * channels))


def write_audio_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[npt.NDArray[np.floating[Any]]],
    channels: int,
    sample_rate: int,
    subtype: str | None = None,
) -> None:
    """As `write_audio`, for finite samples (T', C) that come block by block and need not fit into memory.

    Until the last one is there they lie in a nameless file beside `path`, 4 bytes a sample, since the format
    depends on their peak.

    Raises:
        InputError: see `write_audio`.
    """
    check_writable(path)
    rate = checked_rate(sample_rate)
    frames, peak = 0, 0.0
    try:
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent) as spool:
            for block in blocks:
                if block.size:
                    frames, peak = frames + len(block), max(peak, float(np.abs(block).max()))
                    spool.write(np.ascontiguousarray(block, np.float32).tobytes())
            spool.seek(0)
            size = BLOCK * channels * 4
            reread = (
                np.frombuffer(content, np.float32).reshape(-1, channels)
                for content in iter(lambda: spool.read(size), b"")
            )
            _write(path, reread, frames, channels, peak, rate, subtype)
    except OSError as error:
        raise InputError(
            f"{path}: could not be written ({error.strerror or error}); free space or choose another place"
        ) from error


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
        sample_rate: Hz, whole.
        subtype: soundfile's name of the sample format, such as `Audio.subtype`; one that is not
            written to the format of `path` (an mp3's, to a wav) gives the default.

    Raises:
        InputError: the path cannot be written or has another suffix, the samples are integers, not finite
            or of another shape, the format cannot hold that many channels or that rate, or what was
            written is not read back whole, as on a disk that is full.
    """
    check_writable(path)
    rate = checked_rate(sample_rate)
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"{path}: samples of shape {array.shape} cannot be written; give (T,) or (T, C)")
    if array.dtype.kind != "f":
        raise InputError(f"{path}: {array.dtype} samples cannot be written; divide them by their full scale")
    with np.errstate(over="ignore"):
        frames = array.astype(np.float32).reshape(len(array), -1)
    if not np.isfinite(frames).all():
        raise InputError(f"{path}: NaN or infinite samples cannot be written; mend the samples")
    blocks = (frames[begin : begin + BLOCK] for begin in range(0, len(frames), BLOCK))
    _write(path, blocks, len(frames), frames.shape[1], float(np.abs(frames).max()), rate, subtype)


def _write(
    path: str | os.PathLike[str],
    blocks: Iterable[npt.NDArray[np.float32]],
    count: int,
    channels: int,
    peak: float,
    rate: int,
    subtype: str | None,
) -> None:
    """Write `count` time samples, (T', C) each block, of a known peak."""
    file_format = _FORMATS[Path(path).suffix.lower()]
    chosen = _subtype(file_format, subtype)
    clipped = False
    if peak > 1 and chosen not in _FLOAT_SUBTYPES:
        if file_format == "WAV":
            chosen = "FLOAT"
        else:
            warnings.warn(f"{path}: peak {peak:.3g} clipped to 1; write a .wav to keep it", stacklevel=3)
            clipped = True
    try:
        with atomic_path(path) as temporary:
            with sf.SoundFile(
                os.fsencode(temporary), "w", rate, channels, chosen, format=file_format
            ) as sound:
                for block in blocks:
                    sound.write(np.clip(block, -1, 1) if clipped else block)
            written = _count_frames(temporary)
            if written != count:
                raise InputError(
                    f"{path}: could not be written whole ({written} of {count} samples are read back); "
                    "free the space or choose another place"
                )
    except sf.LibsndfileError as error:
        raise InputError(
            f"{path}: {file_format} {chosen} with {channels} channels at {rate} Hz could not be "
            f"written ({error.error_string}); write a .wav, or free space"
        ) from error


def checked_rate(sample_rate: float) -> int:
    """A sample rate in Hz as an int, from any integer or whole float.

    Raises:
        InputError: it is not a positive whole number.
    """
    try:
        rate = int(sample_rate)
        whole = rate == sample_rate and rate >= 1
    except (TypeError, ValueError, OverflowError):  # no number, NaN, infinity
        whole = False
    if not whole:
        raise InputError(f"a sample rate of {sample_rate} Hz is impossible; it must be positive and whole")
    return rate


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
        InputError: a rate is not positive and whole, or the array has another number of dimensions.
    """
    rate_in, rate_out = checked_rate(rate_in), checked_rate(rate_out)
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


def _read_sound_file(path: Path) -> Audio:
    """Read with libsndfile, every section of a file that was joined from several."""
    parts = sections(path)
    if len(parts) == 1:
        with sf.SoundFile(os.fsencode(path)) as sound:
            audio = Audio(_blocks(sound, path), sound.samplerate, sound.subtype)
            missing = _missing_frames(sound, path) - len(audio.samples)
        _warn_of_missing_end(path, missing / audio.sample_rate)
        _warn_of_cut_ogg(path)
        return audio
    read: list[npt.NDArray[np.float32]] = []
    rate, subtype, left_out = 0, "", 0
    with path.open("rb") as file:
        for begin, end in parts:
            file.seek(begin)
            try:
                with sf.SoundFile(io.BytesIO(file.read(end - begin))) as sound:
                    if read and (sound.samplerate, sound.channels) != (rate, read[0].shape[1]):
                        left_out += 1
                        continue
                    rate, subtype = sound.samplerate, subtype or sound.subtype
                    read.append(_blocks(sound, path, sum(block.size for block in read)))
            except sf.LibsndfileError:
                if not read:
                    raise
                left_out += 1
    if left_out:
        warnings.warn(
            f"{path}: {left_out} of the {len(parts)} recordings that were joined in it are left out: they "
            "are damaged, or their rate or channels differ from the first; split the file to read them",
            stacklevel=3,
        )
    _warn_of_cut_ogg(path)
    return Audio(np.concatenate(read), rate, subtype)


def _blocks(sound: sf.SoundFile, path: Path, before: int = 0) -> npt.NDArray[np.float32]:
    """All samples (T, C) of an open file of bounded rate and size, after `before` samples of others."""
    _check_rate(sound.samplerate, path)
    blocks = [sound.read(BLOCK, dtype="float32", always_2d=True)]
    size = before + blocks[0].size
    while len(blocks[-1]):
        blocks.append(sound.read(BLOCK, dtype="float32", always_2d=True))
        size += blocks[-1].size
        _check_size(size, path)
    return np.concatenate(blocks)


def _missing_frames(sound: sf.SoundFile, path: Path) -> int:
    """Time samples that the header announces."""
    announced = announced_bytes(path)
    if announced is None:  # libsndfile tells what the header says, or what it counted
        return sound.frames if sound.format != "RAW" else 0
    present = path.stat().st_size - announced[0]
    return round(sound.frames * announced[1] / max(present, 1)) if announced[1] > present else sound.frames


def _warn_of_missing_end(path: Path, seconds: float) -> None:
    if seconds > 0:
        warnings.warn(
            f"{path}: the last {seconds:.3f} s that its header announces are missing; check that it is whole",
            stacklevel=4,
        )


def _warn_of_cut_ogg(path: Path) -> None:
    if ogg_is_cut(path):
        warnings.warn(f"{path}: its end is missing; check that it is whole", stacklevel=4)


def _check_rate(rate: int, path: Path) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(
            f"{path}: a sample rate of {rate} Hz, outside {LOWEST_RATE} to {HIGHEST_RATE}; export it again"
        )


def _check_size(samples: int, path: Path) -> None:
    if samples > LARGEST:
        raise InputError(f"{path}: holds more than {LARGEST} samples; cut it into shorter recordings")


def _count_frames(path: Path) -> int:
    """Time samples that can be decoded of a sound file; 0 where it cannot be opened."""
    count = 0
    try:
        with sf.SoundFile(os.fsencode(path)) as sound:
            while block := len(sound.read(BLOCK, dtype="float32", always_2d=True)):
                count += block
    except sf.LibsndfileError:
        return count
    return count


def open_media(path: Path) -> Any:
    """Open a file with FFmpeg; titles in odd encodings do not matter, and any file name will do.

    Raises:
        av.error.FFmpegError: FFmpeg cannot read the file.
    """
    # An absolute name cannot be taken for a protocol; PyAV takes only names that are UTF-8.
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return av.open(io.BytesIO(path.read_bytes()), metadata_errors="ignore")
    return av.open(name, metadata_errors="ignore")


def audio_stream(container: Any, track: int | None, path: Path) -> Any:
    """The sound track of a number, the first one for None.

    Raises:
        InputError: there is no such track.
    """
    streams = container.streams.audio
    if not streams:
        raise InputError(f"{path}: has no sound track; give a video with sound, or a sound file")
    if track is not None and track >= len(streams):
        raise InputError(f"{path}: has no sound track {track}; its tracks are {_track_names(streams)}")
    return streams[track or 0]


def _track_names(streams: Any) -> str:
    names = []
    for number, stream in enumerate(streams):
        facts = [stream.codec_context.name, stream.metadata.get("language"), stream.metadata.get("title")]
        names.append(f"{number} ({', '.join(fact for fact in facts if fact)})")
    return ", ".join(names)


def _read_track(path: Path, track: int | None) -> Audio:
    """Read a sound track with FFmpeg, on the time line of its time stamps."""
    try:
        container = open_media(path)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: is neither a sound file nor a video that can be read ({reason}); "
            "give a wav, flac, ogg or mp3 file, or a video with sound"
        ) from error
    with container:
        stream = audio_stream(container, track, path)
        if track is None and len(container.streams.audio) > 1:
            warnings.warn(
                f"{path}: has the sound tracks {_track_names(container.streams.audio)}; track 0 is read, "
                "name another to read that",
                stacklevel=3,
            )
        blocks: list[npt.NDArray[np.float32]] = []
        position = lost = rate = 0
        start = 0.0
        for frame in _decode(container, stream):
            block = _float_block(frame)
            if not blocks:
                rate = frame.sample_rate
                _check_rate(rate, path)
                start = frame.time or 0.0
            elif frame.sample_rate != rate or block.shape[1] != blocks[0].shape[1]:
                continue  # a damaged header; the silence below takes its place
            gap = 0 if frame.time is None else round((frame.time - start) * rate) - position
            if GAP * rate < gap < LONGEST_GAP * rate:
                _check_size((position + gap) * block.shape[1], path)
                blocks.append(np.zeros((gap, block.shape[1]), np.float32))
                position += gap
                lost += gap
            blocks.append(block)
            position += len(block)
            _check_size(position * block.shape[1], path)
        announced = 0.0 if stream.duration is None else float(stream.duration * stream.time_base)
    if not blocks:
        raise InputError(f"{path}: its sound track cannot be decoded; export it again")
    if lost:
        warnings.warn(f"{path}: {lost / rate:.3f} s of damaged sound replaced by silence", stacklevel=3)
    missing = announced - position / rate
    _warn_of_missing_end(path, missing if missing > LONGEST_MISSING_END else 0.0)
    return Audio(np.concatenate(blocks), rate, None, start)


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of a sound track; damaged packets are skipped, a damaged container ends it."""
    try:
        for packet in container.demux(stream):
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
