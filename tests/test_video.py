"""Odd files a user may have, seeking against iteration on many encodings, and everything `VideoWriter` promises."""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import video
from modules.errors import MediaError

LEFT, RIGHT = (200, 40, 40), (40, 40, 200)  # the two halves of the picture most tests look for
HEIGHT, WIDTH = 32, 48


def halves(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture that is LEFT on its left half and RIGHT on the other."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = LEFT, RIGHT
    return frame


def moving(count: int = 60, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of some grain behind a bar that grows, so that every frame differs from every other."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    frames = scene + rng.integers(0, 12, (count, height, width, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : 1 + number % width] = 255 - number
    return list(frames)


def encode(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write `frames` at 25 frames per second, or at the times `pts` (in 1/25 s)."""
    height, width = frames[0].shape[:2] if frames else (48, 64)
    with av.open(str(path), "w", options=container_options or {}) as container:
        steady = {"sc_threshold": "0"} if codec == "libx264" else {}  # no keyframes but those asked for
        stream = container.add_stream(codec, rate=25, options=steady | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = pts[number] if pts else number
            container.mux(stream.encode(picture))
        if frames:
            container.mux(stream.encode(None))
        else:
            container.start_encoding()
    return path


def remux(source: Path, target: Path, shift: int = 0, first_packet: int = 0) -> Path:
    """Copy the packets from number `first_packet` on, shown `shift` frames later."""
    with av.open(str(source)) as inputs, av.open(str(target), "w") as output:
        stream = inputs.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(inputs.demux(stream)):
            if packet.size and number >= first_packet:
                ticks = round(shift / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
                output.mux(packet)
    return target


def rotate(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write the display matrix (a, b, c, d), as a phone does, into the header of an .mp4."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def picture(mode: str, name: str, **options) -> Callable[[Path], Path]:
    """A builder of the two halves as a picture of `mode`."""

    def build(folder: Path) -> Path:
        Image.fromarray(halves()).convert(mode).save(folder / name, **options)
        return folder / name

    return build


def grey_halves() -> np.ndarray:
    return np.asarray(Image.fromarray(halves()).convert("L"))


# ---- odd pictures and clips: builder, then the expected frames (with a tolerance) or the expected error --------------------


def exif_rotated(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show the picture rotated clockwise
    Image.fromarray(np.rot90(halves())).save(folder / "turned.jpg", exif=exif, quality=95, subsampling=0)
    return folder / "turned.jpg"


def turned_png(folder: Path, **options) -> Path:
    Image.fromarray(np.rot90(halves())).save(folder / "turned.png", **options)
    return folder / "turned.png"


def exif_rotated_png(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return turned_png(folder, exif=exif)


def xmp_rotated_png(folder: Path) -> Path:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    return turned_png(folder, pnginfo=text)


def grey_16_bit(folder: Path) -> Path:
    Image.fromarray(grey_halves().astype(np.uint16) * 257).save(folder / "deep.png")
    return folder / "deep.png"


def rgba(folder: Path) -> Path:
    pixels = np.dstack([halves(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[:, WIDTH // 2 :, 3] = 0
    Image.fromarray(pixels).save(folder / "cut.png")
    return folder / "cut.png"


def grey_alpha(folder: Path) -> Path:
    pixels = np.dstack([grey_halves(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[:, WIDTH // 2 :, 1] = 128
    Image.fromarray(pixels).save(folder / "veil.png")
    return folder / "veil.png"


def palette_with_transparency(folder: Path) -> Path:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([*LEFT, 0, 0, 0])
    image.paste(1, (WIDTH // 2, 0, WIDTH, HEIGHT))
    image.save(folder / "hole.png", transparency=1)
    return folder / "hole.png"


def white_right() -> np.ndarray:
    frame = halves()
    frame[:, WIDTH // 2 :] = 255
    return frame


def veiled() -> np.ndarray:
    grey = grey_halves().astype(np.float64)
    grey[:, WIDTH // 2 :] = (grey[:, WIDTH // 2 :] * 128 + 255 * 127) / 255
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def folder_of_frames(folder: Path, names: tuple[str, ...], sizes: tuple[int, ...] = ()) -> Path:
    """A folder whose frame number n is all grey of level n; `names` in the order in which they must be read."""
    clip = folder / "frames"
    clip.mkdir()
    for number, name in enumerate(names):
        size = sizes[number] if sizes else 8
        Image.new("RGB", (size, size), (number,) * 3).save(clip / name)
    return clip


def levels(count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))


def folder_with_noise(folder: Path) -> Path:
    clip = folder_of_frames(folder, ("a1.png", "a2.PNG", "a10.bmp"))
    (clip / ".hidden.png").write_bytes(b"not a picture")
    (clip / "notes.txt").write_text("not a frame")
    (clip / "sub").mkdir()
    return clip


def read_only_folder(folder: Path) -> Path:
    clip = folder_of_frames(folder, ("1.png", "2.png"))
    clip.chmod(0o555)
    return clip


def folder_with_broken_frame(folder: Path) -> Path:
    clip = folder_of_frames(folder, ("1.png", "2.png"))
    cut(clip / "2.png", 0.5)
    return clip


def folder_of_turned_frames(folder: Path) -> Path:
    (folder / "frames").mkdir()
    for build, name in ((exif_rotated, "1.jpg"), (exif_rotated_png, "2.png"), (rgba, "3.png")):
        build(folder).rename(folder / "frames" / name)
    return folder / "frames"


def symlink(folder: Path) -> Path:
    link = folder / "link.png"
    link.symlink_to(picture("RGB", "real.png")(folder))
    return link


def broken_symlink(folder: Path) -> Path:
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    return folder / "dangling.mp4"


def still_video(
    folder: Path, name: str = "clip.mp4", size: tuple[int, int] = (HEIGHT, WIDTH), **options
) -> Path:
    return encode(folder / name, [halves(*size)] * 5, **options)


def grey_video(folder: Path) -> Path:
    """One frame of level 128, which is a luma of 126 in the range of video."""
    with av.open(str(folder / "grey.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray"
        luma = np.full((HEIGHT, WIDTH), 126, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(luma, format="gray")))
        container.mux(stream.encode(None))
    return folder / "grey.mp4"


def text_as_video(folder: Path) -> Path:
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    return folder / "text.mp4"


def empty(folder: Path, name: str) -> Path:
    (folder / name).touch()
    return folder / name


def gif_with_disposal(folder: Path) -> Path:
    """Frame 0 is LEFT with a transparent right half; frame 1 adds RIGHT there; frame 2 is frame 0 again."""
    full, hole = (
        Image.new("RGBA", (WIDTH, HEIGHT), (*LEFT, 255)),
        Image.new("RGBA", (WIDTH // 2, HEIGHT), (0, 0, 0, 0)),
    )
    full.paste(hole, (WIDTH // 2, 0))
    whole = Image.fromarray(halves()).convert("RGBA")
    full.save(
        folder / "hole.gif",
        save_all=True,
        append_images=[whole, full],
        duration=100,
        disposal=2,
        optimize=False,
    )
    return folder / "hole.gif"


def header_first_and_cut(folder: Path) -> Path:
    return cut(encode(folder / "a.mp4", moving(), container_options={"movflags": "+faststart"}), 0.7)


def header_first_and_cut_between_packets(folder: Path) -> Path:
    path = encode(folder / "a.mp4", moving(), container_options={"movflags": "+faststart"})
    with av.open(str(path)) as container:
        start = next(packet.pos for number, packet in enumerate(container.demux(video=0)) if number == 40)
    path.write_bytes(path.read_bytes()[:start])
    return path


def sound_only(folder: Path) -> Path:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        write_sound(container, container.add_stream("aac", rate=48000, layout="mono"), 0.5)
    return folder / "sound.mp4"


def write_sound(container, stream, length: float) -> None:
    """Encode `length` seconds of a 440 Hz tone and finish `stream`."""
    samples = (np.sin(2 * np.pi * 440 / 48000 * np.arange(int(length * 48000))) * 10000).astype(np.int16)
    tone = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    tone.sample_rate, tone.pts = 48000, 0
    resampler = av.AudioResampler(
        format=stream.codec_context.format.name, layout="mono", rate=48000, frame_size=1024
    )
    for frame in [*resampler.resample(tone), *resampler.resample(None), None]:
        container.mux(stream.encode(frame))


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
            list(video.open_clip(path, frame_shape))
        assert str(tmp_path) in str(caught.value) and expected in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    frames, tolerance = expected
    clip = video.open_clip(path, frame_shape)
    found = np.stack(list(clip))
    assert found.dtype == np.uint8 and found.shape == frames.shape == (len(clip), *clip.size, 3)
    # Chroma bleeds over the border of the halves, so lossy pictures are compared away from it.
    difference = np.abs(found.astype(int) - frames)
    assert np.quantile(difference, 0.8) <= tolerance if tolerance else not difference.any()
    np.testing.assert_array_equal(clip.read([len(clip) - 1, 0, 0]), found[[-1, 0, 0]])


def test_a_strip_is_read_where_a_picture_of_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    frames = moving(12)
    video.write_image(tmp_path / "long.png", np.concatenate(frames, axis=1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4 * frames[0][..., 0].size)  # Pillow refuses twice as many
    assert np.array_equal(video.open_clip(tmp_path / "long.png", frames[0].shape).read(range(12)), frames)
    with pytest.raises(MediaError, match="decompression bomb"):
        video.read_image(tmp_path / "long.png")


def png_bytes(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **options)
    return file.getvalue()


def plain_pictures() -> list[np.ndarray]:
    """Flat, smooth and random pictures, each beside others of its size, so that pngs of every row filter are among them."""
    rng, pictures = np.random.default_rng(0), []
    for height, width in ((1, 1), (7, 3), (8, 8), (33, 130)):
        slopes = rng.integers(0, 9, (4, 2, 3))
        pictures += [
            np.uint8(np.arange(height)[:, None, None] * a + np.arange(width)[:, None] * b) for a, b in slopes
        ]
        pictures += [np.full((height, width, 3), level, np.uint8) for level in (1, 2, 255)]
        pictures.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return pictures


def test_plain_pngs_come_out_exactly_one_after_the_other_and_in_threads(tmp_path):
    pictures = plain_pictures()
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        path.write_bytes(png_bytes(pixels))
        assert video._decode_plain_png(video._read_plain_png(path)) is not None  # none is left to Pillow
        np.testing.assert_array_equal(video.read_image(path), pixels)
        assert video.read_image_size(path) == pixels.shape[:2]
    with ThreadPoolExecutor(4) as pool:
        for pixels, found in zip(pictures * 5, pool.map(video.read_image, paths * 5), strict=True):
            np.testing.assert_array_equal(found, pixels)


def test_a_damaged_png_is_an_error_or_has_all_its_pixels(tmp_path):
    pixels = moving(1)[0]
    whole, path, refused = png_bytes(pixels, compress_level=1), tmp_path / "a.png", 0
    places = [*range(64), *range(64, len(whole), 97)]  # all of the header, some of the pixels
    flipped = [whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :] for n in places]
    for data in [whole[:n] for n in places] + flipped:
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(video.read_image(path), pixels)
        except MediaError:
            refused += 1
    assert refused > len(places)


def test_a_frame_added_to_a_folder_is_seen(tmp_path):
    clip = folder_of_frames(tmp_path, ("1.png", "3.png"))
    assert len(video.open_clip(clip)) == 2
    Image.new("RGB", (8, 8), (9, 9, 9)).save(clip / "2.png")
    os.utime(clip, ns=(0, clip.stat().st_mtime_ns + 1))  # where the clock of the file system has not ticked
    assert [int(frame[0, 0, 0]) for frame in video.open_clip(clip)] == [0, 9, 1]


# ---- reading -----------------------------------------------------------------------------------------------------------


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


def assert_reads_as_it_iterates(path: Path) -> video.VideoClip:
    clip = video.open_clip(path)
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
    clip = video.open_clip(encode(tmp_path / "a.mp4", moving(), options={"g": "12", "bf": "0"}))
    decoded, intact = [], video._intact

    def counted(frames, targets):
        decoded.extend(frames)
        return intact(frames, targets)

    monkeypatch.setattr(video, "_intact", counted)
    assert clip.read([14, 50]).shape == (2, 48, 64, 3)
    assert len(decoded) == 3 + 3  # 12, 13, 14 and 48, 49, 50


def test_read_takes_no_index_outside_the_clip(tmp_path):
    clip = video.open_clip(still_video(tmp_path))
    assert clip.read([]).shape == (0, HEIGHT, WIDTH, 3)
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="has 5 frames"):
            clip.read([outside])


def test_a_changed_file_is_read_anew(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(10))
    assert len(video.open_clip(path)) == 10
    encode(path, moving(20))
    assert len(video.open_clip(path)) == 20


def test_damage_in_the_middle_is_an_error_and_no_short_clip(tmp_path):
    path = encode(tmp_path / "a.mp4", moving(), options={"g": "12"})
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 3
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.mp4"):
        list(video.open_clip(path))


def test_a_packet_without_its_frame_is_an_error_and_shifts_no_other(tmp_path):
    frames = moving(24)
    options = {"x265-params": "keyint=12:min-keyint=12:bframes=0:log-level=none"}
    path = encode(tmp_path / "a.mp4", frames, "libx265", options=options)
    good = np.stack(list(video.open_clip(path)))
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][11]
    data = bytearray(path.read_bytes())
    data[place : place + size] = (
        (size - 4).to_bytes(4, "big") + b"\x4c\x01" + b"\xff" * (size - 7) + b"\x80"
    )  # filler data
    path.write_bytes(data)
    clip = video.open_clip(path)
    with pytest.raises(MediaError, match="only 23 of its 24 frames"):
        list(clip)
    with pytest.raises(MediaError, match="frame 11"):
        clip.read([11])
    np.testing.assert_array_equal(clip.read([10, 20]), good[[10, 20]])


def test_fps_and_audio_are_reported(tmp_path):
    clip = video.open_clip(with_sound(tmp_path / "a.mp4", "aac", 1.0))
    assert (clip.fps, clip.has_audio, len(clip)) == (25.0, True, 25)
    silent = video.open_clip(still_video(tmp_path, "b.mkv"))
    assert (silent.fps, silent.has_audio) == (25.0, False)
    assert video.open_clip(folder_of_frames(tmp_path, ("1.png",))).fps == 25.0


def test_no_file_stays_open(tmp_path):
    clip = video.open_clip(still_video(tmp_path))
    before = open_files()
    for frame in clip:
        assert frame.shape == (HEIGHT, WIDTH, 3)
        break
    clip.read([3, 1])
    with pytest.raises(MediaError):
        video.open_clip(cut(still_video(tmp_path, "b.mp4"), 0.5))
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
    assert sorted(names, key=video.natural_key) == ["9", "10", "f02.png", "f2.png", "f2b.png", "f10.png"]


# ---- writing -----------------------------------------------------------------------------------------------------------


def with_sound(path: Path, codec: str, length: float) -> Path:
    """A video of `length` seconds with a tone as long."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=48000, layout="mono")
        for frame in moving(int(length * 25)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        write_sound(container, sound, length)
    return path


def write(path: Path, frames: list[np.ndarray], fps: float = 25, **options) -> video.VideoWriter:
    with video.VideoWriter(path, fps, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return writer


def smooth(count: int, height: int, width: int) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([x * 200 // width, y * 200 // height, (x + y) // 2 + number], -1).astype(np.uint8)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "lossless", "tolerance"),
    [("a.mp4", False, 4), ("a.mp4", True, 0), ("a.gif", False, 8), ("frames", False, 0), ("frames", True, 0)],
)
def test_what_is_written_is_read_back(name, lossless, tolerance, tmp_path):
    frames = smooth(12, 48, 64)
    write(tmp_path / name, frames, fps=12.5, lossless=lossless)
    clip = video.open_clip(tmp_path / name)
    assert clip.fps == (25.0 if name == "frames" else 12.5)
    assert np.abs(np.stack(list(clip)).astype(int) - np.stack(frames)).mean() <= tolerance
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_mp4_is_what_browsers_play(tmp_path):
    write(tmp_path / "a.mp4", smooth(3, 48, 64), fps=30000 / 1001)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert container.streams.video[0].average_rate.limit_denominator(1001).numerator == 30000
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (2, 2), (48, 47)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(size, tmp_path):
    height, width = size
    frames = [np.full((height, width, 3), 90, np.uint8)] * 3
    write(tmp_path / "a.mp4", frames)
    clip = video.open_clip(tmp_path / "a.mp4")
    assert clip.size == (height + height % 2, width + width % 2)
    assert np.abs(clip.read([2]).astype(int) - 90).max() <= 3
    write(tmp_path / "b.mp4", frames, lossless=True)
    write(tmp_path / "c.gif", frames)
    assert video.open_clip(tmp_path / "b.mp4").size == video.open_clip(tmp_path / "c.gif").size == size


def test_colours_survive_the_mp4(tmp_path):
    write(tmp_path / "a.mp4", [halves()] * 5)
    found = video.open_clip(tmp_path / "a.mp4").read([4])[0]
    assert np.abs(found[4, 4].astype(int) - LEFT).max() <= 4
    assert np.abs(found[4, -4].astype(int) - RIGHT).max() <= 4


def test_an_exception_discards_what_was_written(tmp_path):
    for name in ("a.mp4", "b.gif", "c"):
        with pytest.raises(KeyboardInterrupt), video.VideoWriter(tmp_path / name, 25) as writer:
            writer.write(halves())
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_finish_keeps_what_was_written_before_the_exception(tmp_path):
    for name in ("a.mp4", "b.gif", "c"):
        with pytest.raises(KeyboardInterrupt), video.VideoWriter(tmp_path / name, 25) as writer:
            writer.write(halves())
            writer.write(halves())
            writer.finish()
            raise KeyboardInterrupt
        assert len(video.open_clip(tmp_path / name)) == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_the_earlier_file_stays_until_the_new_one_is_whole(tmp_path):
    for name in ("a.mp4", "c"):
        write(tmp_path / name, [halves()] * 4)
        with pytest.raises(RuntimeError), video.VideoWriter(tmp_path / name, 25) as writer:
            writer.write(halves())
            raise RuntimeError
        assert len(video.open_clip(tmp_path / name)) == 4
        write(tmp_path / name, [halves()] * 2)
        assert len(video.open_clip(tmp_path / name)) == 2


@pytest.mark.parametrize(
    ("name", "fps", "lossless", "words"),
    [
        ("none/a.mp4", 25, False, "folder exists"),
        ("file/a.mp4", 25, False, "folder exists"),
        ("a.avi", 25, False, "use .mp4"),
        ("a.png", 25, False, "use .mp4"),
        ("a.gif", 25, True, "lossless"),
        ("a.mp4", 0, False, "frames per second"),
        ("a.mp4", float("nan"), False, "frames per second"),
        ("full", 25, False, "another name"),
        ("file", 25, False, "another name"),
        ("dir.mp4", 25, False, "is a folder"),
    ],
)
def test_a_name_that_can_not_be_written_is_refused_at_once(name, fps, lossless, words, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(MediaError, match=words) as caught:
        video.VideoWriter(tmp_path / name, fps, lossless=lossless)
    assert str(tmp_path / name) in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dir.mp4", "file", "full"]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="no frame"), video.VideoWriter(tmp_path / "a.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())


def test_frames_of_another_kind_or_size_are_refused(tmp_path):
    for wrong in (halves().astype(np.float32), halves()[..., 0], halves(16, 16)):
        with pytest.raises(ValueError, match="frame"), video.VideoWriter(tmp_path / "a.mp4", 25) as writer:
            writer.write(halves())
            writer.write(wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "codec", "carried"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.mkv", "libmp3lame", "mp3"),
        ("a.webm", "libopus", "opus"),
        ("a.mkv", "flac", "flac"),
        ("a.mov", "pcm_s16le", "aac"),
        ("a.avi", "pcm_s16le", "aac"),
        ("a.avi", "libmp3lame", "mp3"),
        ("a.mkv", "ac3", "aac"),
    ],
)
def test_sound_is_carried_over_and_cut_to_the_picture(name, codec, carried, tmp_path):
    source = with_sound(tmp_path / name, codec, 2.0)
    target = tmp_path / "out.mp4"
    assert write(target, smooth(25, 48, 64), audio_from=source).audio_note is None
    assert len(video.open_clip(target)) == 25
    with av.open(str(target)) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.codec.canonical_name == carried
        assert 0.88 < float(sound.duration * sound.time_base) <= 1.0
        loudness = [np.abs(frame.to_ndarray().astype(np.float64)).max() for frame in container.decode(sound)]
        assert np.median(loudness) > 0.2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, "out.mp4"])


def damaged_sound(folder: Path) -> Path:
    """A video whose sound is of a codec that no one knows."""
    source = with_sound(folder / "source.mp4", "aac", 2.0)
    source.write_bytes(source.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    return source


@pytest.mark.parametrize(
    "source",
    [
        still_video,
        damaged_sound,
        lambda d: d / "none.mp4",
        text_as_video,
        lambda d: folder_of_frames(d, ("1.png",)),
    ],
    ids=["silent", "unknown codec", "missing", "text", "folder"],
)
def test_the_picture_is_kept_where_there_is_no_sound_to_carry(source, tmp_path):
    writer = write(tmp_path / "out.mp4", smooth(5, 48, 64), audio_from=source(tmp_path))
    assert "has no sound" in writer.audio_note
    clip = video.open_clip(tmp_path / "out.mp4")
    assert (len(clip), clip.has_audio) == (5, False)


def test_a_gif_says_that_it_holds_no_sound(tmp_path):
    source = with_sound(tmp_path / "a.mp4", "aac", 1.0)
    assert "only .mp4" in write(tmp_path / "a.gif", smooth(5, 48, 64), audio_from=source).audio_note


def test_write_image_is_whole_or_absent(tmp_path):
    video.write_image(tmp_path / "a.png", halves())
    np.testing.assert_array_equal(video.read_image(tmp_path / "a.png"), halves())
    with pytest.raises(MediaError, match=r"\.png"):
        video.write_image(tmp_path / "b.jpg", halves())
    with pytest.raises(MediaError, match="folder exists"):
        video.write_image(tmp_path / "none" / "b.png", halves())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
