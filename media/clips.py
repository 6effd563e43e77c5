"""Read clips: a folder of frames, a strip image, or a video of `N` frames (H, W, 3) uint8 RGB, upright."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np

from media.decoding import DEFAULT_FPS, MAX_FPS, MIN_FPS, decode_chosen, opened_video, video_index
from media.pictures import (
    IMAGE_SUFFIXES,
    Size,
    is_animated,
    is_picture,
    lay_on_white,
    media_errors,
    read_animation,
    read_image,
    read_image_size,
)
from utils.errors import MediaError

# Which files of a folder are tried, beside pictures; what a file holds decides how it is read.
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .avi .divx .mkv .webm .gif .wmv .asf .mpg .mpeg .vob .ts .mts .m2ts "  # noqa: SIM905
    ".flv .f4v .ogv".split()
)
CLIP_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES

_DIGITS = re.compile(r"(\d+)")


# ---- Names ------------------------------------------------------------------


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key under which frame 2 comes before frame 10."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    """Say whether `name` ends in one of `suffixes`, in either case, and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(tuple(suffixes))


def is_clip(entry: Path | os.DirEntry[str]) -> bool:
    """Say whether a file or folder is a clip by its name: a video, a strip, or a folder of frames."""
    if entry.name.startswith("."):
        return False
    if entry.is_dir():
        with os.scandir(entry) as frames:
            return any(has_suffix(frame.name, IMAGE_SUFFIXES) for frame in frames)
    return has_suffix(entry.name, CLIP_SUFFIXES)


def clip_stem(name: str) -> str:
    """Remove the suffix of a clip format from a name; other dots stay."""
    return Path(name).stem if has_suffix(name, CLIP_SUFFIXES) else name


def identity(name: str) -> str:
    """Return who a clip shows: its name up to the first `#`, or else its whole name without suffix."""
    return name.split("#")[0] if "#" in name else clip_stem(name)


# ---- Clips ------------------------------------------------------------------


def open_clip(
    path: str | Path, frame_shape: tuple[int, int, int] | None = None, fps: float | None = None
) -> Clip:
    """Open a folder of frames at `fps`, a strip image or a video; it needs no closing. Raises `MediaError`.

    An image is a row of frames of `frame_shape` (H, W, C), or without that one frame.
    """
    path = Path(path)
    with media_errors(path, "check its name and permissions"):
        if not path.exists():
            raise MediaError(f"{path}: does not exist; check the path")
        if path.is_dir():
            return FolderClip(path, fps or DEFAULT_FPS)
        if fps is not None:
            raise rate_refused(fps)
        if is_picture(path):
            return AnimatedClip(path) if is_animated(path) else StripClip(path, frame_shape)
    try:
        return VideoClip(path)
    except MediaError:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise
    return StripClip(path, frame_shape)  # which tells what is wrong with the picture


def rate_refused(fps: float) -> MediaError:
    return MediaError(f"--fps {fps:g}: is for folders of frames; a video has a rate of its own")


