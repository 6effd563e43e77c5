"""Builders of pictures, folders and videos, odd ones among them, for the tests of `media/`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

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
    fps: float = 25,
    aspect: str = "1",
) -> Path:
    """Write `frames` at `fps` frames per second, or at the times `pts` (in 1/fps s).

    `aspect`: how wide a pixel is if its height is 1.
    """
    height, width = frames[0].shape[:2] if frames else (48, 64)
    with av.open(str(path), "w", options=container_options or {}) as container:
        steady = {"sc_threshold": "0"} if codec == "libx264" else {}  # no keyframes but those asked for
        stream = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=steady | (options or {})
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = pts[number] if pts else number
            container.mux(stream.encode(picture))
        if frames:
            container.mux(stream.encode(None))
        else:
            container.start_encoding()
    return path


def encode_lossless(path: Path, frames: Iterable[np.ndarray], fps: float = 25) -> Path:
    """Write a video that holds exactly the pixels of `frames`."""
    return encode(path, list(frames), "libx264rgb", "rgb24", options={"qp": "0"}, fps=fps)


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


# ---- Odd pictures and clips -------------------------------------------------


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
    """A folder whose frame number n is all grey of level n; `names` in the order of reading."""
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


def write_sound(container, stream, length: float, silence: float = 0) -> None:
    """Encode `length` seconds of a 440 Hz tone, silent at first, and finish `stream`."""
    samples = (np.sin(2 * np.pi * 440 / 48000 * np.arange(int(length * 48000))) * 10000).astype(np.int16)
    samples[: int(silence * 48000)] = 0
    tone = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    tone.sample_rate, tone.pts = 48000, 0
    resampler = av.AudioResampler(
        format=stream.codec_context.format.name, layout="mono", rate=48000, frame_size=1024
    )
    for frame in [*resampler.resample(tone), *resampler.resample(None), None]:
        container.mux(stream.encode(frame))


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
