"""Clips and pictures on disk: the only file of the project that opens, seeks, decodes and encodes media.

Read with `open_clip` (a folder of frames, a strip image or a video) and `read_image`, write with `VideoWriter` and
`write_image`. Every frame, read or written, is RGB uint8 of shape (H, W, 3), upright; transparent pixels are laid on white.
Whatever the file or the user got wrong is a `MediaError` that names the file.

Shapes: `N` frames, `H, W` height and width after rotation.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import operator
import os
import re
import shutil
import struct
import uuid
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

# PyAV, because it seeks inside one process: two frames of a clip cost a fraction of decoding it, where imageio-ffmpeg
# pays for a new process at each seek (benchmarks/video.py).
import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from modules.errors import MediaError

Size = tuple[int, int]  # (height, width)
Box = tuple[float, float, float, float]  # (left, top, right, bottom)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
STRIP_SUFFIXES = frozenset({".png", ".jpg"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".gif"})
CLIP_SUFFIXES = STRIP_SUFFIXES | VIDEO_SUFFIXES

STILL_FPS = 25.0  # frames per second of folders and strips, which do not store it
MAX_GIF_FPS = 50  # browsers slow a gif with shorter delays down to 10 frames per second

# Codecs whose every packet is one shown frame, so that counting packets counts frames.
_FRAME_PER_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg"})
# FFmpeg's names of the containers that store when a frame is shown; in others (.avi) that time is a guess.
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_TIMED_CONTAINERS = frozenset({_MP4, "matroska,webm"})
# Sound that browsers play inside an .mp4 and that is therefore copied as it is; any other is turned into AAC.
_COPIED_SOUND = frozenset({"aac", "mp3", "opus", "flac"})
_AAC_RATE, _AAC_FRAME = 48000, 1024  # samples per second, samples per packet
_FASTSTART = {
    "movflags": "+faststart"
}  # the table of contents first, so that playing starts before all is downloaded
_SMPTE170M = 6  # FFmpeg's number for the BT.601 colour matrix
_DIGITS = re.compile(r"(\d+)")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_RGB = bytes([8, 2, 0, 0, 0])  # bits, colour type, compression, filters, interlacing
# Transparency, an animation, and where a rotation may be written.
_PNG_ODDITIES = frozenset({b"tRNS", b"acTL", b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which frame 2 comes before frame 10."""
    parts = _DIGITS.split(name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite (H, W, 4) uint8 with straight alpha over white; returns (H, W, 3) uint8."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)  # (H, W, 3)


@contextlib.contextmanager
def _media_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn the exceptions of PyAV and of the file system into a `MediaError`."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {error.strerror or error}; {remedy}") from error


# ---- still pictures ----------------------------------------------------------------------------------------------------


