"""Read plain pngs in half of Pillow's time: isal inflates them, FFmpeg undoes the filters.

Plain are 8-bit RGB, not interlaced, with pixels and nothing else that matters. Pillow reads all others.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

try:
    from isal import isal_zlib
except ImportError:  # not every machine has it
    isal_zlib = None  # type: ignore[assignment]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = bytes([8, 2, 0, 0, 0])  # bits, colour type, compression, filters, interlacing
# Chunks that only Pillow is left to read: transparency, an animation, colours, and what may hold a rotation.
_ODDITIES = frozenset({b"tRNS", b"acTL", b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_MAX_INFLATED = 2**24  # bytes; a copy more of a larger picture would be too much memory


class PlainPng(NamedTuple):
    size: tuple[int, int]  # (height, width)
    compressed: bytes


def read_plain_png(path: Path) -> PlainPng | None:
    """Read the file at `path` if it is a plain png, else return None. Raises `OSError`."""
    if path.suffix.lower() != ".png" or isal_zlib is None:
        return None
    data = path.read_bytes()
    if data[:8] != _SIGNATURE or data[24:29] != _RGB:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0) or height * (1 + 3 * width) > _MAX_INFLATED:
        return None
    place, pixels = len(_SIGNATURE), []
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind in _ODDITIES:
            return None
        if kind == b"IDAT":
            pixels.append(data[place + 8 : place + 8 + length])
        place += length + 12  # with length, kind and checksum
    return PlainPng((height, width), b"".join(pixels))


def decode_plain_png(png: PlainPng) -> np.ndarray | None:
    """Return the pixels (H, W, 3) uint8 of a plain png, or None if it is damaged."""
    height, width = png.size
    length = height * (1 + 3 * width)  # each row begins with its filter
    inflater = isal_zlib.decompressobj()
    try:
        filtered = inflater.decompress(png.compressed, length + 1)
    except isal_zlib.error:  # type: ignore[misc]  # the stub calls it an instance
        return None
    if len(filtered) != length or not inflater.eof:  # the end holds a checksum of the pixels
        return None
    # The same picture as a png whose pixels are not compressed. FFmpeg looks at no checksum of a chunk.
    header = struct.pack(">II", width, height) + _RGB
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b"")]
    stored = b"".join(struct.pack(">I4s", len(data), kind) + data + bytes(4) for kind, data in chunks)
    codec = av.CodecContext.create("png", "r")  # a new one each time: its second picture came out wrong
    codec.thread_count = 1
    try:
        frames = codec.decode(av.Packet(_SIGNATURE + stored))
    except av.error.FFmpegError:
        return None
    return frames[0].to_ndarray() if frames else None
