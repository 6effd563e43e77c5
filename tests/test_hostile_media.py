"""Media of strangers: no other file is opened, sizes are bounded, and half a file is no short clip."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faces.detectors import CascadeDetector
from media.clips import open_clip
from media.pictures import MAX_FILE_BYTES, MAX_STRIP_PIXELS, lay_on_white, read_image, read_image_size
from tests.media_files import encode, halves, moving
from utils.errors import MediaError

SAMPLES = Path(__file__).parents[1] / "sup-mat"

# ---- Nothing else is opened or started -----------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the trap is a shell script")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "folder/0.png"])
def test_a_picture_starts_no_ghostscript(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "bin" / "gs"
    trap.parent.mkdir()
    trap.write_text(f"#!/bin/sh\ntouch '{tmp_path}/sprung'\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", str(trap.parent), prepend=os.pathsep)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(EPS)
    with pytest.raises(MediaError, match="can't be read as a picture"):
        read_image(path)
    with pytest.raises(MediaError, match="can't be read as a picture"):
        list(open_clip(path.parent if "/" in name else path))
    assert not (tmp_path / "sprung").exists()
    with contextlib.suppress(OSError):
        Image.open(path).load()  # Pillow itself walks into the trap
    assert (tmp_path / "sprung").exists()


LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile {name}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "ffmetadata": ";FFMETADATA1\ntitle={name}\n",
    "svg": "<svg xmlns='http://www.w3.org/2000/svg'><image href='{address}'/></svg>",
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_video_opens_no_other_file_and_no_server(kind: str, tmp_path: Path) -> None:
    encode(tmp_path / "inside.mp4", moving(5))
    called = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        (tmp_path / "a.mp4").write_text(LISTS[kind].format(name="inside.mp4", address=address))

        def wait() -> None:
            try:
                called.append(server.accept())
            except TimeoutError:
                return

        thread = threading.Thread(target=wait)
        thread.start()
        with pytest.raises(MediaError, match="convert or download it again"):
            open_clip(tmp_path / "a.mp4")
        thread.join()
    assert not called


def test_a_name_with_a_pattern_opens_no_neighbours(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(halves()).save(tmp_path / f"a{number}.gif")
    with pytest.raises(MediaError, match="does not exist"):
        open_clip(tmp_path / "a%d.gif")


# ---- Sizes -----------------------------------------------------------------------


def png_that_claims(path: Path, width: int, height: int, colour: int = 2, pixels: bytes = b"") -> Path:
    """A png of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )
    return path


def test_pixels_beyond_the_claim_are_not_inflated(tmp_path: Path) -> None:
    path = png_that_claims(tmp_path / "a.png", 8, 8, pixels=bytes(2**27))
    tracemalloc.start()
    with contextlib.suppress(MediaError):
        assert not read_image(path).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def bmp_that_claims(path: Path, width: int, height: int) -> Path:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)
    return path


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 5)]
)
@pytest.mark.parametrize("colour", [0, 2, 6])
def test_a_claim_is_checked_before_memory_is_asked_for(
    width: int, height: int, colour: int, tmp_path: Path
) -> None:
    path = png_that_claims(tmp_path / "a.png", width, height, colour)
    for read in (
        read_image,
        read_image_size,
        open_clip,
        lambda path: open_clip(path, (max(height, 1), 4, 3)),
    ):
        with pytest.raises(MediaError, match=r"a\.png: "):
            read(path)
    with pytest.raises(MediaError, match=r"a\.bmp: "):
        read_image(bmp_that_claims(tmp_path / "a.bmp", width, height))


def test_a_strip_is_bounded_too(tmp_path: Path) -> None:
    path = png_that_claims(tmp_path / "a.png", MAX_STRIP_PIXELS // 256 + 256, 256, colour=0)
    with pytest.raises(MediaError, match="decompression bomb"):
        open_clip(path, (256, 256, 3))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)  # takes no room on the disk
    for read in (read_image, read_image_size):
        with pytest.raises(MediaError, match=r"more than the 1,073,741,824"):
            read(path)


def test_a_video_of_giant_frames_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.gif", [halves()] * 3, "gif", "rgb8")
    data = path.read_bytes()
    path.write_bytes(data[:6] + struct.pack("<HH", 30_000, 30_000) + data[10:])  # 2.7 GB a frame
    with pytest.raises(MediaError, match=r"a\.gif: "):
        open_clip(path)


def test_white_behind_a_picture_is_laid_in_bands() -> None:
    """A picture of more rows than a band has, so that seams would show."""
    rgba = np.random.default_rng(0).integers(0, 256, (9, 2**20, 4), np.uint8)
    rows = [lay_on_white(rgba[row : row + 1]) for row in range(9)]
    assert np.array_equal(lay_on_white(rgba), np.concatenate(rows))


def test_a_thin_frame_is_not_enlarged_without_bound() -> None:
    detector = CascadeDetector()
    sizes = []
    scan = detector._scan
    detector._scan = lambda image, *more, **named: sizes.append(image.size) or scan(image, *more, **named)
    assert len(detector(np.zeros((2, 30_000, 3), np.uint8))) == 0
    assert max(sizes[0]) <= detector.MAX_LONG_SIDE


# ---- Half a file ------------------------------------------------------------------

WHOLE = {
    "a.mkv": ("libx264", "yuv420p", {}),
    "a.webm": ("libvpx", "yuv420p", {}),
    "live.webm": ("libvpx", "yuv420p", {"live": "1"}),  # as a browser records
    "a.gif": ("gif", "rgb8", {}),
    "a.avi": ("mpeg4", "yuv420p", {}),
    "a.mp4": ("libx264", "yuv420p", {}),
    "fast.mp4": ("libx264", "yuv420p", {"movflags": "+faststart"}),
    "pieces.mp4": ("libx264", "yuv420p", {"movflags": "+frag_keyframe+empty_moov"}),
    "a.mov": ("libx264", "yuv420p", {}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_file_is_no_short_clip(name: str, tmp_path: Path) -> None:
    codec, pix_fmt, options = WHOLE[name]
    path = encode(tmp_path / name, moving(30, 240, 320), codec, pix_fmt, container_options=options)
    assert len(open_clip(path)) == 30
    data, rng = path.read_bytes(), random.Random(0)
    for length in [64, len(data) // 2, len(data) - 1, *(rng.randrange(16, len(data)) for _ in range(6))]:
        path.write_bytes(data[:length])
        try:
            assert len(list(open_clip(path))) >= 29, length  # what stands behind the frames is missing
        except MediaError as error:
            assert "download it again" in str(error)


def test_what_lies_behind_the_end_is_no_damage(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.gif", "a.mp4"):
        codec, pix_fmt, options = WHOLE[name]
        path = encode(tmp_path / name, moving(10), codec, pix_fmt, container_options=options)
        path.write_bytes(path.read_bytes() + bytes(64))
        assert len(open_clip(path)) == 10


def test_a_recording_may_stop_at_the_head_of_a_block(tmp_path: Path) -> None:
    """So Chromium leaves what its camera recorded."""
    codec, pix_fmt, options = WHOLE["live.webm"]
    path = encode(tmp_path / "live.webm", moving(10), codec, pix_fmt, container_options=options)
    path.write_bytes(path.read_bytes() + b"\xa3")
    assert len(open_clip(path)) == len(list(open_clip(path))) == 10