def read_image(path: str | Path, any_size: bool = False) -> np.ndarray:
    """Read a picture of any mode as (H, W, 3) uint8 RGB.

    The EXIF rotation is applied, 16 bits are rounded to 8, and transparent pixels are laid on white. Of an animated picture
    the first frame is read. One of more than 179 million pixels is refused, as Pillow does it, unless it is a png and may
    have `any_size`. Raises `MediaError`.
    """
    path = Path(path)
    with _picture_errors(path):
        plain = _read_plain_png(path)
        pixels = None if plain is None else _decode_plain_png(plain)
        if pixels is not None:
            return pixels
        with _opened_picture(path, any_size) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of what `read_image` returns; of most files only the header is decoded. Raises `MediaError`."""
    path = Path(path)
    with _picture_errors(path):
        plain = _read_plain_png(path)
        if plain is not None:
            width, height = struct.unpack(">II", plain[16:24])
            return height, width
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return image.height, image.width


def fit(frame: np.ndarray, size: Size, how: str, box: Box | None = None) -> np.ndarray:
    """The part `box` of a picture (h, w, 3) uint8, all if None, resized to `size` (H, W).

    `how`: "stretch" distorts it, "crop" cuts the longer side around the middle, "pad" adds black.
    """
    height, width = size
    left, top, right, bottom = (0, 0, frame.shape[1], frame.shape[0]) if box is None else box
    ratios = (right - left) / width, (bottom - top) / height
    image = Image.fromarray(frame)
    if how == "pad":
        inner = (
            max(1, round(width * ratios[0] / max(ratios))),
            max(1, round(height * ratios[1] / max(ratios))),
        )
        canvas = Image.new("RGB", (width, height))
        canvas.paste(
            _resized(image, inner, (left, top, right, bottom)),
            ((width - inner[0]) // 2, (height - inner[1]) // 2),
        )
        return np.array(canvas)
    if how == "crop":
        margin_x = (right - left - width * min(ratios)) / 2
        margin_y = (bottom - top - height * min(ratios)) / 2
        left, top, right, bottom = left + margin_x, top + margin_y, right - margin_x, bottom - margin_y
    return np.array(_resized(image, (width, height), (left, top, right, bottom)))


def _resized(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """`box` of a picture as a picture of `size` (width, height)."""
    left, top, right, bottom = box
    inside = max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height)
    # The gap first shrinks by a whole number where that leaves at least twice the size: half the time for 1920x1080.
    return image.resize(size, Image.Resampling.BICUBIC, box=inside, reducing_gap=2)


def _opened_picture(path: Path, any_size: bool) -> Image.Image:
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        if not any_size:
            raise
        return PngImageFile(path)  # Image.open refuses by size, the format itself does not


@contextlib.contextmanager
def _picture_errors(path: Path) -> Iterator[None]:
    """Turn the exceptions of reading a picture into a `MediaError`; a large one is not worth Pillow's warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise MediaError(f"{path}: does not exist; check the path") from None
    except _PILLOW_ERRORS as error:
        raise MediaError(
            f"{path}: can't be read as a picture ({error}); save it again as .png or .jpg"
        ) from error


def _read_plain_png(path: Path) -> bytes | None:
    """The file at `path` if it is a png of 8-bit RGB, not interlaced, without any of `_PNG_ODDITIES`."""
    if path.suffix.lower() != ".png":
        return None
    data = path.read_bytes()
    if data[:8] != _PNG_SIGNATURE or data[24:29] != _PNG_RGB:
        return None
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind in _PNG_ODDITIES:
            return None
        place += length + 12  # with length, kind and checksum
    return data


def _decode_plain_png(data: bytes) -> np.ndarray | None:
    """Decode what `_read_plain_png` returned, in 0.55 of Pillow's time; None where FFmpeg finds it damaged."""
    codec = av.CodecContext.create(
        "png", "r"
    )  # new each time: its second picture was found to come out wrong
    codec.thread_count = 1
    codec.options = {"err_detect": "crccheck+explode", "max_pixels": str(Image.MAX_IMAGE_PIXELS)}
    try:
        frames = codec.decode(av.Packet(data))
    except av.error.FFmpegError:
        return None
    return frames[0].to_ndarray() if frames else None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = (np.asarray(image).clip(0, 65535).astype(np.uint32) + 128) // 257  # (H, W) in [0, 255]
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Write `frame` (H, W, 3) uint8 as a png, which appears under its name only when whole. Raises `MediaError`."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise MediaError(f"{path}: only .png pictures are written; end the name with .png")
    temporary = _temporary_name(path)
    try:
        with _media_errors(path, "check that its folder exists and is writable"):
            _save_png(temporary, frame)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_png(path: Path, frame: np.ndarray) -> None:
    Image.fromarray(_checked(frame)).save(path, format="PNG")


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"a frame is uint8 of shape (H, W, 3), not {frame.dtype} of shape {frame.shape}")
    return np.ascontiguousarray(frame)


