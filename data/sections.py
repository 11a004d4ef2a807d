"""Where the recordings begin that were joined end to end in one file, and what a header announces.

Decoders stop at the end of the first recording of a joined file. Joins are found by what a whole file of the
format begins with:

    Ogg   a page that begins a logical stream, after a page that does not (a chained stream, RFC 3533)
    MP3   a frame with a Xing or Info header, which the first frame of a file has
    FLAC  "fLaC" and a block STREAMINFO
    WAV   "RIFF" right after the end that the first header announces
"""

import mmap
import re
import struct
from pathlib import Path

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_MP3 = re.compile(rb"\xff[\xe2-\xff][\x00-\xff]{2}[\x00-\xff]{9,34}?(?:Xing|Info)\x00\x00\x00[\x00-\x0f]")
_SIDE_INFORMATION = (9, 17, 32)  # bytes between the header of an MP3 frame and its Xing header
_STREAMED = 0x7FFF0000  # sizes from here on are written where the length is not known yet


def sections(path: Path) -> list[tuple[int, int]]:
    """Begin and end in bytes of every recording in a file, one for a file that was not joined."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts = _starts(content)
        return list(zip(starts, [*starts[1:], len(content)], strict=True))


def announced_bytes(path: Path) -> tuple[int, int] | None:
    """Where the samples of a WAV or AIFF file begin and how many bytes its header says they are.

    None for other formats and for a length that was not known when the header was written.
    """
    with path.open("rb") as file:
        head = file.read(12)
        order, name = {b"RIFF": ("<", b"data"), b"RIFX": (">", b"data"), b"FORM": (">", b"SSND")}.get(
            head[:4], ("", b"")
        )
        if not order or head[8:] not in (b"WAVE", b"AIFF", b"AIFC"):
            return None
        while len(chunk := file.read(8)) == 8:
            (size,) = struct.unpack(f"{order}I", chunk[4:])
            if chunk[:4] == name:
                return (file.tell(), size) if size < _STREAMED else None
            file.seek(size + size % 2, 1)
    return None


def ogg_is_cut(path: Path) -> bool:
    """Whether a file is Ogg and lacks the end of its last page, or the mark of the end on that page."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"OggS":
            return False
        last = content.rfind(b"OggS")
        head = content[last : last + 27]
        if len(head) < 27:
            return True
        table = content[last + 27 : last + 27 + head[26]]
        return not head[5] & 4 or last + 27 + head[26] + sum(table) > len(content)


def _starts(content: mmap.mmap) -> list[int]:
    magic = content[:4]
    if magic == b"OggS":
        return _ogg_starts(content)
    if magic == b"fLaC":
        return [0, *(match.start() for match in _FLAC.finditer(content, 1))]
    if magic == b"RIFF":
        return _riff_starts(content)
    if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and magic[1] & 0xE6 == 0xE2):
        return [0, *_mp3_starts(content)]
    return [0]


def _ogg_starts(content: mmap.mmap) -> list[int]:
    starts = [0]
    place = 0
    in_header = True  # the first pages of all logical streams of a link come first
    while place >= 0 and place + 27 <= len(content):
        begins = bool(content[place + 5] & 2)
        if begins and not in_header:
            starts.append(place)
        in_header = begins
        table = content[place + 27 : place + 27 + content[place + 26]]
        following = place + 27 + len(table) + sum(table)
        place = (
            following if content[following : following + 4] == b"OggS" else content.find(b"OggS", place + 4)
        )
    return starts


def _riff_starts(content: mmap.mmap) -> list[int]:
    starts = [0]
    while starts[-1] + 12 <= len(content):
        (size,) = struct.unpack("<I", content[starts[-1] + 4 : starts[-1] + 8])
        following = starts[-1] + 8 + size + size % 2
        if (
            content[following : following + 4] != b"RIFF"
            or content[following + 8 : following + 12] != b"WAVE"
        ):
            break
        starts.append(following)
    return starts


def _mp3_starts(content: mmap.mmap) -> list[int]:
    """Later frames with a Xing or Info header, and what follows what the first of them counts."""
    found = [
        match.start()
        for match in _MP3.finditer(content)
        if content.find(match[0][-8:-4], match.start()) - match.start() - 4 in _SIDE_INFORMATION
    ]
    if not found:
        return []
    alike = content[found[0] + 1]  # version and layer; the last bit tells of a checksum
    starts = {start for start in found[1:] if content[start + 1] | 1 == alike | 1}
    header = max(content.find(name, found[0], found[0] + 40) for name in (b"Xing", b"Info"))
    flags, *counts = struct.unpack(">4xIII", content[header : header + 16].ljust(16, b"\0"))
    if flags & 2:
        following = found[0] + counts[flags & 1]
        begin = content[following : following + 3]
        if begin == b"ID3" or (len(begin) == 3 and begin[0] == 255 and begin[1] | 1 == alike | 1):
            starts.add(following)
    # A tag before a frame belongs to it; libsndfile passes over it.
    return sorted(start for start in starts if not any(0 < other - start < 4 for other in starts))
