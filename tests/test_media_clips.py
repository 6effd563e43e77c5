"""Seeking against iteration on many encodings, and what a clip says of itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from media import decoding
from media.clips import VideoClip, natural_key, open_clip
from tests.media_files import (
    HEIGHT,
    WIDTH,
    cut,
    encode,
    folder_of_frames,
    moving,
    remux,
    still_video,
    with_sound,
)
from utils.errors import MediaError

X264 = "libx264", "yuv420p"
ENCODINGS = {
    "default": ("a.mp4", *X264, {}),
    "short GOPs": ("a.mp4", *X264, {"g": "12", "bf": "3"}),
    "open GOPs": ("a.mp4", *X264, {"x264-params": "keyint=15:min-keyint=15:open-gop=1:bframes=3:scenecut=0"}),
    "pyramid": ("a.mp4", *X264, {"x264-params": "keyint=30:bframes=8:b-pyramid=normal:ref=6"}),
    "intra refresh": ("a.mp4", *X264, {"x264-params": "keyint=20:intra-refresh=1"}),
    "interlaced": ("a.mp4", *X264, {"x264-params": "keyint=20:interlaced=1:bframes=2"}),
    "mkv": ("a.mkv", *X264, {"g": "12"}),
    "avi, whose times are guesses": ("a.avi", *X264, {"g": "12", "bf": "2"}),
    "hevc": ("a.mp4", "libx265", "yuv420p", {"x265-params": "keyint=15:bframes=4:log-level=none"}),
    "vp9": ("a.webm", "libvpx-vp9", "yuv420p", {"g": "20", "lag-in-frames": "16"}),
    "vp8": ("a.webm", "libvpx", "yuv420p", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "mpeg4": ("a.mp4", "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mjpeg": ("a.avi", "mjpeg", "yuvj420p", {}),
    "gif": ("a.gif", "gif", "rgb8", {}),
}

# How many keyframes the index must know, so that the test really seeks.
SEEKABLE = {"default": 1, "short GOPs": 5, "open GOPs": 4, "pyramid": 2, "interlaced": 3, "mkv": 5, "vp9": 3}


def assert_reads_as_it_iterates(path: Path) -> VideoClip:
    clip = open_clip(path)
    frames = np.stack(list(clip))
    assert len(frames) == len(clip)
    for number in range(len(clip)):
        np.testing.assert_array_equal(clip.read([number])[0], frames[number], err_msg=f"frame {number}")
    some = np.random.default_rng(0).integers(0, len(clip), 9)
    np.testing.assert_array_equal(clip.read(some), frames[some])
    return clip


@pytest.mark.parametrize("name", ENCODINGS)
def test_chosen_frames_equal_iteration(name: str, tmp_path: Path):
    file_name, codec, pix_fmt, options = ENCODINGS[name]
    path = encode(tmp_path / file_name, moving(), codec, pix_fmt, options=options)
    clip = assert_reads_as_it_iterates(path)
    assert len(clip) == 60
    if name in SEEKABLE:
        assert len(clip._index.keyframes) == SEEKABLE[name]


@pytest.mark.parametrize(
    ("shift", "first_packet", "count"),
    [(-17, 0, 43), (17, 0, 60), (0, 5, None)],
    ids=["edit list hides the start", "starts late", "starts without a keyframe"],
)
def test_chosen_frames_equal_iteration_after_cutting(shift, first_packet, count, tmp_path):
    source = encode(tmp_path / "source.mp4", moving(), options={"g": "12", "bf": "3"})
    clip = assert_reads_as_it_iterates(remux(source, tmp_path / "cut.mp4", shift, first_packet))
    assert count is None or len(clip) == count


def test_open_gop_cut_at_its_keyframe(tmp_path):
    options = {"x264-params": "keyint=15:min-keyint=15:open-gop=1:bframes=3:scenecut=0"}
    source = encode(tmp_path / "source.mp4", moving(), options=options)
    with av.open(str(source)) as container:
        keyframes = [
            n for n, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe
        ]
    assert_reads_as_it_iterates(remux(source, tmp_path / "cut.mp4", first_packet=keyframes[1]))


def test_variable_frame_rate_reads_every_frame_and_tells_the_mean(tmp_path):
    times = [0, 1, 2, 10, 11, 30, 31, 33, 60, 75]
    clip = assert_reads_as_it_iterates(encode(tmp_path / "a.mp4", moving(10), pts=times))
    assert len(clip) == 10
    assert clip.fps == pytest.approx(9 / (75 / 25))


def test_seeking_decodes_only_from_the_keyframe_before(tmp_path, monkeypatch):
    clip = open_clip(encode(tmp_path / "a.mp4", moving(), options={"g": "12", "bf": "0"}))
    decoded, intact = [], decoding._intact

    def counted(frames, targets):
        decoded.extend(frames)
        return intact(frames, targets)

    monkeypatch.setattr(decoding, "_intact", counted)
    assert clip.read([14, 50]).shape == (2, 48, 64, 3)
    assert len(decoded) == 3 + 3  # 12, 13, 14 and 48, 49, 50


def test_read_takes_no_index_outside_the_clip(tmp_path):
    clip = open_clip(still_video(tmp_path))
    assert clip.read([]).shape == (0, HEIGHT, WIDTH, 3)
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="has 5 frames"):
            clip.read([outside])


def test_a_changed_file_is_read_anew(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(10))
    assert len(open_clip(path)) == 10
    encode(path, moving(20))
    assert len(open_clip(path)) == 20


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


def test_fps_and_audio_are_reported(tmp_path):
    clip = open_clip(with_sound(tmp_path / "a.mp4", "aac", 1.0))
    assert (clip.fps, clip.has_audio, len(clip)) == (25.0, True, 25)
    silent = open_clip(still_video(tmp_path, "b.mkv"))
    assert (silent.fps, silent.has_audio) == (25.0, False)
    assert open_clip(folder_of_frames(tmp_path, ("1.png",))).fps == 25.0


def test_no_file_stays_open(tmp_path):
    clip = open_clip(still_video(tmp_path))
    before = open_files()
    for frame in clip:
        assert frame.shape == (HEIGHT, WIDTH, 3)
        break
    clip.read([3, 1])
    with pytest.raises(MediaError):
        open_clip(cut(still_video(tmp_path, "b.mp4"), 0.5))
    assert open_files() == before


def open_files() -> int:
    """How many of the first 256 file descriptors are in use."""

    def is_open(descriptor: int) -> bool:
        try:
            os.fstat(descriptor)
        except OSError as error:
            assert error.errno == errno.EBADF
            return False
        return True

    return sum(map(is_open, range(256)))


def test_natural_key_orders_by_number():
    names = ["f10.png", "f2.png", "10", "9", "f2b.png", "f02.png"]
    assert sorted(names, key=natural_key) == ["9", "10", "f02.png", "f2.png", "f2b.png", "f10.png"]


def test_a_frame_added_to_a_folder_is_seen(tmp_path):
    clip = folder_of_frames(tmp_path, ("1.png", "3.png"))
    assert len(open_clip(clip)) == 2
    Image.new("RGB", (8, 8), (9, 9, 9)).save(clip / "2.png")
    os.utime(clip, ns=(0, clip.stat().st_mtime_ns + 1))  # where the clock of the file system has not ticked
    assert [int(frame[0, 0, 0]) for frame in open_clip(clip)] == [0, 9, 1]