def _temporary_name(path: Path) -> Path:
    """A name beside `path`, so that renaming it to `path` is atomic."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.tmp")


# ---- clips -------------------------------------------------------------------------------------------------------------


def is_clip(entry: Path | os.DirEntry) -> bool:
    """Whether a file or folder is a clip by its name: a video, a strip, or a folder of frames. Hidden ones are not."""
    if entry.name.startswith("."):
        return False
    if entry.is_dir():
        return any(has_suffix(frame.name, IMAGE_SUFFIXES) for frame in os.scandir(entry))
    return has_suffix(entry.name, CLIP_SUFFIXES)


def has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    return not name.startswith(".") and name.lower().endswith(tuple(suffixes))


def open_clip(path: str | Path, frame_shape: tuple[int, int, int] | None = None) -> Clip:
    """Open a folder of frames, a strip image or a video.

    `frame_shape` (H, W, C) matters for images only: they are cut into frames of that size, which lie side by side. Without
    it an image is a clip of one frame. Files are open only while frames are read, so a clip needs no closing. Raises
    `MediaError` where nothing can be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise MediaError(f"{path}: does not exist; check the path")
    if path.is_dir():
        return FolderClip(path)
    if suffix in IMAGE_SUFFIXES:
        return StripClip(path, frame_shape)
    if suffix in VIDEO_SUFFIXES:
        return VideoClip(path)
    known = " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
    raise MediaError(f"{path}: is not a known kind of clip; give a folder of frames or one of {known}")


