"""Whether a video file ends where its own structure says that it ends.

FFmpeg plays what there is of a file that was cut off, so half a download looks like a short clip. Each
container states the sizes of its parts, or marks its end. Only these few bytes are read.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

_EBML_SEGMENT, _EBML_CLUSTER = 0x18538067, 0x1F43B675
_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B


def ends_early(path: Path, container: str) -> bool:
    """Whether the file at `path` was cut off; `container` is FFmpeg's name of its format.

    False where the format does not tell. Raises `OSError` where the file can't be read.
    """
    check = _CHECKS.get(container)
    if check is None or path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return check(data)


# ---- Containers of boxes with their sizes -----------------------------------


def _mp4_ends_early(data: mmap.mmap) -> bool:
    place = 0
    while place + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        if size == 1:  # a large box, whose size stands after its name
            if place + 16 > len(data):
                return True
            (size,) = struct.unpack_from(">Q", data, place + 8)
        if size < 8:  # 0: to the end of the file; others are no box
            return False
        place += size
    return place > len(data)


def _avi_ends_early(data: mmap.mmap) -> bool:
    place = 0
    while data[place : place + 4] == b"RIFF" and place + 8 <= len(data):  # a long video has several
        (size,) = struct.unpack_from("<I", data, place + 4)
        if size == 0:  # not known when it was written
            return False
        place += 8 + size
    return place > len(data)


def _matroska_ends_early(data: mmap.mmap) -> bool:
    place = 0
    while place < len(data):
        kind, after_kind = _ebml_number(data, place, keep_marker=True)
        size, start = _ebml_number(data, after_kind, keep_marker=False)
        if start > len(data):
            return False  # FFmpeg opens no such file but a stream: a browser had begun another block
        if kind is None:  # no element
            return False
        if size is None:  # not known when it was written: look at what it holds
            if kind not in (_EBML_SEGMENT, _EBML_CLUSTER):
                return False
            place = start
        elif kind == _EBML_SEGMENT:
            return start + size > len(data)
        else:
            place = start + size
    return place > len(data)


def _ebml_number(data: mmap.mmap, place: int, keep_marker: bool) -> tuple[int | None, int]:
    """A number of 1 to 8 bytes, None if it isn't valid or all its bits are set, and the place after it."""
    if place >= len(data):
        return None, place + 1
    length = 9 - data[place].bit_length()
    if length > 8:
        return None, place + 1
    value = int.from_bytes(data[place : place + length], "big")
    if keep_marker:
        return value, place + length
    value -= 1 << 7 * length
    return (None if value == (1 << 7 * length) - 1 else value), place + length


# ---- Gif ---------------------------------------------------------------------


def _gif_ends_early(data: mmap.mmap) -> bool:
    """Whether the mark of the end is missing after the last block."""
    if len(data) < 13:
        return True
    place = 13 + _gif_colours(data[10])
    while place < len(data):
        kind = data[place]
        if kind == _GIF_EXTENSION:
            place += 2
        elif kind == _GIF_IMAGE and place + 9 < len(data):
            place += 11 + _gif_colours(data[place + 9])  # with the byte of the code size
        else:
            return kind != _GIF_TRAILER
        while place < len(data) and data[place]:  # pieces of up to 255 bytes; one of none ends them
            place += 1 + data[place]
        place += 1
    return True


def _gif_colours(flags: int) -> int:
    """The bytes of the table of colours that follows."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


_CHECKS: dict[str, Callable[[mmap.mmap], bool]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4_ends_early,
    "matroska,webm": _matroska_ends_early,
    "avi": _avi_ends_early,
    "gif": _gif_ends_early,
}