@dataclass(eq=False, repr=False)
class Clip:
    """Frames of one size; `iter(clip)` yields them one at a time as (H, W, 3) uint8 RGB."""

    path: Final[Path]
    size: Final[Size]  # (height, width), upright
    fps: Final[float] = DEFAULT_FPS  # the mean, where it varies
    has_audio: Final[bool] = False
    times: Final[np.ndarray | None] = None  # (N,), the seconds at which frames are shown, if the file tells
    hdr: Final[str | None] = None  # the name of its transfer function; frames are ordinary all the same
    has_square_pixels: Final[bool] = True  # as coded; all frames have
    start: Final[float] = 0.0  # seconds of the file that are left out before the first frame

    def __len__(self) -> int:
        raise NotImplementedError

    def hints(self) -> list[str]:
        """Say what a user should know of how the clip is read."""
        if self.hdr is None:
            return []
        return [f"{self.path} is HDR ({self.hdr}) and is read as ordinary video, in the colours of BT.709"]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame for _, frame in self.chosen(range(len(self))))

    def chosen(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield `(number, frame)` for each of `numbers`, which are sorted and differ."""
        raise NotImplementedError

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """Return the frames `indices`, in any order and with repeats: (N, H, W, 3) uint8.

        Raises `IndexError` for a number outside [0, len(clip)), and `MediaError`.
        """
        slots = defaultdict(list)  # frame number -> places in the result
        for slot, index in enumerate(map(operator.index, indices)):
            if not 0 <= index < len(self):
                raise IndexError(f"{self.path}: has {len(self)} frames, so no frame {index}")
            slots[index].append(slot)
        frames = np.empty((sum(map(len, slots.values())), *self.size, 3), np.uint8)
        for number, frame in self.chosen(sorted(slots)):
            frames[slots[number]] = frame
        return frames  # (N, H, W, 3)


class FolderClip(Clip):
    """A folder of pictures, one a frame, in natural order; hidden files and other files are ignored."""

    def __init__(self, path: Path, fps: float = DEFAULT_FPS):
        with media_errors(path, "check its permissions"):
            names = _frame_names(path.absolute(), path.stat().st_mtime_ns)
        if not names:
            raise MediaError(f"{path}: holds no frames; looked for {' '.join(sorted(IMAGE_SUFFIXES))}")
        self._names = names.split("/")
        super().__init__(path, read_image_size(path / self._names[0]), fps)

    def __len__(self) -> int:
        return len(self._names)

    def chosen(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
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


# Workers come back to the same clips epoch after epoch. One string takes a fifth of a list's memory.
@functools.lru_cache(maxsize=4096)
def _frame_names(folder: Path, mtime_ns: int) -> str:
    """Join the names of the frames in `folder`, in natural order, by slashes; `mtime_ns` is for the cache."""
    with os.scandir(folder) as entries:
        images = [entry.name for entry in entries if has_suffix(entry.name, IMAGE_SUFFIXES)]
    return "/".join(sorted(images, key=natural_key))


class StripClip(Clip):
    """An image of frames of `frame_shape` (H, W, C) side by side; one frame if that is None."""

    def __init__(self, path: Path, frame_shape: tuple[int, int, int] | None = None):
        # A strip is as large as its clip is long.
        self._strip = read_image(path, any_size=frame_shape is not None)  # (H, N*W, 3)
        height, width = self._strip.shape[:2]
        size = (height, width) if frame_shape is None else (frame_shape[0], frame_shape[1])
        if height != size[0] or width % size[1]:
            raise MediaError(
                f"{path}: is {width}x{height}, which is not a row of {size[1]}x{size[0]} "
                "frames; set frame_shape to the size of one frame, or resize the strip"
            )
        super().__init__(path, size)

    def __len__(self) -> int:
        return self._strip.shape[1] // self.size[1]

    def chosen(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        width = self.size[1]
        for number in numbers:
            yield number, self._strip[:, number * width : (number + 1) * width].copy()


class AnimatedClip(Clip):
    """An animated WebP, PNG or AVIF, which is decoded from its start."""

    def __init__(self, path: Path):
        ends = np.cumsum([duration for _, duration in read_animation(path)])
        self._length = len(ends)
        times = np.concatenate([[0.0], ends[:-1]])
        super().__init__(path, read_image_size(path), self._length / float(ends[-1]), times=times)

    def __len__(self) -> int:
        return self._length

    def chosen(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted = set(numbers)
        for number, (frame, _) in enumerate(read_animation(self.path)):
            if number in wanted:
                yield number, frame


class VideoClip(Clip):
    """A video file; opening it decodes only the first frame, where the format allows it."""

    def __init__(self, path: Path):
        with media_errors(path, "check its permissions"):
            status = path.stat()
        index = self._index = video_index(path.absolute(), status.st_mtime_ns, status.st_size)
        if not MIN_FPS <= index.fps <= MAX_FPS:
            raise MediaError(
                f"{path}: its frames come at {index.fps:g} a second, not at {MIN_FPS} to {MAX_FPS}; is it "
                "sound with a cover picture? Else convert it"
            )
        height, width = index.coded_size
        size = (width, height) if index.orientation.transposed else (height, width)
        super().__init__(
            path, size, index.fps, index.has_audio, index.times, index.colours.hdr, index.has_square_pixels
        )

    def __len__(self) -> int:
        return self._index.length

    def __iter__(self) -> Iterator[np.ndarray]:
        """Decode from the first frame to the last, holding one at a time."""
        convert, count = self._converter(), 0
        with opened_video(self.path) as (container, stream):
            for frame in container.decode(stream):
                yield convert(frame)
                count += 1
        if count != len(self):
            raise self._damaged(f"only {count} of its {len(self)} frames can be decoded")

    def chosen(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Seek where the index allows it, and decode from the start whatever seeking did not find."""
        convert, missing = self._converter(), set(numbers)
        if self._index.pts is not None:
            for number, frame in self._seek(numbers, self._index.pts):
                missing.discard(number)
                yield number, convert(frame)
        if missing:
            for number, frame in self._decode_from_start(missing):
                yield number, convert(frame)

    def _decode_from_start(self, missing: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Find the frames `missing` by their time, or by counting where the index has none, and empty it."""
        pts = self._index.pts
        targets = {number if pts is None else int(pts[number]): number for number in missing}
        with opened_video(self.path) as (container, stream):
            for count, frame in enumerate(container.decode(stream)):
                time = count if pts is None else frame.pts
                if time in targets:
                    missing.discard(targets[time])
                    yield targets[time], frame
                if not missing:
                    return
        raise self._damaged(f"its frame {min(missing)} can't be decoded")

    def _seek(self, numbers: Sequence[int], pts: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode each of `numbers` from the keyframe before it, leaving out what does not come out right."""
        keyframes = self._index.keyframes
        with opened_video(self.path) as (container, stream):
            for start, group in itertools.groupby(
                numbers, lambda n: np.searchsorted(keyframes, pts[n], side="right") - 1
            ):
                targets = {int(pts[number]): number for number in group}
                container.seek(int(keyframes[start]), stream=stream)
                yield from decode_chosen(container, stream, int(keyframes[start]), targets)

    def _converter(self) -> Callable[[av.VideoFrame], np.ndarray]:
        """Make a function from a decoded frame to (H, W, 3) uint8, upright, for one thread and one pass."""
        read = self._index.colours.reader(self._index.coded_size)

        def convert(frame: av.VideoFrame) -> np.ndarray:
            pixels = read(frame)
            return self._index.orientation.apply(lay_on_white(pixels) if pixels.shape[2] == 4 else pixels)

        return convert

    def _damaged(self, what: str) -> MediaError:
        return MediaError(f"{self.path}: {what}; the file is damaged, convert or download it again")