class Clip:
    """Frames of one size; `iter(clip)` yields them one at a time as (H, W, 3) uint8 RGB.

    Attributes: `path`; `size` (height, width), upright; `fps`, the mean for a variable frame rate and 25 for folders and
    strips; `has_audio`.
    """

    path: Path
    size: tuple[int, int]
    fps: float = STILL_FPS
    has_audio: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def _pick(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield `(number, frame)` for each of `numbers`, which are sorted and differ."""
        raise NotImplementedError

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """The frames numbered `indices`, in any order and with repeats, as (N, H, W, 3) uint8: the pixels of iteration.

        Raises `IndexError` for a number outside [0, len(clip)) and `MediaError` where decoding fails.
        """
        slots = defaultdict(list)  # frame number -> places in the result
        for slot, index in enumerate(map(operator.index, indices)):
            if not 0 <= index < len(self):
                raise IndexError(f"{self.path}: has {len(self)} frames, so no frame {index}")
            slots[index].append(slot)
        frames = np.empty((sum(map(len, slots.values())), *self.size, 3), np.uint8)
        for number, frame in self._pick(sorted(slots)):
            frames[slots[number]] = frame
        return frames  # (N, H, W, 3)


class FolderClip(Clip):
    """A folder of pictures, one a frame, in natural order; hidden files and other files are ignored."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with _media_errors(self.path, "check its permissions"):
            names = _frame_names(self.path.absolute(), self.path.stat().st_mtime_ns)
        if not names:
            raise MediaError(f"{self.path}: holds no frames; looked for {' '.join(sorted(IMAGE_SUFFIXES))}")
        self._names = names.split("/")

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        return read_image_size(self.path / self._names[0])

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame for _, frame in self._pick(range(len(self))))

    def _pick(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            file = self.path / self._names[number]
            frame = read_image(file)
            if frame.shape[:2] != self.size:
                height, width = frame.shape[:2]
                raise MediaError(
                    f"{file}: is {width}x{height} but the first frame of its clip is "
                    f"{self.size[1]}x{self.size[0]}; resize the frames to one size"
                )
            yield number, frame


# Workers come back to the same clips epoch after epoch. One string takes a fifth of the memory of a list of names.
@functools.lru_cache(maxsize=4096)
def _frame_names(folder: Path, mtime_ns: int) -> str:
    """The names of the frames in `folder`, in natural order, joined by slashes.

    `mtime_ns` makes a folder to which files were added, or whose files were renamed or removed, a new entry of the cache.
    """
    names = [entry.name for entry in os.scandir(folder)]
    images = [name for name in names if has_suffix(name, IMAGE_SUFFIXES)]
    return "/".join(sorted(images, key=natural_key))


class StripClip(Clip):
    """An image of frames side by side, cut into frames of `frame_shape` (H, W, C); one frame if that is None."""

    def __init__(self, path: str | Path, frame_shape: tuple[int, int, int] | None = None):
        self.path = Path(path)
        self._strip = read_image(
            self.path, any_size=frame_shape is not None
        )  # (H, N*W, 3); as long as its clip
        height, width = self._strip.shape[:2]
        self.size = (height, width) if frame_shape is None else tuple(frame_shape[:2])
        if height != self.size[0] or width % self.size[1]:
            raise MediaError(
                f"{self.path}: is {width}x{height}, which is not a row of {self.size[1]}x{self.size[0]} frames; "
                "set frame_shape to the size of one frame, or resize the strip"
            )

    def __len__(self) -> int:
        return self._strip.shape[1] // self.size[1]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame for _, frame in self._pick(range(len(self))))

    def _pick(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        width = self.size[1]
        for number in numbers:
            yield number, self._strip[:, number * width : (number + 1) * width].copy()


class VideoClip(Clip):
    """A video file. Opening it reads its packets without decoding them (but for the first frame)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with _media_errors(self.path, "check its permissions"):
            status = self.path.stat()
        self._index = _video_index(self.path.absolute(), status.st_mtime_ns, status.st_size)
        self.fps, self.has_audio = self._index.fps, self._index.has_audio
        height, width = self._index.coded_size
        self.size = (width, height) if self._index.orientation.transposed else (height, width)

    def __len__(self) -> int:
        return self._index.length

    def __iter__(self) -> Iterator[np.ndarray]:
        """Decode from the first frame to the last, holding one at a time."""
        convert, count = self._converter(), 0
        with _opened(self.path) as (container, stream):
            for frame in container.decode(stream):
                yield convert(frame)
                count += 1
        if count != len(self):
            raise self._damaged(f"only {count} of its {len(self)} frames can be decoded")

    def _pick(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Seek where the index allows it, and decode from the start whatever seeking did not find."""
        convert, missing = self._converter(), set(numbers)
        if self._index.pts is not None:
            for number, frame in self._seek(numbers):
                missing.discard(number)
                yield number, convert(frame)
        if missing:
            for number, frame in self._decode_from_start(missing):
                yield number, convert(frame)

    def _decode_from_start(self, missing: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Find the frames `missing`, which is emptied, by their time or, where the index has none, by counting."""
        pts = self._index.pts
        targets = {number if pts is None else int(pts[number]): number for number in missing}
        with _opened(self.path) as (container, stream):
            for count, frame in enumerate(container.decode(stream)):
                number = targets.get(count if pts is None else frame.pts)
                if number is not None:
                    missing.discard(number)
                    yield number, frame
                if not missing:
                    return
        raise self._damaged(f"its frame {min(missing)} can't be decoded")

    def _seek(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode each of `numbers` from the keyframe before it. Frames that do not come out right are left out."""
        pts, keyframes = self._index.pts, self._index.keyframes
        with _opened(self.path) as (container, stream):
            for start, group in itertools.groupby(
                numbers, lambda n: np.searchsorted(keyframes, pts[n], side="right") - 1
            ):
                targets = {int(pts[number]): number for number in group}
                container.seek(int(keyframes[start]), stream=stream)
                for frame in _decode_chosen(container, stream, int(keyframes[start]), targets):
                    yield targets[frame.pts], frame

    def _converter(self):
        """A function from a decoded frame to (H, W, 3) uint8, upright. It is for one thread and one pass over the file."""
        reformatter = VideoReformatter()
        height, width = self._index.coded_size

        def convert(frame: av.VideoFrame) -> np.ndarray:
            target = "rgba" if any(component.is_alpha for component in frame.format.components) else "rgb24"
            pixels = reformatter.reformat(frame, width, height, target, threads=1).to_ndarray()
            return self._index.orientation.apply(_on_white(pixels) if target == "rgba" else pixels)

        return convert

    def _damaged(self, what: str) -> MediaError:
        return MediaError(f"{self.path}: {what}; the file is damaged, convert or download it again")


@dataclass(frozen=True)
class _Orientation:
    """How a coded picture is turned upright: first transposed, then mirrored."""

    transposed: bool
    mirrored_y: bool
    mirrored_x: bool

    @classmethod
    def of(cls, frame: av.VideoFrame) -> _Orientation:
        """From the display matrix [a b u; c d v; x y w], which maps (x, y) to (a x + c y, b x + d y), y pointing down."""
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls(False, False, False)
        a, b, _, c, d = np.frombuffer(side_data, np.int32)[:5].tolist()
        if abs(b) > abs(a):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(pixels[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1])


@dataclass(frozen=True)
class _VideoIndex:
    """What opening a video finds out. Times are in ticks of the stream's time base.

    `pts` (N,): the sorted times of the frames, or None where frames can't be told by their time and are counted instead.
    `keyframes`: the sorted times at which decoding can start.
    """

    length: int
    pts: np.ndarray | None
    keyframes: np.ndarray
    coded_size: tuple[int, int]
    orientation: _Orientation
    fps: float
    has_audio: bool


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container at `path` and its main video stream, decoded by one thread: data loaders run many workers."""
    # An absolute path can't be taken for a protocol, as "id1:2.mp4" would be.
    with (
        _media_errors(path, "the file is damaged or is not a video, convert or download it again"),
        av.open(str(path.absolute()), metadata_errors="ignore") as container,
    ):
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise MediaError(f"{path}: holds no video that can be decoded; convert it to H.264 .mp4")
        stream.codec_context.thread_count = 1
        yield container, stream


# An entry takes 8 bytes a frame; workers come back to the same clips epoch after epoch.
@functools.lru_cache(maxsize=4096)
def _video_index(path: Path, mtime_ns: int, size: int) -> _VideoIndex:
    """Index the video at `path`; `mtime_ns` and `size` make a changed file a new entry of the cache."""
    with _opened(path) as (container, stream):
        first, packets = _demux(container, stream)
        # An .mp4 cut between two packets has no damaged one, but a table that lists more packets than there are.
        if packets is None or (container.format.name == _MP4 and len(stream.index_entries) > len(packets)):
            raise MediaError(f"{path}: ends early or is damaged; convert or download it again")
        if first is None:
            raise MediaError(f"{path}: holds no frames; convert or download it again")
        found = {
            "coded_size": (first.height, first.width),
            "orientation": _Orientation.of(first),
            "has_audio": bool(container.streams.audio),
        }
        if not _trusted(container, stream, packets):
            length, seconds = _count_frames(path)
            return _VideoIndex(
                length, None, np.empty(0, np.int64), fps=_mean_fps(length, seconds, stream), **found
            )
        pts = np.array(sorted(packet.pts for packet in packets if packet.is_shown), np.int64)  # (N,)
        keyframes = np.array(sorted(packet.pts for packet in packets if packet.is_keyframe), np.int64)
        seconds = float((pts[-1] - pts[0]) * stream.time_base)
        return _VideoIndex(len(pts), pts, keyframes, fps=_mean_fps(len(pts), seconds, stream), **found)


class _Packet(NamedTuple):
    pts: int | None
    is_keyframe: bool
    is_shown: bool


def _demux(container, stream) -> tuple[av.VideoFrame | None, list[_Packet] | None]:
    """The first frame, if any, and all packets of the video, undecoded but for that frame; no packets if one is damaged."""
    first, packets = None, []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            return first, None
        if packet.dts is not None or packet.size:  # else the mark of the end
            packets.append(_Packet(packet.pts, packet.is_keyframe, packet.size > 0 and not packet.is_discard))
        if first is None:
            first = next(iter(packet.decode()), None)
    return first, packets


def _trusted(container, stream, packets: list[_Packet]) -> bool:
    """Whether `packets` tell all frames: each is one, shown at its own time, and the first is a keyframe none precedes."""
    if (
        container.format.name not in _TIMED_CONTAINERS
        or stream.codec_context.codec.canonical_name not in _FRAME_PER_PACKET
    ):
        return False
    times = [packet.pts for packet in packets]
    return (
        None not in times
        and len(set(times)) == len(times)
        and packets[0].is_keyframe
        and times[0] == min(times)
    )


def _count_frames(path: Path) -> tuple[int, float]:
    """Decode the whole video; returns its number of frames and the seconds from the first to the last."""
    length, times = 0, []
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            length += 1
            if frame.time is not None:
                times = [*times[:1], frame.time]
    return length, times[-1] - times[0] if times else 0.0


def _mean_fps(length: int, seconds: float, stream: av.VideoStream) -> float:
    """Frames per second such that `length` frames last as long as the video does."""
    stated = float(stream.average_rate or stream.guessed_rate or STILL_FPS)
    if length < 2 or seconds <= 0:
        return stated
    measured = (length - 1) / seconds
    # Times rounded to milliseconds (.mkv, .webm) blur a rate that the header states exactly.
    return stated if abs(measured - stated) < 0.01 * stated else measured


def _decode_chosen(container, stream, start: int, targets: Iterable[int]) -> Iterator[av.VideoFrame]:
    """Decode from the keyframe at time `start`, to which `container` was sought, the frames at the times `targets`.

    The decoder is drained after the last packet that is wanted. A frame that it knows to be incomplete is left out.
    """
    context = stream.codec_context
    waiting = set(targets)
    for position, packet in enumerate(container.demux(stream)):
        if not packet.size or (position == 0 and (packet.pts is None or packet.pts > start)):
            break  # the end, or a seek that landed too late
        if context.name == "h264":  # a non-reference picture is never needed for another one
            context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
        yield from _intact(context.decode(packet), targets)
        waiting.discard(packet.pts)
        if not waiting:
            break
    yield from _intact(context.decode(None), targets)


def _intact(frames: list[av.VideoFrame], targets: Iterable[int]) -> Iterator[av.VideoFrame]:
    return (frame for frame in frames if frame.pts in targets and not frame.is_corrupt)


# ---- writing -----------------------------------------------------------------------------------------------------------


class VideoWriter:
    """Write frames to an .mp4, a .gif, or (a name without suffix) a folder of pngs numbered from 0000000.

        with VideoWriter("out.mp4", fps=25, audio_from="driving.mp4") as writer:
            for frame in frames:
                writer.write(frame)  # (H, W, 3) uint8, one size for the whole video

    The result appears under its name only when it is whole: an exception in the block discards it, unless `finish()` was
    called, which keeps the frames written so far.

    .mp4 is H.264 yuv420p that plays in browsers. It needs even sides, so an odd one is padded by repeating its last row or
    column. With `lossless` it is H.264 RGB of the exact pixels and size, which browsers do not play. A .gif has a palette a
    frame and at most 50 frames per second.

    `audio_from`: a video whose first sound track goes into an .mp4, cut to the length of the picture: copied if browsers
    play it there, else turned into AAC. `audio_note` is None or, at the latest after the block, a line for the user that
    says why there is no sound; the picture is written all the same.

    Raises `MediaError` when constructed if the name can't be written, and later if the disk fails.
    """

    def __init__(
        self, path: str | Path, fps: float, audio_from: str | Path | None = None, lossless: bool = False
    ):
        self.path = Path(path)
        self.audio_note: str | None = None
        self._check_target(fps, lossless)
        self._fps = Fraction(float(fps)).limit_denominator(1001)
        self._audio_from = self._checked_audio(audio_from)
        self._lossless = lossless
        self._temporary = _temporary_name(self.path)
        self._output: _EncodedOutput | _FolderOutput | None = (
            None  # opened with the first frame, which tells the size
        )
        self._finished = False

    def _check_target(self, fps: float, lossless: bool) -> None:
        suffix = self.path.suffix.lower()
        if suffix not in {".mp4", ".gif", ""}:
            raise MediaError(
                f"{self.path}: {suffix} can't be written; use .mp4, .gif, or no suffix for a folder of pngs"
            )
        if suffix == ".gif" and lossless:
            raise MediaError(
                f"{self.path}: a gif holds 256 colours and can't be lossless; use .mp4 or a folder of pngs"
            )
        if not 0.01 <= fps <= 1000:
            raise MediaError(
                f"{self.path}: can't be written at {fps} frames per second; use a number from 0.01 to 1000"
            )
        if suffix and self.path.is_dir():
            raise MediaError(f"{self.path}: is a folder; choose another name")
        if not suffix and self.path.exists() and not _only_numbered_pngs(self.path):
            raise MediaError(f"{self.path}: exists and is not a folder of numbered pngs; choose another name")
        probe = _temporary_name(self.path)
        with _media_errors(self.path, "check that its folder exists and is writable"):
            probe.touch()
            probe.unlink()

    def _checked_audio(self, source: str | Path | None) -> Path | None:
        """`source` if its sound can be carried over, else None and a note."""
        if source is None:
            return None
        if self.path.suffix.lower() != ".mp4":
            self.audio_note = f"{self.path}: has no sound, only .mp4 can hold it"
            return None
        try:
            has_audio = open_clip(source).has_audio
        except MediaError as error:
            self.audio_note = f"{self.path}: has no sound: {error}"
            return None
        if not has_audio:
            self.audio_note = f"{self.path}: has no sound, because {source} has none"
        return Path(source) if has_audio else None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self.finish()
        elif not self._finished:
            self._discard()

    def write(self, frame: np.ndarray) -> None:
        """Append `frame` (H, W, 3) uint8. Raises `ValueError` if it is of another kind or size than the ones before."""
        frame = _checked(frame)
        with _media_errors(self.path, "check the space left on its disk"):
            if self._output is None:
                self._output = self._open_output(frame.shape[:2])
            if frame.shape[:2] != self._output.size:
                raise ValueError(
                    f"{self.path}: frame of size {frame.shape[:2]} in a video of size {self._output.size}"
                )
            self._output.write(frame)

    def _open_output(self, size: tuple[int, int]) -> _EncodedOutput | _FolderOutput:
        match self.path.suffix.lower():
            case ".mp4":
                return _Mp4Output(self._temporary, size, self._fps, self._lossless)
            case ".gif":
                return _GifOutput(self._temporary, size, min(self._fps, Fraction(MAX_GIF_FPS)))
            case _:
                return _FolderOutput(self._temporary, size)

    def finish(self) -> None:
        """Complete the file with the frames written so far and give it its name. A second call does nothing."""
        if self._finished:
            return
        if self._output is None:
            raise MediaError(f"{self.path}: no frame was written; give at least one")
        try:
            with _media_errors(self.path, "check the space left on its disk"):
                self._output.close()
                if self._audio_from is not None:
                    self._add_sound()
                _put_in_place(self._temporary, self.path)
                self._finished = True
        finally:
            self._discard()

    def _add_sound(self) -> None:
        with_sound = _temporary_name(self.path)
        try:
            _mux_sound(self._temporary, self._audio_from, with_sound)
            with_sound.replace(self._temporary)
        except Exception as error:  # whatever is wrong with the sound, the picture is kept
            self.audio_note = (
                f"{self.path}: has no sound, that of {self._audio_from} can't be carried over ({error})"
            )
        finally:
            with_sound.unlink(missing_ok=True)

    def _discard(self) -> None:
        if self._output is not None:
            self._output.abandon()
        _remove(self._temporary)


def _only_numbered_pngs(folder: Path) -> bool:
    return folder.is_dir() and all(re.fullmatch(r"\d{7}\.png", entry.name) for entry in folder.iterdir())


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`. A folder there, known to hold only frames of an earlier run, is replaced."""
    if not path.is_dir():
        temporary.replace(path)
        return
    earlier = _temporary_name(path)
    path.rename(earlier)
    temporary.rename(path)
    _remove(earlier)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _FolderOutput:
    def __init__(self, path: Path, size: tuple[int, int]):
        self._path, self.size, self._count = path, size, 0
        path.mkdir()

    def write(self, frame: np.ndarray) -> None:
        _save_png(self._path / f"{self._count:07d}.png", frame)
        self._count += 1

    def close(self) -> None:
        """Every frame is on disk already."""

    def abandon(self) -> None:
        """No file is open."""


class _EncodedOutput:
    """A file with one video stream, encoded as the frames come."""

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, file_format: str):
        self.size, self._fps, self._count = size, fps, 0
        self._container = av.open(
            str(path.absolute()), "w", format=file_format, options=_FASTSTART if file_format == "mp4" else {}
        )
        self._stream: av.VideoStream

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        """`frame` as the encoder takes it."""
        raise NotImplementedError

    def write(self, frame: np.ndarray) -> None:
        picture = self._picture(frame)
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._count += 1
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Close the file if it is open, whatever state it is in."""
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()


class _Mp4Output(_EncodedOutput):
    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, lossless: bool):
        super().__init__(path, size, fps, "mp4")
        self._lossless, self._reformatter = lossless, VideoReformatter()
        height, width = size
        if lossless:
            self._stream = self._container.add_stream("libx264rgb", rate=fps, options={"qp": "0"})
            self._stream.pix_fmt = "rgb24"
            self._stream.width, self._stream.height = width, height
            return
        self._stream = self._container.add_stream("libx264", rate=fps, options={"crf": "18"})
        self._stream.pix_fmt = "yuv420p"
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        # BT.601, which readers also assume of a small video whose tags they do not look at.
        self._stream.codec_context.colorspace, self._stream.codec_context.color_range = (
            _SMPTE170M,
            ColorRange.MPEG,
        )

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        if self._lossless:
            return av.VideoFrame.from_ndarray(frame, format="rgb24")
        height, width = self.size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(padded, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )


class _GifOutput(_EncodedOutput):
    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction):
        super().__init__(path, size, fps, "gif")
        self._stream = self._container.add_stream("gif", rate=fps)
        self._stream.pix_fmt = "pal8"
        height, width = size
        self._stream.width, self._stream.height = width, height
        self._palette = _palette_graph(width, height, fps)

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._palette.push(picture)
        return self._palette.pull()


def _palette_graph(width: int, height: int, fps: Fraction) -> av.filter.Graph:
    """A filter from RGB frames to frames of 256 colours chosen for each of them, so that none has to be kept."""
    graph = av.filter.Graph()
    source = graph.add(
        "buffer", video_size=f"{width}x{height}", pix_fmt="rgb24", time_base=str(1 / fps), pixel_aspect="1/1"
    )
    split, choose = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    apply, sink = graph.add("paletteuse", "new=1"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(apply, 0, 0)
    split.link_to(choose, 1, 0)
    choose.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    return graph


# ---- sound -------------------------------------------------------------------------------------------------------------


def _mux_sound(picture: Path, source: Path, target: Path) -> None:
    """Write to `target` (.mp4) the video of `picture` with the first sound track of `source`, cut to the same length."""
    with (
        av.open(str(picture.absolute())) as pictures,
        av.open(str(source.absolute()), metadata_errors="ignore") as sounds,
        av.open(str(target.absolute()), "w", format="mp4", options=_FASTSTART) as output,
    ):
        video, sound = pictures.streams.video[0], sounds.streams.audio[0]
        video_out = output.add_stream_from_template(video)
        shown = sounds.streams.best("video")
        start = (
            shown.start_time * shown.time_base if shown.start_time else Fraction(0)
        )  # when the source's picture begins
        interval = (start, start + video.duration * video.time_base)
        copied = sound.codec_context.codec.canonical_name in _COPIED_SOUND
        sound_packets = (_copied_sound if copied else _aac_sound)(sounds, sound, output, interval)
        video_packets = (_moved(packet, video_out) for packet in pictures.demux(video) if packet.size)
        for packet in heapq.merge(
            video_packets, sound_packets, key=lambda packet: packet.dts * packet.time_base
        ):
            output.mux(packet)


def _moved(packet: av.Packet, stream: av.stream.Stream) -> av.Packet:
    packet.stream = stream
    return packet


def _within(items, interval: tuple[Fraction, Fraction]):
    """The packets or frames of sound that lie in `interval` (seconds), retimed to begin at 0. `items`: (item, duration)."""
    start, end = interval
    for item, duration in items:
        begins = item.pts * item.time_base
        if begins + duration > end:
            return
        if begins + duration > start:
            item.pts -= round(start / item.time_base)
            yield item


def _copied_sound(sounds, sound, output, interval: tuple[Fraction, Fraction]) -> Iterator[av.Packet]:
    stream = output.add_stream_from_template(sound)
    packets = (
        (packet, (packet.duration or 0) * packet.time_base)
        for packet in sounds.demux(sound)
        if packet.size and packet.pts is not None
    )

    def retimed() -> Iterator[av.Packet]:
        for packet in _within(packets, interval):
            packet.dts = packet.pts
            yield _moved(packet, stream)

    return retimed()


def _aac_sound(sounds, sound, output, interval: tuple[Fraction, Fraction]) -> Iterator[av.Packet]:
    layout = "mono" if sound.codec_context.layout.nb_channels == 1 else "stereo"
    stream = output.add_stream("aac", rate=_AAC_RATE, layout=layout)
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=_AAC_RATE, frame_size=_AAC_FRAME)

    def resampled() -> Iterator[tuple[av.AudioFrame, Fraction]]:
        for frame in itertools.chain(sounds.decode(sound), [None]):
            for piece in resampler.resample(frame):
                yield piece, Fraction(piece.samples, _AAC_RATE)

    def encoded() -> Iterator[av.Packet]:
        for frame in _within(resampled(), interval):
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return encoded()
