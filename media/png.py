"""Plain pngs, as in folders of frames: 8-bit RGB, not interlaced, with pixels and nothing else that matters.

Pillow reads all others. FFmpeg takes two thirds of Pillow's time, and less than half of it where the package
isal inflates the pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

try:
    from isal import isal_zlib
except ImportError:  # not every machine has it
    isal_zlib = None  # type: ignore[assignment]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = bytes([8, 2, 0, 0, 0])  # bits, colour type, compression, filters, interlacing
_PIXELS_AT = 33  # signature and header end here
# Chunks that only Pillow is left to read: transparency, an animation, and where a rotation may be written.
_ODDITIES = frozenset({b"tRNS", b"acTL", b"eXIf", b"tEXt", b"zTXt", b"iTXt"})

_MAX_INFLATED = 2**24  # bytes of a picture; a copy more of a larger one would be too much memory
_MAX_BLOCK = 2**16 - 1  # bytes that a block of a zlib stream can hold as they are


def read_plain_png(path: Path) -> bytes | None:
    """The file at `path` if it is a plain png of a size that Pillow takes, else None. Raises `OSError`."""
    if path.suffix.lower() != ".png":
        return None
    data = path.read_bytes()
    if data[:8] != _SIGNATURE or data[24:29] != _RGB:
        return None
    height, width = plain_png_size(data)
    if not 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0):
        return None  # Pillow says why
    return None if any(kind in _ODDITIES for kind, _, _ in _chunks(data)) else data


def plain_png_size(data: bytes) -> tuple[int, int]:
    """(height, width) of what `read_plain_png` returned."""
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def decode_plain_png(data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 of what `read_plain_png` returned; None if it is damaged or Pillow would refuse it."""
    codec = av.CodecContext.create("png", "r")  # a new one each time: its second picture came out wrong
    codec.thread_count = 1
    codec.options = {"err_detect": "crccheck+explode", "max_pixels": str(Image.MAX_IMAGE_PIXELS)}
    try:
        frames = codec.decode(av.Packet(_with_stored_pixels(data) or data))
    except av.error.FFmpegError:
        return None
    return frames[0].to_ndarray() if frames else None


def _with_stored_pixels(data: bytes) -> bytes | None:
    """The same picture as a png whose pixels are not compressed, so that FFmpeg only undoes the filters.

    None without isal, for a large picture, and for a damaged file, of which FFmpeg is left to judge.
    """
    height, width = plain_png_size(data)
    length = height * (1 + 3 * width)  # each row begins with its filter
    if isal_zlib is None or length > _MAX_INFLATED:
        return None
    compressed = []
    for kind, start, end in _chunks(data):
        if data[end : end + 4] != _checksum(data[start - 4 : end]):
            return None
        if kind == b"IDAT":
            compressed.append(data[start:end])
    inflater = isal_zlib.decompressobj()
    try:
        pixels = inflater.decompress(b"".join(compressed), length + 1)
    except isal_zlib.error:  # type: ignore[misc]  # the stub calls it an instance
        return None
    if len(pixels) != length or not inflater.eof:
        return None
    blocks = [b"IDAT\x78\x01"]
    for place in range(0, length, _MAX_BLOCK):
        block = pixels[place : place + _MAX_BLOCK]
        is_last = place + _MAX_BLOCK >= length
        blocks += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    stored = b"".join([*blocks, struct.pack(">I", isal_zlib.adler32(pixels))])
    return b"".join([data[:_PIXELS_AT], _chunk(stored), _chunk(b"IEND")])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a png: their kinds, and from where to where their contents are."""
    place = len(_SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place + 8, place + 8 + length
        place += length + 12  # with length, kind and checksum


def _chunk(kind_and_contents: bytes) -> bytes:
    return struct.pack(">I", len(kind_and_contents) - 4) + kind_and_contents + _checksum(kind_and_contents)


def _checksum(kind_and_contents: bytes) -> bytes:
    return struct.pack(">I", isal_zlib.crc32(kind_and_contents))
