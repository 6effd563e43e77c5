"""Damaged and hostile clips: half a file is no short clip, and any bytes are one line."""

from __future__ import annotations

import random
import socket
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from media.clips import open_clip
from media.pictures import read_image, read_image_size
from tests.fuzzing import fuzz, limited_time, needs_unix
from tests.media_files import (
    encode,
    halves,
    moving,
    with_sound,
)
from utils.errors import MediaError

# ---- Damage ----------------------------------------------------------------------


def test_damage_in_the_middle_is_an_error_and_no_short_clip(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(), options={"g": "12"})
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.mp4"):
        list(open_clip(path))


def test_a_packet_without_its_frame_is_an_error_and_shifts_no_other(tmp_path):
    frames = moving(24)
    options = {"x265-params": "keyint=12:min-keyint=12:bframes=0:log-level=none"}
    path = encode(tmp_path / "a.mp4", frames, "libx265", options=options)
    good = np.stack(list(open_clip(path)))
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][11]
    data = bytearray(path.read_bytes())
    data[place : place + size] = (
        (size - 4).to_bytes(4, "big") + b"\x4c\x01" + b"\xff" * (size - 7) + b"\x80"
    )  # filler data
    path.write_bytes(data)
    clip = open_clip(path)
    with pytest.raises(MediaError, match="only 23 of its 24 frames"):
        list(clip)
    with pytest.raises(MediaError, match="frame 11"):
        clip.read([11])
    np.testing.assert_array_equal(clip.read([10, 20]), good[[10, 20]])


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


def test_a_video_of_giant_frames_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.gif", [halves()] * 3, "gif", "rgb8")
    data = path.read_bytes()
    path.write_bytes(data[:6] + struct.pack("<HH", 30_000, 30_000) + data[10:])  # 2.7 GB a frame
    with pytest.raises(MediaError, match=r"a\.gif: "):
        open_clip(path)


# ---- Nothing else is opened ------------------------------------------------------


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


# ---- Any bytes -------------------------------------------------------------------


SAMPLES = Path(__file__).parents[1] / "sup-mat"


MAX_DECODED = 10**6  # pixels of a frame; reading larger ones takes the time, not the care


# name: codec, pixel format, options of the container
VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a.mkv": ("libx264", "yuv420p", {}),
    "a.webm": ("libvpx", "yuv420p", {}),
    "a.gif": ("gif", "rgb8", {}),
    "a.avi": ("mpeg4", "yuv420p", {}),
    "a.mp4": ("libx264", "yuv420p", {}),
    "fast.mp4": ("libx264", "yuv420p", {"movflags": "+faststart"}),
    "pieces.mp4": ("libx264", "yuv420p", {"movflags": "+frag_keyframe+empty_moov"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "a.mov": ("mjpeg", "yuvj420p", {}),
}


def write_samples(folder: Path) -> dict[str, bytes]:
    """A small file of each kind, and the two that people start from."""
    for name, (codec, pix_fmt, options) in VIDEOS.items():
        encode(folder / name, moving(6, 32, 32), codec, pix_fmt, container_options=options)
    with_sound(folder / "sound.mp4", "aac", 0.2)
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        Image.fromarray(halves()).save(folder / name)
    Image.fromarray(halves()).convert("P").save(folder / "palette.png", transparency=1)
    Image.fromarray(halves()).save(folder / "tiff.png", "TIFF")
    frames = [Image.fromarray(np.roll(halves(), 8 * i, axis=1)) for i in range(3)]
    for name, kind in (("moving.png", "PNG"), ("moving.gif", "GIF")):
        frames[0].save(folder / name, kind, save_all=True, append_images=frames[1:])
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {name: (SAMPLES / name).read_bytes() for name in ("driving.mp4", "source.png")}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write_samples(tmp_path_factory.mktemp("originals"))


def changed(data: st.DataObject, originals: dict[str, bytes], name: str) -> bytes:
    """The file `name` with up to five changes: bytes, bits, cuts, repeats, foreign parts and numbers."""
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 5), "changes")):
        # Half of them at the start, where most of what can go wrong is said.
        header = st.integers(0, min(len(content), 600))
        start = data.draw(st.one_of(header, st.integers(0, len(content))), "at")
        length = data.draw(st.one_of(st.integers(1, 8), st.integers(1, 4000)), "length")
        match data.draw(st.sampled_from(["bytes", "bit", "cut", "end", "repeat", "splice", "number"]), "how"):
            case "bytes":
                new = data.draw(st.binary(min_size=1, max_size=8), "new")
                content[start : start + len(new)] = new
            case "bit" if start < len(content):
                content[start] ^= 1 << data.draw(st.integers(0, 7), "bit")
            case "cut":
                del content[start : start + length]
            case "end":
                del content[max(start, 1) :]
            case "repeat":
                content[start:start] = content[start : start + length]
            case "splice":  # the head of another file, or a part of it
                other = originals[data.draw(st.sampled_from(sorted(originals)), "other")]
                there = data.draw(st.integers(0, min(len(other), 600)), "there")
                content[start : start + length] = other[there : there + length]
            case "number":
                size = data.draw(st.sampled_from([2, 4, 8]), "size")
                number = data.draw(
                    st.sampled_from([0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1]), "number"
                )
                order = data.draw(st.sampled_from(["big", "little"]), "order")
                content[start : start + size] = number.to_bytes(size, order)
    return bytes(content)


@needs_unix
def test_media_with_changed_bytes_give_frames_or_one_line(
    originals: dict[str, bytes], tmp_path: Path
) -> None:
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(originals)), "name")
        path = tmp_path / name
        path.write_bytes(changed(data, originals, name))
        try:
            with limited_time():
                read_all(path)
        except MediaError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) > len(str(path)) + 10
        path.unlink()

    fuzz(check, 2000)


def read_all(path: Path) -> None:
    """Read a file in each of the ways that programs do, and compare what they give."""
    clip = open_clip(path)
    if clip.size[0] * clip.size[1] > MAX_DECODED:
        return
    frames = list(clip) if len(clip) < 100 else []
    assert all(frame.shape == (*clip.size, 3) and frame.dtype == np.uint8 for frame in frames)
    chosen = clip.read([len(clip) - 1, 0])
    assert not frames or chosen.shape[0] == 2
    if path.suffix in (".png", ".jpg", ".webp", ".bmp"):
        assert read_image_size(path) == read_image(path).shape[:2] == clip.size
        assert np.array_equal(chosen[1], frames[0])


def test_samples_are_read_as_they_are(originals: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
        read_all(tmp_path / name)
