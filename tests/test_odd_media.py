"""Odd files a user may have: each gives the right pixels or one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.clips import open_clip
from tests.media_files import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    broken_symlink,
    cut,
    empty,
    encode,
    exif_rotated,
    exif_rotated_png,
    folder_of_frames,
    folder_of_turned_frames,
    folder_with_broken_frame,
    folder_with_noise,
    gif_with_disposal,
    grey_16_bit,
    grey_alpha,
    grey_halves,
    grey_video,
    halves,
    header_first_and_cut,
    header_first_and_cut_between_packets,
    levels,
    palette_with_transparency,
    picture,
    read_only_folder,
    rgba,
    rotate,
    sound_only,
    still_video,
    symlink,
    text_as_video,
    veiled,
    white_right,
    xmp_rotated_png,
)
from utils.errors import MediaError

HALVES, GREY = halves()[None], np.repeat(grey_halves()[None, ..., None], 3, axis=3)
ALL_FIVE = np.repeat(HALVES, 5, axis=0)
STRIP_SHAPE = (HEIGHT, WIDTH // 2, 3)
SOLID = np.stack([np.full(STRIP_SHAPE, colour, np.uint8) for colour in (LEFT, RIGHT)])

# name: (builder, frame_shape, expected frames and the allowed difference, or the words expected in the error)
ODD_INPUTS = {
    "rgb png": (picture("RGB", "a.png"), None, (HALVES, 0)),
    "grey png": (picture("L", "a.png"), None, (GREY, 0)),
    "grey and alpha": (grey_alpha, None, (veiled()[None], 0)),
    "palette": (picture("P", "a.png"), None, (HALVES, 30)),
    "palette with transparency": (palette_with_transparency, None, (white_right()[None], 0)),
    "rgba": (rgba, None, (white_right()[None], 0)),
    "cmyk jpg": (picture("CMYK", "a.jpg", quality=95, subsampling=0), None, (HALVES, 8)),
    "16 bits": (grey_16_bit, None, (GREY, 0)),
    "one bit": (
        picture("1", "a.bmp"),
        None,
        (np.array(Image.fromarray(halves()).convert("1").convert("RGB"))[None], 0),
    ),
    "webp": (picture("RGB", "a.webp", lossless=True), None, (HALVES, 0)),
    "exif rotation": (exif_rotated, None, (HALVES, 8)),
    "exif rotation of a png": (exif_rotated_png, None, (HALVES, 0)),
    "xmp rotation of a png": (xmp_rotated_png, None, (HALVES, 0)),
    "png with one transparent colour": (
        picture("RGB", "a.png", transparency=RIGHT),
        None,
        (white_right()[None], 0),
    ),
    "upper case suffix": (picture("RGB", "A.PNG"), None, (HALVES, 0)),
    "png named jpg": (lambda d: picture("RGB", "a.png")(d).rename(d / "a.jpg"), None, (HALVES, 0)),
    "unicode and spaces": (picture("RGB", "mänty 木 1:2 %03d.png"), None, (HALVES, 0)),
    "symlink": (symlink, None, (HALVES, 0)),
    "broken symlink": (broken_symlink, None, "dangling.mp4: does not exist"),
    "missing": (lambda d: d / "none.mp4", None, "none.mp4: does not exist"),
    "unknown suffix": (lambda d: empty(d, "a.xyz"), None, "a.xyz: is not a known kind of clip"),
    "empty picture": (lambda d: empty(d, "a.png"), None, "a.png: can't be read as a picture"),
    "truncated picture": (
        lambda d: cut(picture("RGB", "a.jpg")(d), 0.6),
        None,
        "a.jpg: can't be read as a picture",
    ),
    "strip": (picture("RGB", "a.png"), STRIP_SHAPE, (SOLID, 0)),
    "strip of one": (picture("RGB", "a.png"), (HEIGHT, WIDTH, 3), (HALVES, 0)),
    "strip of another width": (
        picture("RGB", "a.png"),
        (HEIGHT, 17, 3),
        "is 48x32, which is not a row of 17x32 frames",
    ),
    "strip of another height": (picture("RGB", "a.png"), (16, 16, 3), "set frame_shape"),
    "folder in natural order": (
        lambda d: folder_of_frames(d, ("1.png", "2.png", "10.png")),
        None,
        (levels(3), 0),
    ),
    "folder of one": (lambda d: folder_of_frames(d, ("1.png",)), None, (levels(1), 0)),
    "folder with other files": (folder_with_noise, None, (levels(3), 0)),
    "read-only folder": (read_only_folder, None, (levels(2), 0)),
    "folder of turned frames": (
        folder_of_turned_frames,
        None,
        (np.stack([halves(), halves(), white_right()]), 8),
    ),
    "folder of nothing": (lambda d: folder_of_frames(d, ()), None, "frames: holds no frames"),
    "folder of two sizes": (lambda d: folder_of_frames(d, ("1.png", "2.png"), (8, 9)), None, "2.png: is 9x9"),
    "folder with a broken frame": (folder_with_broken_frame, None, "2.png: can't be read as a picture"),
    "mp4": (still_video, None, (ALL_FIVE, 12)),
    "mp4 in 4:4:4 of odd size": (
        lambda d: still_video(d, size=(33, 46), pix_fmt="yuv444p"),
        None,
        (np.repeat(halves(33, 46)[None], 5, axis=0), 8),
    ),
    "mp4 in 10 bits": (lambda d: still_video(d, pix_fmt="yuv420p10le"), None, (ALL_FIVE, 12)),
    "mp4 in grey": (grey_video, None, (np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8), 2)),
    "mov": (lambda d: still_video(d, "a.mov"), None, (ALL_FIVE, 12)),
    "mkv": (lambda d: still_video(d, "a.mkv"), None, (ALL_FIVE, 12)),
    "avi": (lambda d: still_video(d, "a.avi", codec="mpeg4", options={"qscale": "1"}), None, (ALL_FIVE, 20)),
    "webm": (lambda d: still_video(d, "a.webm", codec="libvpx-vp9"), None, (ALL_FIVE, 20)),
    "ffv1 with alpha": (lambda d: still_video(d, "a.mkv", codec="ffv1", pix_fmt="bgra"), None, (ALL_FIVE, 0)),
    "video named like a protocol": (
        lambda d: still_video(d).rename(d / "id1:二 %d.mp4"),
        None,
        (ALL_FIVE, 12),
    ),
    "gif with transparency": (
        gif_with_disposal,
        None,
        (np.stack([white_right(), halves(), white_right()]), 8),
    ),
    "phone turned 90": (
        lambda d: rotate(still_video(d), (0, 1, -1, 0)),
        None,
        (np.rot90(ALL_FIVE, -1, (1, 2)), 12),
    ),
    "phone turned 180": (
        lambda d: rotate(still_video(d), (-1, 0, 0, -1)),
        None,
        (np.rot90(ALL_FIVE, 2, (1, 2)), 12),
    ),
    "phone turned 270": (
        lambda d: rotate(still_video(d), (0, -1, 1, 0)),
        None,
        (np.rot90(ALL_FIVE, 1, (1, 2)), 12),
    ),
    "mirrored selfie": (lambda d: rotate(still_video(d), (-1, 0, 0, 1)), None, (ALL_FIVE[:, :, ::-1], 12)),
    "variable frame rate": (lambda d: still_video(d, pts=[0, 1, 5, 6, 30]), None, (ALL_FIVE, 12)),
    "zero-byte video": (lambda d: empty(d, "a.mp4"), None, "a.mp4: "),
    "text named mp4": (text_as_video, None, "text.mp4: "),
    "video without frames": (lambda d: encode(d / "a.mp4", []), None, "a.mp4: holds no"),
    "sound without picture": (sound_only, None, "sound.mp4: holds no video"),
    "truncated mp4": (lambda d: cut(still_video(d), 0.6), None, "clip.mp4: "),
    "truncated mp4, header first": (header_first_and_cut, None, "a.mp4: ends early"),
    "truncated mp4, between packets": (header_first_and_cut_between_packets, None, "a.mp4: ends early"),
}


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_odd_inputs_give_the_right_pixels_or_one_clear_error(name: str, tmp_path: Path):
    build, frame_shape, expected = ODD_INPUTS[name]
    path = build(tmp_path)
    if isinstance(expected, str):
        with pytest.raises(MediaError) as caught:
            list(open_clip(path, frame_shape))
        assert str(tmp_path) in str(caught.value) and expected in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    frames, tolerance = expected
    clip = open_clip(path, frame_shape)
    found = np.stack(list(clip))
    assert found.dtype == np.uint8 and found.shape == frames.shape == (len(clip), *clip.size, 3)
    # Chroma bleeds over the border of the halves, so lossy pictures are compared away from it.
    difference = np.abs(found.astype(int) - frames)
    assert np.quantile(difference, 0.8) <= tolerance if tolerance else not difference.any()
    np.testing.assert_array_equal(clip.read([len(clip) - 1, 0, 0]), found[[-1, 0, 0]])
