"""Clips: the right pixels of odd ones, and seeking against iteration."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from media import decoding
from media.clips import VideoClip, natural_key, open_clip
from media.pictures import read_image
from media.rates import steady
from tests.demo_files import write_sound
from tests.media_files import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    broken_symlink,
    cut,
    empty,
    encode,
    folder_of_frames,
    folder_of_turned_frames,
    folder_with_broken_frame,
    folder_with_noise,
    gif_with_disposal,
    grey_video,
    halves,
    header_first_and_cut_between_packets,
    levels,
    moving,
    picture,
    read_only_folder,
    remux,
    rotate,
    sound_only,
    still_video,
    text_as_video,
    white_right,
    with_sound,
)
from utils.errors import MediaError

# ---- Odd clips -------------------------------------------------------------------


ALL_FIVE = np.repeat(halves()[None], 5, axis=0)
ODD_SIZE = np.repeat(halves(33, 46)[None], 5, axis=0)
STRIP_SHAPE = (HEIGHT, WIDTH // 2, 3)
SOLID = np.stack([np.full(STRIP_SHAPE, colour, np.uint8) for colour in (LEFT, RIGHT)])
TURNED = np.stack([halves(), halves(), white_right()])
HOLED = np.stack([white_right(), halves(), white_right()])
GREY = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)


def frames_named(*names: str, sizes: tuple[int, ...] = ()) -> Callable[[Path], Path]:
    return lambda folder: folder_of_frames(folder, names, sizes)


def video(name: str = "clip.mp4", **options: Any) -> Callable[[Path], Path]:
    return lambda folder: still_video(folder, name, **options)


def phone(*matrix: int) -> Callable[[Path], Path]:
    return lambda folder: rotate(still_video(folder), matrix)


# name: builder, what comes out, by how much it may differ
ODD_CLIPS = {
    "folder in natural order": (frames_named("1.png", "2.png", "10.png"), levels(3), 0),
    "folder with other files": (folder_with_noise, levels(3), 0),
    "read-only folder": (read_only_folder, levels(2), 0),
    "folder of turned frames": (folder_of_turned_frames, TURNED, 8),
    "mp4 in 4:4:4 of odd size": (video(size=(33, 46), pix_fmt="yuv444p"), ODD_SIZE, 8),
    "mp4 in 10 bits": (video(pix_fmt="yuv420p10le"), ALL_FIVE, 12),
    "mp4 in grey": (grey_video, GREY, 2),
    "mov": (video("a.mov"), ALL_FIVE, 12),
    "avi": (video("a.avi", codec="mpeg4", options={"qscale": "1"}), ALL_FIVE, 20),
    "webm": (video("a.webm", codec="libvpx-vp9"), ALL_FIVE, 20),
    "ffv1 with alpha": (video("a.mkv", codec="ffv1", pix_fmt="bgra"), ALL_FIVE, 0),
    "video named like a protocol": (video("id1:二 %d.mp4"), ALL_FIVE, 12),
    "gif with transparency": (gif_with_disposal, HOLED, 8),
    "phone turned 90": (phone(0, 1, -1, 0), np.rot90(ALL_FIVE, -1, (1, 2)), 12),
    "phone turned 180": (phone(-1, 0, 0, -1), np.rot90(ALL_FIVE, 2, (1, 2)), 12),
    "phone turned 270": (phone(0, -1, 1, 0), np.rot90(ALL_FIVE, 1, (1, 2)), 12),
    "mirrored selfie": (phone(-1, 0, 0, 1), ALL_FIVE[:, :, ::-1], 12),
    "variable frame rate": (video(pts=[0, 1, 5, 6, 30]), ALL_FIVE, 12),
}


@pytest.mark.parametrize("name", ODD_CLIPS)
def test_odd_clips_have_the_right_pixels(name: str, tmp_path: Path) -> None:
    build, expected, tolerance = ODD_CLIPS[name]
    clip = open_clip(build(tmp_path))
    found = np.stack(list(clip))
    assert found.dtype == np.uint8 and found.shape == expected.shape == (len(clip), *clip.size, 3)
    difference = np.abs(found.astype(int) - expected)
    assert np.quantile(difference, 0.8) <= tolerance if tolerance else not difference.any()
    np.testing.assert_array_equal(clip.read([len(clip) - 1, 0, 0]), found[[-1, 0, 0]])


def test_a_picture_is_a_strip_of_frames(tmp_path: Path) -> None:
    path = picture("RGB", "a.png")(tmp_path)
    assert (np.stack(list(open_clip(path, STRIP_SHAPE))) == SOLID).all()
    assert (np.stack(list(open_clip(path))) == halves()).all()
    for shape, words in (
        ((HEIGHT, 17, 3), "is 48x32, which is not a row of 17x32"),
        ((16, 16, 3), "frame_shape"),
    ):
        with pytest.raises(MediaError, match=words):
            open_clip(path, shape)


WRONG_CLIPS = {
    "broken symlink": (broken_symlink, "dangling.mp4: does not exist"),
    "missing": (lambda d: d / "none.mp4", "none.mp4: does not exist"),
    "unknown suffix": (lambda d: empty(d, "a.xyz"), "a.xyz: Invalid data found"),
    "folder of nothing": (frames_named(), "frames: holds no frames"),
    "folder of two sizes": (frames_named("1.png", "2.png", sizes=(8, 9)), "2.png: is 9x9"),
    "folder with a broken frame": (folder_with_broken_frame, "2.png: can't be read as a picture"),
    "zero-byte video": (lambda d: empty(d, "a.mp4"), "a.mp4: "),
    "text named mp4": (text_as_video, "text.mp4: "),
    "video without frames": (lambda d: encode(d / "a.mp4", []), "a.mp4: holds no"),
    "sound without picture": (sound_only, "sound.mp4: holds no video"),
    "cut between packets": (header_first_and_cut_between_packets, "a.mp4: ends early"),
}


@pytest.mark.parametrize("name", WRONG_CLIPS)
def test_wrong_clips_are_one_line(name: str, tmp_path: Path) -> None:
    build, words = WRONG_CLIPS[name]
    with pytest.raises(MediaError, match=re.escape(words)) as told:
        list(open_clip(build(tmp_path)))
    assert str(tmp_path) in str(told.value) and "\n" not in str(told.value)


# ---- Seeking ---------------------------------------------------------------------


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


# ---- Clips and their files -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "coded", "aspect", "size"),
    [
        ("pal.mp4", {}, (576, 720), "64/45", (576, 1024)),
        ("pal.mkv", {}, (576, 720), "64/45", (576, 1024)),
        ("hdv.mp4", {}, (1080, 1440), "4/3", (1080, 1920)),
        ("pal.mpg", {"codec": "mpeg2video"}, (576, 720), "16/15", (576, 768)),
        ("phone.mp4", {}, (720, 404), "540/404", (720, 540)),
        ("ntsc.mp4", {}, (480, 720), "8/9", (480, 640)),
        ("damaged.mp4", {}, (48, 64), "1/199", (48, 64)),  # there are no such pixels
    ],
)
def test_the_size_is_that_of_the_display(
    name: str, options: dict, coded: tuple[int, int], aspect: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = encode(tmp_path / name, [halves(*coded)] * 3, aspect=aspect, **options)
    clip = open_clip(path)
    frame = clip.read([1])[0]
    assert clip.size == frame.shape[:2] == size
    # All of the picture is there: the edge is still in the middle.
    assert abs(int((frame[size[0] // 2, :, 0] > 120).sum()) - size[1] / 2) <= 2


def test_a_turned_video_of_wide_pixels_is_high(tmp_path: Path) -> None:
    path = rotate(encode(tmp_path / "a.mp4", [halves(48, 64)] * 3, aspect="4/3"), (0, 1, -1, 0))
    assert open_clip(path).size == (85, 48)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif", "a.jpg"])
def test_animated_pictures_have_all_frames_at_their_times(name: str, tmp_path: Path) -> None:
    kind = {"a.jpg": "WEBP"}.get(name)  # a wrong name
    frames = [Image.fromarray(frame) for frame in moving(6)]
    options = {"quality": 100, "subsampling": "4:4:4"} if name == "a.avif" else {"lossless": True}
    path = tmp_path / name
    frames[0].save(
        path, kind, save_all=True, append_images=frames[1:], duration=[40, 40, 400, 40, 40, 40], **options
    )
    clip = open_clip(path)
    assert len(clip) == 6 and clip.times == pytest.approx([0, 0.04, 0.08, 0.48, 0.52, 0.56])
    assert np.abs(clip.read([5, 0, 3]).astype(int) - np.stack(moving(6))[[5, 0, 3]]).mean() < 3
    shown = steady(clip)
    assert shown.fps == pytest.approx(25) and len(shown) == 15
    with Image.open(path) as image:
        assert (read_image(path) == np.asarray(image.convert("RGB"))).all()


def test_the_cover_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in moving(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True)
    assert (np.stack(list(open_clip(tmp_path / "a.png"))) == np.stack(moving(4)[1:])).all()


def test_fps_and_audio_are_reported(tmp_path):
    clip = open_clip(with_sound(tmp_path / "a.mp4", "aac", 1.0))
    assert (clip.fps, clip.has_audio, len(clip)) == (25.0, True, 25)
    silent = open_clip(still_video(tmp_path, "b.mkv"))
    assert (silent.fps, silent.has_audio) == (25.0, False)
    assert open_clip(folder_of_frames(tmp_path, ("1.png",))).fps == 25.0


def test_a_changed_file_is_read_anew(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(10))
    assert len(open_clip(path)) == 10
    encode(path, moving(20))
    assert len(open_clip(path)) == 20


def test_a_frame_added_to_a_folder_is_seen(tmp_path):
    clip = folder_of_frames(tmp_path, ("1.png", "3.png"))
    assert len(open_clip(clip)) == 2
    Image.new("RGB", (8, 8), (9, 9, 9)).save(clip / "2.png")
    os.utime(clip, ns=(0, clip.stat().st_mtime_ns + 1))  # where the clock of the file system has not ticked
    assert [int(frame[0, 0, 0]) for frame in open_clip(clip)] == [0, 9, 1]


def test_natural_key_orders_by_number():
    names = ["f10.png", "f2.png", "10", "9", "f2b.png", "f02.png"]
    assert sorted(names, key=natural_key) == ["9", "10", "f02.png", "f2.png", "f2b.png", "f10.png"]


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


def test_a_rate_that_no_result_can_have_is_told_of_the_input(tmp_path: Path) -> None:
    path = encode(tmp_path / "slow.mp4", moving(3), fps=1 / 200)
    with pytest.raises(MediaError, match=re.escape(f"{path}: its frames come at 0.005 a second")):
        open_clip(path)


def test_sound_with_a_cover_is_no_video(tmp_path: Path) -> None:
    cover = Image.fromarray(halves()), tmp_path / "cover.jpg"
    cover[0].save(cover[1])
    with av.open(str(tmp_path / "song.mp4"), "w") as container, av.open(str(cover[1])) as picture:
        sound = container.add_stream("aac", rate=48000, layout="mono")
        stream = container.add_stream_from_template(picture.streams.video[0])
        stream.disposition = av.stream.Disposition.attached_pic
        write_sound(container, sound, 0.5)
        packet = next(picture.demux(video=0))
        packet.stream = stream
        container.mux(packet)
    with pytest.raises(MediaError, match=r"song\.mp4: its frames come at .* sound with a cover picture\?"):
        open_clip(tmp_path / "song.mp4")
